"""The residual networks that WGAN-GP, SNGAN, SAGAN and BigGAN are choices of.

The generator doubles a small map, its smaller side 4 to 7 pixels, once in each block; the
discriminator halves the image in its first blocks. For images of other shapes than the papers' the
number of blocks follows the smaller side, so that any height and width which are multiples of
2^blocks are possible, with any number of channels.

Resampling is folded into the convolutions beside it (`layers.resampled_conv`), which changes
nothing but the rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax.networks import layers
from ganjax.networks.attention import SelfAttention
from ganjax.networks.normalization import ConditionalBatchNorm
from ganjax.types import Array, DiscriminatorOutput, InputError

SMALLEST_SIDE = 4
CONDITIONING = ("projection", "auxiliary")

# Glorot and Bengio 2010 (Xavier), and the same with a gain of sqrt(2) for what a ReLU follows.
glorot_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
glorot_relu_init = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


def count_blocks(family: str, shape: Sequence[int]) -> int:
    """Return how many times a generator of images of `shape` (H, W, C) doubles its first map.

    Raises:
      InputError: there is no such number.

    >>> count_blocks("sngan", (32, 32, 3)), count_blocks("sngan", (48, 96, 1))
    (3, 3)
    """
    if len(shape) != 3:
        raise InputError(
            f"{family} makes images of shape (H, W, C), but the data has shape {tuple(shape)}; "
            "take the mlp"
        )
    size = tuple(shape[:2])
    blocks = (min(size) // SMALLEST_SIDE).bit_length() - 1
    if blocks < 1:
        raise InputError(f"{family} makes images of at least 8x8 pixels, but the data has {size}")
    if any(side % 2**blocks for side in size):
        raise InputError(
            f"{family} doubles a map {blocks} times to images with a side of {min(size)}, so that "
            f"height and width have to be multiples of {2**blocks}; got {size}, resize the images"
        )
    return blocks


def after_blocks(attention: str, resolutions: Sequence[int]) -> tuple[int, ...]:
    """Return the blocks that self-attention follows.

    Args:
      attention: resolutions joined by "_", such as "32_64"; "0" for none.
      resolutions: of each block's result, in a network for square images whose smallest map is 4x4.

    >>> after_blocks("16", (8, 16, 32))
    (1,)
    """
    try:
        wanted = {int(resolution) for resolution in attention.split("_")}
    except ValueError:
        raise InputError(
            f'attention has to be resolutions joined by "_", such as "32_64", or "0" for none; got '
            f"{attention!r}"
        ) from None
    return tuple(i for i, resolution in enumerate(resolutions) if resolution in wanted)


def generator_resolutions(blocks: int) -> tuple[int, ...]:
    """Return the side of the map after each of a generator's blocks."""
    return tuple(2 * SMALLEST_SIDE * 2**i for i in range(blocks))


def discriminator_resolutions(blocks: int, num_halvings: int, num_blocks: int) -> tuple[int, ...]:
    """Return the side of the map after each of a discriminator's blocks.

    Args:
      blocks: of the generator, so that images have sides of 4 times 2^blocks.
      num_halvings: blocks of the discriminator that halve their map, the first ones.
      num_blocks: all of them.
    """
    side = SMALLEST_SIDE * 2**blocks
    return tuple(side >> min(i + 1, num_halvings) for i in range(num_blocks))


def pyramid(blocks: int, largest: int) -> tuple[int, ...]:
    """Return multiples of the width that double with each halving of the map, up to `largest`.

    >>> pyramid(5, 16)
    (1, 2, 4, 8, 16)
    """
    return tuple(min(largest, 2**i) for i in range(blocks))


