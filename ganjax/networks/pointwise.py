"""Layer normalisation and GELU with derivatives written by hand.

What a compiler for CPUs makes of the formulas' own derivatives computes the same several times and
goes over the numbers more often: together 7 of 31 ms of a small transformer's step
(`python benchmarks/text_step.py`).
"""

import functools
import math

import jax
import jax.numpy as jnp

from ganjax.types import Array

_GELU_SCALE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize(x: Array, epsilon: float = 1e-5) -> Array:
    """Return x with mean 0 and variance 1 over its last axis, as layer normalisation begins.

    Args:
      x: (..., features); computed in float32.
      epsilon: added to the variance.
    """
    return _standardize(x, epsilon)[0]


def _standardize(x, epsilon):
    centred = x.astype(jnp.float32)
    centred = centred - jnp.mean(centred, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    y = (centred * scale).astype(x.dtype)
    return y, (y, scale)


def _standardize_gradient(epsilon, saved, gradient):
    del epsilon
    y, scale = saved
    y, g = y.astype(jnp.float32), gradient.astype(jnp.float32)
    along = jnp.mean(g * y, axis=-1, keepdims=True)
    g = scale * (g - jnp.mean(g, axis=-1, keepdims=True) - y * along)
    return (g.astype(gradient.dtype),)


standardize.defvjp(_standardize, _standardize_gradient)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Return x times the probability that a standard normal is below x, by GPT-2's formula.

    0.5 (1 + tanh(u)) is written as 1 / (1 + exp(-2u)), which the derivative uses again.

    References:
      Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    return _gelu(x)[0]


def _gelu(x):
    share = 1 / (1 + jnp.exp(-2 * _GELU_SCALE * x * (1 + _GELU_CUBE * x * x)))
    return x * share, (x, share)


def _gelu_gradient(saved, gradient):
    x, share = saved
    inner = 2 * _GELU_SCALE * (1 + 3 * _GELU_CUBE * x * x)
    return (gradient * share * (1 + x * (1 - share) * inner),)


gelu.defvjp(_gelu, _gelu_gradient)
