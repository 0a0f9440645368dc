"""The random numbers of ADA's pipe, all drawn at once, and whether a transform happens."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv

from ganjax import axes
from ganjax.types import Array, Key

# How many numbers a transform takes an image.
_UNIFORM = {
    "xflip": 1,
    "rotate90": 1,
    "xint": 2,
    "rotate_before": 1,
    "rotate_after": 1,
    "lumaflip": 1,
    "hue": 1,
    "cutout": 2,
}
_NORMAL = {
    "scale": 1,
    "aniso": 1,
    "xfrac": 2,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "imgfilter": 4,
    "noise": 1,
}
# A transform happens as a whole; only the filter decides for each of its bands.
_GATES = {name: 4 if name == "imgfilter" else 1 for name in (*_UNIFORM, *_NORMAL)}


class Numbers(NamedTuple):
    """Random numbers of a batch.

    Attributes:
      values: by transform, (B, n) uniform in [0, 1) or standard normal.
      gates: by transform, (B, 1), or (B, 4) for the filter, uniform in [0, 1).
      probability: of the pipe, scalar in [0, 1].
    """

    values: dict[str, Array]
    gates: dict[str, Array]
    probability: Array | float

    def pick(self, name: str, strength: float | Array, value: Array, identity: float) -> Array:
        """Return `value` (B, n) where a transform happens to an image and `identity` elsewhere."""
        return jnp.where(self.gates[name] < strength * self.probability, value, identity)


def draw(key: Key, batch: int, probability: Array | float) -> Numbers:
    """Draw the numbers of a batch, the same in every layout."""
    # One draw for everything: each costs about as much to compile as all that is done with it.
    total = sum(_UNIFORM.values()) + sum(_NORMAL.values()) + sum(_GATES.values())
    drawn = axes.draw(lambda key, n: jax.random.uniform(key, (n, total), jnp.float32), key, batch)
    uniform, normal, gates = jnp.split(
        drawn, (sum(_UNIFORM.values()), total - sum(_GATES.values())), axis=1
    )
    normal = math.sqrt(2) * erfinv(jnp.maximum(2 * normal - 1, -1 + 2**-23))
    values = _columns(_UNIFORM, uniform) | _columns(_NORMAL, normal)
    return Numbers(values, _columns(_GATES, gates), probability)


def at_percentile(percentile: float, batch: int) -> Numbers:
    """Return numbers that are all at one percentile, every transform happening.

    The convention of the official debugging mode, whose outputs the tests compare with: a normal
    number is `erfinv(2q - 1)`, without the factor sqrt(2); there is no rotation after `aniso`.

    Args:
      percentile: q, in (0, 1).
      batch: number of images.
    """
    normal = erfinv(jnp.float32(2 * percentile - 1))
    values = {name: jnp.full((batch, n), percentile) for name, n in _UNIFORM.items()}
    values |= {name: jnp.full((batch, n), normal) for name, n in _NORMAL.items()}
    values["noise"] = jnp.full((batch, 1), erfinv(jnp.float32(percentile)))  # half-normal
    values["rotate_after"] = jnp.full((batch, 1), 0.5)
    return Numbers(values, {name: jnp.zeros((batch, n)) for name, n in _GATES.items()}, 1.0)


def _columns(widths: dict[str, int], array: Array) -> dict[str, Array]:
    ends = np.cumsum(list(widths.values()))
    return dict(zip(widths, jnp.split(array, ends[:-1], axis=1), strict=True))
