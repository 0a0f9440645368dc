"""Fully connected networks, for small images and for points in the plane.

The generator and discriminator of Goodfellow et al. 2014 (arXiv:1406.2661) in their modern form:
ReLU and LeakyReLU, optional batch norm in the generator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax import latents
from ganjax.networks import layers
from ganjax.types import Array, DiscriminatorOutput


class Generator(nn.Module):
    """Latents (B, dimension) and labels (B,) or None -> samples (B, *shape).

    Images (three dimensions) end in tanh; anything else is unbounded.
    """

    shape: Sequence[int]
    hidden: Sequence[int] = (256, 256)
    batch_norm: bool = False
    num_classes: int = 0
    embedding_dim: int = 50
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        layers.require_labels(labels, self.num_classes)
        if self.num_classes:
            embedding = layers.LabelEmbedding(self.num_classes, self.embedding_dim)(labels)
            z = jnp.concatenate([z, embedding], axis=-1)
        x = z
        for features in self.hidden:
            x = nn.Dense(features, use_bias=not self.batch_norm, dtype=self.dtype)(x)
            if self.batch_norm:
                x = layers.BatchNorm(self.dtype)(x, train=train)
            x = nn.relu(x)
        x = nn.Dense(math.prod(self.shape), dtype=self.dtype)(x).astype(jnp.float32)
        x = x.reshape(-1, *self.shape)
        return jnp.tanh(x) if len(self.shape) == 3 else x


class Discriminator(nn.Module):
    """Samples (B, *shape) and labels (B,) or None -> `DiscriminatorOutput`.

    Labels enter as an embedding beside the input ("concatenation") or as an inner product with the
    last features ("projection").
    """

    hidden: Sequence[int] = (256, 256)
    num_classes: int = 0
    conditioning: str = "projection"
    embedding_dim: int = 50
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, labels: Array | None = None, *, train: bool = False
    ) -> DiscriminatorOutput:
        del train
        layers.require_labels(labels, self.num_classes)
        x = x.reshape(x.shape[0], -1)
        if self.num_classes and self.conditioning == "concatenation":
            embedding = layers.LabelEmbedding(self.num_classes, self.embedding_dim)(labels)
            x = jnp.concatenate([x, embedding], axis=-1)
        for features in self.hidden:
            x = nn.leaky_relu(nn.Dense(features, dtype=self.dtype)(x), 0.2)
        logits = nn.Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)
        if self.num_classes and self.conditioning == "projection":
            embedding = layers.LabelEmbedding(self.num_classes, x.shape[-1], stddev=0.02)(labels)
            logits = logits + jnp.sum(embedding * x.astype(jnp.float32), axis=-1)
        return DiscriminatorOutput(logits)


@dataclass(frozen=True)
class MLP:
    """Two fully connected networks, for points in the plane and small images."""

    latent_dim: int = 64
    """Length of the latent."""
    latent_distribution: str = "normal"
    """Distribution of the latent: normal, or uniform in [-1, 1]."""
    generator_hidden: tuple[int, ...] = (256, 256)
    """Sizes of the generator's hidden layers."""
    discriminator_hidden: tuple[int, ...] = (256, 256)
    """Sizes of the discriminator's hidden layers."""
    generator_batch_norm: bool = False
    """Whether the generator normalises over the batch."""
    conditioning: str = "projection"
    """How labels enter the discriminator: projection or concatenation."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for samples of any `shape`."""
        layers.require_choice("conditioning", self.conditioning, ("projection", "concatenation"))
        layers.require_choice("latent_distribution", self.latent_distribution, latents.LATENTS)
        return {
            "generator": Generator(
                tuple(shape),
                self.generator_hidden,
                self.generator_batch_norm,
                num_classes,
                dtype=dtype,
            ),
            "discriminator": Discriminator(
                self.discriminator_hidden, num_classes, self.conditioning, dtype=dtype
            ),
            "latents": latents.LATENTS[self.latent_distribution](self.latent_dim),
        }
