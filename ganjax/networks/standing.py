"""Standing statistics: batch norm's mean and variance over many batches, for sampling."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ganjax.networks.layers import MOMENTUM
from ganjax.types import Array, Key, Network, Variables


def standing_statistics(
    network: Network,
    variables: Variables,
    inputs: Callable[[Key], tuple[Array, Array | None]],
    key: Key,
    num_batches: int = 16,
) -> Variables:
    """Return the variables with batch statistics averaged over fresh batches.

    Running statistics belong to earlier weights, and to no weights at all where the weights are an
    average. Each pass is one of training, with the statistics of its batch; nothing else changes.

    Args:
      network: with a collection `"batch_stats"` of `ganjax.networks.layers`.
      variables: its parameters and other collections.
      inputs: key -> (latents (B, dimension), labels (B,) or None).
      key: random key.
      num_batches: how many.

    Raises:
      ValueError: the network has no batch statistics.

    References:
      Brock et al. 2018, arXiv:1809.11096, appendix B (16 batches or more).
    """
    if "batch_stats" not in variables:
        raise ValueError(
            "standing statistics are for a generator with batch norm; this one has none"
        )
    nothing = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

    def add(total, key):
        input_key, network_key = jax.random.split(key)
        latents, labels = inputs(input_key)
        # A pass that starts from zeros leaves its share of the batch's own statistics.
        start = {**variables, "batch_stats": nothing}
        _, updated = network.apply(start, latents, labels, train=True, key=network_key)
        return jax.tree.map(jnp.add, total, updated["batch_stats"]), None

    total, _ = jax.lax.scan(add, nothing, jax.random.split(key, num_batches))
    scale = 1 / ((1 - MOMENTUM) * num_batches)
    return {**variables, "batch_stats": jax.tree.map(lambda a: a * scale, total)}
