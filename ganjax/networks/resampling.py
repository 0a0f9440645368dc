"""Convolution together with the doubling before it or the halving after it."""

import itertools

import jax.numpy as jnp
from jax import lax

from ganjax import axes, ops
from ganjax.types import Array


def resampled_conv(x: Array, kernel: Array, resample: str) -> Array:
    """Repeat pixels twofold and convolve, or convolve and average blocks of two.

    Each without the steps in between, with a kernel one pixel larger: of the products of a 3x3
    kernel 4/9 are left, and the large map is made once. On a CPU doubling is a convolution for
    each of the pixels that one becomes, whose gradients are fast there, and else a transposed
    convolution.

    Args:
      x: (B, *spatial, in).
      kernel: (*odd sizes, in, out), float32.
      resample: "up" or "down".

    Returns:
      (B, *spatial, out) with every spatial size doubled or halved, of the dtype of `x`.

    Raises:
      ValueError: a kernel size is even, or a spatial size is odd where it has to be halved.

    >>> resampled_conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 2)), "up").shape
    (1, 8, 8, 2)
    """
    sizes = kernel.shape[:-2]
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(f"resampling needs kernels of odd sizes, got {sizes}")
    if resample not in ("up", "down"):
        raise ValueError(f'resample has to be "up", "down" or None, got {resample!r}')
    if resample == "down" and any(size % 2 for size in x.shape[1:-1]):
        raise ValueError(f"2 does not divide the spatial sizes of {x.shape}; pad the images")
    if max(sizes) == 1:  # commutes with either
        kernel = kernel.astype(x.dtype)
        if resample == "up":
            return ops.upsample(ops.conv(x, kernel))
        return ops.conv(ops.downsample(x), kernel)
    # Two neighbouring pixels of the large map share one of the small map.
    for axis in range(len(sizes)):
        edges = [(0, 1) if d == axis else (0, 0) for d in range(kernel.ndim)]
        kernel = jnp.pad(kernel, edges) + jnp.pad(kernel, [edge[::-1] for edge in edges])
    if resample == "down":
        padding = [((size - 1) // 2,) * 2 for size in sizes]
        kernel = (kernel / 2 ** len(sizes)).astype(x.dtype)
        return ops.conv(x, kernel, strides=2, padding=padding)
    operands = axes.vary_alike(x, kernel.astype(x.dtype))
    return lax.platform_dependent(*operands, cpu=_by_pixel, default=_transposed)


def _transposed(x: Array, kernel: Array) -> Array:
    kernel = jnp.flip(kernel, range(kernel.ndim - 2))  # a transpose runs backwards through it
    padding = [(size // 2 - 1,) * 2 for size in kernel.shape[:-2]]
    size = [2 * n for n in x.shape[1:-1]]
    return ops.conv_transpose(x, kernel, strides=2, padding=padding, output_size=size)


def _by_pixel(x: Array, kernel: Array) -> Array:
    """Make all pixels with the same place in their block of two by two at once."""
    rank, features = kernel.ndim - 2, kernel.shape[-1]
    parts = []
    for place in itertools.product((0, 1), repeat=rank):
        taps, padding = kernel, []
        for axis, odd in enumerate(place):
            # Every second tap falls on a pixel that is there.
            reach = kernel.shape[axis] // 2 - 1
            first = (reach + 1 + odd) % 2
            low = (reach + 1 - odd - first) // 2
            taps = lax.slice_in_dim(taps, first, None, 2, axis)
            padding.append((low, reach - low))
        parts.append(ops.conv(x, taps, padding=padding))
    # (B, *spatial, 2, 2, out), and each 2 to the side that it doubles
    y = jnp.stack(parts, -2).reshape(*x.shape[:-1], *(2,) * rank, features)
    pairs = [axis for d in range(rank) for axis in (1 + d, 1 + rank + d)]
    y = y.transpose(0, *pairs, 1 + 2 * rank)
    return y.reshape(x.shape[0], *(2 * n for n in x.shape[1:-1]), features)
