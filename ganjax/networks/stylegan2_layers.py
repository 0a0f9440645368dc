"""The layers of StyleGAN2: equalised and modulated convolutions, mapping, minibatch statistics.

All weights are drawn from a standard normal and scaled where they are used (equalised learning
rate, Karras et al. 2018, arXiv:1710.10196), so that Adam's steps mean the same in every layer.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ganjax import axes, ops
from ganjax.types import Array, InputError

# Low-pass filter of every change of resolution, along each dimension.
TAPS = (1.0, 3.0, 3.0, 1.0)
SMALLEST_SIDE = 4
NOISE_MODES = ("random", "const", "none")
_EPSILON = 1e-8


def block_sizes(size: Sequence[int]) -> list[tuple[int, int]]:
    """Return the sizes of a network's blocks, from the smallest to `size`, each twice the last.

    Raises:
      InputError: halving `size` does not lead to a smaller side of 4 to 8 pixels.

    >>> block_sizes((32, 48))
    [(4, 6), (8, 12), (16, 24), (32, 48)]
    """
    sizes = [tuple(size)]
    while min(sizes[0]) >= 2 * SMALLEST_SIDE and not any(n % 2 for n in sizes[0]):
        sizes.insert(0, tuple(n // 2 for n in sizes[0]))
    if len(sizes) == 1 or min(sizes[0]) > 2 * SMALLEST_SIDE:
        unit = 2 ** max(1, math.floor(math.log2(max(min(size), 2 * SMALLEST_SIDE) / 4)))
        near = [max(2 * SMALLEST_SIDE, -(-n // unit) * unit) for n in size]
        raise InputError(
            "stylegan2 doubles a rectangle whose smaller side has 4 to 8 pixels at least once, and "
            f"images of {size[0]}x{size[1]} do not come of that; make them {near[0]}x{near[1]}"
        )
    return sizes


def block_name(size: Sequence[int]) -> str:
    """Return what a block's layers are called by: `b32` for 32x32, the smaller side otherwise."""
    return f"b{min(size)}"


