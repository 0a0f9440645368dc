"""Convolution and resampling whose derivatives are fast on every platform.

All are written for any number of spatial dimensions, in the layout (B, *spatial, C) with kernels
(*spatial, in, out). A convolution `y = conv(x, k)` is bilinear, and so are its two gradients; each
of the three functions differentiates into the other two, so derivatives of every order (gradient
penalties take the second) run through the same three lowerings:

- *forward*: XLA's own.
- *input gradient* (which is also the transposed convolution).
- *kernel gradient*.

`ganjax.lowerings` has them, and chooses their form by shape and platform. Up- and down-sampling are
each other's transposes, so that their derivatives are each other too; written as sums of shifted
slices they fuse into a pass or two over memory (`python benchmarks/ops.py` compares them with the
depthwise convolutions that they replace).

Forward-mode differentiation is not defined; reverse mode is, to every order.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ganjax import axes as device_axes
from ganjax import lowerings
from ganjax.lowerings import Spec
from ganjax.types import Array

Padding = str | Sequence[tuple[int, int]]


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    groups: int = 1,
) -> Array:
    """Convolve `x` with `kernel` (a cross-correlation, as everywhere in deep learning).

    Args:
      x: (B, *spatial, in), one to three spatial dimensions.
      kernel: (*kernel_size, in // groups, out), of the dtype of `x`.
      strides: one for all dimensions, or one each.
      padding: "SAME" (output size = size / stride, rounded up), "VALID", or (low, high) pairs.
      groups: of channels that do not mix.

    Returns:
      (B, *output_spatial, out).

    >>> conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 2)), strides=2).shape
    (1, 2, 2, 2)
    """
    rank = x.ndim - 2
    if rank < 1 or kernel.ndim != x.ndim or kernel.shape[-2] * groups != x.shape[-1]:
        raise ValueError(
            f"expected a kernel of shape (*{rank} sizes, {x.shape[-1] // groups}, out) for inputs "
            f"of shape {x.shape} and {groups} group(s), got {kernel.shape}"
        )
    strides = _as_tuple(strides, rank)
    pairs = _as_pairs(padding, x.shape[1:-1], kernel.shape[:-2], strides)
    spec = Spec(x.shape[1:-1], kernel.shape[:-2], strides, pairs, groups)
    if min(spec.output) < 1:
        raise ValueError(
            f"nothing is left of inputs of shape {x.shape} with kernel {spec.kernel}, strides "
            f"{strides} and padding {pairs}; pad more or take a smaller kernel"
        )
    return _conv(spec, *device_axes.vary_alike(x, kernel))


def conv_transpose(
    x: Array,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    output_size: Sequence[int] | None = None,
) -> Array:
    """Apply the transpose of a strided convolution: `y[stride * i + k - low] += x[i] kernel[k]`.

    Args:
      x: (B, *spatial, in).
      kernel: (*kernel_size, in, out), of the dtype of `x`.
      strides: one for all dimensions, or one each.
      padding: that of the convolution which this is the transpose of: "SAME", "VALID" or pairs.
      output_size: spatial size of the result; needed only where several convolve down to the size
        of `x`. By default `size * stride` for "SAME", the smallest possible otherwise.

    Returns:
      (B, *output_size, out).

    >>> conv_transpose(jnp.ones((1, 4, 4, 3)), jnp.ones((4, 4, 3, 2)), strides=2).shape
    (1, 8, 8, 2)
    """
    rank = x.ndim - 2
    if rank < 1 or kernel.ndim != x.ndim or kernel.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"expected a kernel of shape (*{rank} sizes, {x.shape[-1]}, out) for inputs of shape "
            f"{x.shape}, got {kernel.shape}"
        )
    strides = _as_tuple(strides, rank)
    sizes = kernel.shape[:-2]
    if output_size is None:
        if isinstance(padding, str) and padding.upper() != "VALID":
            output_size = [n * s for n, s in zip(x.shape[1:-1], strides, strict=True)]
        else:
            pads = _as_pairs(padding, sizes, sizes, strides)
            output_size = [
                (n - 1) * s + k - low - high
                for n, s, k, (low, high) in zip(x.shape[1:-1], strides, sizes, pads, strict=True)
            ]
    output_size = tuple(output_size)
    pairs = _as_pairs(padding, output_size, sizes, strides)
    spec = Spec(output_size, sizes, strides, pairs, 1)
    if spec.output != x.shape[1:-1]:
        raise ValueError(
            f"output_size {output_size} convolves down to {spec.output} with kernel {sizes},"
            f" strides {strides} and padding {pairs}, but the input is {x.shape[1:-1]}"
        )
    return _input_gradient(spec, *device_axes.vary_alike(x, jnp.swapaxes(kernel, -1, -2)))


def upsample(x: Array, factor: int = 2, *, taps: Sequence[float] | None = None) -> Array:
    """Enlarge by repeating pixels, or by inserting zeros and filtering.

    Args:
      x: (B, *spatial, C).
      factor: of every spatial size.
      taps: of a symmetric filter, applied along each dimension and normalised so that a constant
        stays one away from the border, such as (1, 3, 3, 1) (StyleGAN2) or (1, 2, 1) (R3GAN); None
        repeats pixels. The border is zero, as in those papers.

    Returns:
      (B, *(factor * spatial), C), of the dtype of `x`.

    References:
      Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, arXiv:1912.04958.

    >>> upsample(jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0].tolist()
    [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    >>> upsample(jnp.ones((1, 3, 1)), taps=(1, 3, 3, 1))[0, :, 0].tolist()
    [0.75, 1.0, 1.0, 1.0, 1.0, 0.75]
    """
    taps = _normalised(taps, factor, factor)
    sizes = tuple(n * factor for n in x.shape[1:-1])
    overlap = len(taps) - factor
    return _spread(x, _Filter(taps, factor, overlap // 2, overlap - overlap // 2), sizes)


def downsample(x: Array, factor: int = 2, *, taps: Sequence[float] | None = None) -> Array:
    """Shrink by averaging blocks of pixels, or by filtering and keeping every `factor`-th pixel.

    Args:
      x: (B, *spatial, C).
      factor: of every spatial size, which it has to divide.
      taps: as in `upsample`, normalised to a sum of one; None averages blocks.

    Returns:
      (B, *(spatial / factor), C), of the dtype of `x`.

    >>> downsample(jnp.arange(4.0).reshape(1, 4, 1))[0, :, 0].tolist()
    [0.5, 2.5]
    """
    if any(n % factor for n in x.shape[1:-1]):
        raise ValueError(f"{factor} does not divide the spatial sizes of {x.shape}; pad it first")
    taps = _normalised(taps, 1, factor)
    overlap = len(taps) - factor
    return _gather(x, _Filter(taps, factor, overlap - overlap // 2, overlap // 2))


def blur(x: Array, taps: Sequence[float]) -> Array:
    """Filter along each spatial dimension without a change of size.

    Args:
      x: (B, *spatial, C).
      taps: as in `downsample`.

    >>> blur(jnp.ones((1, 4, 1)), (1, 2, 1))[0, :, 0].tolist()
    [0.75, 1.0, 1.0, 0.75]
    """
    return downsample(x, 1, taps=taps)


class _Filter(NamedTuple):
    """A filter and how it meets each dimension, the same for all."""

    taps: tuple[float, ...]
    stride: int
    low: int
    high: int


def _normalised(taps: Sequence[float] | None, total: float, factor: int) -> tuple[float, ...]:
    taps = tuple(float(tap) for tap in (taps or (1.0,) * factor))
    if len(taps) < factor or not sum(taps):
        raise ValueError(
            f"a filter needs at least {factor} taps, the factor, with a sum that is not zero; got "
            f"{taps}"
        )
    return tuple(total * tap / sum(taps) for tap in taps)


# `_gather` computes y[i] = sum_k taps[k] x[stride * i + k - low] along each spatial dimension, and
# `_spread` its transpose.
@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(x: Array, filter_: _Filter) -> Array:
    for axis in range(1, x.ndim - 1):
        x = _gather_along(x, axis, filter_)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(y: Array, filter_: _Filter, sizes: tuple[int, ...]) -> Array:
    for axis, size in enumerate(sizes, 1):
        y = _spread_along(y, axis, filter_, size)
    return y


_gather.defvjp(
    lambda x, filter_: (_gather(x, filter_), x.shape[1:-1]),
    lambda filter_, sizes, y: (_spread(y, filter_, sizes),),
)
_spread.defvjp(
    lambda y, filter_, sizes: (_spread(y, filter_, sizes), None),
    lambda filter_, sizes, _, x: (_gather(x, filter_),),
)


def _gather_along(x: Array, axis: int, filter_: _Filter) -> Array:
    taps, stride, low, high = filter_
    zero = jnp.zeros((), x.dtype)
    edges = [(low, high, 0) if d == axis else (0, 0, 0) for d in range(x.ndim)]
    x = lax.pad(x, zero, edges)
    outputs = (x.shape[axis] - len(taps)) // stride + 1
    stop = (outputs - 1) * stride + 1
    return sum(
        jnp.asarray(tap, x.dtype) * lax.slice_in_dim(x, k, k + stop, stride, axis)
        for k, tap in enumerate(taps)
        if tap
    )


def _spread_along(y: Array, axis: int, filter_: _Filter, size: int) -> Array:
    taps, stride, low, _ = filter_
    # Position p of the padded result gets taps[p - stride * i] y[i]: a phase p % stride takes every
    # stride-th tap. The phases are interleaved at the end.
    taps = (*taps, *(0.0,) * (-len(taps) % stride))
    count = len(taps) // stride  # taps of a phase
    length = -(-(low + size) // stride)  # positions of a phase
    edges = [
        (count - 1, max(0, length - y.shape[axis]), 0) if d == axis else (0, 0, 0)
        for d in range(y.ndim)
    ]
    padded = lax.pad(y, jnp.zeros((), y.dtype), edges)
    phases = []
    for phase in range(stride):
        parts = [
            jnp.asarray(tap, y.dtype)
            * lax.slice_in_dim(padded, count - 1 - k, count - 1 - k + length, 1, axis)
            for k, tap in enumerate(taps[phase::stride])
        ]
        phases.append(sum(parts))
    spread = jnp.stack(phases, axis + 1)
    spread = spread.reshape(*y.shape[:axis], length * stride, *y.shape[axis + 1 :])
    return lax.slice_in_dim(spread, low, low + size, 1, axis)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(spec: Spec, x: Array, kernel: Array) -> Array:
    return lowerings.forward(spec, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(spec: Spec, y: Array, kernel: Array) -> Array:
    return lowerings.input_gradient(spec, y, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(spec: Spec, x: Array, y: Array) -> Array:
    return lowerings.kernel_gradient(spec, x, y)


def _save_operands(function, spec, a, b):
    return function(spec, a, b), (a, b)


_conv.defvjp(
    partial(_save_operands, _conv),
    lambda spec, saved, y: (
        _input_gradient(spec, y, saved[1]),
        _kernel_gradient(spec, saved[0], y),
    ),
)
_input_gradient.defvjp(
    partial(_save_operands, _input_gradient),
    lambda spec, saved, x: (_conv(spec, x, saved[1]), _kernel_gradient(spec, x, saved[0])),
)
_kernel_gradient.defvjp(
    partial(_save_operands, _kernel_gradient),
    lambda spec, saved, kernel: (
        _input_gradient(spec, saved[1], kernel),
        _conv(spec, saved[0], kernel),
    ),
)


def _as_tuple(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank:
        raise ValueError(f"expected one stride or {rank}, one a spatial dimension, got {value}")
    return values


def _as_pairs(padding, size, kernel, strides) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, kernel, strides, padding)
    if len(padding) != len(size):
        raise ValueError(f"expected {len(size)} pairs of padding, got {padding}")
    return tuple((int(low), int(high)) for low, high in padding)
