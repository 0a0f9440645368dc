"""R3GAN: residual networks without normalisation (Huang et al. 2024, arXiv:2501.05441).

Both networks are stages of residual blocks at one resolution each, the generator's from the
smallest map up, the discriminator's the same backwards. A block is a bottleneck turned inside out:
1x1 to twice the width, a grouped 3x3, 1x1 back, with no normalisation; weights are scaled by the
number of blocks and the last of each block is zero at first, so that training starts at the
identity (Fixup). The discriminator is meant for the relativistic loss with R1 and R2.

The smallest map is 4 pixels high or wide in the paper. Here the smaller side is anything from 4 to
7, what halving leaves of the image: 4x6 for 32x48, 7x7 for 28x28.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax import latents, ops
from ganjax.networks import layers
from ganjax.types import Array, DiscriminatorOutput, InputError

SMALLEST_SIDE, LARGEST_START = 4, 7
_SLOPE = 0.2
# Keeps the variance of what comes out of a leaky ReLU.
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))


def stage_sizes(size: Sequence[int]) -> list[tuple[int, int]]:
    """Return the sizes of the stages' maps, the smallest first.

    Raises:
      InputError: halving leaves a side that is too small, or stops at an odd one.

    >>> stage_sizes((32, 48))
    [(4, 6), (8, 12), (16, 24), (32, 48)]
    """
    sizes = [tuple(size)]
    while min(sizes[0]) >= 2 * SMALLEST_SIDE and not any(n % 2 for n in sizes[0]):
        sizes.insert(0, tuple(n // 2 for n in sizes[0]))
    if not SMALLEST_SIDE <= min(sizes[0]) <= LARGEST_START:
        raise InputError(
            f"r3gan halves images until their smaller side is {SMALLEST_SIDE} to {LARGEST_START} "
            f"pixels, but {tuple(size)} ends at {sizes[0]}; set data.image_size to multiples of a "
            "power of two, such as 32 or 48"
        )
    return sizes


class Block(nn.Module):
    """One residual block over (B, H, W, C).

    Attributes:
      groups: of the 3x3 convolution.
      expansion: of the channels inside.
      total_blocks: of the network, which the initial weights are scaled by.
      dtype: of the arithmetic.
    """

    groups: int
    expansion: int
    total_blocks: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        inside = features * self.expansion
        # Three linear layers a block: the exponent of Fixup is -1 / (2 * 3 - 2).
        gain = _GAIN * self.total_blocks ** (-1 / 4)
        y = _conv(self, "conv1", x, inside, gain=gain)
        y = nn.leaky_relu(y + self._bias("bias1", inside), _SLOPE)
        y = _conv(self, "conv2", y, inside, size=3, groups=self.groups, gain=gain)
        y = nn.leaky_relu(y + self._bias("bias2", inside), _SLOPE)
        return x + _conv(self, "conv3", y, features, gain=0.0)

    def _bias(self, name, features):
        return self.param(name, nn.initializers.zeros, (features,)).astype(self.dtype)


def _conv(module, name, x, features, *, size=1, groups=1, gain=1.0):
    """Convolve without a bias, the weights N(0, (gain / sqrt(fan-in))^2)."""
    shape = (size, size, x.shape[-1] // groups, features)
    init = nn.initializers.normal(gain / math.sqrt(math.prod(shape[:3])))
    kernel = module.param(name, init, shape).astype(x.dtype)
    if size == 1:
        return x @ kernel[0, 0]
    return ops.conv(x, kernel, groups=groups)


class Generator(nn.Module):
    """Latents (B, dimension) and labels or None -> images (B, H, W, C), about in [-1, 1].

    Attributes:
      image_shape: (H, W, C).
      widths: channels of the stages, the smallest map first.
      groups: of the 3x3 convolutions of each stage.
      blocks: of each stage.
      num_classes: 0 for an unconditional model.
      embedding_dim: what labels are mapped to, beside the latent.
      expansion: of the channels inside a block.
      taps: of the filter with which maps are enlarged.
      float32_stages: how many stages, from the smallest map, are in float32 whatever `dtype` is.
      dtype: of the other stages' arithmetic.
    """

    image_shape: Sequence[int]
    widths: Sequence[int]
    groups: Sequence[int]
    blocks: Sequence[int]
    num_classes: int = 0
    embedding_dim: int = 64
    expansion: int = 2
    taps: Sequence[float] = (1, 3, 3, 1)
    float32_stages: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        del train
        layers.require_labels(labels, self.num_classes)
        *size, channels = self.image_shape
        sizes = _check_stages(size, self.widths, self.groups, self.blocks, self.expansion)
        if self.num_classes:
            embedding = _embed(labels, self.num_classes, self.embedding_dim)
            z = jnp.concatenate([z, embedding], axis=-1)
        basis = self.param("basis", nn.initializers.normal(1.0), (*sizes[0], self.widths[0]))
        init = nn.initializers.normal(1 / math.sqrt(z.shape[-1]))
        weights = z @ self.param("basis_weights", init, (z.shape[-1], self.widths[0]))
        x = basis * weights[:, None, None, :]
        for stage, width in enumerate(self.widths):
            x = x.astype(jnp.float32 if stage < self.float32_stages else self.dtype)
            if x.shape[-1] != width:
                x = _conv(self, f"stage{stage}_transition", x, width)
            if stage:
                x = ops.upsample(x, taps=self.taps)
            for block in range(self.blocks[stage]):
                x = Block(
                    self.groups[stage],
                    self.expansion,
                    sum(self.blocks),
                    x.dtype,
                    name=f"stage{stage}_block{block}",
                )(x)
        return _conv(self, "to_image", x, channels).astype(jnp.float32)


class Discriminator(nn.Module):
    """Images (B, H, W, C) in [-1, 1] and labels or None -> `DiscriminatorOutput`.

    Labels enter as an inner product with the last features (Miyato and Koyama 2018,
    arXiv:1802.05637). It judges each image alone. The attributes are those of `Generator`, in the
    same order of stages: the smallest map, which comes last here, is stage 0.
    """

    widths: Sequence[int]
    groups: Sequence[int]
    blocks: Sequence[int]
    num_classes: int = 0
    embedding_dim: int = 768
    expansion: int = 2
    taps: Sequence[float] = (1, 3, 3, 1)
    float32_stages: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, labels: Array | None = None, *, train: bool = False
    ) -> DiscriminatorOutput:
        del train
        layers.require_labels(labels, self.num_classes)
        size = images.shape[1:3]
        _check_stages(size, self.widths, self.groups, self.blocks, self.expansion)
        last = len(self.widths) - 1
        x = images.astype(jnp.float32 if last < self.float32_stages else self.dtype)
        x = _conv(self, "from_image", x, self.widths[last])
        for stage in range(last, -1, -1):
            x = x.astype(jnp.float32 if stage < self.float32_stages else self.dtype)
            for block in range(self.blocks[stage]):
                x = Block(
                    self.groups[stage],
                    self.expansion,
                    sum(self.blocks),
                    x.dtype,
                    name=f"stage{stage}_block{block}",
                )(x)
            if stage:
                x = ops.downsample(x, taps=self.taps)
                if self.widths[stage - 1] != x.shape[-1]:
                    x = _conv(self, f"stage{stage}_transition", x, self.widths[stage - 1])
        # A depthwise convolution over the whole map.
        init = nn.initializers.normal(1 / math.sqrt(x.shape[1] * x.shape[2]))
        basis = self.param("basis", init, x.shape[1:])
        x = jnp.sum(x.astype(jnp.float32) * basis, axis=(1, 2))
        features = self.embedding_dim if self.num_classes else 1
        init = nn.initializers.normal(1 / math.sqrt(x.shape[-1]))
        x = x @ self.param("basis_weights", init, (x.shape[-1], features))
        if self.num_classes:
            x = x * _embed(labels, self.num_classes, features, gain=1 / math.sqrt(features))
        return DiscriminatorOutput(jnp.sum(x, axis=-1))


def _embed(labels, num_classes, features, gain=1.0):
    return layers.LabelEmbedding(
        num_classes, features, stddev=gain / math.sqrt(num_classes), name="labels"
    )(labels)


def _check_stages(size, widths, groups, blocks, expansion):
    """Return the stages' sizes; raise where the settings do not fit them or each other."""
    sizes = stage_sizes(size)
    if not len(widths) == len(groups) == len(blocks) == len(sizes):
        raise InputError(
            f"images of {tuple(size)} take {len(sizes)} stages, from {sizes[0]}, but there are "
            f"{len(widths)} widths, {len(groups)} groups and {len(blocks)} blocks; give "
            f"{len(sizes)} of each"
        )
    for width, count in zip(widths, groups, strict=True):
        if count < 1 or width * expansion % count:
            raise InputError(
                f"a stage of width {width} has {width * expansion} channels inside its blocks, "
                f"which do not divide into {count} groups"
            )
    return sizes


