"""Differentiable augmentation of whatever the discriminator sees, as part of the train step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ganjax import axes
from ganjax.types import Array, Key, Metrics


class Augment(NamedTuple):
    """An augmentation with memory.

    Attributes:
      init: `() -> state`, a tree of arrays kept in `TrainState.augment`.
      apply: `(state, images, key) -> images`, (B, H, W, C) float in [-1, 1], random per example.
      update: `(state, metrics, images_per_step) -> state`, once a step; the metrics are means over
        the global batch.
    """

    init: Callable[[], Any]
    apply: Callable[[Any, Array, Key], Array]
    update: Callable[[Any, Metrics, int], Any]


def horizontal_flip(probability: float = 0.5) -> Augment:
    """Mirror each image from left to right with the given probability.

    >>> augment = horizontal_flip(1.0)
    >>> image = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> augment.apply((), image, jax.random.key(0)).ravel()
    Array([2., 1., 0.], dtype=float32)
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1], got {probability}")

    def apply(state, images, key):
        del state
        flip = axes.draw(
            lambda key, n: jax.random.bernoulli(key, probability, (n,)), key, images.shape[0]
        )
        return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)

    return Augment(lambda: (), apply, lambda state, metrics, images_per_step: state)


AUGMENTATIONS: dict[str, Callable[[], Augment]] = {"flip": horizontal_flip}
