"""Batch normalisation whose scale and shift may depend on a condition."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ganjax import axes
from ganjax.networks import layers
from ganjax.types import Array


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation over the global batch whose scale and shift a condition may give.

    Without a condition `scale` and `bias` are parameters, 1 and 0 at first. With one they are
    1 + gain(condition) and bias(condition). The running variance is the unbiased one, and its
    momentum 0.1, in PyTorch's terms. Statistics are in float32.

    Attributes:
      num_classes: of labels as the condition, looked up in a table; 0 where the condition is a
        vector of its own, which goes through a linear layer without bias.
      power_iterations: of that linear layer's spectral normalisation; 0 for none.
      kernel_init: of table or linear layer.

    References:
      Dumoulin et al. 2016, A Learned Representation for Artistic Style, arXiv:1610.07629.
    """

    num_classes: int = 0
    power_iterations: int = 0
    kernel_init: Callable = nn.initializers.zeros
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None, *, train: bool) -> Array:
        """Return x normalised; the condition is (B,), (B, num_classes) or (B, length)."""
        features = x.shape[-1]
        mean, variance = self._statistics(x, train)
        if condition is None:
            scale = self.param("scale", nn.initializers.ones, (features,))
            bias = self.param("bias", nn.initializers.zeros, (features,))
        else:
            scale = 1 + self._linear("gain", features, condition, train)
            bias = self._linear("bias", features, condition, train)
            shape = (-1, *(1,) * (x.ndim - 2), features)
            scale, bias = scale.reshape(shape), bias.reshape(shape)
        scale = scale * jax.lax.rsqrt(variance + self.epsilon)
        x = x.astype(jnp.float32) * scale + (bias - mean * scale)
        return x.astype(self.dtype)

    def _statistics(self, x, train):
        features = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_variance = self.variable("batch_stats", "var", jnp.ones, features)
        if not train:
            return running_mean.value, running_variance.value
        x = x.astype(jnp.float32)
        batch = tuple(range(x.ndim - 1))
        mean, square = axes.global_mean((jnp.mean(x, batch), jnp.mean(x * x, batch)))
        variance = jnp.maximum(square - mean * mean, 0)
        if not self.is_initializing():
            count = x.size // x.shape[-1] * axes.num_shares()
            unbiased = variance * (count / max(1, count - 1))
            for running, new in ((running_mean, mean), (running_variance, unbiased)):
                running.value = layers.MOMENTUM * running.value + (1 - layers.MOMENTUM) * new
        return mean, variance

    def _linear(self, name, features, condition, train):
        if self.num_classes:
            table = layers.LabelEmbedding(
                self.num_classes, features, embedding_init=self.kernel_init, name=name
            )
            return table(condition)
        return layers.Dense(
            features,
            use_bias=False,
            kernel_init=self.kernel_init,
            power_iterations=self.power_iterations,
            name=name,
        )(condition, train=train)
