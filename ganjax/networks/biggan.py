"""BigGAN, in the forms of BigGAN-PyTorch.

A shared embedding of the labels, and with hierarchical latents a piece of the latent for each
block, choose scale and shift of the generator's batch norm through linear layers; without the
shared embedding each batch norm has a table of its own, as at CIFAR-10. Both networks have
spectral normalisation, but not the tables. Kernels start orthogonal.

References:
  Brock et al. 2018, Large Scale GAN Training for High Fidelity Natural Image Synthesis,
  arXiv:1809.11096; https://github.com/ajbrock/BigGAN-PyTorch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax import latents
from ganjax.networks import layers, resnet
from ganjax.types import Array, InputError

orthogonal_init = nn.initializers.orthogonal()
INITIALIZERS: dict[str, Callable] = {
    "orthogonal": orthogonal_init,
    "normal": layers.normal_init,
    "glorot": resnet.glorot_init,
}

# Channels in multiples of the width, by the number of the generator's blocks (4 for 64x64).
_GENERATOR = {
    4: (16, 16, 8, 4, 2),
    5: (16, 16, 8, 4, 2, 1),
    6: (16, 16, 8, 8, 4, 2, 1),
    7: (16, 16, 8, 8, 4, 2, 1, 1),
}
_DISCRIMINATOR = {
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}


class Generator(resnet.Generator):
    """Latents (B, dimension) and labels (B,) or None -> images (B, H, W, C) in [-1, 1].

    Attributes:
      shared_dim: length of the shared embedding of labels; 0 for a table in each batch norm.
      hierarchical: whether the latent is cut into one piece for the first layer and one for each
        block; what is left over is not used. Not with tables.
    """

    power_iterations: int = 1
    kernel_init: Callable = orthogonal_init
    residual_init: Callable = orthogonal_init
    condition_init: Callable = orthogonal_init
    shared_dim: int = 0
    hierarchical: bool = False

    @property
    def table_classes(self) -> int:
        """How many classes each batch norm has a scale and shift of its own for."""
        return 0 if self.shared_dim else self.num_classes

    def conditions(self, z: Array, labels: Array | None) -> tuple[Array, Sequence[Array | None]]:
        """Return the latent of the first layer, and each block's condition."""
        num_blocks = len(self.channels) - 1
        if labels is not None and self.shared_dim:
            embedding = layers.LabelEmbedding(
                self.num_classes,
                self.shared_dim,
                embedding_init=self.condition_init,
                name="shared",
            )
            labels = embedding(labels)
        if not self.hierarchical:
            return z, [labels] * num_blocks
        if labels is not None and not self.shared_dim:
            raise ValueError("hierarchical latents go together with a shared embedding of labels")
        piece = z.shape[-1] // (num_blocks + 1)
        z, *pieces = (z[:, i * piece : (i + 1) * piece] for i in range(num_blocks + 1))
        if labels is None:
            return z, pieces
        return z, [jnp.concatenate([labels, piece], axis=-1) for piece in pieces]


class Discriminator(resnet.Discriminator):
    """Images (B, H, W, C) in [-1, 1] and labels (B,) or None -> `DiscriminatorOutput`."""

    wide: bool = True
    power_iterations: int = 1
    kernel_init: Callable = orthogonal_init
    residual_init: Callable = orthogonal_init


def generator_channels(blocks: int, width: int) -> tuple[int, ...]:
    """Return the channels of the generator's first map and of each block's result.

    >>> generator_channels(3, 64), generator_channels(4, 64)
    ((256, 256, 256, 256), (1024, 1024, 512, 256, 128))
    """
    multiples = (4,) * (blocks + 1) if blocks <= 3 else _multiples(_GENERATOR, blocks)
    return tuple(width * multiple for multiple in multiples)


def discriminator_channels(blocks: int, width: int) -> tuple[tuple[int, ...], int]:
    """Return the channels of each of the discriminator's blocks, and how many of these halve.

    >>> discriminator_channels(3, 64), discriminator_channels(4, 64)
    (((256, 256, 256, 256), 2), ((64, 128, 256, 512, 1024), 4))
    """
    if blocks <= 3:
        halvings = min(blocks, 2)
        return (4 * width,) * (halvings + 2), halvings
    return tuple(width * m for m in _multiples(_DISCRIMINATOR, blocks)), blocks