def num_channels(size: Sequence[int], channel_base: int, channel_max: int) -> int:
    """Return the channels of feature maps of a size: `channel_base` over the smaller side."""
    return max(1, min(channel_base // min(size), channel_max))


def block_dtypes(num_blocks: int, num_low_precision: int, dtype: Any) -> list[Any]:
    """Return the dtype of each block, smallest first: `dtype` in the last ones, never the first."""
    first = max(1, num_blocks - num_low_precision)
    return [dtype if block >= first else jnp.float32 for block in range(num_blocks)]


def activate(x: Array, *, gain: float = 1.0, clamp: float | None = None) -> Array:
    """Apply a leaky ReLU that keeps the variance (gain sqrt 2), times `gain`, and clamp it."""
    high = math.sqrt(2) * gain
    return _clamped(x * jnp.where(x > 0, high, 0.2 * high).astype(x.dtype), clamp, gain)


def _clamped(x, clamp, gain=1.0):
    return x if clamp is None else jnp.clip(x, -clamp * gain, clamp * gain)


def normalise_second_moment(x: Array) -> Array:
    """Scale vectors (B, C) to a mean square of one."""
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + _EPSILON)


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate; (B, in) -> (B, features).

    Attributes:
      features: outputs.
      activation: whether a leaky ReLU follows.
      bias_init: the bias at the start.
      learning_rate_multiplier: how much slower than other layers it learns.
    """

    features: int
    activation: bool = False
    bias_init: float = 0.0
    learning_rate_multiplier: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        slower = self.learning_rate_multiplier
        init = nn.initializers.normal(1 / slower)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias_init), (self.features,))
        x = x @ (kernel * (slower / math.sqrt(x.shape[-1]))) + bias * slower
        return activate(x) if self.activation else x


class Conv(nn.Module):
    """Convolution with equalised learning rate, and a change of resolution; (B, H, W, in) -> out.

    Attributes:
      features: output channels.
      kernel_size: height and width, odd.
      resample: "up" doubles height and width, "down" halves them, None keeps them.
      activation: whether bias and leaky ReLU follow.
      gain: of the result.
      clamp: largest magnitude of an activation, or None.
    """

    features: int
    kernel_size: int = 3
    resample: str | None = None
    activation: bool = True
    gain: float = 1.0
    clamp: float | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        scale = 1 / math.sqrt(math.prod(shape[:-1]))
        if not self.activation:
            scale *= self.gain
        x = convolve(x, (kernel * scale).astype(x.dtype), self.resample)
        if not self.activation:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return activate(x + bias.astype(x.dtype), gain=self.gain, clamp=self.clamp)


def convolve(x: Array, kernel: Array, resample: str | None) -> Array:
    """Convolve (B, H, W, in) with (k, k, in, out), low-pass filtered where the size changes.

    "up" inserts zeros, convolves and filters; "down" filters and convolves with stride 2.
    """
    if kernel.shape[:2] == (1, 1):
        if resample == "down":
            x = ops.downsample(x, taps=TAPS)
        # Of two dimensions: XLA would transpose the gradients of a product with more, on a CPU.
        x = (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
        return ops.upsample(x, taps=TAPS) if resample == "up" else x
    if resample == "up":
        return _blur_up(ops.conv_transpose(x, kernel, strides=2, padding="VALID"))
    if resample == "down":
        return ops.conv(_blur_down(x), kernel, strides=2, padding="VALID")
    return ops.conv(x, kernel)


def _blur_up(x):
    """Filter (B, 2H + 1, 2W + 1, C) to (B, 2H, 2W, C), a constant to four times itself."""
    return ops.blur(x, TAPS)[:, 1:, 1:] * jnp.asarray(4, x.dtype)


def _blur_down(x):
    """Filter (B, H, W, C) to (B, H + 1, W + 1, C)."""
    return ops.blur(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), TAPS)


def modulated_conv(
    x: Array, kernel: Array, scales: Array, *, demodulate: bool = True, resample: str | None = None
) -> Array:
    """Convolve each example with a kernel whose input channels are scaled by its style.

    The inputs are scaled instead of the kernel, and the outputs by what demodulation would divide
    the kernel by: the same result from one convolution that all examples share.

    Args:
      x: (B, H, W, in), in the dtype of the arithmetic.
      kernel: (k, k, in, out), float32.
      scales: (B, in), float32, of the input channels.
      demodulate: scale each output channel so that inputs of unit variance keep it.
      resample: "up" or None, as in `convolve`.

    Returns:
      (B, H', W', out).

    References:
      Karras et al. 2020, arXiv:1912.04958, section 2.2.
    """
    if demodulate and x.dtype == jnp.float16:
        # Demodulation takes any scale away; these keep float16 from overflowing.
        largest = jnp.max(jnp.abs(kernel), axis=(0, 1, 2))
        kernel = kernel / (largest * math.sqrt(math.prod(kernel.shape[:-1])))
        scales = scales / jnp.max(jnp.abs(scales), axis=1, keepdims=True)

    def spread(factors):  # (B, C) over the pixels
        return factors[:, None, None, :].astype(x.dtype)

    y = convolve(x * spread(scales), kernel.astype(x.dtype), resample)
    if not demodulate:
        return y
    energy = jnp.square(scales) @ jnp.sum(jnp.square(kernel), axis=(0, 1))
    return y * spread(lax.rsqrt(energy + _EPSILON))


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU; (B, H, W, in) -> (B, H', W', features).

    The constant noise is in the collection `"noise_const"`.

    Attributes:
      features: output channels.
      resample: "up" or None.
      gain: of the result.
      clamp: largest magnitude of an activation, or None.
    """

    features: int
    resample: str | None = None
    gain: float = 1.0
    clamp: float | None = None

    @nn.compact
    def __call__(self, x: Array, style: Array, *, noise: str) -> Array:
        kernel = self.param(
            "kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features)
        )
        scales = Dense(x.shape[-1], bias_init=1.0, name="affine")(style)
        x = modulated_conv(x, kernel, scales, resample=self.resample)
        x = x + self._noise(noise, x.shape[:3]).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return activate(x + bias.astype(x.dtype), gain=self.gain, clamp=self.clamp)

    def _noise(self, mode, shape):
        """Return noise (B or 1, H, W, 1) for outputs of (B, H, W)."""
        batch, *size = shape
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        constant = self.variable(
            "noise_const", "noise", lambda: jax.random.normal(self.make_rng("params"), size)
        )
        if mode == "none":
            return jnp.zeros((1, 1, 1, 1))
        if mode == "const":
            return strength * constant.value[None, :, :, None]
        if not self.has_rng("noise"):
            raise ValueError(
                'random noise needs a random key, rngs={"noise": key}; pass one, or noise="const"'
            )

        def sample(key, n):
            return jax.random.normal(key, (n, *size, 1))

        return strength * axes.draw(sample, self.make_rng("noise"), batch)


class ToImage(nn.Module):
    """Modulated 1x1 convolution without demodulation: (B, H, W, in) -> (B, H, W, C) float32."""

    channels: int
    clamp: float | None = None

    @nn.compact
    def __call__(self, x: Array, style: Array) -> Array:
        features = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, features, self.channels))
        scales = Dense(features, bias_init=1.0, name="affine")(style) / math.sqrt(features)
        x = modulated_conv(x, kernel, scales, demodulate=False)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return _clamped(x + bias.astype(x.dtype), self.clamp).astype(jnp.float32)


