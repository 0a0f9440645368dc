"""SNGAN: residual networks with spectral normalisation in the discriminator.

At 32x32, and below, both are of constant width: the generator of 4 times the width (256), the
discriminator of twice the width (128) with two halvings and two blocks more. From 64x64 on channels
double towards the small maps, from 1 to 16 times the width, and the discriminator has one block
more than it has halvings. With classes the generator has conditional batch norm and the
discriminator the projection of Miyato and Koyama. Kernels start from Glorot's uniform distribution,
with a gain of sqrt(2) in the residual branches.

Where the official code differs from the form stated here: its 64x64 discriminator halves the
last 4x4 map once more, its 32x32 discriminator has no bias in the last layer, and its batch
norm has an epsilon of 2e-5.

References:
  Miyato et al. 2018, Spectral Normalization for Generative Adversarial Networks, arXiv:1802.05957.
  Miyato and Koyama 2018, cGANs with Projection Discriminator, arXiv:1802.05637.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ganjax import latents
from ganjax.networks import layers, resnet

LARGEST = 16  # times the width: the channels of the smallest maps


class Generator(resnet.Generator):
    """Latents (B, dimension) and labels (B,) or None -> images (B, H, W, C) in [-1, 1]."""


class Discriminator(resnet.Discriminator):
    """Images (B, H, W, C) in [-1, 1] and labels (B,) or None -> `DiscriminatorOutput`."""

    power_iterations: int = 1


def generator_channels(blocks: int, width: int) -> tuple[int, ...]:
    """Return the channels of the generator's first map and of each block's result.

    >>> generator_channels(3, 64), generator_channels(4, 64)
    ((256, 256, 256, 256), (1024, 512, 256, 128, 64))
    """
    if blocks <= 3:
        return (4 * width,) * (blocks + 1)
    multiples = (*resnet.pyramid(blocks, LARGEST), LARGEST)
    return tuple(width * multiple for multiple in multiples[::-1])


def discriminator_channels(blocks: int, width: int) -> tuple[tuple[int, ...], int]:
    """Return the channels of each of the discriminator's blocks, and how many of these halve.

    >>> discriminator_channels(3, 64), discriminator_channels(4, 64)
    (((128, 128, 128, 128), 2), ((64, 128, 256, 512, 1024), 4))
    """
    if blocks <= 3:
        halvings = min(blocks, 2)
        return (2 * width,) * (halvings + 2), halvings
    multiples = (*resnet.pyramid(blocks, LARGEST), LARGEST)
    return tuple(width * multiple for multiple in multiples), blocks


@dataclass(frozen=True)
class SNGAN:
    """Residual networks with spectral normalisation (Miyato et al. 2018, arXiv:1802.05957)."""

    latent_dim: int = 128
    """Length of the latent."""
    latent_distribution: str = "normal"
    """Distribution of the latent: normal, or uniform in [-1, 1]."""
    generator_width: int = 64
    """The generator has 4 times as many channels up to 63x63 pixels, 1 to 16 times from 64x64."""
    discriminator_width: int = 64
    """The discriminator has twice as many up to 63x63 pixels, 1 to 16 times from 64x64."""
    power_iterations: int = 1
    """Of spectral normalisation, each time the discriminator is used in training."""
    conditioning: str = "projection"
    """How labels enter the discriminator: projection, or auxiliary for a classifier beside it."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for images of `shape` (H, W, C).

        >>> import jax.numpy as jnp
        >>> sorted(SNGAN().build((32, 32, 3), 10, jnp.float32))
        ['discriminator', 'generator', 'latents']
        """
        layers.require_choice("conditioning", self.conditioning, resnet.CONDITIONING)
        layers.require_choice("latent_distribution", self.latent_distribution, latents.LATENTS)
        blocks = resnet.count_blocks("sngan", shape)
        channels, halvings = discriminator_channels(blocks, self.discriminator_width)
        return {
            "generator": Generator(
                tuple(shape),
                generator_channels(blocks, self.generator_width),
                num_classes,
                dtype=dtype,
            ),
            "discriminator": Discriminator(
                channels,
                halvings,
                num_classes,
                self.conditioning,
                power_iterations=self.power_iterations,
                dtype=dtype,
            ),
            "latents": latents.LATENTS[self.latent_distribution](self.latent_dim),
        }
