"""Products of small matrices, one an image."""

import jax.numpy as jnp

from ganjax.types import Array


def product(a: Array, b: Array) -> Array:
    """Return the matrix products (..., n, k) of (..., n, m) and (..., m, k).

    Sums of few terms in full precision: accelerators round the operands of `a @ b`.
    """
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)
