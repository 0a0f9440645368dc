"""How smoothly images change along paths between latents: the perceptual path length."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ganjax.evaluation.extractor import Extractor
from ganjax.types import Array, InputError, Key


def perceptual_path_length(
    draw: Callable[[Key, int], Array],
    generate: Callable[[Array, Array | None], Array],
    *,
    ends_of: Callable[[Array, Array | None], Array] | None = None,
    extractor: Extractor,
    key: Key,
    num_samples: int = 1000,
    batch_size: int = 25,
    epsilon: float = 1e-4,
    ends: bool = False,
    spherical: bool = False,
    labels: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the mean squared change of features per squared step along paths, and its error.

    Of each pair of points an intermediate one and another `epsilon` further on are turned into
    images; the squared distance of their features over epsilon² is one value. As in the paper the
    smallest and the largest percent of the values are left out. The literature takes LPIPS as the
    distance: figures of another extractor do not compare with its.

    Args:
      draw: `(key, n) -> latents` (n, D).
      generate: `(points, labels) -> images` (n, H, W, C), float in [-1, 1]; the same noise in each
        call, or none. It is compiled here.
      ends_of: `(latents, labels) -> points`, between which paths go: styles for the length in W; by
        default the latents themselves, for that in Z.
      extractor: whose `network` sees the images, not rounded to 256 levels.
      key: of the points.
      num_samples: pairs, at least 100.
      batch_size: pairs at a time.
      epsilon: the step.
      ends: take the beginning of each path and not a point anywhere along it.
      spherical: go along great circles, for normal latents, and not along lines.
      labels: (num_samples,) classes, or None.

    Returns:
      The mean and its standard error.

    References:
      Karras et al., A Style-Based Generator Architecture for Generative Adversarial Networks, 2019
      (arXiv 1812.04948); Analyzing and Improving the Image Quality of StyleGAN, 2020
      (arXiv 1912.04958).
    """
    if num_samples < 100:
        raise InputError(f"num_samples must be at least 100, it is {num_samples}.")

    @jax.jit
    def values(key: Key, classes: Array | None) -> Array:
        start_key, end_key, place_key = jax.random.split(key, 3)
        start, end = draw(start_key, batch_size), draw(end_key, batch_size)
        if ends_of is not None:
            start, end = ends_of(start, classes), ends_of(end, classes)
        shape = (batch_size,) + (1,) * (start.ndim - 1)
        place = jnp.zeros(shape) if ends else jax.random.uniform(place_key, shape)
        between = _great_circle if spherical else _line

        def features(place: Array) -> Array:
            # Both in calls of one shape, in which each pair meets the same noise.
            images = generate(between(start, end, place), classes)
            return extractor.network(images)[extractor.features].astype(jnp.float32)

        with jax.default_matmul_precision("highest"):
            near, far = features(place), features(place + epsilon)
        change = ((far - near) / epsilon) ** 2
        return change.reshape(batch_size, -1).sum(axis=1)

    found = []
    for index, start in enumerate(range(0, num_samples, batch_size)):
        rows = np.minimum(np.arange(start, start + batch_size), num_samples - 1)
        part = values(jax.random.fold_in(key, index), None if labels is None else labels[rows])
        found.append(np.asarray(part, np.float64)[: num_samples - start])
    found = np.concatenate(found)
    if not np.isfinite(found).all():
        raise InputError("images hold values that are not finite: the generator has diverged.")
    low = np.percentile(found, 1, method="lower")
    high = np.percentile(found, 99, method="higher")
    kept = found[(found >= low) & (found <= high)]
    return float(kept.mean()), float(kept.std(ddof=1) / np.sqrt(len(kept)))


def _line(start: Array, end: Array, place: Array) -> Array:
    return start + (end - start) * place


def _great_circle(start: Array, end: Array, place: Array) -> Array:
    """Go along the great circle between the directions, on the unit sphere as the paper does."""
    start, end = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (start, end))
    cosine = (start * end).sum(axis=-1, keepdims=True)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0)) * place
    across = end - cosine * start
    across = across / jnp.linalg.norm(across, axis=-1, keepdims=True)
    points = start * jnp.cos(angle) + across * jnp.sin(angle)
    return points / jnp.linalg.norm(points, axis=-1, keepdims=True)
