"""Residual convolutions over sequences: latents -> chances of tokens at each place, and a critic.

References:
  Gulrajani et al. 2017, Improved Training of Wasserstein GANs, arXiv:1704.00028, section 5.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax import latents
from ganjax.networks import layers
from ganjax.types import Array, DiscriminatorOutput

_init = nn.initializers.he_normal()


class Block(nn.Module):
    """relu, convolution, relu, convolution; a fraction of it is added to the input."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x
        for _ in range(2):
            kernel = {"kernel_init": _init, "dtype": self.dtype}
            y = layers.Conv(x.shape[-1], (5,), **kernel)(nn.relu(y))
        return x + 0.3 * y


class Generator(nn.Module):
    """Latents (B, dimension) -> chances (B, length, V)."""

    length: int
    vocab_size: int
    width: int = 128
    num_blocks: int = 5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        x = layers.Dense(self.length * self.width, kernel_init=_init, dtype=self.dtype)(z)
        x = x.reshape(-1, self.length, self.width)
        for _ in range(self.num_blocks):
            x = Block(self.dtype)(x)
        logits = layers.Dense(self.vocab_size, kernel_init=_init, dtype=self.dtype)(x)
        return nn.softmax(logits.astype(jnp.float32), axis=-1)


class Discriminator(nn.Module):
    """Chances, or tokens as ones and zeros, (B, length, V) -> `DiscriminatorOutput`."""

    width: int = 128
    num_blocks: int = 5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> DiscriminatorOutput:
        x = layers.Dense(self.width, kernel_init=_init, dtype=self.dtype)(x)
        for _ in range(self.num_blocks):
            x = Block(self.dtype)(x)
        x = x.reshape(x.shape[0], -1)
        logits = layers.Dense(1, kernel_init=nn.initializers.lecun_normal(), dtype=self.dtype)(x)
        return DiscriminatorOutput(logits[:, 0].astype(jnp.float32))


@dataclass(frozen=True)
class ConvText:
    """Convolutions over embeddings; for the Wasserstein loss with a gradient penalty."""

    latent_dim: int = 128
    """Length of the latent."""
    width: int = 128
    """Channels (512 in the paper)."""
    num_blocks: int = 5
    """Residual blocks of each network."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return both networks and the latents for sequences of shape (length, V)."""
        del num_classes
        length, vocab_size = shape
        return {
            "generator": Generator(length, vocab_size, self.width, self.num_blocks, dtype),
            "discriminator": Discriminator(self.width, self.num_blocks, dtype),
            "latents": latents.normal(self.latent_dim),
        }
