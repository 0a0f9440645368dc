"""DCGAN: strided convolutions and batch norm (Radford et al. 2015, arXiv:1511.06434).

For any height, width and number of channels: the image is halved until its smaller side is at most
7, and the generator starts at that size (7x7 for 28x28, 4x4 for 32x32 and 64x64). The paper has
kernels of 5x5 for 64x64 images; 4x4, a multiple of the stride, is the default here because it
spreads the overlap of the strokes evenly. Layers in front of a batch norm have no bias: its
true gradient would be zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax import latents
from ganjax.networks import layers
from ganjax.types import Array, DiscriminatorOutput, InputError

SMALLEST_SIDE = 7


class Generator(nn.Module):
    """Latents (B, dimension) and labels (B,) or None -> images (B, H, W, C) in [-1, 1]."""

    image_shape: Sequence[int]
    width: int = 64
    kernel_size: int = 4
    batch_norm: bool = True
    num_classes: int = 0
    embedding_dim: int = 50
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        layers.require_labels(labels, self.num_classes)
        *size, channels = self.image_shape
        sizes = layers.halved_sizes(size, SMALLEST_SIDE)[::-1]
        if self.num_classes:
            embedding = layers.LabelEmbedding(self.num_classes, self.embedding_dim)(labels)
            z = jnp.concatenate([z, embedding], axis=-1)

        def activate(x):
            if self.batch_norm:
                x = layers.BatchNorm(self.dtype)(x, train=train)
            return nn.relu(x)

        features = self.width * 2 ** max(0, len(sizes) - 2)
        x = nn.Dense(
            sizes[0][0] * sizes[0][1] * features,
            use_bias=not self.batch_norm,
            kernel_init=layers.normal_init,
            dtype=self.dtype,
        )(z)
        x = activate(x.reshape(-1, *sizes[0], features))
        for larger in sizes[1:]:
            last = larger == sizes[-1]
            features = channels if last else features // 2
            x = layers.ConvTranspose(
                features,
                (self.kernel_size,) * 2,
                strides=2,
                output_size=larger,
                use_bias=last or not self.batch_norm,
                dtype=self.dtype,
            )(x)
            if not last:
                x = activate(x)
        if len(sizes) == 1:
            x = layers.Conv(channels, (3, 3), dtype=self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Images (B, H, W, C) in [-1, 1] and labels (B,) or None -> `DiscriminatorOutput`.

    Labels enter as a plane of the image ("concatenation", Mirza and Osindero 2014,
    arXiv:1411.1784) or as an inner product with the last features ("projection", Miyato and Koyama
    2018, arXiv:1802.05637).
    """

    width: int = 64
    kernel_size: int = 4
    batch_norm: bool = True
    num_classes: int = 0
    conditioning: str = "projection"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, labels: Array | None = None, *, train: bool = False
    ) -> DiscriminatorOutput:
        layers.require_labels(labels, self.num_classes)
        x = images.astype(self.dtype)
        size = x.shape[1:3]
        if self.num_classes and self.conditioning == "concatenation":
            plane = layers.LabelEmbedding(self.num_classes, size[0] * size[1], stddev=0.02)(labels)
            x = jnp.concatenate([x, plane.reshape(-1, *size, 1).astype(self.dtype)], axis=-1)
        num_layers = max(1, len(layers.halved_sizes(size, SMALLEST_SIDE)) - 1)
        for layer in range(num_layers):
            norm = self.batch_norm and layer > 0
            x = layers.Conv(
                self.width * 2**layer,
                (self.kernel_size,) * 2,
                strides=2,
                use_bias=not norm,
                dtype=self.dtype,
            )(x)
            if norm:
                x = layers.BatchNorm(self.dtype)(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(x.shape[0], -1)
        logits = nn.Dense(1, kernel_init=layers.normal_init, dtype=self.dtype)(x)[:, 0]
        logits = logits.astype(jnp.float32)
        if self.num_classes and self.conditioning == "projection":
            embedding = layers.LabelEmbedding(self.num_classes, x.shape[-1], stddev=0.02)(labels)
            logits = logits + jnp.sum(embedding * x.astype(jnp.float32), axis=-1)
        return DiscriminatorOutput(logits)


@dataclass(frozen=True)
class DCGAN:
    """DCGAN's two convolutional networks (Radford et al. 2015, arXiv:1511.06434)."""

    latent_dim: int = 100
    """Length of the latent."""
    latent_distribution: str = "normal"
    """Distribution of the latent: normal, or uniform in [-1, 1] as in the paper."""
    generator_width: int = 64
    """Channels of the generator's last hidden layer; each earlier layer has twice as many."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer; each later layer has twice as many."""
    kernel_size: int = 4
    """Height and width of every strided kernel."""
    generator_batch_norm: bool = True
    """Whether the generator normalises over the batch."""
    discriminator_batch_norm: bool = True
    """Whether the discriminator does; not together with a gradient penalty."""
    conditioning: str = "projection"
    """How labels enter the discriminator: projection or concatenation."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for images of `shape` (H, W, C)."""
        if len(shape) != 3:
            raise InputError(
                f"dcgan makes images of shape (H, W, C), but the data has shape {tuple(shape)}; "
                "take the mlp"
            )
        layers.require_choice("conditioning", self.conditioning, ("projection", "concatenation"))
        layers.require_choice("latent_distribution", self.latent_distribution, latents.LATENTS)
        return {
            "generator": Generator(
                tuple(shape),
                self.generator_width,
                self.kernel_size,
                self.generator_batch_norm,
                num_classes,
                dtype=dtype,
            ),
            "discriminator": Discriminator(
                self.discriminator_width,
                self.kernel_size,
                self.discriminator_batch_norm,
                num_classes,
                self.conditioning,
                dtype,
            ),
            "latents": latents.LATENTS[self.latent_distribution](self.latent_dim),
        }
