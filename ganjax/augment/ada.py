"""Adaptive discriminator augmentation: the pipe of transforms, and what sets its probability.

References:
  Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676.
  Huang et al. 2024, The GAN is dead; long live the GAN! (R3GAN), arXiv:2501.05441.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ganjax import axes
from ganjax.augment import color, corruption, geometry, numbers
from ganjax.augment.base import Augment, memoryless
from ganjax.augment.pipes import Pipe, as_pipe
from ganjax.types import Array, Key

# The metric that `ada` reads: the mean over the global batch of the sign of the logits of reals.
REAL_SIGN = "logits/real_sign"


def apply_pipe(
    images: Array,
    key: Key,
    probability: Array | float,
    pipe: str | Pipe = "bgc",
    *,
    percentile: float | None = None,
) -> Array:
    """Transform each image at random, and not at all where the probability is zero.

    Differentiable in the images, to any order. Computed in float32 at least.

    Args:
      images: (B, H, W, C) in [-1, 1]; of 1 or 3 channels where the pipe changes colours.
      key: random key.
      probability: scalar in [0, 1], times which each transform happens with its strength.
      pipe: a name in `PIPES`, or a `Pipe`.
      percentile: for tests: every transform happens, with all of its numbers at this percentile.

    Returns:
      Images of the same shape and dtype.
    """
    pipe = as_pipe(pipe)
    numbers_key, noise_key = jax.random.split(key) if pipe.noise else (key, None)
    batch = images.shape[0]
    if percentile is None:
        drawn = numbers.draw(numbers_key, batch, probability)
    else:
        drawn = numbers.at_percentile(percentile, batch)
    # Both branches below vary over the same device axes.
    images, *_ = axes.vary_alike(images, *drawn.gates.values())

    def transform(images):
        result = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        if pipe.geometric:
            result = geometry.transform(result, drawn, pipe)
        if pipe.colored:
            result = color.transform(result, drawn, pipe)
        if pipe.imgfilter:
            result = corruption.filter_bands(result, drawn, pipe)
        if pipe.noise:
            result = corruption.add_noise(result, drawn, pipe, noise_key)
        if pipe.cutout:
            result = corruption.cut_out(result, drawn, pipe)
        return result.astype(images.dtype)

    if percentile is not None:
        return transform(images)
    if isinstance(probability, float | int):
        return transform(images) if probability > 0 else images
    return lax.cond(probability > 0, transform, lambda images: images, images)


def ada(
    pipe: str | Pipe = "bgc",
    target: float = 0.6,
    ramp_images: float = 500_000,
    interval: int = 4,
    initial: float = 0.0,
) -> Augment:
    """Return a pipe whose probability follows how far the discriminator overfits.

    Every `interval` steps the probability moves up where the mean sign of the logits of real images
    since the last move was above the target, and down where it was below, by the images seen since
    then over `ramp_images`. It stays within [0, 1] (the official implementation does not stop at 1,
    beyond which a transform of strength 1 cannot happen more often).

    Args:
      pipe: a name in `PIPES`, or a `Pipe`.
      target: mean sign that is aimed at, in (-1, 1).
      ramp_images: in how many images the probability can move by 1; the paper's "ADA kimg" times
        1000.
      interval: steps between two moves.
      initial: probability to begin with.

    >>> augment = ada(initial=0.5)
    >>> augment.metrics(augment.init())
    {'augment/probability': Array(0.5, dtype=float32)}
    """
    pipe = as_pipe(pipe)
    _check_probability(initial)
    if not -1 < target < 1:
        raise ValueError(f"a mean sign lies between -1 and 1; the target is {target}")
    if ramp_images <= 0 or interval < 1:
        raise ValueError(
            "ramp_images is a number of images above 0 and interval one of steps from 1; got "
            f"{ramp_images} and {interval}"
        )

    def init():
        return {
            "probability": jnp.float32(initial),
            "sign_sum": jnp.float32(0),
            "steps": jnp.int32(0),
        }

    def update(state, metrics, images_per_step):
        if REAL_SIGN not in metrics:
            raise ValueError(
                f"ADA follows the metric {REAL_SIGN}, which this step does not report; it has "
                f"{', '.join(sorted(metrics)) or 'none'}"
            )
        sign_sum, steps = state["sign_sum"] + metrics[REAL_SIGN], state["steps"] + 1
        due = steps == interval
        move = jnp.sign(sign_sum / steps - target) * (images_per_step * interval / ramp_images)
        moved = jnp.clip(state["probability"] + move, 0, 1)
        return {
            "probability": jnp.where(due, moved, state["probability"]),
            "sign_sum": jnp.where(due, 0.0, sign_sum),
            "steps": jnp.where(due, 0, steps),
        }

    def apply(state, images, key):
        return apply_pipe(images, key, state["probability"], pipe)

    def metrics(state):
        return {"augment/probability": state["probability"]}

    return Augment(init, apply, update, metrics)


def scheduled(pipe: str | Pipe, probability: float, ramp_images: int) -> Augment:
    """Return a pipe whose probability rises from zero along half a cosine, as R3GAN's does.

    Args:
      pipe: a name in `PIPES`, or a `Pipe`.
      probability: reached after `ramp_images` and kept.
      ramp_images: length of the rise; 0 begins with the probability itself.

    >>> augment = scheduled("r3gan", 0.5, 1000)
    >>> state = augment.update(augment.init(), {}, 500)
    >>> round(float(augment.metrics(state)["augment/probability"]), 6)
    0.25
    """
    pipe = as_pipe(pipe)
    _check_probability(probability)
    if not 0 <= ramp_images < 2**31:
        raise ValueError(f"ramp_images is a number of images from 0 to 2**31, got {ramp_images}")

    def current(state):
        done = state["images"] / ramp_images if ramp_images else jnp.float32(1)
        return (0.5 - 0.5 * jnp.cos(jnp.pi * done)) * jnp.float32(probability)

    def update(state, metrics, images_per_step):
        del metrics
        # Counted up to the end of the rise only: the images of a long training overflow.
        left = ramp_images - state["images"]
        return {"images": state["images"] + jnp.minimum(left, images_per_step)}

    return Augment(
        lambda: {"images": jnp.int32(0)},
        lambda state, images, key: apply_pipe(images, key, current(state), pipe),
        update,
        lambda state: {"augment/probability": current(state)},
    )


def fixed(pipe: str | Pipe, probability: float) -> Augment:
    """Return a pipe of one probability.

    >>> augment = fixed("b", 0.8)
    >>> images, key = jnp.zeros((2, 8, 6, 4)), jax.random.key(0)
    >>> jax.eval_shape(augment.apply, (), images, key).shape
    (2, 8, 6, 4)
    """
    pipe = as_pipe(pipe)
    _check_probability(probability)
    return memoryless(lambda images, key: apply_pipe(images, key, probability, pipe))


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1], got {probability}")
