"""Generative adversarial networks as an `Algorithm`.

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
    TrainState,
    as_float_images,
    step_key,
)
from ganjax.updates import discriminator_update, generator_update, judge


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
    joint_pass: bool = False,
    num_classes: int = 0,
    ema_half_life_images: float | None = None,
    ema_ramp_up: float | None = None,
    augment: Augment | None = None,
    micro_batches: int = 1,
    generator_batch_multiplier: int = 1,
    schedules: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Algorithm:
    """Return the adversarial training of two networks.

    One step is `discriminator_steps` updates of the discriminator, each on a batch of its own, one
    update of the generator, and the generator's running average. Its metrics are those of the last
    discriminator update and of the generator update, before each of them.

    Args:
      generator: Linen module or `Network`: latents, labels -> images, float in [-1, 1]. If its
        variables have a collection `hyperparameters`, scalars by name, those are kept in
        `state.hyperparameters`.
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
      joint_pass: let the discriminator judge real and fake images of an update in one pass over
        both, half as many and twice as large operations: for a device that launches limit, not for
        a CPU. Only for a discriminator that looks at each image alone; one with batch statistics is
        refused.
      num_classes: 0 for unconditional networks; batches then need no `"label"`. For a condition
        that is a vector: its length.
      ema_half_life_images: half-life of the generator's running average in images, or None for no
        average; kept in `state.hyperparameters["ema_half_life_images"]`. Parameters and batch
        statistics are averaged; every other collection is copied.
      ema_ramp_up: see `ganjax.ema.decay`.
      augment: applied to whatever the discriminator sees, or None.
      micro_batches: parts of a batch over which gradients are accumulated, with batch statistics
        for each part.
      generator_batch_multiplier: latents of the generator's update for each image of a batch, such
        as 2 in WGAN-GP's and SNGAN's CIFAR-10 code; labels are repeated.
      schedules: step -> factor on a hyper-parameter, by its name in `state.hyperparameters`. An
        EMA that starts at a step is a factor of 0 before it.

    Returns:
      An `Algorithm` for batches of `"image"`, and `"label"` int32 (B,) in [0, num_classes) or float
      (B, num_classes). With several discriminator steps, or a loss whose generator compares with
      real images, `batches_per_step` is their number, plus one for such a loss.

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
    players.check_positive(
        discriminator_steps=discriminator_steps,
        micro_batches=micro_batches,
        generator_batch_multiplier=generator_batch_multiplier,
    )
    own_passes = micro_batches > 1 or generator_batch_multiplier > 1
    if share_fakes and (loss.generator_needs_real or generator_terms or own_passes):
        raise ValueError(
            "share_fakes does not go together with a loss that draws real images for the generator,"
            " with terms of the generator, with micro-batches or with a generator batch of another "
            "size: each needs passes of its own"
        )
    if loss.generator_needs_real and generator_batch_multiplier > 1:
        raise ValueError(
            "this loss compares each generated image with a real one, so that "
            f"generator_batch_multiplier has to be 1, got {generator_batch_multiplier}"
        )
    schedules = dict(schedules or {})
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
        hyperparameters |= variables["generator"].get("hyperparameters", {})
        for name, optimizer in optimizers.items():
            if isinstance(optimizer, Optimizer):
                hyperparameters[f"{name}_learning_rate"] = jnp.float32(optimizer.learning_rate)
        average = {}
        if ema_half_life_images is not None:
            hyperparameters["ema_half_life_images"] = jnp.float32(ema_half_life_images)
            average["generator"] = jax.tree.map(jnp.array, dict(variables["generator"]))
        unknown = sorted(set(schedules) - set(hyperparameters))
        if unknown:
            raise ValueError(
                f"there is a schedule for {unknown[0]!r}, which is no hyper-parameter of this "
                f"training; those are {', '.join(sorted(hyperparameters))}"
            )
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
        hyperparameters = {
            name: value * schedules[name](state.step) if name in schedules else value
            for name, value in state.hyperparameters.items()
        }
        if "hyperparameters" in generator_player.variables:
            read = generator_player.variables["hyperparameters"]
            read = {**generator_player.variables, "hyperparameters": _those(hyperparameters, read)}
            generator_player = generator_player.replace(variables=read)
        transform = None
        if augment is not None:
            transform = functools.partial(augment.apply, state.augment)

        def settings(name, running):
            return {
                "loss": loss,
                "optimizer": optimizers[name],
                "terms": terms[name],
                "weights": hyperparameters,
                "learning_rate": hyperparameters.get(f"{name}_learning_rate"),
                "step": state.step,
                "running": {key: running[key] for key in players.init_running(terms[name])},
                "micro_batches": micro_batches,
            }

        def draw_latents(key, batch, multiplier=1):
            count = batch["image"].shape[0] * multiplier
            if multiplier > 1:
                labels = {k: v for k, v in batch.items() if k == "label"}
                batch = {k: jnp.repeat(v, multiplier, axis=0) for k, v in labels.items()}
            return {**batch, "latents": axes.draw(latents.sample, key, count)}

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
                joint_pass=joint_pass,
                **settings("discriminator", running),
            )
            return (player, running), metrics

        generator_batch = draw_latents(
            step_key(state, "latents"), batches[-1], generator_batch_multiplier
        )
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

        generator_player, generator_running, generator_metrics = generator_update(
            generator_player,
            generator_batch,
            judge(discriminator, discriminator_player, augment=transform),
            step_key(state, "generator"),
            generator=playing_generator,
            **settings("generator", state.running),
        )
        metrics = axes.global_mean({**discriminator_metrics, **generator_metrics})
        average = state.ema
        if average:
            keep = ema.decay(
                hyperparameters["ema_half_life_images"],
                num_images,
                state.step * num_images,
                ema_ramp_up,
            )
            new = players.all_variables(generator_player)
            averaged = {name: new[name] for name in ("params", "batch_stats") if name in new}
            old = {name: average["generator"][name] for name in averaged}
            average = {"generator": {**new, **ema.update(old, averaged, keep)}}
        if augment:
            metrics |= augment.metrics(state.augment)
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
        has_styles = generator.map is not None
        if latents is None:
            latents = latent_distribution.sample(
                latent_key, num_samples, None if has_styles else truncation
            )
        labels = players.default_labels(labels, num_samples, num_classes)
        if ema and "generator" in state.ema:
            variables = state.ema["generator"]
        else:
            variables = players.all_variables(state.players["generator"])
        if has_styles and truncation is not None:
            given = {"train": False, "key": network_key}
            styles, _ = generator.map(variables, latents, labels, truncation=truncation, **given)
            images, _ = generator.synthesize(variables, styles, **given)
        else:
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
            "count": jnp.float32(count),
        }

    latent_distribution = latents
    return Algorithm(init, train_step, sample, evaluate, batches_per_step)


def _those(values: Mapping[str, Array], names: Mapping[str, Any]) -> dict[str, Array]:
    return {name: values[name] for name in names}
