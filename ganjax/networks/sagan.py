"""SAGAN: self-attention in both networks, and spectral normalisation in both.

Widths are those of SNGAN (`ganjax.networks.sngan`). In the discriminator the first convolution of a
block already has the channels of the second. Attention follows the map of 32x32 in both networks,
as in the paper; in images smaller than 64x64, where that is the image itself, the map of 16x16.
Kernels start from Glorot's uniform distribution (Xavier).

References:
  Zhang et al. 2018, Self-Attention Generative Adversarial Networks, arXiv:1805.08318.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ganjax import latents
from ganjax.networks import layers, resnet, sngan


class Generator(resnet.Generator):
    """Latents (B, dimension) and labels (B,) or None -> images (B, H, W, C) in [-1, 1]."""

    power_iterations: int = 1
    residual_init: Callable = resnet.glorot_init


class Discriminator(resnet.Discriminator):
    """Images (B, H, W, C) in [-1, 1] and labels (B,) or None -> `DiscriminatorOutput`."""

    wide: bool = True
    power_iterations: int = 1
    residual_init: Callable = resnet.glorot_init


@dataclass(frozen=True)
class SAGAN:
    """Residual networks with self-attention (Zhang et al. 2018, arXiv:1805.08318)."""

    latent_dim: int = 128
    """Length of the latent."""
    latent_distribution: str = "normal"
    """Distribution of the latent: normal, or uniform in [-1, 1]."""
    generator_width: int = 64
    """The generator has 4 times as many channels up to 63x63 pixels, 1 to 16 times from 64x64."""
    discriminator_width: int = 64
    """The discriminator has twice as many up to 63x63 pixels, 1 to 16 times from 64x64."""
    attention: str = "auto"
    """Resolutions that self-attention follows, joined by "_" such as "32_64"; "0" for none; auto
    for 32, or 16 where images are smaller than 64x64."""
    power_iterations: int = 1
    """Of spectral normalisation, each time a network is used in training."""
    conditioning: str = "projection"
    """How labels enter the discriminator: projection, or auxiliary for a classifier beside it."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for images of `shape` (H, W, C).

        >>> import jax.numpy as jnp
        >>> SAGAN().build((32, 32, 3), 0, jnp.float32)["generator"].attention
        (1,)
        """
        layers.require_choice("conditioning", self.conditioning, resnet.CONDITIONING)
        layers.require_choice("latent_distribution", self.latent_distribution, latents.LATENTS)
        blocks = resnet.count_blocks("sagan", shape)
        channels, halvings = sngan.discriminator_channels(blocks, self.discriminator_width)
        attention = self.attention
        if attention == "auto":
            attention = "32" if blocks > 3 else "16"
        return {
            "generator": Generator(
                tuple(shape),
                sngan.generator_channels(blocks, self.generator_width),
                num_classes,
                self.power_iterations,
                resnet.after_blocks(attention, resnet.generator_resolutions(blocks)),
                dtype=dtype,
            ),
            "discriminator": Discriminator(
                channels,
                halvings,
                num_classes,
                self.conditioning,
                power_iterations=self.power_iterations,
                attention=resnet.after_blocks(
                    attention,
                    resnet.discriminator_resolutions(blocks, halvings, len(channels)),
                ),
                dtype=dtype,
            ),
            "latents": latents.LATENTS[self.latent_distribution](self.latent_dim),
        }
