"""The residual networks of WGAN-GP: batch norm in the generator, none in the critic.

At 32x32, and below, both are twice the width (128) throughout and the critic averages its last map,
as in the paper's CIFAR-10 networks. From 64x64 on channels double towards the small maps, from 1 to
8 times the width, as in the paper's 64x64 networks; what else those have (a convolution in front,
layer norm, a linear layer on the flattened 4x4 map) is not followed here. With classes the
generator has conditional batch norm and the critic an auxiliary classifier, whose loss is a term of
its own. Kernels start from Glorot's uniform distribution, with a gain of sqrt(2) in the residual
branches.

References:
  Gulrajani et al. 2017, Improved Training of Wasserstein GANs, arXiv:1704.00028.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ganjax import latents
from ganjax.networks import layers, resnet

LARGEST = 8  # times the width: the channels of the smallest maps


class Generator(resnet.Generator):
    """Latents (B, dimension) and labels (B,) or None -> images (B, H, W, C) in [-1, 1]."""


class Discriminator(resnet.Discriminator):
    """Images (B, H, W, C) in [-1, 1] and labels (B,) or None -> `DiscriminatorOutput`."""

    conditioning: str = "auxiliary"
    mean_pool: bool = True


def generator_channels(blocks: int, width: int) -> tuple[int, ...]:
    """Return the channels of the generator's first map and of each block's result.

    >>> generator_channels(3, 64), generator_channels(4, 64)
    ((128, 128, 128, 128), (512, 512, 256, 128, 64))
    """
    if blocks <= 3:
        return (2 * width,) * (blocks + 1)
    multiples = resnet.pyramid(blocks, LARGEST)
    return tuple(width * multiple for multiple in (LARGEST, *multiples[::-1]))


def discriminator_channels(blocks: int, width: int) -> tuple[tuple[int, ...], int]:
    """Return the channels of each of the critic's blocks, and how many of these halve.

    >>> discriminator_channels(3, 64), discriminator_channels(4, 64)
    (((128, 128, 128, 128), 2), ((128, 256, 512, 512), 4))
    """
    if blocks <= 3:
        halvings = min(blocks, 2)
        return (2 * width,) * (halvings + 2), halvings
    return tuple(width * min(LARGEST, 2 ** (i + 1)) for i in range(blocks)), blocks


@dataclass(frozen=True)
class WGANGP:
    """The residual networks of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028)."""

    latent_dim: int = 128
    """Length of the latent."""
    latent_distribution: str = "normal"
    """Distribution of the latent: normal, or uniform in [-1, 1]."""
    generator_width: int = 64
    """The generator has twice as many channels up to 63x63 pixels, from 64x64 on 1 to 8 times."""
    discriminator_width: int = 64
    """The critic has twice as many up to 63x63 pixels, from 64x64 on 2 to 8 times."""
    conditioning: str = "auxiliary"
    """How labels enter the critic: auxiliary for a classifier beside it, or projection."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for images of `shape` (H, W, C).

        >>> import jax.numpy as jnp
        >>> sorted(WGANGP().build((32, 32, 3), 0, jnp.float32))
        ['discriminator', 'generator', 'latents']
        """
        layers.require_choice("conditioning", self.conditioning, resnet.CONDITIONING)
        layers.require_choice("latent_distribution", self.latent_distribution, latents.LATENTS)
        blocks = resnet.count_blocks("wgan_gp", shape)
        channels, halvings = discriminator_channels(blocks, self.discriminator_width)
        return {
            "generator": Generator(
                tuple(shape),
                generator_channels(blocks, self.generator_width),
                num_classes,
                dtype=dtype,
            ),
            "discriminator": Discriminator(
                channels, halvings, num_classes, self.conditioning, dtype=dtype
            ),
            "latents": latents.LATENTS[self.latent_distribution](self.latent_dim),
        }
