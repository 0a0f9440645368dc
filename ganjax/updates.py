"""The two players' losses and updates, with every argument explicit.

`ganjax.gan` draws the random numbers and composes these; a program of one's own may as well. They
take Linen modules and `Network`s alike.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ganjax import axes, players
from ganjax.losses import AdversarialLoss
from ganjax.networks.layers import as_network, as_output
from ganjax.penalties import Term
from ganjax.types import (
    Array,
    Batch,
    DiscriminatorOutput,
    Key,
    Metrics,
    Player,
    as_float_images,
)
from ganjax.views import DiscriminatorView, GeneratorView, Judge

Transform = Callable[[Array, Key], Array]


def judge(
    discriminator: Any, player: Player, *, augment: Transform | None = None, train: bool = True
) -> Judge:
    """Return a fixed discriminator as `(images, labels, key) -> logits (B,)`.

    Its method `output` returns the whole `DiscriminatorOutput`.

    Args:
      discriminator: Linen module or `Network`.
      player: its weights.
      augment: `(images, key) -> images`, applied first.
      train: whether batch norm looks at the batch, as it does while training.
    """
    network = as_network(discriminator)

    def output(images: Array, labels: Array | None, key: Key) -> DiscriminatorOutput:
        network_key, augment_key = jax.random.split(key)
        if augment is not None:
            images = augment(images, augment_key)
        result, _ = network.apply(
            players.all_variables(player), images, labels, train=train, key=network_key
        )
        return as_output(result)

    return Judge(output)


def discriminator_loss(
    params: Any,
    variables: Any,
    real_images: Array,
    fake_images: Array,
    labels: Array | None,
    key: Key,
    *,
    discriminator: Any,
    loss: AdversarialLoss | None,
    terms: Sequence[Term] = (),
    weights: Mapping[str, Array] | None = None,
    running: Mapping[str, Any] | None = None,
    augment: Transform | None = None,
    joint_pass: bool = False,
) -> tuple[Array, tuple[Any, Metrics]]:
    """Return the discriminator's loss on a real and a fake batch.

    Args:
      params: the discriminator's parameters.
      variables: its other collections.
      real_images: (B, ...), float in [-1, 1].
      fake_images: (B, ...), float in [-1, 1].
      labels: of both batches, or None.
      key: random key.
      discriminator: Linen module or `Network`.
      loss: the adversarial loss; None leaves the terms alone.
      terms: penalties, each weighted with its weight times its interval.
      weights: of the terms, by name; by default those they were made with.
      running: where terms with a memory find it, see `ganjax.players.init_running`.
      augment: `(images, key) -> images`, applied to whatever the discriminator sees.
      joint_pass: judge both batches in one pass; see `ganjax.gan`.

    Returns:
      (loss, (variables, metrics)), the loss a mean over the batch. Among the metrics is what terms
      with a memory want to remember, as `memory/<name>`.
    """
    network = as_network(discriminator)
    real_key, fake_key, term_key = jax.random.split(key, 3)

    def discriminate(images, variables, key, labels=labels):
        network_key, augment_key = jax.random.split(key)
        if augment is not None:
            images = augment(images, augment_key)
        output, variables = network.apply(
            {"params": params, **variables}, images, labels, train=True, key=network_key
        )
        return as_output(output), variables

    # The same keys and statistics as in the passes below: a compiler can share them.
    view = DiscriminatorView(
        lambda images: discriminate(images, variables, real_key)[0],
        lambda images: discriminate(images, variables, fake_key)[0],
        labels,
    )

    def penalty(function, index):
        return function(view, real_images, fake_images, jax.random.fold_in(term_key, index))

    total, metrics = players.weigh(terms, weights, penalty, running)
    if loss is None:
        return total, (variables, metrics)
    if joint_pass:
        if "batch_stats" in variables:
            raise ValueError(
                "joint_pass judges real and fake images as one batch, but this discriminator has "
                "batch statistics, which that would mix; leave joint_pass out"
            )
        both = None if labels is None else _interleave(labels, labels)
        images = _interleave(real_images, fake_images.astype(real_images.dtype))
        output, updated = discriminate(images, variables, real_key, both)
        real_logits, fake_logits = output.logits.reshape(-1, 2).T
    else:
        real, updated = discriminate(real_images, variables, real_key)
        fake, updated = discriminate(fake_images, updated, fake_key)
        real_logits, fake_logits = real.logits, fake.logits
    adversarial = jnp.mean(loss.discriminator(real_logits=real_logits, fake_logits=fake_logits))
    metrics |= {
        "loss/discriminator": adversarial,
        "logits/real": jnp.mean(real_logits),
        "logits/fake": jnp.mean(fake_logits),
        # How much the discriminator has learnt its examples by heart; what ADA listens to.
        "logits/real_sign": jnp.mean(jnp.sign(real_logits)),
    }
    return adversarial + total, (updated, metrics)


def _interleave(a: Array, b: Array) -> Array:
    # Not one behind the other: halves of a sharded batch would have to move between devices.
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def generator_loss(
    params: Any,
    variables: Any,
    latents: Array,
    labels: Array | None,
    key: Key,
    *,
    generator: Any,
    discriminate: Judge | None,
    loss: AdversarialLoss | None,
    real_images: Array | None = None,
    terms: Sequence[Term] = (),
    weights: Mapping[str, Array] | None = None,
    running: Mapping[str, Any] | None = None,
) -> tuple[Array, tuple[Any, Metrics]]:
    """Return the generator's loss on a batch of latents.

    Args:
      params: the generator's parameters.
      variables: its other collections.
      latents: (B, dimension).
      labels: (B,) or None.
      key: random key.
      generator: Linen module or `Network`.
      discriminate: `(images, labels, key) -> logits (B,)`; `judge` makes one that shows its terms
        class logits as well.
      loss: the adversarial loss; None leaves the terms alone.
      real_images: (B, ...) in [-1, 1] for a loss that compares with them.
      terms: each `(generate, latents, key) -> (B,)`, with a `ganjax.views.GeneratorView`.
      weights: of the terms, by name; by default those they were made with.
      running: where terms with a memory find it, see `ganjax.players.init_running`.

    Returns:
      (loss, (variables, metrics)), with `memory/<name>` among the metrics as in
      `discriminator_loss`.
    """
    network = as_network(generator)
    network_key, fake_key, real_key, term_key = jax.random.split(key, 4)
    all_variables = {"params": params, **variables}

    def generate(latents):
        images, updated = network.apply(all_variables, latents, labels, train=True, key=network_key)
        return images.astype(jnp.float32), updated

    def map_latents(latents, labels):
        return network.map(all_variables, latents, labels, train=True, key=network_key)[0]

    def synthesize(styles):
        images, _ = network.synthesize(all_variables, styles, train=True, key=network_key)
        return images.astype(jnp.float32)

    def judge_fake(images):
        if isinstance(discriminate, Judge):
            return discriminate.output(images, labels, fake_key)
        return as_output(discriminate(images, labels, fake_key))

    view = GeneratorView(lambda latents: generate(latents)[0], judge_fake, labels)
    if network.map is not None:
        view = dataclasses.replace(view, map=map_latents, synthesize=synthesize)

    def term_value(function, index):
        return function(view, latents, jax.random.fold_in(term_key, index))

    total, metrics = players.weigh(terms, weights, term_value, running)
    if loss is None:
        return total, (variables, metrics)
    fake_images, updated = generate(latents)
    fake_logits = discriminate(fake_images, labels, fake_key)
    real_logits = None
    if loss.generator_needs_real:
        real_logits = discriminate(real_images, labels, real_key)
    adversarial = jnp.mean(loss.generator(real_logits=real_logits, fake_logits=fake_logits))
    return adversarial + total, (updated, {**metrics, "loss/generator": adversarial})


def discriminator_update(
    player: Player,
    batch: Batch,
    make_fake: Callable[[Batch], Array],
    key: Key,
    *,
    discriminator: Any,
    loss: AdversarialLoss,
    optimizer: players.AnyOptimizer,
    terms: Sequence[Term] = (),
    weights: Mapping[str, Array] | None = None,
    learning_rate: Array | None = None,
    step: Array | int = 0,
    running: dict[str, Array] | None = None,
    augment: Transform | None = None,
    joint_pass: bool = False,
    micro_batches: int = 1,
) -> tuple[Player, dict[str, Array], Metrics]:
    """Update the discriminator once, and once more for each group of lazy terms that is due.

    Args:
      player: the discriminator.
      batch: `"image"` (B, ...) in uint8 or [-1, 1], `"label"` (B,) where there are classes, and
        whatever `make_fake` reads, such as `"latents"` (B, dimension).
      make_fake: batch (or a micro-batch of it) -> fake images; no gradient flows through it.
      key: random key.
      discriminator: Linen module or `Network`.
      loss: the adversarial loss.
      optimizer: of the discriminator.
      terms: penalties.
      weights: of the terms, by name; by default those they were made with.
      learning_rate: for an `Optimizer`; by default the one it was made with.
      step: of the training; lazy terms are due where their interval divides it.
      running: last values of the lazy terms.
      augment: applied to whatever the discriminator sees.
      joint_pass: judge both batches in one pass; see `ganjax.gan`.
      micro_batches: over how many parts of the batch gradients are accumulated.

    Returns:
      (player, running, metrics).
    """

    def objective(loss, terms):
        def function(params, variables, batch, key, running):
            return discriminator_loss(
                params,
                variables,
                as_float_images(batch["image"]),
                jax.lax.stop_gradient(make_fake(batch)),
                batch.get("label"),
                key,
                discriminator=discriminator,
                loss=loss,
                terms=terms,
                weights=weights,
                running=running,
                augment=augment,
                joint_pass=joint_pass,
            )

        return function

    return _update(
        "discriminator",
        player,
        batch,
        key,
        objective,
        loss=loss,
        optimizer=optimizer,
        terms=terms,
        learning_rate=learning_rate,
        step=step,
        running=running,
        micro_batches=micro_batches,
    )


def generator_update(
    player: Player,
    batch: Batch,
    discriminate: Judge,
    key: Key,
    *,
    generator: Any,
    loss: AdversarialLoss,
    optimizer: players.AnyOptimizer,
    terms: Sequence[Term] = (),
    weights: Mapping[str, Array] | None = None,
    learning_rate: Array | None = None,
    step: Array | int = 0,
    running: dict[str, Array] | None = None,
    micro_batches: int = 1,
) -> tuple[Player, dict[str, Array], Metrics]:
    """Update the generator once, and once more for each group of lazy terms that is due.

    Args:
      player: the generator.
      batch: `"latents"` (B, dimension), `"label"` (B,) where there are classes, and `"image"` for a
        loss that compares with real images.
      discriminate: `(images, labels, key) -> logits (B,)` of the fixed discriminator; `judge`
        makes one.
      key: random key.
      generator: Linen module or `Network`.
      loss: the adversarial loss.
      optimizer: of the generator.
      terms: each `(generate, latents, key) -> (B,)`.
      weights: of the terms, by name; by default those they were made with.
      learning_rate: for an `Optimizer`; by default the one it was made with.
      step: of the training; lazy terms are due where their interval divides it.
      running: last values of the lazy terms.
      micro_batches: over how many parts of the batch gradients are accumulated.

    Returns:
      (player, running, metrics).
    """

    def objective(loss, terms):
        def function(params, variables, batch, key, running):
            images = batch.get("image")
            return generator_loss(
                params,
                variables,
                batch["latents"],
                batch.get("label"),
                key,
                generator=generator,
                discriminate=discriminate,
                loss=loss,
                real_images=None if images is None else as_float_images(images),
                terms=terms,
                weights=weights,
                running=running,
            )

        return function

    return _update(
        "generator",
        player,
        batch,
        key,
        objective,
        loss=loss,
        optimizer=optimizer,
        terms=terms,
        learning_rate=learning_rate,
        step=step,
        running=running,
        micro_batches=micro_batches,
    )


def _update(
    name,
    player,
    batch,
    key,
    objective,
    *,
    loss,
    optimizer,
    terms,
    learning_rate,
    step,
    running,
    micro_batches,
):
    """Do the main update and the lazy ones from `objective(loss, terms)`."""
    running = players.init_running(terms) if running is None else running
    step = jnp.asarray(step, jnp.int32)
    main_key, lazy_key = jax.random.split(key)
    optimize = {"optimizer": optimizer, "learning_rate": learning_rate, "step": step}

    def differentiate(loss, terms, player, key):
        function = functools.partial(objective(loss, terms), running=running)
        (_, (variables, metrics)), gradients = players.value_and_grad(function, micro_batches)(
            player.params, player.variables, batch, key
        )
        remembered = players.remember(terms, running, metrics)
        return variables, metrics, remembered, gradients

    variables, metrics, remembered, gradients = differentiate(
        loss, players.eager(terms), player, main_key
    )
    metrics[f"grad_norm/{name}"] = optax.tree.norm(gradients)
    player = players.apply_gradients(player, gradients, **optimize).replace(variables=variables)

    def lazy_update(player, group):
        _, values, remembered, gradients = differentiate(None, group, player, lazy_key)
        player = players.apply_gradients(player, gradients, **optimize)
        return player, {**axes.global_mean(values), **remembered}

    running = {**running, **remembered}
    player, running = players.lazy_updates(player, terms, running, step=step, update=lazy_update)
    last = {key: value for key, value in running.items() if key.startswith("penalty/")}
    return player, running, {**metrics, **last}
