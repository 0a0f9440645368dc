"""Autoregressive language models as an `Algorithm`: maximum likelihood by teacher forcing.

References:
  Bengio et al. 2003, A Neural Probabilistic Language Model, JMLR 3.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ganjax import axes, ema, generation, players
from ganjax.generation import Sampling
from ganjax.networks.layers import as_network
from ganjax.types import (
    Algorithm,
    Array,
    Batch,
    InputError,
    Key,
    Metrics,
    Optimizer,
    TrainState,
    Variables,
    step_key,
)

# The only player. It is called as the one of a GAN is, which may go on with its weights.
PLAYER = "generator"


def log_probabilities(
    network: Any,
    variables: Variables,
    tokens: Array,
    labels: Array | None = None,
    *,
    start_token: int | None,
    temperature: Array | float = 1.0,
    train: bool = False,
    key: Key | None = None,
) -> tuple[Array, Variables]:
    """Return the log-probability of each token given those before it.

    Args:
      network: Linen module or `Network`: tokens (B, S), labels -> logits (B, S, V).
      variables: its weights.
      tokens: (B, S), integers.
      labels: classes or vectors for a conditional model.
      start_token: put in front of every sequence; None where the first token is only looked at.
      temperature: logits are divided by it first.
      train: as in `Network.apply`.
      key: random key of the network's own noise, such as dropout.

    Returns:
      (log_probabilities, variables): (B, S) in nats, or (B, S - 1) without a start token; and the
      collections but `"params"`.
    """
    tokens = tokens.astype(jnp.int32)
    if start_token is None:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
    else:
        first = jnp.full_like(tokens[:, :1], start_token)
        inputs, targets = jnp.concatenate([first, tokens[:, :-1]], axis=1), tokens
    logits, updated = as_network(network).apply(variables, inputs, labels, train=train, key=key)
    found = optax.softmax_cross_entropy_with_integer_labels(logits / temperature, targets)
    return -found, updated


def autoregressive(
    network: Any,
    *,
    length: int,
    start_token: int,
    windows: bool = False,
    pad_token: int | None = None,
    stop_token: int | None = None,
    optimizer: players.AnyOptimizer | None = None,
    num_classes: int = 0,
    ema_half_life_images: float | None = None,
    ema_ramp_up: float | None = None,
    micro_batches: int = 1,
) -> Algorithm:
    """Return the training of a language model on the likelihood of the next token.

    One step is one update on the mean negative log-probability of a batch's tokens, in nats, its
    metric `loss/cross_entropy`.

    Args:
      network: Linen module or `Network` with `start` and `extend`: tokens (B, S), labels -> logits
        (B, S, V).
      length: of the sequences that `sample` returns.
      start_token: with which sampling begins.
      windows: sequences are windows of a running text, whose first token is only looked at;
        otherwise `start_token` is put in front of each.
      pad_token: not trained on.
      stop_token: ends a sampled sequence.
      optimizer: an Optax transformation, or an `Optimizer` whose learning rate is kept in
        `state.hyperparameters["learning_rate"]`. By default AdamW, 1e-3.
      num_classes: 0 for an unconditional model; batches then need no `"label"`.
      ema_half_life_images: half-life of the running average of the weights in sequences, or None
        for no average; kept in `state.hyperparameters["ema_half_life_images"]`.
      ema_ramp_up: see `ganjax.ema.decay`.
      micro_batches: parts of a batch over which gradients are accumulated.

    Returns:
      An `Algorithm` for batches of `"tokens"` (B, S), integers, and `"label"`. Its `sample` returns
      tokens (N, length) int32 and takes `sampling`, a `ganjax.generation.Sampling`. Its `evaluate`
      returns sums of `"negative_log_likelihood"` in nats and of the `"tokens"` it is of.

    >>> from ganjax.networks.recurrent import LSTMCell, Recurrent
    >>> network = Recurrent(vocab_size=11, cells=(LSTMCell(8),), embedding_dim=4)
    >>> algorithm = autoregressive(network, length=5, start_token=0)
    >>> state = algorithm.init(jax.random.key(0))
    >>> step = jax.jit(algorithm.train_step, donate_argnums=0)
    >>> state, metrics = step(state, {"tokens": jnp.ones((4, 5), jnp.int32)})
    >>> sorted(metrics)
    ['grad_norm/generator', 'loss/cross_entropy']
    """
    network = as_network(network)
    optimizer = optimizer or optax.adamw(1e-3)
    players.check_positive(micro_batches=micro_batches, length=length)
    first = None if windows else start_token

    def init(key: Key) -> TrainState:
        init_key, run_key = jax.random.split(key)
        labels = jnp.zeros(2, jnp.int32) if num_classes else None
        variables = network.init(init_key, jnp.zeros((2, 1), jnp.int32), labels)
        hyperparameters, average = {}, {}
        if isinstance(optimizer, Optimizer):
            hyperparameters["learning_rate"] = jnp.float32(optimizer.learning_rate)
        if ema_half_life_images is not None:
            hyperparameters["ema_half_life_images"] = jnp.float32(ema_half_life_images)
            average[PLAYER] = jax.tree.map(jnp.array, dict(variables))
        return TrainState(
            step=jnp.int32(0),
            rollbacks=jnp.int32(0),
            key=run_key,
            players={PLAYER: players.init_player(variables, optimizer)},
            ema=average,
            augment=(),
            hyperparameters=hyperparameters,
            running={},
        )

    def weights_of(tokens):
        """Return what each token's loss weighs: zero for padding, one on average for the rest."""
        targets = tokens[:, 1:] if first is None else tokens
        if pad_token is None:
            return jnp.ones(targets.shape)
        counted = (targets != pad_token).astype(jnp.float32)
        return counted / jnp.maximum(axes.global_mean(jnp.mean(counted)), 1e-9)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = entries(batch, num_classes)
        # Weighed before the batch is split: its parts need not have equally many tokens.
        batch["weights"] = weights_of(batch["tokens"])

        def objective(params, variables, batch, key):
            found, updated = log_probabilities(
                network,
                {"params": params, **variables},
                batch["tokens"],
                batch.get("label"),
                start_token=first,
                train=True,
                key=key,
            )
            loss = -jnp.mean(found * batch["weights"])
            return loss, (updated, {"loss/cross_entropy": loss})

        player = state.players[PLAYER]
        (_, (variables, metrics)), gradients = players.value_and_grad(objective, micro_batches)(
            player.params, player.variables, batch, step_key(state, "network")
        )
        metrics[f"grad_norm/{PLAYER}"] = optax.tree.norm(gradients)
        player = players.apply_gradients(
            player,
            gradients,
            optimizer,
            learning_rate=state.hyperparameters.get("learning_rate"),
            step=state.step,
        ).replace(variables=variables)
        average = state.ema
        if average:
            count = batch["tokens"].shape[0] * axes.num_shares()
            half_life = state.hyperparameters["ema_half_life_images"]
            keep = ema.decay(half_life, count, state.step * count, ema_ramp_up)
            average = ema.update(average, {PLAYER: players.all_variables(player)}, keep)
        state = state.replace(step=state.step + 1, players={PLAYER: player}, ema=average)
        return state, axes.global_mean(metrics)

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
        del truncation
        if latents is not None:
            raise InputError("a language model has no latents: give it a prompt")
        labels = players.default_labels(labels, num_samples, num_classes)
        return generation.sequences(
            network,
            weights(state, ema),
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
        batch = entries(batch, num_classes)
        return likelihood(
            network, weights(state), batch, start_token=first, pad_token=pad_token, key=key
        )

    return Algorithm(init, train_step, sample, evaluate)


def likelihood(
    network: Any,
    variables: Variables,
    batch: Mapping[str, Array],
    *,
    start_token: int | None,
    pad_token: int | None,
    temperature: Array | float = 1.0,
    key: Key | None = None,
) -> Metrics:
    """Return sums over a batch: `negative_log_likelihood` in nats, `tokens`, and `count`."""
    tokens = batch["tokens"]
    found, _ = log_probabilities(
        network,
        variables,
        tokens,
        batch.get("label"),
        start_token=start_token,
        temperature=temperature,
        key=key,
    )
    targets = tokens[:, 1:] if start_token is None else tokens
    counted = jnp.ones(targets.shape, bool) if pad_token is None else targets != pad_token
    return {
        "negative_log_likelihood": -jnp.sum(jnp.where(counted, found, 0.0)),
        "tokens": jnp.sum(counted).astype(jnp.float32),
        "count": jnp.float32(tokens.shape[0]),
    }


def weights(state: TrainState, ema: bool = True) -> Variables:
    """Return the variables of the language model in a state: its average where there is one."""
    if ema and PLAYER in state.ema:
        return state.ema[PLAYER]
    return players.all_variables(state.players[PLAYER])


def entries(batch: Batch, num_classes: int) -> dict[str, Array]:
    """Return the tokens of a batch, and its labels for a conditional model; raise without them."""
    expected = {"tokens", "label"} if num_classes else {"tokens"}
    if not expected <= set(batch):
        raise ValueError(f"a batch needs the entries {sorted(expected)}, got {sorted(batch)}")
    return {name: jnp.asarray(batch[name]) for name in expected}
