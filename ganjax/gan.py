"""Generative adversarial networks as an `Algorithm`, and the updates it is made of.

Three layers, to be taken at whichever height is wanted: the losses `discriminator_loss` and
`generator_loss`; the updates `discriminator_update` and `generator_update`, with every argument
explicit; and `gan`, which draws the random numbers and composes them.

References:
  Goodfellow et al. 2014, Generative Adversarial Networks, arXiv:1406.2661.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ganjax import axes, ema, losses, players
from ganjax.augment import Augment
from ganjax.latents import Latents
from ganjax.losses import AdversarialLoss
from ganjax.networks.layers import as_network, as_output
from ganjax.penalties import Term
from ganjax.types import (
    Algorithm,
    Array,
    Batch,
    Key,
    Metrics,
    Network,
    Optimizer,
    Player,
    TrainState,
    as_float_images,
    step_key,
)

Transform = Callable[[Array, Key], Array]
Judge = Callable[[Array, Array | None, Key], Array]


def discriminator_loss(
    params: Any,
    variables: Any,
    real_images: Array,
    fake_images: Array,
    labels: Array | None,
    key: Key,
    *,
    discriminator: Network,
    loss: AdversarialLoss | None,
    terms: Sequence[Term] = (),
    weights: Mapping[str, Array] | None = None,
    augment: Transform | None = None,
) -> tuple[Array, tuple[Any, Metrics]]:
    """Return the discriminator's loss on a real and a fake batch.

    Args:
      params: the discriminator's parameters.
      variables: its other collections.
      real_images: (B, ...), float in [-1, 1].
      fake_images: (B, ...), float in [-1, 1].
      labels: of both batches, or None.
      key: random key.
      discriminator: its functions.
      loss: the adversarial loss; None leaves the terms alone.
      terms: penalties, each weighted with its weight times its interval.
      weights: of the terms, by name; by default those they were made with.
      augment: `(images, key) -> images`, applied to whatever the discriminator sees.

    Returns:
      (loss, (variables, metrics)), the loss a mean over the batch.
    """
    real_key, fake_key, term_key = jax.random.split(key, 3)

    def discriminate(images, variables, key):
        network_key, augment_key = jax.random.split(key)
        if augment is not None:
            images = augment(images, augment_key)
        output, variables = discriminator.apply(
            {"params": params, **variables}, images, labels, train=True, key=network_key
        )
        return as_output(output).logits, variables

    # The same key and statistics as in the pass over real images below: a compiler can share it.
    def penalty(term, index):
        return term.function(
            lambda images: discriminate(images, variables, real_key)[0],
            real_images,
            fake_images,
            jax.random.fold_in(term_key, index),
        )

    weights = players.init_weights(terms) if weights is None else weights
    total, metrics = players.weigh(terms, weights, penalty)
    if loss is None:
        return total, (variables, metrics)
    # Two passes, not one over both: batch norm would mix real and fake statistics.
    real_logits, updated = discriminate(real_images, variables, real_key)
    fake_logits, updated = discriminate(fake_images, updated, fake_key)
    adversarial = jnp.mean(loss.discriminator(real_logits=real_logits, fake_logits=fake_logits))
    metrics |= {
        "loss/discriminator": adversarial,
        "logits/real": jnp.mean(real_logits),
        "logits/fake": jnp.mean(fake_logits),
    }
    return adversarial + total, (updated, metrics)


def generator_loss(
    params: Any,
    variables: Any,
    latents: Array,
    labels: Array | None,
    key: Key,
    *,
    generator: Network,
    discriminate: Judge | None,
    loss: AdversarialLoss | None,
    real_images: Array | None = None,
    terms: Sequence[Term] = (),
    weights: Mapping[str, Array] | None = None,
) -> tuple[Array, tuple[Any, Metrics]]:
    """Return the generator's loss on a batch of latents.

    Args:
      params: the generator's parameters.
      variables: its other collections.
      latents: (B, dimension).
      labels: (B,) or None.
      key: random key.
      generator: its functions.
      discriminate: `(images, labels, key) -> logits (B,)`.
      loss: the adversarial loss; None leaves the terms alone.
      real_images: (B, ...) in [-1, 1] for a loss that compares with them.
      terms: each `(generate, latents, key) -> (B,)`.
      weights: of the terms, by name; by default those they were made with.

    Returns:
      (loss, (variables, metrics)).
    """
    network_key, fake_key, real_key, term_key = jax.random.split(key, 4)

    def generate(latents):
        images, updated = generator.apply(
            {"params": params, **variables}, latents, labels, train=True, key=network_key
        )
        return images.astype(jnp.float32), updated

    def term_value(term, index):
        return term.function(
            lambda latents: generate(latents)[0], latents, jax.random.fold_in(term_key, index)
        )

    weights = players.init_weights(terms) if weights is None else weights
    total, metrics = players.weigh(terms, weights, term_value)
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
    discriminator: Network,
    loss: AdversarialLoss,
    optimizer: players.AnyOptimizer,
    terms: Sequence[Term] = (),
    weights: Mapping[str, Array] | None = None,
    learning_rate: Array | None = None,
    step: Array | int = 0,
    running: dict[str, Array] | None = None,
    augment: Transform | None = None,
    micro_batches: int = 1,
) -> tuple[Player, dict[str, Array], Metrics]:
    """Update the discriminator once, and once more for each group of lazy terms that is due.

    Args:
      player: the discriminator.
      batch: `"image"` (B, ...) in uint8 or [-1, 1], `"label"` (B,) where there are classes, and
        whatever `make_fake` reads, such as `"latents"` (B, dimension).
      make_fake: batch (or a micro-batch of it) -> fake images; no gradient flows through it.
      key: random key.
      discriminator: its functions.
      loss: the adversarial loss.
      optimizer: of the discriminator.
      terms: penalties.
      weights: of the terms, by name; by default those they were made with.
      learning_rate: for an `Optimizer`; by default the one it was made with.
      step: of the training; lazy terms are due where their interval divides it.
      running: last values of the lazy terms.
      augment: applied to whatever the discriminator sees.
      micro_batches: over how many parts of the batch gradients are accumulated.

    Returns:
      (player, running, metrics).
    """

    def objective(loss, terms):
        def function(params, variables, batch, key):
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
                augment=augment,
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
    generator: Network,
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
      discriminate: `(images, labels, key) -> logits (B,)` of the fixed discriminator.
      key: random key.
      generator: its functions.
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
        def function(params, variables, batch, key):
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

    differentiate = players.value_and_grad(objective(loss, players.eager(terms)), micro_batches)
    (_, (variables, metrics)), gradients = differentiate(
        player.params, player.variables, batch, main_key
    )
    metrics[f"grad_norm/{name}"] = optax.tree.norm(gradients)
    player = players.apply_gradients(player, gradients, **optimize).replace(variables=variables)

    def lazy_update(player, group):
        differentiate = players.value_and_grad(objective(None, group), micro_batches)
        (_, (_, values)), gradients = differentiate(
            player.params, player.variables, batch, lazy_key
        )
        return players.apply_gradients(player, gradients, **optimize), axes.global_mean(values)

    player, running = players.lazy_updates(player, terms, running, step=step, update=lazy_update)
    return player, running, {**metrics, **running}


def gan(
    generator: Any,
    discriminator: Any,
    *,
    latents: Latents,
    loss: AdversarialLoss = losses.non_saturating,
    generator_optimizer: players.AnyOptimizer | None = None,
    discriminator_optimizer: players.AnyOptimizer | None = None,
    generator_terms: Sequence[Term] = (),
    discriminator_terms: Sequence[Term] = (),
    discriminator_steps: int = 1,
    share_fakes: bool = False,
    num_classes: int = 0,
    ema_half_life_images: float | None = None,
    ema_ramp_up: float | None = None,
    augment: Augment | None = None,
    micro_batches: int = 1,
) -> Algorithm:
    """Return the adversarial training of two networks.

    One step is `discriminator_steps` updates of the discriminator, each on a batch of its own, one
    update of the generator, and the generator's running average. Its metrics are those of the last
    discriminator update and of the generator update, before each of them.

    Args:
      generator: Linen module or `Network`: latents, labels -> images, float in [-1, 1].
      discriminator: Linen module or `Network`: images, labels -> logits (B,) or
        `DiscriminatorOutput`.
      latents: distribution of the generator's input, such as `ganjax.latents.normal(100)`.
      loss: the adversarial loss.
      generator_optimizer: an Optax transformation, or an `Optimizer` whose learning rate is kept in
        `state.hyperparameters["generator_learning_rate"]`. By default Adam, 2e-4, beta1 0.5.
      discriminator_optimizer: the same for the discriminator.
      generator_terms: additions to the generator's loss, such as a path-length penalty.
      discriminator_terms: additions to the discriminator's loss, such as R1.
      discriminator_steps: discriminator updates a step.
      share_fakes: let the last discriminator update judge the very images that the generator is
        then updated on, which saves a pass of the generator, as most DCGAN code does; otherwise
        both draw latents of their own, as in the papers of WGAN and what followed.
      num_classes: 0 for unconditional networks; batches then need no `"label"`.
      ema_half_life_images: half-life of the generator's running average in images, or None for no
        average; kept in `state.hyperparameters["ema_half_life_images"]`.
      ema_ramp_up: see `ganjax.ema.decay`.
      augment: applied to whatever the discriminator sees, or None.
      micro_batches: parts of a batch over which gradients are accumulated, with batch statistics
        for each part.

    Returns:
      An `Algorithm` for batches of `"image"`, and `"label"` int32 (B,) in [0, num_classes). With
      several discriminator steps, or a loss whose generator compares with real images,
      `batches_per_step` is their number, plus one for such a loss.

    Raises:
      ValueError: a number is out of its range, two terms share a name, or options exclude each
        other.

    >>> from ganjax.networks import mlp
    >>> from ganjax import latents
    >>> algorithm = gan(mlp.Generator((2,)), mlp.Discriminator(), latents=latents.normal(8))
    >>> state = algorithm.init(jax.random.key(0))
    >>> step = jax.jit(algorithm.train_step, donate_argnums=0)
    >>> state, metrics = step(state, {"image": jnp.zeros((16, 2))})
    >>> sorted(metrics)[:2]
    ['grad_norm/discriminator', 'grad_norm/generator']
    """
    generator, discriminator = as_network(generator), as_network(discriminator)
    optimizers = {
        "generator": generator_optimizer or optax.adam(2e-4, b1=0.5),
        "discriminator": discriminator_optimizer or optax.adam(2e-4, b1=0.5),
    }
    terms = {"generator": tuple(generator_terms), "discriminator": tuple(discriminator_terms)}
    all_terms = (*terms["generator"], *terms["discriminator"])
    players.check_terms(all_terms)
    players.check_positive(discriminator_steps=discriminator_steps, micro_batches=micro_batches)
    if share_fakes and (loss.generator_needs_real or generator_terms or micro_batches > 1):
        raise ValueError(
            "share_fakes does not go together with a loss that draws real images for the generator,"
            " with terms of the generator, or with micro-batches: each needs passes of its own"
        )
    batches_per_step = discriminator_steps + loss.generator_needs_real

    def init(key: Key) -> TrainState:
        generator_key, discriminator_key, run_key, latent_key = jax.random.split(key, 4)
        z = latents.sample(latent_key, 2)
        labels = jnp.zeros(2, jnp.int32) if num_classes else None
        variables = {"generator": generator.init(generator_key, z, labels)}
        images, _ = generator.apply(
            variables["generator"], z, labels, train=True, key=generator_key
        )
        variables["discriminator"] = discriminator.init(
            discriminator_key, images.astype(jnp.float32), labels
        )
        hyperparameters = players.init_weights(all_terms)
        for name, optimizer in optimizers.items():
            if isinstance(optimizer, Optimizer):
                hyperparameters[f"{name}_learning_rate"] = jnp.float32(optimizer.learning_rate)
        average = {}
        if ema_half_life_images is not None:
            hyperparameters["ema_half_life_images"] = jnp.float32(ema_half_life_images)
            average["generator"] = jax.tree.map(jnp.array, dict(variables["generator"]))
        return TrainState(
            step=jnp.int32(0),
            rollbacks=jnp.int32(0),
            key=run_key,
            players={
                name: players.init_player(variables[name], optimizers[name]) for name in variables
            },
            ema=average,
            augment=augment.init() if augment else (),
            hyperparameters=hyperparameters,
            running=players.init_running(all_terms),
        )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batches = players.unstack(batch, batches_per_step, num_classes)
        num_images = batches[0]["image"].shape[0] * axes.num_shares()
        generator_player = state.players["generator"]
        transform = None
        if augment is not None:
            transform = functools.partial(augment.apply, state.augment)

        def settings(name, running):
            return {
                "loss": loss,
                "optimizer": optimizers[name],
                "terms": terms[name],
                "weights": state.hyperparameters,
                "learning_rate": state.hyperparameters.get(f"{name}_learning_rate"),
                "step": state.step,
                "running": {key: running[key] for key in players.init_running(terms[name])},
                "micro_batches": micro_batches,
            }

        def draw_latents(key, batch):
            return {**batch, "latents": axes.draw(latents.sample, key, batch["image"].shape[0])}

        def generate(params, batch, key):
            images, variables = generator.apply(
                {"params": params, **generator_player.variables},
                batch["latents"],
                batch.get("label"),
                train=True,
                key=key,
            )
            return images.astype(jnp.float32), variables

        def discriminator_step(carry, inputs):
            player, running = carry
            batch, index = inputs
            key = jax.random.fold_in(step_key(state, "discriminator"), index)
            update_key, latent_key, noise_key = jax.random.split(key, 3)
            if "fake" not in batch:
                batch = draw_latents(latent_key, batch)

            def make_fake(batch):
                if "fake" in batch:
                    return batch["fake"]
                return generate(generator_player.params, batch, noise_key)[0]

            player, running, metrics = discriminator_update(
                player,
                batch,
                make_fake,
                update_key,
                discriminator=discriminator,
                augment=transform,
                **settings("discriminator", running),
            )
            return (player, running), metrics

        generator_batch = draw_latents(step_key(state, "latents"), batches[-1])
        last = batches[discriminator_steps - 1]
        playing_generator = generator
        if share_fakes:
            fake_images, updated, again = players.evaluate_once(
                lambda params: generate(params, generator_batch, step_key(state, "noise")),
                generator_player.params,
            )
            last = {**last, "fake": fake_images}
            playing_generator = Network(
                generator.init, lambda variables, *_, **__: (again(variables["params"]), updated)
            )
        carry = (
            state.players["discriminator"],
            {key: state.running[key] for key in players.init_running(terms["discriminator"])},
        )
        if discriminator_steps > 1:
            earlier = jax.tree.map(lambda *a: jnp.stack(a), *batches[: discriminator_steps - 1])
            indices = jnp.arange(discriminator_steps - 1)
            carry, _ = jax.lax.scan(discriminator_step, carry, (earlier, indices))
        (discriminator_player, discriminator_running), discriminator_metrics = discriminator_step(
            carry, (last, discriminator_steps - 1)
        )

        def discriminate(images, labels, key):
            network_key, augment_key = jax.random.split(key)
            if transform is not None:
                images = transform(images, augment_key)
            output, _ = discriminator.apply(
                players.all_variables(discriminator_player),
                images,
                labels,
                train=True,
                key=network_key,
            )
            return as_output(output).logits

        generator_player, generator_running, generator_metrics = generator_update(
            generator_player,
            generator_batch,
            discriminate,
            step_key(state, "generator"),
            generator=playing_generator,
            **settings("generator", state.running),
        )
        metrics = axes.global_mean({**discriminator_metrics, **generator_metrics})
        average = state.ema
        if average:
            keep = ema.decay(
                state.hyperparameters["ema_half_life_images"],
                num_images,
                state.step * num_images,
                ema_ramp_up,
            )
            new = players.all_variables(generator_player)
            average = {"generator": ema.update(average["generator"], new, keep)}
        state = state.replace(
            step=state.step + 1,
            players={"generator": generator_player, "discriminator": discriminator_player},
            ema=average,
            augment=augment.update(state.augment, metrics, num_images) if augment else (),
            running={**discriminator_running, **generator_running},
        )
        return state, metrics

    def sample(
        state: TrainState,
        key: Key,
        num_samples: int,
        labels: Array | None = None,
        *,
        latents: Array | None = None,
        truncation: float | None = None,
        ema: bool = True,
    ) -> Array:
        latent_key, network_key = jax.random.split(key)
        if latents is None:
            latents = latent_distribution.sample(latent_key, num_samples, truncation)
        labels = players.default_labels(labels, num_samples, num_classes)
        if ema and "generator" in state.ema:
            variables = state.ema["generator"]
        else:
            variables = players.all_variables(state.players["generator"])
        images, _ = generator.apply(variables, latents, labels, train=False, key=network_key)
        return images.astype(jnp.float32)

    def evaluate(state: TrainState, batch: Batch, key: Key) -> Metrics:
        count = batch["image"].shape[0]
        sample_key, network_key = jax.random.split(key)
        labels = batch.get("label") if num_classes else None
        fake_images = sample(state, sample_key, count, labels)
        variables = players.all_variables(state.players["discriminator"])

        def logits(images):
            output, _ = discriminator.apply(variables, images, labels, train=False, key=network_key)
            return as_output(output).logits

        real_logits, fake_logits = logits(as_float_images(batch["image"])), logits(fake_images)
        return {
            "logits/real": jnp.sum(real_logits),
            "logits/fake": jnp.sum(fake_logits),
            "accuracy/real": jnp.sum(real_logits > 0, dtype=jnp.float32),
            "accuracy/fake": jnp.sum(fake_logits < 0, dtype=jnp.float32),
            "count": jnp.float32(count),
        }

    latent_distribution = latents
    return Algorithm(init, train_step, sample, evaluate, batches_per_step)
