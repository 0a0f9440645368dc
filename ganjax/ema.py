"""Exponential moving averages whose speed is stated in images, not in steps.

`decay = 0.5 ** (batch / half_life)`: the same average for any batch size and number of devices.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ganjax.types import Array


def decay(half_life_images: Array, batch: int, seen_images: Array, ramp_up: float | None) -> Array:
    """Return the factor by which the average keeps its old value in one step.

    Args:
      half_life_images: images after which a weight has lost half its influence; 0 copies.
      batch: images of one step, over all devices.
      seen_images: images trained on so far.
      ramp_up: if given, the half-life is at most this share of `seen_images`, so that the average
        forgets the initial weights early (Karras et al. 2020, arXiv:2006.06676, code: 0.05).

    >>> float(decay(64.0, 64, 10_000, None))
    0.5
    """
    half_life = jnp.asarray(half_life_images, jnp.float32)
    if ramp_up is not None:
        half_life = jnp.minimum(half_life, ramp_up * jnp.asarray(seen_images, jnp.float32))
    return 0.5 ** (batch / jnp.maximum(half_life, 1e-8))


def half_life_images(decay_per_step: float, batch: int) -> float:
    """Return the half-life that a paper's decay per step stands for.

    >>> round(half_life_images(0.999, 64))
    44339
    """
    if not 0 < decay_per_step < 1:
        raise ValueError(f"a decay lies between 0 and 1, got {decay_per_step}")
    return batch * math.log(0.5) / math.log(decay_per_step)


def update(average: Any, new: Any, decay: Array) -> Any:
    """Move every floating-point leaf of `average` towards `new`; other leaves are copied."""

    def move(old, new):
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new
        return (new + (old - new) * decay).astype(old.dtype)

    return jax.tree.map(move, average, new)
