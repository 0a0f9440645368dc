"""Distributions of the generator's input, and paths between its points."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ganjax.types import Array, Key


class Latents(NamedTuple):
    """A distribution of latents.

    Attributes:
      dimension: length of one latent.
      sample: `(key, n, truncation=None) -> (n, dimension)`. With a truncation t, coordinates
        outside [-t, t] are drawn again (Brock et al. 2018, arXiv:1809.11096, section 3.1): less
        variety, more typical samples.
      spherical: whether paths between two latents should keep to the sphere on which a
        high-dimensional normal lives.
    """

    dimension: int
    sample: Callable[..., Array]
    spherical: bool


def normal(dimension: int) -> Latents:
    """Return independent standard normal coordinates.

    >>> normal(64).sample(jax.random.key(0), 2).shape
    (2, 64)
    """

    def sample(key: Key, n: int, truncation: float | None = None) -> Array:
        if truncation is None:
            return jax.random.normal(key, (n, dimension))
        _check_truncation(truncation)
        return jax.random.truncated_normal(key, -truncation, truncation, (n, dimension))

    return Latents(dimension, sample, spherical=True)


def uniform(dimension: int) -> Latents:
    """Return independent coordinates, uniform in [-1, 1], as in the DCGAN paper."""

    def sample(key: Key, n: int, truncation: float | None = None) -> Array:
        limit = 1.0
        if truncation is not None:
            _check_truncation(truncation)
            limit = min(truncation, 1.0)
        return jax.random.uniform(key, (n, dimension), minval=-limit, maxval=limit)

    return Latents(dimension, sample, spherical=False)


def _check_truncation(truncation):
    if not truncation > 0:
        raise ValueError(f"truncation has to be positive, got {truncation}")


def interpolate(start: Array, end: Array, num_steps: int, *, spherical: bool) -> Array:
    """Return a path from `start` to `end`, both included.

    Args:
      start: (..., dimension).
      end: (..., dimension).
      num_steps: points on the path, at least 2.
      spherical: go along the great circle, with the norm interpolated, and not along the line.

    Returns:
      (num_steps, ..., dimension).

    References:
      White 2016, Sampling Generative Networks, arXiv:1609.04468.
    """
    if num_steps < 2:
        raise ValueError(f"a path needs at least 2 steps, got {num_steps}")
    t = jnp.linspace(0.0, 1.0, num_steps).reshape((-1,) + (1,) * start.ndim)
    line = (1 - t) * start + t * end
    if not spherical:
        return line
    start_norm = jnp.linalg.norm(start, axis=-1, keepdims=True)
    end_norm = jnp.linalg.norm(end, axis=-1, keepdims=True)
    cosine = jnp.sum(start * end, axis=-1, keepdims=True) / (start_norm * end_norm)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    sine = jnp.sin(angle)
    arc = (
        jnp.sin((1 - t) * angle) * start / start_norm + jnp.sin(t * angle) * end / end_norm
    ) / jnp.where(sine < 1e-4, 1.0, sine)
    # Between (anti)parallel latents the great circle is not defined; the line is.
    return jnp.where(sine < 1e-4, line, arc * ((1 - t) * start_norm + t * end_norm))


LATENTS: dict[str, Callable[[int], Latents]] = {"normal": normal, "uniform": uniform}
