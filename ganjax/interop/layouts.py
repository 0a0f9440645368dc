"""From the layout of an official tensor to ours and back.

Both directions are permutations, so that they hold for gradients as well.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Entry(NamedTuple):
    """Where an official tensor goes.

    Attributes:
      path: keys into the variables, such as `("params", "conv1", "kernel")`; None for a constant
        that our networks hard-wire.
      to_ours: official layout -> ours, NumPy arrays; not used for a constant.
      to_official: the inverse; for a constant a function without arguments that makes it.
    """

    path: tuple[str, ...] | None
    to_ours: Callable[..., np.ndarray] | None
    to_official: Callable[..., np.ndarray]


class Layout(NamedTuple):
    """A change of layout and its inverse: the last two fields of an `Entry`."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_official: Callable[[np.ndarray], np.ndarray]


def _permuted(*order: int) -> Layout:
    return Layout(
        functools.partial(np.transpose, axes=order),
        functools.partial(np.transpose, axes=np.argsort(order)),
    )


def _reshape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.reshape(array, shape)


same = Layout(np.asarray, np.asarray)
conv = _permuted(2, 3, 1, 0)  # OIHW <-> HWIO
linear = _permuted(1, 0)  # (out, in) <-> (in, out)
image = _permuted(1, 2, 0)  # CHW <-> HWC


def reshaped(official: tuple[int, ...], ours: tuple[int, ...]) -> Layout:
    """Return the layout of a tensor that only has another shape, such as () and (1,)."""
    return Layout(
        functools.partial(_reshape, shape=ours), functools.partial(_reshape, shape=official)
    )


def linear_to_image(channels: int, height: int, width: int) -> Layout:
    """Return the layout of a dense weight (C H W, in) <-> (in, H W C) whose result is an image."""

    def to_ours(weight):
        weight = weight.reshape(channels, height, width, -1)
        return weight.transpose(3, 1, 2, 0).reshape(weight.shape[-1], -1)

    def to_official(kernel):
        kernel = kernel.reshape(-1, height, width, channels)
        return kernel.transpose(3, 1, 2, 0).reshape(-1, kernel.shape[0])

    return Layout(to_ours, to_official)


def linear_from_image(channels: int, height: int, width: int) -> Layout:
    """Return the layout of a dense weight (out, C H W) <-> (H W C, out) that reads an image."""

    def to_ours(weight):
        weight = weight.reshape(-1, channels, height, width)
        return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])

    def to_official(kernel):
        kernel = kernel.reshape(height, width, channels, -1)
        return kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1)

    return Layout(to_ours, to_official)


def bias_to_image(channels: int, height: int, width: int) -> Layout:
    """Return the layout of a vector (C H W) <-> (H W C), the bias of `linear_to_image`."""
    return Layout(
        lambda bias: bias.reshape(channels, height, width).transpose(1, 2, 0).reshape(-1),
        lambda bias: bias.reshape(height, width, channels).transpose(2, 0, 1).reshape(-1),
    )


def constant(value: Any) -> Entry:
    """Return the entry of a buffer that our networks hard-wire, such as a resampling filter."""
    array = np.asarray(value)
    return Entry(None, None, lambda: array)