@dataclass(frozen=True)
class R3GAN:
    """R3GAN's two residual networks (Huang et al. 2024, arXiv:2501.05441)."""

    latent_dim: int = 64
    """Length of the latent, drawn from a normal distribution."""
    width: int = 768
    """Channels of the four smallest maps; each larger map has half as many as the one before."""
    widths: tuple[int, ...] = ()
    """Channels of every map, the smallest first, in place of width."""
    group_width: int = 16
    """Channels of a group of the 3x3 convolutions; ImageNet has 32."""
    groups: tuple[int, ...] = ()
    """Groups of every map, in place of group_width."""
    blocks: int = 2
    """Residual blocks at every map."""
    stage_blocks: tuple[int, ...] = ()
    """Residual blocks of every map, the smallest first, in place of blocks."""
    expansion: int = 2
    """Channels inside a block for each outside."""
    generator_embedding_dim: int = 64
    """Length of the label's embedding beside the latent."""
    discriminator_embedding_dim: int | None = None
    """Length of the features that meet the label's embedding; by default the smallest map's
    width."""
    taps: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
    """Filter of the resampling; the paper's [1, 2, 1] applied to repeated pixels."""
    float32_stages: int = 1
    """Maps, from the smallest, that stay in float32 where train.precision is bfloat16."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for images of `shape` (H, W, C)."""
        if len(shape) != 3:
            raise InputError(
                f"r3gan makes images of shape (H, W, C), but the data has shape {tuple(shape)}; "
                "take the mlp"
            )
        for name in ("latent_dim", "width", "group_width", "blocks", "expansion"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} has to be 1 or more, got {getattr(self, name)}")
        stages = len(stage_sizes(shape[:2]))
        widths = self.widths or tuple(
            max(1, self.width // 2 ** max(0, stage - 3)) for stage in range(stages)
        )
        groups = self.groups or tuple(
            max(1, width * self.expansion // self.group_width) for width in widths
        )
        common = {
            "widths": widths,
            "groups": groups,
            "blocks": self.stage_blocks or (self.blocks,) * stages,
            "num_classes": num_classes,
            "expansion": self.expansion,
            "taps": self.taps,
            "float32_stages": self.float32_stages,
            "dtype": dtype,
        }
        _check_stages(shape[:2], widths, groups, common["blocks"], self.expansion)
        return {
            "generator": Generator(
                tuple(shape), embedding_dim=self.generator_embedding_dim, **common
            ),
            "discriminator": Discriminator(
                embedding_dim=self.discriminator_embedding_dim or widths[0], **common
            ),
            "latents": latents.normal(self.latent_dim),
        }
