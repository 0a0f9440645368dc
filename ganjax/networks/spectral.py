"""Spectral normalisation: weights divided by an estimate of their largest singular value.

References:
  Miyato et al. 2018, Spectral Normalization for Generative Adversarial Networks, arXiv:1802.05957.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ganjax import axes
from ganjax.types import Array

EPSILON = 1e-12


class SpectralNorm(nn.Module):
    """Divide weights, seen as a matrix (inputs, outputs), by their largest singular value.

    The singular vector of the output side is kept as `u` (1, outputs) in the collection
    `"spectral"`, beside `sigma` (1,), the last estimate, which nothing reads. Every pass improves
    `u` by power iterations, v = u Wᵀ and u = v W, each normalised, and takes sigma = v W uᵀ. What
    they gave is stored in training only. Gradients flow through W in sigma and not through the
    vectors.

    Attributes:
      power_iterations: in each pass.
    """

    power_iterations: int = 1

    @nn.compact
    def __call__(self, weights: Array, *, train: bool = False) -> Array:
        """Return the normalised weights.

        Args:
          weights: (..., outputs); every other axis counts as an input.
          train: whether to store the vector that the iterations end with.
        """

        def init():
            return jax.random.normal(self.make_rng("params"), (1, weights.shape[-1]))

        u = self.variable("spectral", "u", init)
        sigma = self.variable("spectral", "sigma", lambda: jnp.ones(1))
        matrix = weights.reshape(-1, weights.shape[-1])
        left, right = power_iteration(matrix, u.value, self.power_iterations)
        # Exact products: they are small, and the error of a fast one would scale the whole layer.
        with jax.default_matmul_precision("highest"):
            norm = jnp.sum((left @ matrix) * right)
        if train and not self.is_initializing():
            u.value, sigma.value = _replicated(right), _replicated(norm.reshape(1))
        return weights / norm


def power_iteration(matrix: Array, u: Array, num_iterations: int) -> tuple[Array, Array]:
    """Return the estimates of the two first singular vectors, without a gradient.

    Args:
      matrix: (inputs, outputs).
      u: (1, outputs), where to start.
      num_iterations: at least 1.

    Returns:
      (v, u) of shapes (1, inputs) and (1, outputs), of norm 1.
    """
    matrix = lax.stop_gradient(matrix)
    with jax.default_matmul_precision("highest"):
        for _ in range(num_iterations):
            v = _normalised(u @ matrix.T)
            u = _normalised(v @ matrix)
    return lax.stop_gradient(v), lax.stop_gradient(u)


def _normalised(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), EPSILON)


def _replicated(value: Array) -> Array:
    # The same on every device, but where the weights were cast to vary JAX cannot know it.
    value = lax.stop_gradient(value)
    varying = tuple(axes.varying_axes(value))
    return lax.pmean(value, varying) if varying else value
