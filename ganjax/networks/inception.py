"""Inception-v3 as the FID uses it: the TensorFlow graph of December 2015.

It differs from the usual Inception-v3 in its 1,008 logits, in average pooling that does not count
the padding, and in max pooling in the last block.

References:
  Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2015
  (arXiv 1512.00567).
  Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017 (arXiv 1706.08500).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ganjax import ops
from ganjax.types import Array

SIZE = 299
# Where global averages are taken, by the number of channels there.
FEATURES = ("64", "192", "768", "2048")


class ConvReLU(nn.Module):
    """A convolution with bias and ReLU; the bias and the kernel hold the batch norm that was there.

    Attributes:
      channels: of the result.
      kernel: height and width.
      stride: in both directions.
      padding: rows above and below, columns left and right.
    """

    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        if self.kernel == (1, 1):
            x = x @ kernel[0, 0]
        else:
            pairs = [(pad, pad) for pad in self.padding]
            x = ops.conv(x, kernel, strides=self.stride, padding=pairs)
        return nn.relu(x + bias)


class InceptionV3(nn.Module):
    """Images to features of four depths and logits.

    Parameters are named as the official tensors: `Mixed_5b/branch1x1` and so on.
    """

    num_logits: int = 1008

    @nn.compact
    def __call__(self, images: Array) -> dict[str, Array]:
        """Return what the network makes of images.

        Args:
          images: (B, H, W, 3) in [0, 255], of any size; they are resized as TensorFlow 1 did.

        Returns:
          `64`, `192`, `768` and `2048`, (B, channels) each: means over the places of a layer's
          output; and `logits_unbiased` (B, num_logits), without the bias of the last layer, as the
          inception score takes them.
        """
        found = {}
        x = (resize(images, SIZE) - 128.0) / 128.0
        x = ConvReLU(32, (3, 3), 2, name="Conv2d_1a_3x3")(x)
        x = ConvReLU(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = ConvReLU(64, (3, 3), padding=(1, 1), name="Conv2d_2b_3x3")(x)
        x = _shrinking_max_pool(x)
        found["64"] = x.mean(axis=(1, 2))
        x = ConvReLU(80, name="Conv2d_3b_1x1")(x)
        x = ConvReLU(192, (3, 3), name="Conv2d_4a_3x3")(x)
        x = _shrinking_max_pool(x)
        found["192"] = x.mean(axis=(1, 2))
        x = Block35(32, name="Mixed_5b")(x)
        x = Block35(64, name="Mixed_5c")(x)
        x = Block35(64, name="Mixed_5d")(x)
        x = Reduction35(name="Mixed_6a")(x)
        x = Block17(128, name="Mixed_6b")(x)
        x = Block17(160, name="Mixed_6c")(x)
        x = Block17(160, name="Mixed_6d")(x)
        x = Block17(192, name="Mixed_6e")(x)
        found["768"] = x.mean(axis=(1, 2))
        x = Reduction17(name="Mixed_7a")(x)
        x = Block8(_average_pool, name="Mixed_7b")(x)
        x = Block8(_max_pool, name="Mixed_7c")(x)
        found["2048"] = x.mean(axis=(1, 2))
        logits = nn.Dense(self.num_logits, use_bias=False, name="fc")
        found["logits_unbiased"] = logits(found["2048"])
        return found


class Block35(nn.Module):
    """The blocks on 35x35 places: branches of 1x1, 5x5, two 3x3, and pooling."""

    pool_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = ConvReLU(64, name="branch1x1")(x)
        five = ConvReLU(48, name="branch5x5_1")(x)
        five = ConvReLU(64, (5, 5), padding=(2, 2), name="branch5x5_2")(five)
        three = ConvReLU(64, name="branch3x3dbl_1")(x)
        three = ConvReLU(96, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(three)
        three = ConvReLU(96, (3, 3), padding=(1, 1), name="branch3x3dbl_3")(three)
        pooled = ConvReLU(self.pool_channels, name="branch_pool")(_average_pool(x))
        return jnp.concatenate([one, five, three, pooled], axis=-1)


class Reduction35(nn.Module):
    """From 35x35 to 17x17 places."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = ConvReLU(384, (3, 3), 2, name="branch3x3")(x)
        double = ConvReLU(64, name="branch3x3dbl_1")(x)
        double = ConvReLU(96, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(double)
        double = ConvReLU(96, (3, 3), 2, name="branch3x3dbl_3")(double)
        return jnp.concatenate([three, double, _shrinking_max_pool(x)], axis=-1)


class Block17(nn.Module):
    """The blocks on 17x17 places, with rows and columns of seven instead of 7x7."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def row(channels: int, name: str) -> ConvReLU:
            return ConvReLU(channels, (1, 7), padding=(0, 3), name=name)

        def column(channels: int, name: str) -> ConvReLU:
            return ConvReLU(channels, (7, 1), padding=(3, 0), name=name)

        one = ConvReLU(192, name="branch1x1")(x)
        seven = ConvReLU(self.channels, name="branch7x7_1")(x)
        seven = row(self.channels, "branch7x7_2")(seven)
        seven = column(192, "branch7x7_3")(seven)
        double = ConvReLU(self.channels, name="branch7x7dbl_1")(x)
        double = column(self.channels, "branch7x7dbl_2")(double)
        double = row(self.channels, "branch7x7dbl_3")(double)
        double = column(self.channels, "branch7x7dbl_4")(double)
        double = row(192, "branch7x7dbl_5")(double)
        pooled = ConvReLU(192, name="branch_pool")(_average_pool(x))
        return jnp.concatenate([one, seven, double, pooled], axis=-1)


class Reduction17(nn.Module):
    """From 17x17 to 8x8 places."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = ConvReLU(192, name="branch3x3_1")(x)
        three = ConvReLU(320, (3, 3), 2, name="branch3x3_2")(three)
        seven = ConvReLU(192, name="branch7x7x3_1")(x)
        seven = ConvReLU(192, (1, 7), padding=(0, 3), name="branch7x7x3_2")(seven)
        seven = ConvReLU(192, (7, 1), padding=(3, 0), name="branch7x7x3_3")(seven)
        seven = ConvReLU(192, (3, 3), 2, name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, _shrinking_max_pool(x)], axis=-1)


