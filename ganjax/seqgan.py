"""Adversarial training of text generators by policy gradient.

The generator chooses tokens; how good a choice was is what the discriminator thinks of sequences
that go on from it, on average over several (Monte-Carlo roll-outs).

References:
  Yu et al. 2016, SeqGAN: Sequence Generative Adversarial Nets with Policy Gradient,
  arXiv:1609.05473.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ganjax import axes, generation, losses, players
from ganjax.autoregressive import autoregressive, entries, log_probabilities
from ganjax.losses import AdversarialLoss
from ganjax.networks.layers import as_network
from ganjax.types import Algorithm, Array, Batch, InputError, Key, Metrics, TrainState, step_key
from ganjax.updates import discriminator_loss, judge


def seqgan(
    generator: Any,
    discriminator: Any,
    *,
    length: int,
    start_token: int = 0,
    stop_token: int | None = None,
    pad_token: int | None = None,
    loss: AdversarialLoss = losses.non_saturating,
    generator_optimizer: players.AnyOptimizer | None = None,
    discriminator_optimizer: players.AnyOptimizer | None = None,
    discriminator_steps: int = 5,
    generator_steps: int = 1,
    num_rollouts: int = 16,
    rollout_rate: float = 0.8,
    baseline: bool = False,
    num_classes: int = 0,
) -> Algorithm:
    """Return the adversarial training of a text generator by policy gradient.

    One step is `discriminator_steps` updates of the discriminator, each on a batch of its own and
    as many new sequences, and `generator_steps` updates of the generator on rewards: the chance, in
    the discriminator's eyes, that a sequence is real.

    Args:
      generator: a language model: Linen module or `Network` with `start` and `extend`.
      discriminator: Linen module or `Network`: tokens (B, length) -> logits.
      length: of the sequences.
      start_token: in front of them.
      stop_token: ends a sequence; what follows is padding and has no reward.
      pad_token: that padding.
      loss: of the discriminator.
      generator_optimizer: as in `ganjax.gan`; by default Adam, 1e-2, gradients clipped to 5.
      discriminator_optimizer: as in `ganjax.gan`; by default Adam, 1e-4.
      discriminator_steps: discriminator updates a step.
      generator_steps: generator updates a step; 0 trains the discriminator alone.
      num_rollouts: sequences for each choice.
      rollout_rate: what the weights that roll out keep of themselves when the generator changes.
      baseline: take the mean reward at each place off: less noise in the gradient. The paper has
        none.
      num_classes: 0 for an unconditional model; otherwise both networks are given the labels of a
        batch, and the sequences that are judged beside it are of the same classes.

    Returns:
      An `Algorithm` for batches of `"tokens"` (B, length) and `"label"`, stacked where
      `discriminator_steps` is above 1. `sample` and `evaluate` are those of
      `ganjax.autoregressive`.

    >>> from ganjax.networks.recurrent import LSTMCell, Recurrent
    >>> from ganjax.networks.text_discriminators import ConvDiscriminator
    >>> generator = Recurrent(vocab_size=11, cells=(LSTMCell(8),), embedding_dim=4)
    >>> discriminator = ConvDiscriminator(11, ((1, 4),), embedding_dim=4)
    >>> algorithm = seqgan(generator, discriminator, length=5, discriminator_steps=2)
    >>> algorithm.batches_per_step
    2
    """
    generator, discriminator = as_network(generator), as_network(discriminator)
    if length < 2:
        raise ValueError(f"length has to be 2 or more, got {length}")
    players.check_positive(
        length=length, discriminator_steps=discriminator_steps, num_rollouts=num_rollouts
    )
    optimizers = {
        "generator": generator_optimizer
        or optax.chain(optax.clip_by_global_norm(5.0), optax.adam(1e-2)),
        "discriminator": discriminator_optimizer or optax.adam(1e-4),
    }
    likelihood = autoregressive(
        generator,
        length=length,
        start_token=start_token,
        pad_token=pad_token,
        stop_token=stop_token,
        optimizer=optimizers["generator"],
        num_classes=num_classes,
    )

    def init(key: Key) -> TrainState:
        generator_key, discriminator_key = jax.random.split(key)
        state = likelihood.init(generator_key)
        some = jnp.zeros((2, length), jnp.int32)
        labels = jnp.zeros(2, jnp.int32) if num_classes else None
        fresh = discriminator.init(discriminator_key, some, labels)
        player = players.init_player(fresh, optimizers["discriminator"])
        rates = {
            f"{name}_learning_rate": jnp.float32(optimizer.learning_rate)
            for name, optimizer in optimizers.items()
            if hasattr(optimizer, "learning_rate")
        }
        params = state.players["generator"].params
        return state.replace(
            players={**state.players, "discriminator": player},
            hyperparameters=rates,
            running={"rollout": jax.tree.map(jnp.array, params)},
        )

    def write(params, player, key, prompts, lengths, labels):
        """Return sequences (B, length) that go on from prompts (B, length + 1)."""
        variables = {"params": params, **player.variables}
        common = {"labels": labels, "pad_token": pad_token or 0}
        writing = generation.begin(
            generator, variables, prompts, lengths, length + 1, key, **common
        )
        tokens = generation.advance(
            generator,
            variables,
            writing,
            length + 1,
            max_new_tokens=length,
            stop_token=stop_token,
            **common,
        ).tokens[:, 1:]
        if stop_token is None:
            return tokens
        # Also where it is the prompt that ends: what comes after an end is padding.
        stops = (tokens == stop_token).astype(jnp.int32)
        return jnp.where(jnp.cumsum(stops, axis=1) - stops > 0, pad_token or 0, tokens)

    def from_start(player, key, count, labels):
        prompts = jnp.full((count, length + 1), start_token, jnp.int32)
        return write(player.params, player, key, prompts, jnp.ones(count, jnp.int32), labels)

    def rewards_of(state, tokens, labels, key):
        """Return (B, length): what each choice is worth."""
        count = tokens.shape[0]
        discriminate = judge(discriminator, state.players["discriminator"], train=False)

        def chance(tokens, labels):
            # A discriminator with several logits a sequence means their average.
            logits = discriminate(tokens, labels, key)
            return jnp.mean(jax.nn.sigmoid(logits).reshape(tokens.shape[0], -1), axis=1)

        # Every sequence as often as it has choices before the last, cut after each of them; those
        # of one sequence together, so that every layout of the batch draws the same.
        starts = jnp.full((count, 1), start_token, jnp.int32)
        prompts = jnp.repeat(jnp.concatenate([starts, tokens], axis=1), length - 1, axis=0)
        lengths = jnp.tile(jnp.arange(2, length + 1, dtype=jnp.int32), count)
        each = None if labels is None else jnp.repeat(labels, length - 1, axis=0)

        def roll_out(total, key):
            written = write(
                state.running["rollout"], state.players["generator"], key, prompts, lengths, each
            )
            return total + chance(written, each).reshape(count, length - 1), None

        nothing = axes.vary(jnp.zeros((count, length - 1)))
        total, _ = jax.lax.scan(roll_out, nothing, jax.random.split(key, num_rollouts))
        return jnp.concatenate([total / num_rollouts, chance(tokens, labels)[:, None]], axis=1)

    def update_generator(
        state: TrainState, count: int, labels: Array | None, index: int
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(step_key(state, "generator"), index)
        sample_key, rollout_key, network_key = jax.random.split(key, 3)
        player = state.players["generator"]
        tokens = from_start(player, sample_key, count, labels)
        rewards = jax.lax.stop_gradient(rewards_of(state, tokens, labels, rollout_key))
        counted = jnp.ones(tokens.shape)
        if pad_token is not None:
            counted = (tokens != pad_token).astype(jnp.float32)
        rewards = rewards * counted
        there = axes.global_mean(jnp.mean(counted, axis=0))
        at_place = axes.global_mean(jnp.mean(rewards, axis=0)) / jnp.maximum(there, 1e-9)
        worth = rewards - at_place if baseline else rewards

        def objective(params, variables, batch, key):
            found, updated = log_probabilities(
                generator,
                {"params": params, **variables},
                batch["tokens"],
                batch.get("label"),
                start_token=start_token,
                train=True,
                key=key,
            )
            value = -jnp.mean(jnp.sum(found * batch["worth"], axis=1))
            # The paper's code adds up over the batch: its clipping of gradients is of that size.
            return value * count * axes.num_shares(), (updated, {"loss/generator": value})

        batch = {"tokens": tokens, "worth": worth * counted}
        if labels is not None:
            batch["label"] = labels
        (_, (variables, metrics)), gradients = players.value_and_grad(objective)(
            player.params, player.variables, batch, network_key
        )
        player = players.apply_gradients(
            player,
            gradients,
            optimizers["generator"],
            learning_rate=state.hyperparameters.get("generator_learning_rate"),
            step=state.step,
        ).replace(variables=variables)
        rollout = jax.tree.map(
            lambda old, new: rollout_rate * old + (1.0 - rollout_rate) * new,
            state.running["rollout"],
            player.params,
        )
        metrics |= {
            "reward": jnp.sum(rewards) / jnp.maximum(jnp.sum(counted), 1.0),
            "grad_norm/generator": optax.tree.norm(gradients),
        }
        state = state.replace(
            players={**state.players, "generator": player},
            running={**state.running, "rollout": rollout},
        )
        return state, metrics

    def update_discriminator(state: TrainState, batch: Batch, index: Array):
        key = jax.random.fold_in(step_key(state, "discriminator"), index)
        fake_key, loss_key = jax.random.split(key)
        player = state.players["discriminator"]
        count = batch["tokens"].shape[0]
        fake = from_start(state.players["generator"], fake_key, count, batch.get("label"))

        def objective(params, variables, batch, key):
            return discriminator_loss(
                params,
                variables,
                batch["tokens"],
                batch["fake"],
                batch.get("label"),
                key,
                discriminator=discriminator,
                loss=loss,
            )

        (_, (variables, metrics)), gradients = players.value_and_grad(objective)(
            player.params, player.variables, {**batch, "fake": fake}, loss_key
        )
        player = players.apply_gradients(
            player,
            gradients,
            optimizers["discriminator"],
            learning_rate=state.hyperparameters.get("discriminator_learning_rate"),
            step=state.step,
        ).replace(variables=variables)
        metrics = {**metrics, "grad_norm/discriminator": optax.tree.norm(gradients)}
        return state.replace(players={**state.players, "discriminator": player}), metrics

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = entries(batch, num_classes)
        shape = batch["tokens"].shape
        batch["tokens"] = batch["tokens"].astype(jnp.int32)
        if discriminator_steps == 1:
            batch = {name: array[None] for name, array in batch.items()}
        tokens = batch["tokens"]
        if tokens.ndim != 3 or tokens.shape[0] != discriminator_steps:
            raise ValueError(
                f"one step consumes {discriminator_steps} batches, stacked on a leading axis, but "
                f"'tokens' has shape {shape}"
            )

        def body(state, inputs):
            state, metrics = update_discriminator(state, *inputs)
            return state, axes.global_mean(metrics)

        state, metrics = jax.lax.scan(body, state, (batch, jnp.arange(discriminator_steps)))
        metrics = {name: values[-1] for name, values in metrics.items()}
        labels = batch["label"][-1] if num_classes else None
        for index in range(generator_steps):
            state, more = update_generator(state, tokens.shape[1], labels, index)
            metrics |= axes.global_mean(more)
        return state.replace(step=state.step + 1), metrics

    if generator_steps < 0:
        raise InputError(f"generator_steps has to be 0 or more, got {generator_steps}")
    return Algorithm(init, train_step, likelihood.sample, likelihood.evaluate, discriminator_steps)


def take_all(state: TrainState, previous: TrainState | None) -> TrainState:
    """Return a fresh state that goes on from another phase: its generator, or all it has."""
    if previous is None:
        return state
    known = dict(previous.players)
    if "discriminator" in known:
        state = state.replace(players=known)
    else:
        params = jax.tree.map(jnp.array, known["generator"].params)
        own = state.players["generator"].replace(params=params)
        state = state.replace(players={**state.players, "generator": own})
    rollout = jax.tree.map(jnp.array, state.players["generator"].params)
    return state.replace(running={**state.running, "rollout": rollout})