class GeneratorBlock(nn.Module):
    """Norm, ReLU, doubling, 3x3 convolution, norm, ReLU, 3x3 convolution; beside it a shortcut.

    The shortcut is a 1x1 convolution, at the small size, where it is the same.
    """

    features: int
    num_classes: int = 0
    power_iterations: int = 0
    kernel_init: Callable = glorot_init
    residual_init: Callable = glorot_relu_init
    condition_init: Callable = nn.initializers.zeros
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None, *, train: bool) -> Array:
        """Return (B, 2 H, 2 W, features) of (B, H, W, C) and a condition or None."""
        common = {"power_iterations": self.power_iterations, "dtype": self.dtype}

        def activate(x, name):
            norm = ConditionalBatchNorm(
                self.num_classes,
                kernel_init=self.condition_init,
                epsilon=self.norm_epsilon,
                name=name,
                **common,
            )
            return nn.relu(norm(x, condition, train=train))

        def conv(x, name, size=3, resample=None):
            return layers.Conv(
                self.features,
                (size, size),
                kernel_init=self.residual_init if size == 3 else self.kernel_init,
                resample=resample,
                name=name,
                **common,
            )(x, train=train)

        y = conv(activate(x, "norm1"), "conv1", resample="up")
        y = conv(activate(y, "norm2"), "conv2")
        return y + conv(x, "shortcut", 1, resample="up")


class Generator(nn.Module):
    """Latents (B, dimension) and labels (B,) or None -> images (B, H, W, C) in [-1, 1].

    Labels choose the scale and shift of the blocks' batch norm.

    Attributes:
      image_shape: (H, W, C).
      channels: of the first map and of each block's result.
      num_classes: 0 for an unconditional network.
      power_iterations: of spectral normalisation in each pass; 0 for none.
      attention: indices of the blocks that self-attention follows.
      kernel_init: of everything but
      residual_init: the 3x3 convolutions of the blocks, and
      condition_init: what labels choose.
    """

    image_shape: Sequence[int]
    channels: Sequence[int]
    num_classes: int = 0
    power_iterations: int = 0
    attention: Sequence[int] = ()
    kernel_init: Callable = glorot_init
    residual_init: Callable = glorot_relu_init
    condition_init: Callable = nn.initializers.zeros
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        layers.require_labels(labels, self.num_classes)
        *size, image_channels = self.image_shape
        num_blocks = len(self.channels) - 1
        start = [side >> num_blocks for side in size]
        common = {"power_iterations": self.power_iterations, "dtype": self.dtype}
        z, conditions = self.conditions(z, labels if self.num_classes else None)
        dense = layers.Dense(
            start[0] * start[1] * self.channels[0],
            kernel_init=self.kernel_init,
            name="dense",
            **common,
        )
        x = dense(z, train=train).reshape(-1, *start, self.channels[0])
        for index, condition in enumerate(conditions):
            x = GeneratorBlock(
                self.channels[index + 1],
                self.table_classes,
                kernel_init=self.kernel_init,
                residual_init=self.residual_init,
                condition_init=self.condition_init,
                norm_epsilon=self.norm_epsilon,
                name=f"block{index}",
                **common,
            )(x, condition, train=train)
            if index in self.attention:
                x = SelfAttention(kernel_init=self.kernel_init, name=f"attention{index}", **common)(
                    x, train=train
                )
        norm = ConditionalBatchNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="norm")
        x = nn.relu(norm(x, train=train))
        conv = layers.Conv(
            image_channels, (3, 3), kernel_init=self.kernel_init, name="conv", **common
        )
        return jnp.tanh(conv(x, train=train).astype(jnp.float32))

    @property
    def table_classes(self) -> int:
        """How many classes each batch norm has a scale and shift of its own for."""
        return self.num_classes

    def conditions(self, z: Array, labels: Array | None) -> tuple[Array, Sequence[Array | None]]:
        """Return the latent of the first layer, and each block's condition."""
        return z, [labels] * (len(self.channels) - 1)


class DiscriminatorBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 3x3 convolution, halving; beside it a shortcut.

    The shortcut is a 1x1 convolution, at the small size, where the block changes the shape, and the
    identity elsewhere.

    Attributes:
      features: of the result.
      hidden: features of the first convolution.
      first: whether this is the first block, whose input is the image and has no ReLU.
      halve: whether 2x2 pixels are averaged.
    """

    features: int
    hidden: int
    first: bool = False
    halve: bool = True
    power_iterations: int = 0
    kernel_init: Callable = glorot_init
    residual_init: Callable = glorot_relu_init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Return (B, H / 2, W / 2, features) or (B, H, W, features) of (B, H, W, C)."""

        def conv(x, name, features, size, resample):
            return layers.Conv(
                features,
                (size, size),
                kernel_init=self.residual_init if size == 3 else self.kernel_init,
                resample=resample,
                power_iterations=self.power_iterations,
                dtype=self.dtype,
                name=name,
            )(x, train=train)

        resample = "down" if self.halve else None
        y = conv(x if self.first else nn.relu(x), "conv1", self.hidden, 3, None)
        y = conv(nn.relu(y), "conv2", self.features, 3, resample)
        if self.halve or x.shape[-1] != self.features:
            x = conv(x, "shortcut", self.features, 1, resample)
        return y + x


class Discriminator(nn.Module):
    """Images (B, H, W, C) in [-1, 1] and labels (B,) or None -> `DiscriminatorOutput`.

    Labels enter as an inner product with the last features ("projection", Miyato and Koyama 2018,
    arXiv:1802.05637), or are what a second linear layer is to tell ("auxiliary", Odena et al. 2016,
    arXiv:1610.09585): then `class_logits` are given and labels not looked at.

    Attributes:
      channels: of each block's result.
      num_halvings: how many of the blocks halve their map, the first ones.
      num_classes: 0 for an unconditional network.
      conditioning: "projection" or "auxiliary".
      wide: whether the first convolution of a block has the features of its second, not those of
        its input.
      mean_pool: whether the last features are averaged over the map, not summed.
      power_iterations: of spectral normalisation in each pass; 0 for none.
      attention: indices of the blocks that self-attention follows.
      kernel_init: of everything but
      residual_init: the 3x3 convolutions of the blocks.
    """

    channels: Sequence[int]
    num_halvings: int
    num_classes: int = 0
    conditioning: str = "projection"
    wide: bool = False
    mean_pool: bool = False
    power_iterations: int = 0
    attention: Sequence[int] = ()
    kernel_init: Callable = glorot_init
    residual_init: Callable = glorot_relu_init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, labels: Array | None = None, *, train: bool = False
    ) -> DiscriminatorOutput:
        common = {"power_iterations": self.power_iterations, "kernel_init": self.kernel_init}
        x = images.astype(self.dtype)
        for index, features in enumerate(self.channels):
            x = DiscriminatorBlock(
                features,
                features if self.wide or index == 0 else x.shape[-1],
                first=index == 0,
                halve=index < self.num_halvings,
                residual_init=self.residual_init,
                dtype=self.dtype,
                name=f"block{index}",
                **common,
            )(x, train=train)
            if index in self.attention:
                attention = SelfAttention(dtype=self.dtype, name=f"attention{index}", **common)
                x = attention(x, train=train)
        # The heads are in float32: their cost is nothing and their sums are long.
        x = nn.relu(x).astype(jnp.float32)
        x = jnp.mean(x, (1, 2)) if self.mean_pool else jnp.sum(x, (1, 2))
        logits = layers.Dense(1, name="dense", **common)(x, train=train)[:, 0]
        if not self.num_classes:
            return DiscriminatorOutput(logits)
        if self.conditioning == "auxiliary":
            classify = layers.Dense(self.num_classes, name="classifier", **common)
            return DiscriminatorOutput(logits, classify(x, train=train))
        layers.require_labels(labels, self.num_classes)
        embedding = layers.LabelEmbedding(
            self.num_classes,
            x.shape[-1],
            embedding_init=self.kernel_init,
            power_iterations=self.power_iterations,
            name="embedding",
        )
        return DiscriminatorOutput(logits + jnp.sum(embedding(labels, train=train) * x, -1))