def discriminator_attention(attention: str, blocks: int) -> tuple[int, ...]:
    """Return the blocks of the discriminator that self-attention follows.

    At 32x32 the official table has every block at 16x16, so that "16" is all of them.
    """
    if blocks == 3:
        return resnet.after_blocks(attention, (16,) * 4)
    channels, halvings = discriminator_channels(blocks, 1)
    resolutions = resnet.discriminator_resolutions(blocks, halvings, len(channels))
    return resnet.after_blocks(attention, resolutions)


def _multiples(table, blocks):
    if blocks not in table:
        raise InputError(
            f"biggan has networks for images whose smaller side is below {8 << max(table)} pixels; "
            "make the images smaller"
        )
    return table[blocks]


@dataclass(frozen=True)
class BigGAN:
    """BigGAN (Brock et al. 2018, arXiv:1809.11096)."""

    latent_dim: int = 120
    """Length of the latent; with hierarchical latents a multiple of their pieces, one for the first
    layer and one for each doubling (4 at 32x32, 6 at 128x128)."""
    latent_distribution: str = "normal"
    """Distribution of the latent: normal, or uniform in [-1, 1]."""
    generator_width: int = 96
    """The generator has 4 times as many channels up to 63x63 pixels, 1 to 16 times from 64x64."""
    discriminator_width: int = 96
    """The discriminator has 4 times as many up to 63x63 pixels, 1 to 16 times from 64x64."""
    shared: bool = True
    """Whether one embedding of the labels serves all batch norms."""
    shared_dim: int = 128
    """Length of that embedding."""
    hierarchical: bool = True
    """Whether each block of the generator is given a piece of the latent."""
    attention: str = "64"
    """Resolutions that self-attention follows, joined by "_" such as "32_64"; "0" for none."""
    initializer: str = "orthogonal"
    """How kernels start: orthogonal, normal (0.02) or glorot."""
    power_iterations: int = 1
    """Of spectral normalisation, each time a network is used in training."""
    conditioning: str = "projection"
    """How labels enter the discriminator: projection, or auxiliary for a classifier beside it."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for images of `shape` (H, W, C).

        >>> BigGAN().build((128, 128, 3), 1000, jnp.float32)["generator"].attention
        (3,)
        """
        layers.require_choice("conditioning", self.conditioning, resnet.CONDITIONING)
        layers.require_choice("latent_distribution", self.latent_distribution, latents.LATENTS)
        layers.require_choice("initializer", self.initializer, INITIALIZERS)
        blocks = resnet.count_blocks("biggan", shape)
        if self.hierarchical and self.latent_dim % (blocks + 1):
            raise InputError(
                f"hierarchical latents for {shape[0]}x{shape[1]} pixels have {blocks + 1} pieces, "
                f"which do not divide a latent_dim of {self.latent_dim}"
            )
        if self.hierarchical and num_classes and not self.shared:
            raise InputError(
                "hierarchical latents go together with a shared embedding of the labels; set "
                "shared to true or hierarchical to false"
            )
        init = INITIALIZERS[self.initializer]
        common = {
            "num_classes": num_classes,
            "power_iterations": self.power_iterations,
            "kernel_init": init,
            "residual_init": init,
            "dtype": dtype,
        }
        channels, halvings = discriminator_channels(blocks, self.discriminator_width)
        return {
            "generator": Generator(
                tuple(shape),
                generator_channels(blocks, self.generator_width),
                attention=resnet.after_blocks(self.attention, resnet.generator_resolutions(blocks)),
                condition_init=init,
                shared_dim=self.shared_dim if self.shared and num_classes else 0,
                hierarchical=self.hierarchical,
                **common,
            ),
            "discriminator": Discriminator(
                channels,
                halvings,
                conditioning=self.conditioning,
                attention=discriminator_attention(self.attention, blocks),
                **common,
            ),
            "latents": latents.LATENTS[self.latent_distribution](self.latent_dim),
        }
