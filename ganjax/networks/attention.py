"""Self-attention over the positions of a feature map.

References:
  Zhang et al. 2018, Self-Attention Generative Adversarial Networks, arXiv:1805.08318.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax.networks import layers
from ganjax.types import Array


class SelfAttention(nn.Module):
    """Add to each position what it attends to: x + gamma o(softmax(f(x) g(x)ᵀ) h(x)).

    f, g, h and o are 1x1 convolutions without bias, f and g with an eighth of the channels and h
    with half of them; g and h are max-pooled over 2x2 positions, which keeps a quarter of the
    attention map. gamma starts at 0, where the layer is the identity.

    Attributes:
      power_iterations: of spectral normalisation in each pass; 0 for none.
    """

    power_iterations: int = 0
    kernel_init: Callable = layers.normal_init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Return the map (B, H, W, C) with attention added."""
        channels = x.shape[-1]
        if min(x.shape[1:3]) < 2:
            raise ValueError(f"self-attention pools 2x2 positions, got a map of shape {x.shape}")

        def project(name, features, x):
            return layers.Conv(
                features,
                (1, 1),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                power_iterations=self.power_iterations,
                name=name,
            )(x, train=train)

        def flat(x):
            return x.reshape(x.shape[0], -1, x.shape[-1])

        queries = flat(project("f", max(1, channels // 8), x))
        keys = flat(_max_pool(project("g", max(1, channels // 8), x)))
        values = flat(_max_pool(project("h", max(1, channels // 2), x)))
        # (B, H W, H W / 4), its exponentials in float32
        scores = jnp.einsum("bqc,bkc->bqk", queries, keys).astype(jnp.float32)
        attended = nn.softmax(scores, axis=-1).astype(self.dtype) @ values
        attended = attended.reshape(*x.shape[:-1], attended.shape[-1])
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(self.dtype) * project("o", channels, attended)


def _max_pool(x: Array) -> Array:
    """Take the maximum of blocks of 2x2; an odd last row or column is left out."""
    # Not a reduction window: that has no second derivative, which gradient penalties take.
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