class Block8(nn.Module):
    """The blocks on 8x8 places; they differ in their pooling."""

    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def fork(x: Array, name: str) -> list[Array]:
            return [
                ConvReLU(384, (1, 3), padding=(0, 1), name=f"{name}a")(x),
                ConvReLU(384, (3, 1), padding=(1, 0), name=f"{name}b")(x),
            ]

        one = ConvReLU(320, name="branch1x1")(x)
        three = fork(ConvReLU(384, name="branch3x3_1")(x), "branch3x3_2")
        double = ConvReLU(448, name="branch3x3dbl_1")(x)
        double = ConvReLU(384, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(double)
        double = fork(double, "branch3x3dbl_3")
        pooled = ConvReLU(192, name="branch_pool")(self.pool(x))
        return jnp.concatenate([one, *three, *double, pooled], axis=-1)


def resize(images: Array, size: int) -> Array:
    """Return images (B, H, W, C) at `size` x `size`, float32, as TensorFlow 1 resized.

    Bilinear between the places i·H/size, which lie up and left of where pixel centres would map to,
    and without antialiasing: part of what an FID is.
    """
    x = images.astype(jnp.float32)
    for axis in (1, 2):
        length = x.shape[axis]
        places = np.arange(size) * (length / size)
        lower = np.minimum(np.floor(places).astype(int), length - 1)
        upper = np.minimum(lower + 1, length - 1)
        shape = [1] * x.ndim
        shape[axis] = size
        share = jnp.asarray((places - lower).reshape(shape), jnp.float32)
        below = jnp.take(x, lower, axis=axis)
        x = below + (jnp.take(x, upper, axis=axis) - below) * share
    return x


# Pooling is maxima and sums of slices: XLA's own windows take up to ten times as long on a CPU.


def _shrinking_max_pool(x: Array) -> Array:
    for axis in (1, 2):
        length = 2 * ((x.shape[axis] - 3) // 2) + 1
        x = _over_three(jnp.maximum, x, axis, length, stride=2)
    return x


def _max_pool(x: Array) -> Array:
    for axis in (1, 2):
        x = _over_three(jnp.maximum, _padded(x, axis, -jnp.inf), axis, x.shape[axis])
    return x


def _average_pool(x: Array) -> Array:
    """Return means over 3x3 places, of those that are there."""
    for axis in (1, 2):
        length = x.shape[axis]
        count = np.full(length, 3.0, np.float32)
        count[[0, -1]] = 2.0
        shape = [1] * x.ndim
        shape[axis] = length
        x = _over_three(jnp.add, _padded(x, axis, 0.0), axis, length)
        x = x * jnp.asarray(1.0 / count).reshape(shape)
    return x


def _padded(x: Array, axis: int, value: float) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (1, 1)
    return jnp.pad(x, widths, constant_values=value)


def _over_three(
    join: Callable[[Array, Array], Array], x: Array, axis: int, length: int, stride: int = 1
) -> Array:
    """Join each of `length` places with the two that follow; each `stride`-th stays."""
    parts = [jax.lax.slice_in_dim(x, i, i + length, stride, axis) for i in range(3)]
    return join(join(parts[0], parts[1]), parts[2])
