"""Beam search with a language model, as one compiled loop with a cache."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ganjax.generation import checked, read
from ganjax.networks.layers import as_network
from ganjax.types import Array, InputError, Variables


@functools.partial(
    jax.jit, static_argnames=("network", "max_new_tokens", "num_beams", "stop_token", "pad_token")
)
def _beam_search(
    network, variables, prompts, labels, length_penalty, *,
    max_new_tokens, num_beams, stop_token, pad_token,
):  # fmt: skip
    network = as_network(network)
    batch, width = prompts.shape
    length = width + max_new_tokens
    if network.context is not None and length - 1 > network.context:
        raise InputError(
            f"beam search over {length} tokens needs a context of {length - 1}, this model has "
            f"{network.context}: ask for fewer new tokens"
        )
    repeat: Callable = functools.partial(jnp.repeat, repeats=num_beams, axis=0)
    tokens = jnp.full((batch, num_beams, length), pad_token, jnp.int32)
    tokens = tokens.at[:, :, :width].set(prompts[:, None])
    first = jnp.zeros((batch, length), jnp.int32).at[:, :width].set(prompts)
    cache, _ = read(network, variables, first, width - 1, length, labels)
    cache = jax.tree.map(lambda a: repeat(a) if a.ndim else a, cache)
    # All beams of a row start alike: only the first may be chosen from.
    scores = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))
    ended_tokens, ended_scores = tokens, jnp.full((batch, num_beams), -jnp.inf)

    def best(tokens, scores, count):
        scores, index = jax.lax.top_k(scores, count)
        return jnp.take_along_axis(tokens, index[..., None], axis=1), scores

    def step(i, carry):
        tokens, scores, ended_tokens, ended_scores, cache = carry
        position = width + i
        last = jax.lax.dynamic_slice_in_dim(tokens, position - 1, 1, axis=2)
        logits, cache = network.extend(variables, cache, last.reshape(-1, 1))
        chances = jax.nn.log_softmax(logits[:, 0]).reshape(batch, num_beams, -1)
        vocab_size = chances.shape[-1]
        totals = (scores[..., None] + chances).reshape(batch, -1)
        # Twice as many: even if half of them stop, there are enough to go on with.
        count = min(2 * num_beams, totals.shape[1])
        totals, index = jax.lax.top_k(totals, count)
        beam, token = index // vocab_size, (index % vocab_size).astype(jnp.int32)
        candidates = jnp.take_along_axis(tokens, beam[..., None], axis=1)
        candidates = candidates.at[:, :, position].set(token)
        going = totals
        if stop_token is not None:
            stops = token == stop_token
            # Only what is among the best num_beams may end, as a search that goes on would drop it.
            may_end = stops & (jnp.arange(count) < num_beams)
            ending = jnp.where(may_end, totals / (i + 1.0) ** length_penalty, -jnp.inf)
            ended_tokens, ended_scores = best(
                jnp.concatenate([ended_tokens, candidates], axis=1),
                jnp.concatenate([ended_scores, ending], axis=1),
                num_beams,
            )
            going = jnp.where(stops, -jnp.inf, totals)
        scores, kept = jax.lax.top_k(going, num_beams)
        tokens = jnp.take_along_axis(candidates, kept[..., None], axis=1)
        beam = jnp.take_along_axis(beam, kept, axis=1)
        rows = (jnp.arange(batch)[:, None] * num_beams + beam).reshape(-1)
        cache = jax.tree.map(lambda a: a[rows] if a.ndim else a, cache)
        return tokens, scores, ended_tokens, ended_scores, cache

    carry = tokens, scores, ended_tokens, ended_scores, cache
    tokens, scores, ended_tokens, ended_scores, _ = jax.lax.fori_loop(
        0, max_new_tokens, step, carry
    )
    return best(
        jnp.concatenate([ended_tokens, tokens], axis=1),
        jnp.concatenate([ended_scores, scores / max_new_tokens**length_penalty], axis=1),
        num_beams,
    )


def beam_search(
    network: Any,
    variables: Variables,
    prompts: Any,
    max_new_tokens: int,
    *,
    num_beams: int,
    num_return: int = 1,
    labels: Array | None = None,
    stop_token: int | None = None,
    pad_token: int = 0,
    length_penalty: float = 1.0,
) -> tuple[Array, Array]:
    """Search for the likeliest continuations of prompts.

    Args:
      network: as in `generate`.
      variables: its weights.
      prompts: (B, P) integers, all of one length.
      max_new_tokens: 1 or more.
      num_beams: sequences that are followed at a time.
      num_return: how many of them to return, at most as many continuations as there are.
      labels: as in `generate`.
      stop_token: a sequence ends with it.
      pad_token: what follows the end of a sequence.
      length_penalty: a score is the sum of log-probabilities over (new tokens) ** this.

    Returns:
      Sequences (B, num_return, P + max_new_tokens) int32, the best first, and their scores
      (B, num_return).

    Raises:
      InputError: a number is out of its range, prompts differ in length, or the labels do not fit.
    """
    if not 1 <= num_return <= num_beams:
        raise InputError(
            f"num_return has to lie between 1 and num_beams {num_beams}, got {num_return}"
        )
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens has to be 1 or more, got {max_new_tokens}")
    padded, lengths, labels = checked(network, prompts, labels, pad_token)
    if lengths.min() != lengths.max():
        raise InputError("beam search takes prompts of one length: search for each on its own")
    _check_enough(as_network(network).vocab_size, max_new_tokens, stop_token, num_return)
    sequences, scores = _beam_search(
        network,
        variables,
        padded,
        labels,
        length_penalty,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        stop_token=stop_token,
        pad_token=pad_token,
    )
    return sequences[:, :num_return], scores[:, :num_return]


def _check_enough(
    vocab_size: int | None, max_new_tokens: int, stop_token: int | None, num_return: int
) -> None:
    """Refuse to return more continuations than there are: the others would be made up."""
    if vocab_size is None:
        return
    stops = stop_token is not None and 0 <= stop_token < vocab_size
    going, count = 1, 0
    for _ in range(max_new_tokens):
        if count + going >= num_return:  # for the numbers grow large
            return
        count, going = count + going * stops, going * (vocab_size - stops)
    if count + going < num_return:
        raise InputError(
            f"num_return is {num_return}, but {max_new_tokens} tokens of a vocabulary of "
            f"{vocab_size} make only {count + going} continuations: ask for no more than these"
        )
