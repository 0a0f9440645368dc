"""Adversarial training of text generators through relaxed choices of tokens.

A token is a choice, which has no derivative. Here the discriminator is shown the chances of all
tokens, sharpened: softmax(b (logits + noise)), the Gumbel-softmax with the inverse temperature b.
The generator goes on from the token that was chosen. Everything else is `ganjax.gan`.

References:
  Jang et al. 2016, Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144.
  Kusner and Hernandez-Lobato 2016, GANS for Sequences of Discrete Elements with the Gumbel-softmax
  Distribution, arXiv:1611.04051.
  Nie et al. 2019, RelGAN, openreview.net/forum?id=rJedV3R5tm.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ganjax import axes, generation, latents, players
from ganjax.autoregressive import likelihood, weights
from ganjax.gan import gan
from ganjax.generation import Sampling
from ganjax.networks.layers import as_network
from ganjax.types import (
    Algorithm,
    Array,
    Batch,
    InputError,
    Key,
    Metrics,
    Network,
    TrainState,
    Variables,
)

# The hyper-parameter of a relaxed generator: b above.
INVERSE_TEMPERATURE = "inverse_temperature"


def relaxed(
    network: Any,
    *,
    length: int,
    start_token: int = 0,
    stop_token: int | None = None,
    pad_token: int | None = None,
    straight_through: bool = False,
) -> Network:
    """Return a language model as a generator of relaxed sequences (B, length, V).

    Its variables have a collection `hyperparameters` with the inverse temperature, 1 at first,
    which `ganjax.gan` keeps in `state.hyperparameters`. It reads no latents but their number: the
    variety is in the choices.

    Args:
      network: Linen module or `Network` with `start` and `extend`.
      length: of the sequences.
      start_token: in front of them.
      stop_token: ends a sequence once it is chosen; what follows is padding, as in real sequences.
      pad_token: the padding; by default token 0.
      straight_through: show the chosen tokens as ones and zeros, with the derivative of the relaxed
        ones.
    """
    language = as_network(network)
    if language.start is None:
        raise ValueError("a relaxed generator is made of a language model, with start and extend")

    def init(key: Key, latents: Array, labels: Array | None = None) -> Variables:
        variables = language.init(key, jnp.zeros((latents.shape[0], 1), jnp.int32), labels)
        return {**variables, "hyperparameters": {INVERSE_TEMPERATURE: jnp.float32(1)}}

    def apply(variables, latents, labels=None, *, train, key=None):
        sharpness = variables["hyperparameters"][INVERSE_TEMPERATURE]
        own = {name: part for name, part in variables.items() if name != "hyperparameters"}
        count = latents.shape[0]

        def step(carry, key):
            cache, token, ended = carry
            choice_key, network_key = jax.random.split(key)
            logits, cache = language.extend(
                own, cache, token[:, None], train=train, key=network_key if train else None
            )
            logits = logits[:, 0] + generation.gumbel(choice_key, logits[:, 0].shape)
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            relaxed = jax.nn.softmax(sharpness * logits, axis=-1)
            if straight_through:
                hard = jax.nn.one_hot(token, logits.shape[-1])
                relaxed = hard + relaxed - jax.lax.stop_gradient(relaxed)
            if stop_token is not None:
                padding = jax.nn.one_hot(pad_token or 0, logits.shape[-1])
                relaxed = jnp.where(ended[:, None], padding, relaxed)
                ended = ended | (token == stop_token)
            return (cache, token, ended), relaxed

        first = jnp.full(count, start_token, jnp.int32), jnp.zeros(count, bool)
        start = language.start(own, count, length, labels), *first
        _, sequences = jax.lax.scan(step, axes.vary(start), jax.random.split(key, length))
        others = {name: part for name, part in variables.items() if name != "params"}
        return sequences.swapaxes(0, 1), others

    return Network(init, apply)


def text_gan(
    generator: Any,
    discriminator: Any,
    *,
    vocab_size: int,
    length: int,
    start_token: int = 0,
    stop_token: int | None = None,
    pad_token: int | None = None,
    straight_through: bool = False,
    latents: latents.Latents = latents.normal(1),  # noqa: B008 it is a tuple of functions
    **options: Any,
) -> Algorithm:
    """Return the adversarial training of a text generator on relaxed tokens.

    Args:
      generator: a language model, which becomes `relaxed`; or any generator of (B, length, V), such
        as chances after a softmax.
      discriminator: Linen module or `Network`: (B, length, V) -> logits.
      vocab_size: V.
      length: of the sequences.
      start_token: see `relaxed`.
      stop_token: ends a sequence, see `relaxed`.
      pad_token: follows it, and does not count for a likelihood.
      straight_through: see `relaxed`.
      latents: of a generator that is no language model.
      options: those of `ganjax.gan`.

    Returns:
      An `Algorithm` for batches of `"tokens"` (B, length). Its `sample` returns tokens (N, length)
      int32. Its `evaluate` returns the likelihood as that of `ganjax.autoregressive` does, or, of a
      generator that is no language model, what that of `ganjax.gan` does.

    >>> from ganjax.networks.recurrent import LSTMCell, Recurrent
    >>> from ganjax.networks.text_discriminators import ConvDiscriminator
    >>> generator = Recurrent(vocab_size=11, cells=(LSTMCell(8),), embedding_dim=4)
    >>> discriminator = ConvDiscriminator(filters=((1, 4), (2, 4)), embedding_dim=4)
    >>> algorithm = text_gan(generator, discriminator, vocab_size=11, length=5)
    >>> sorted(jax.eval_shape(algorithm.init, jax.random.key(0)).hyperparameters)
    ['inverse_temperature']
    """
    language = as_network(generator)
    is_language_model = language.start is not None
    network = language
    if is_language_model:
        network = relaxed(
            language,
            length=length,
            start_token=start_token,
            stop_token=stop_token,
            pad_token=pad_token,
            straight_through=straight_through,
        )
    algorithm = gan(network, discriminator, latents=latents, **options)

    def as_mixtures(batch: Batch) -> dict[str, Array]:
        if "tokens" not in batch:
            raise ValueError(f"a batch needs the entry 'tokens', got {sorted(batch)}")
        # Cast first: what a narrow integer cannot hold would be no token.
        tokens = jnp.asarray(batch["tokens"]).astype(jnp.int32)
        others = {name: array for name, array in batch.items() if name != "tokens"}
        return {**others, "image": jax.nn.one_hot(tokens, vocab_size)}

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return algorithm.train_step(state, as_mixtures(batch))

    def sample(
        state: TrainState,
        key: Key,
        num_samples: int,
        labels: Array | None = None,
        *,
        latents: Array | None = None,
        truncation: float | None = None,
        ema: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008 it is frozen
    ) -> Array:
        if not is_language_model:
            chances = algorithm.sample(
                state, key, num_samples, labels, latents=latents, truncation=truncation, ema=ema
            )
            return jnp.argmax(chances, axis=-1).astype(jnp.int32)
        if latents is not None:
            raise InputError("this generator has no latents: give it a prompt")
        labels = players.default_labels(labels, num_samples, options.get("num_classes", 0))
        return generation.sequences(
            language,
            language_variables(state, ema),
            num_samples,
            length,
            start_token=start_token,
            stop_token=stop_token,
            pad_token=pad_token,
            key=key,
            sampling=sampling,
            labels=labels,
        )

    def evaluate(state: TrainState, batch: Batch, key: Key) -> Metrics:
        if not is_language_model:
            return algorithm.evaluate(state, as_mixtures(batch), key)
        return likelihood(
            language,
            language_variables(state),
            batch,
            start_token=start_token,
            pad_token=pad_token,
            key=key,
        )

    return Algorithm(algorithm.init, train_step, sample, evaluate, algorithm.batches_per_step)


def language_variables(state: TrainState, ema: bool = True) -> Mapping[str, Any]:
    """Return the variables of the language model that a relaxed generator is made of."""
    found = weights(state, ema)
    return {name: part for name, part in found.items() if name != "hyperparameters"}


def take_generator(state: TrainState, previous: TrainState | None) -> TrainState:
    """Return a fresh state whose generator, and its averages, go on from those of another phase."""
    if previous is None:
        return state
    params = jax.tree.map(jnp.array, previous.players["generator"].params)
    player = state.players["generator"].replace(params=params)
    state = state.replace(players={**state.players, "generator": player})
    if "generator" in state.ema:
        average = previous.ema.get("generator", {}).get("params", params)
        own = {**state.ema["generator"], "params": jax.tree.map(jnp.array, average)}
        state = state.replace(ema={**state.ema, "generator": own})
    return state
