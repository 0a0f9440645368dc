"""Convolution and transposed convolution whose derivatives are fast on every platform.

Both are written for any number of spatial dimensions, in the layout (B, *spatial, C) with kernels
(*spatial, in, out). A convolution `y = conv(x, k)` is bilinear, and so are its two gradients; each
of the three functions differentiates into the other two, so derivatives of every order (gradient
penalties take the second) run through the same three lowerings:

- *forward*: XLA's own.
- *input gradient* (which is also the transposed convolution).
- *kernel gradient*.

XLA's automatic gradients are convolutions with permuted dimension numbers. On a CPU those fall
off the fast path inside `lax.scan`, `lax.cond` and for transposed convolutions (20 to 170 times
slower), so there the permutation is written out as a transpose in front of a plain convolution,
and a strided input gradient whose stride divides the kernel becomes one matrix product and an
overlapping sum. Elsewhere XLA's own gradients are used. `lax.platform_dependent` chooses while
lowering and leaves no branch in the program.

Forward-mode differentiation is not defined; reverse mode is, to every order.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ganjax import axes as device_axes
from ganjax.types import Array

Padding = str | Sequence[tuple[int, int]]


class _Spec(NamedTuple):
    """The static half of a convolution; `size` and `kernel` are spatial sizes of x and kernel."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int


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
    spec = _Spec(x.shape[1:-1], kernel.shape[:-2], strides, pairs, groups)
    if min(_output_size(spec)) < 1:
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
    spec = _Spec(output_size, sizes, strides, pairs, 1)
    if _output_size(spec) != x.shape[1:-1]:
        raise ValueError(
            f"output_size {output_size} convolves down to {_output_size(spec)} with kernel {sizes},"
            f" strides {strides} and padding {pairs}, but the input is {x.shape[1:-1]}"
        )
    return _input_gradient(spec, *device_axes.vary_alike(x, jnp.swapaxes(kernel, -1, -2)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(spec: _Spec, x: Array, kernel: Array) -> Array:
    return _native(spec, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(spec: _Spec, y: Array, kernel: Array) -> Array:
    """Return (B, *size, in) from y (B, *output, out) and kernel (*kernel, in, out)."""

    def default(y, kernel):
        shape = (y.shape[0], *spec.size, kernel.shape[-2] * spec.groups)
        zeros = jnp.zeros_like(y, shape=shape)  # carries the device axes of y
        return jax.vjp(lambda x: _native(spec, x, kernel), zeros)[1](y)[0]

    if spec.groups != 1:
        return default(y, kernel)
    divides = all(k % s == 0 for k, s in zip(spec.kernel, spec.strides, strict=True))
    # XLA swaps the operands of a convolution whose kernel is larger than its input: 10x slower.
    swapped = math.prod(spec.kernel) > math.prod(y.shape[1:-1])
    crops = min(low for low, _ in spec.padding) < 0
    overlap = max(spec.strides) > 1 and (divides or swapped) and not crops
    cpu = _overlap_add if overlap else _flipped_conv
    return lax.platform_dependent(y, kernel, cpu=partial(cpu, spec), default=default)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(spec: _Spec, x: Array, y: Array) -> Array:
    """Return (*kernel, in, out) from x (B, *size, in) and y (B, *output, out)."""

    def default(x, y):
        shape = (*spec.kernel, x.shape[-1] // spec.groups, y.shape[-1])
        zeros = jnp.zeros_like(x, shape=shape)
        return jax.vjp(lambda kernel: _native(spec, x, kernel), zeros)[1](y)[0]

    if spec.groups != 1:
        return default(x, y)
    return lax.platform_dependent(x, y, cpu=partial(_batch_conv, spec), default=default)


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


def _native(spec: _Spec, x: Array, kernel: Array, **dilation) -> Array:
    spatial = "DHW"[-len(spec.size) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=spec.groups,
        **dilation,
    )


def _flipped_conv(spec: _Spec, y: Array, kernel: Array) -> Array:
    """Take the input gradient as a convolution of the dilated `y` with the flipped kernel."""
    rank = len(spec.size)
    flipped = jnp.swapaxes(jnp.flip(kernel, range(rank)), -1, -2)
    padding = []
    for n, k, s, (low, _), m in zip(
        spec.size, spec.kernel, spec.strides, spec.padding, y.shape[1:-1], strict=True
    ):
        before = k - 1 - low
        padding.append((before, n + k - 1 - before - ((m - 1) * s + 1)))
    plain = spec._replace(strides=(1,) * rank, padding=tuple(padding))
    return _native(plain, y, flipped, lhs_dilation=spec.strides)


def _overlap_add(spec: _Spec, y: Array, kernel: Array) -> Array:
    """Take the input gradient as one matrix product; the blocks it gives overlap and are summed."""
    rank, batch, outputs = len(spec.size), y.shape[0], y.shape[1:-1]
    channels = kernel.shape[-2]
    # To a multiple of the stride; where `_input_gradient` comes here otherwise, the map is tiny.
    missing = [-k % s for k, s in zip(spec.kernel, spec.strides, strict=True)]
    kernel = jnp.pad(kernel, [*((0, m) for m in missing), (0, 0), (0, 0)])
    taps = [k // s for k, s in zip(kernel.shape, spec.strides, strict=False)]
    columns = jnp.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)
    products = y.reshape(-1, y.shape[-1]) @ columns
    # (B, *outputs, tap, stride, tap, stride, ..., channels): one tap of each dimension at a time is
    # an image at full resolution, shifted by whole strides.
    pairs = [size for pair in zip(taps, spec.strides, strict=True) for size in pair]
    products = products.reshape(batch, *outputs, *pairs, channels)
    interleave = [0, *(axis for d in range(rank) for axis in (1 + d, 1 + rank + d)), 1 + 2 * rank]
    full = [n * s for n, s in zip(outputs, spec.strides, strict=True)]
    total = 0
    for tap in range(math.prod(taps)):
        index, rest = [], tap
        for size in reversed(taps):
            index.insert(0, rest % size)
            rest //= size
        take = (slice(None),) * (1 + rank) + tuple(i for t in index for i in (t, slice(None)))
        block = products[take].transpose(interleave).reshape(batch, *full, channels)
        edges = [
            (t * s, (size - 1 - t) * s)
            for t, s, size in zip(index, spec.strides, taps, strict=True)
        ]
        total = total + jnp.pad(block, [(0, 0), *edges, (0, 0)])
    # Drop what the padding covers; rows that no window reached have a gradient of zero.
    missing = [
        max(0, low + n - size)
        for (low, _), n, size in zip(spec.padding, spec.size, total.shape[1:-1], strict=True)
    ]
    total = jnp.pad(total, [(0, 0), *((0, m) for m in missing), (0, 0)])
    window = [slice(low, low + n) for (low, _), n in zip(spec.padding, spec.size, strict=True)]
    return total[(slice(None), *window)]


def _batch_conv(spec: _Spec, x: Array, y: Array) -> Array:
    """Take the kernel gradient as a convolution of `x` with `y`, batch and channels swapped."""
    rank = len(spec.size)
    padding = []
    for n, k, s, (low, _), m in zip(
        spec.size, spec.kernel, spec.strides, spec.padding, y.shape[1:-1], strict=True
    ):
        padding.append((low, k - 1 + (m - 1) * s + 1 - n - low))
    plain = spec._replace(strides=(1,) * rank, padding=tuple(padding))
    gradient = _native(
        plain, jnp.swapaxes(x, 0, -1), jnp.moveaxis(y, 0, -2), rhs_dilation=spec.strides
    )  # (in, *kernel, out)
    return jnp.moveaxis(gradient, 0, -2)


def _output_size(spec: _Spec) -> tuple[int, ...]:
    return tuple(
        (n + low + high - k) // s + 1
        for n, k, s, (low, high) in zip(
            spec.size, spec.kernel, spec.strides, spec.padding, strict=True
        )
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
