"""The shape of an augmentation, the simplest one, and how several become one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ganjax import axes
from ganjax.types import Array, Key, Metrics


def _no_metrics(state: Any) -> Metrics:
    del state
    return {}


class Augment(NamedTuple):
    """An augmentation with memory.

    Attributes:
      init: `() -> state`, a tree of arrays kept in `TrainState.augment`.
      apply: `(state, images, key) -> images`, (B, H, W, C) float in [-1, 1], random per example.
      update: `(state, metrics, images_per_step) -> state`, once a step; the metrics are means over
        the global batch.
      metrics: `(state) -> metrics`, float32 scalars that the step reports.
    """

    init: Callable[[], Any]
    apply: Callable[[Any, Array, Key], Array]
    update: Callable[[Any, Metrics, int], Any]
    metrics: Callable[[Any], Metrics] = _no_metrics


def memoryless(apply: Callable[[Array, Key], Array]) -> Augment:
    """Return an augmentation that remembers nothing.

    Args:
      apply: `(images, key) -> images`.
    """
    return Augment(
        lambda: (),
        lambda state, images, key: apply(images, key),
        lambda state, metrics, images_per_step: state,
    )


def horizontal_flip(probability: float = 0.5) -> Augment:
    """Mirror each image from left to right with the given probability.

    >>> augment = horizontal_flip(1.0)
    >>> image = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> augment.apply((), image, jax.random.key(0)).ravel()
    Array([2., 1., 0.], dtype=float32)
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1], got {probability}")

    def apply(images, key):
        flip = axes.draw(
            lambda key, n: jax.random.bernoulli(key, probability, (n,)), key, images.shape[0]
        )
        return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)

    return memoryless(apply)


def compose(*augments: Augment) -> Augment:
    """Apply augmentations one after another; the state is the tuple of theirs.

    Where two report a metric of the same name, the later one's is kept.

    >>> image = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> twice = compose(horizontal_flip(1.0), horizontal_flip(1.0))
    >>> twice.apply(twice.init(), image, jax.random.key(0)).ravel()
    Array([0., 1., 2.], dtype=float32)
    """

    def apply(states, images, key):
        for index, (augment, state) in enumerate(zip(augments, states, strict=True)):
            images = augment.apply(state, images, jax.random.fold_in(key, index))
        return images

    def update(states, metrics, images_per_step):
        return tuple(
            augment.update(state, metrics, images_per_step)
            for augment, state in zip(augments, states, strict=True)
        )

    def metrics(states):
        reported: Metrics = {}
        for augment, state in zip(augments, states, strict=True):
            reported |= augment.metrics(state)
        return reported

    return Augment(lambda: tuple(augment.init() for augment in augments), apply, update, metrics)