class Mapping(nn.Module):
    """Latents (B, z_dim) and a condition -> (B, features); either may be absent.

    Attributes:
      features: of every layer.
      num_layers: how many.
      num_classes: labels are integers (B,) below it, or vectors (B, num_classes); 0 for none.
    """

    features: int
    num_layers: int = 8
    num_classes: int = 0

    @nn.compact
    def __call__(self, z: Array | None, labels: Array | None) -> Array:
        parts = [] if z is None else [normalise_second_moment(z.astype(jnp.float32))]
        if self.num_classes:
            embedding = Dense(self.features, name="embed")(as_vectors(labels, self.num_classes))
            parts.append(normalise_second_moment(embedding))
        x = jnp.concatenate(parts, axis=-1)
        for layer in range(self.num_layers):
            x = Dense(
                self.features,
                activation=True,
                learning_rate_multiplier=0.01,
                name=f"fc{layer}",
            )(x)
        return x


def as_vectors(labels: Array, num_classes: int) -> Array:
    """Return integer labels (B,) one-hot, and vectors (B, num_classes) as float32."""
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes)
    if labels.ndim != 2 or labels.shape[1] != num_classes:
        raise ValueError(
            f"labels have to be integers (B,) or vectors (B, {num_classes}), got {labels.dtype} "
            f"{labels.shape}"
        )
    return labels.astype(jnp.float32)


def minibatch_stddev(x: Array, group_size: int, *, train: bool) -> Array:
    """Append a channel that says how much the examples of a group differ.

    Example n of the N of the global batch belongs to group n mod (N / size).

    Args:
      x: (B, H, W, C).
      group_size: examples of a group; all, where the batch is smaller.
      train: a batch that does not divide into groups is refused; otherwise the largest smaller
        size that divides it is taken.

    Returns:
      (B, H, W, C + 1).

    References:
      Karras et al. 2018, arXiv:1710.10196, section 3.
    """
    bound, local = axes.bound_axes(), x.shape[0]
    everyone = lax.all_gather(x, bound, tiled=True) if bound else x
    batch = everyone.shape[0]
    size = min(group_size, batch)
    if batch % size:
        if train:
            raise ValueError(
                f"a batch of {batch} does not divide into groups of {size} for the minibatch "
                "standard deviation; change the batch size or mbstd_group_size"
            )
        size = max(n for n in range(1, size) if batch % n == 0)
    groups = everyone.astype(jnp.float32).reshape(size, batch // size, *x.shape[1:])
    variance = jnp.mean(jnp.square(groups - jnp.mean(groups, axis=0)), axis=0)
    statistic = jnp.mean(jnp.sqrt(variance + _EPSILON), axis=(1, 2, 3))
    statistic = jnp.tile(statistic, size)  # (N,)
    if bound:
        start = lax.axis_index(bound) * local
        statistic = lax.dynamic_slice_in_dim(statistic, start, local)
    plane = jnp.broadcast_to(statistic[:, None, None, None], (*x.shape[:3], 1))
    return jnp.concatenate([x, plane.astype(x.dtype)], axis=-1)
