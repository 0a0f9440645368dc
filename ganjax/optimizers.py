"""Optimizers from their settings."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ganjax import penalties, players
from ganjax.config import OptimizerSettings
from ganjax.types import Array, InputError, Optimizer


def cosine(final: float, steps: int) -> Callable[[Array], Array]:
    """Return a factor that goes from 1 to `final` in half a cosine, and stays there.

    References:
      Huang et al. 2024, R3GAN, arXiv:2501.05441: for every hyper-parameter.

    >>> [round(float(cosine(0.1, 10)(step)), 3) for step in (0, 5, 10, 99)]
    [1.0, 0.55, 0.1, 0.1]
    """

    def factor(step):
        left = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(step / steps, 0.0, 1.0)))
        return final + left * (1.0 - final)

    return factor


def make_optimizer(
    settings: OptimizerSettings, steps: int, updates_per_step: float = 1
) -> Optimizer:
    """Return the optimizer of a network that is trained for `steps` steps.

    Args:
      settings: of the optimizer.
      steps: where schedules end, unless the settings say it.
      updates_per_step: of this network, lazy ones included.
    """
    steps = settings.schedule_steps or steps
    beta2 = settings.beta2
    if settings.final_beta2 is not None:
        towards = cosine(settings.final_beta2 / settings.beta2, steps)

        def beta2(count):
            return settings.beta2 * towards(count / updates_per_step)

    transforms = {
        "adam": lambda: players.scale_by_adam(settings.beta1, beta2, settings.epsilon),
        "rmsprop": lambda: optax.scale_by_rms(settings.beta2, settings.epsilon, eps_in_sqrt=False),
        "sgd": lambda: optax.trace(settings.beta1) if settings.beta1 else optax.identity(),
    }
    transform = transforms[settings.name]()
    if settings.weight_decay:
        # Vectors are scales and biases, which have no reason to be small.
        decay = optax.add_decayed_weights(
            settings.weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        )
        transform = optax.chain(transform, decay)
    if settings.clip_norm is not None:
        transform = optax.chain(optax.clip_by_global_norm(settings.clip_norm), transform)
    schedule = None
    if settings.schedule != "constant" or settings.warmup_steps:
        final = settings.final_learning_rate / settings.learning_rate

        def schedule(step):
            warmup = min(settings.warmup_steps, steps - 1)
            done = jnp.clip((step - warmup) / (steps - warmup), 0.0, 1.0)
            factor = {
                "constant": 1.0,
                "linear": 1.0 - done * (1.0 - final),
                "cosine": cosine(final, 1)(done),
            }[settings.schedule]
            return factor * jnp.minimum(1.0, (step + 1) / max(1, settings.warmup_steps))

    constraint = None
    if settings.clip_weights is not None:
        constraint = penalties.clip_weights(settings.clip_weights)
    return Optimizer(transform, settings.learning_rate, schedule, constraint)


def lazy_correction(settings: OptimizerSettings, interval: int) -> OptimizerSettings:
    """Return optimizer settings for lazy terms of this interval, see `ganjax.adam`.

    >>> round(lazy_correction(OptimizerSettings(learning_rate=0.0025), 16).learning_rate, 6)
    0.002353
    """
    rate, beta1, beta2 = players.lazy_correction(
        settings.learning_rate, settings.beta1, settings.beta2, interval
    )
    final_rate, _, final_beta2 = players.lazy_correction(
        settings.final_learning_rate, 0.0, settings.final_beta2 or 0.0, interval
    )
    return dataclasses.replace(
        settings,
        learning_rate=rate,
        beta1=beta1,
        beta2=beta2,
        final_learning_rate=final_rate,
        final_beta2=None if settings.final_beta2 is None else final_beta2,
    )


def freeze(optimizer: Optimizer, names: Sequence[str]) -> Optimizer:
    """Let the top-level parts of the parameters with these names keep their values."""

    def zero(updates):
        return {
            name: jax.tree.map(jnp.zeros_like, value) if name in names else value
            for name, value in updates.items()
        }

    frozen = optax.chain(optimizer.transform, optax.stateless(lambda updates, _: zero(updates)))
    return optimizer._replace(transform=frozen)


def first_layers(module: Any, shape: Sequence[int], count: int, num_classes: int) -> list[str]:
    """Return the names of the first `count` layers with a kernel, and of what follows each."""
    order: list[str] = []

    def init():
        labels = jnp.zeros(1, jnp.int32) if num_classes else None
        variables = module.init(jax.random.key(0), jnp.zeros((1, *shape)), labels, train=True)
        order.extend(variables["params"])  # in the order of creation, which jit would sort
        return variables

    params = jax.eval_shape(init)["params"]
    kernels = [name for name in order if "kernel" in params[name]]
    if count >= len(kernels):
        raise InputError(
            f"model.freeze_discriminator_layers is {count}, but the discriminator has only "
            f"{len(kernels)} layers, of which one has to learn"
        )
    return order[: order.index(kernels[count])]
