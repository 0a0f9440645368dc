"""How `ganjax.ops` computes the three functions of a convolution, and where it chooses which form.

XLA's native gradients are convolutions with permuted dimension numbers. On a CPU those fall off the
fast path, the more so inside `lax.scan` and `lax.cond`, and convolutions in three dimensions never
are on it. So there a permutation is written out as a transpose in front of a plain convolution, or
a gradient becomes a matrix product, or a volume is taken plane by plane. Which form is fastest
depends on the shape and is chosen while tracing, by the figures of `python benchmarks/ops.py
--forms`. Elsewhere XLA's own forms are taken. `lax.platform_dependent` decides while lowering and
leaves no branch in the program.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ganjax.types import Array

# Beyond this many bytes of intermediate products, a core's share of the cache is left.
_CACHE_BYTES = 24 << 20
# The share of a batch that is convolved at a time, in bytes.
_CHUNK_BYTES = 5 << 19
_FEWEST_EXAMPLES = 8
# A chunk adds up one whole kernel; larger ones cost more than the chunk saves.
_LARGEST_KERNEL_BYTES = 4 << 20
# Up to so many input channels (images), patches are small.
_FEW_CHANNELS = 4
# Up to so many taps, a product for each is faster than a strided convolution.
_FEW_TAPS = 9
# Stands for the size of a batch that is not known.
_USUAL_BATCH = 64
# Up to so many groups are written out one by one; more are gone through in a loop.
_FEW_GROUPS = 16


class Spec(NamedTuple):
    """The static half of a convolution; `size` and `kernel` are spatial sizes of x and kernel."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial size of the result."""
        return tuple(
            (n + low + high - k) // s + 1
            for n, k, s, (low, high) in zip(
                self.size, self.kernel, self.strides, self.padding, strict=True
            )
        )


def forward(spec: Spec, x: Array, kernel: Array) -> Array:
    """Return (B, *output, out) from x (B, *size, in) and kernel (*kernel, in // groups, out)."""
    native = partial(native_forward, spec)
    form = cpu_forward(spec, x, kernel)
    if form is native_forward:
        return native(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(form, spec), default=native)


def native_forward(spec: Spec, x: Array, kernel: Array, **dilation) -> Array:
    """Convolve as XLA does by itself."""
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


def input_gradient(spec: Spec, y: Array, kernel: Array) -> Array:
    """Return (B, *size, in) from y (B, *output, out) and kernel (*kernel, in, out)."""
    native = partial(native_input_gradient, spec)
    cpu = partial(cpu_input_gradient(spec, y, kernel), spec)
    return lax.platform_dependent(y, kernel, cpu=cpu, default=native)


def kernel_gradient(spec: Spec, x: Array, y: Array) -> Array:
    """Return (*kernel, in, out) from x (B, *size, in) and y (B, *output, out)."""
    native = partial(native_kernel_gradient, spec)
    cpu = partial(cpu_kernel_gradient(spec, x, y), spec)
    return lax.platform_dependent(x, y, cpu=cpu, default=native)


def native_input_gradient(spec: Spec, y: Array, kernel: Array) -> Array:
    """Take the input gradient as XLA does by itself."""
    shape = (y.shape[0], *spec.size, kernel.shape[-2] * spec.groups)
    zeros = jnp.zeros_like(y, shape=shape)  # carries the device axes of y
    return jax.vjp(lambda x: native_forward(spec, x, kernel), zeros)[1](y)[0]


def native_kernel_gradient(spec: Spec, x: Array, y: Array) -> Array:
    """Take the kernel gradient as XLA does by itself."""
    shape = (*spec.kernel, x.shape[-1] // spec.groups, y.shape[-1])
    zeros = jnp.zeros_like(x, shape=shape)
    return jax.vjp(lambda kernel: native_forward(spec, x, kernel), zeros)[1](y)[0]


def cpu_forward(spec: Spec, x: Array, kernel: Array) -> Callable[..., Array]:
    """Return the form of the convolution that is fastest on a CPU for operands like these."""
    if spec.groups != 1:
        return native_forward if kernel.shape[-2] == 1 else partial(by_group, cpu_forward)
    del kernel
    if len(spec.size) == 3:
        return sum_of_planes
    chunks = _chunks(x)
    return partial(forward_in_chunks, chunks) if chunks > 1 else native_forward


def cpu_input_gradient(spec: Spec, y: Array, kernel: Array) -> Callable[..., Array]:
    """Return the form of the input gradient that is fastest on a CPU for operands like these."""
    if spec.groups != 1:
        depthwise = kernel.shape[-2] == 1
        return native_input_gradient if depthwise else partial(by_group, cpu_input_gradient)
    if min(low for low, _ in spec.padding) < 0:
        return flipped_conv
    if len(spec.size) == 3:
        return overlap_add
    padded = math.prod(-(-k // s) * s / k for k, s in zip(spec.kernel, spec.strides, strict=True))
    # XLA swaps the operands of a convolution whose kernel is larger than its input: 10x slower.
    swapped = math.prod(spec.kernel) > math.prod(y.shape[1:-1])
    if max(spec.strides) == 1 or (padded > 1.5 and not swapped):
        return flipped_conv
    batch = y.shape[0] if isinstance(y.shape[0], int) else _USUAL_BATCH  # not known in an export
    products = batch * math.prod((*y.shape[1:-1], *spec.kernel, kernel.shape[-2]))
    # The polyphase form computes a border that is cut off; it matters on small maps.
    border = math.prod(
        (n + -(-k // s) - 1) / n
        for n, k, s in zip(y.shape[1:-1], spec.kernel, spec.strides, strict=True)
    )
    large = products * y.dtype.itemsize > _CACHE_BYTES and kernel.shape[-2] > _FEW_CHANNELS
    return polyphase if large and border < 1.2 else overlap_add


def cpu_kernel_gradient(spec: Spec, x: Array, y: Array) -> Callable[..., Array]:
    """Return the form of the kernel gradient that is fastest on a CPU for operands like these."""
    if spec.groups != 1:
        depthwise = x.shape[-1] == spec.groups
        return native_kernel_gradient if depthwise else partial(by_group, cpu_kernel_gradient)
    if len(spec.size) == 3:
        return gradients_of_planes
    padded = min(low for low, _ in spec.padding) >= 0
    if padded and x.shape[-1] <= _FEW_CHANNELS:
        return patches_product
    if padded and max(spec.strides) > 1 and math.prod(spec.kernel) <= _FEW_TAPS:
        return taps_product
    size = x.shape[-1] * math.prod(spec.kernel) * y.shape[-1] * x.dtype.itemsize
    chunks = _chunks(x)
    if chunks == 1 or size > _LARGEST_KERNEL_BYTES:
        return batch_conv
    return partial(in_chunks, batch_conv, chunks)


def _chunks(x: Array) -> int:
    """Return into how many parts a batch is best cut, so that one stays in the cache."""
    if not isinstance(x.shape[0], int):
        return 1
    wanted = -(-math.prod(x.shape) * x.dtype.itemsize // _CHUNK_BYTES)
    most = max(1, x.shape[0] // _FEWEST_EXAMPLES)
    divisors = [n for n in range(1, most + 1) if x.shape[0] % n == 0]
    return 1 if wanted < 3 else next((n for n in divisors if n >= wanted), divisors[-1])


def by_group(choose: Callable[..., Callable], spec: Spec, a: Array, b: Array) -> Array:
    """Take each group by itself.

    A convolution of groups is off XLA's fast path on a CPU: forward and input gradient are 5x
    slower, and the kernel gradient of R3GAN's 96 groups takes seconds. One channel a group is as
    fast as it can be.

    Args:
      choose: `(spec, a, b) -> form` for one group, such as `cpu_forward`.
      spec: of the whole.
      a: first operand; the last axis of both, and of the result, holds the groups.
      b: second operand.
    """
    one = spec._replace(groups=1)

    def apply(a, b):
        return choose(one, a, b)(one, a, b)

    if spec.groups <= _FEW_GROUPS:
        parts = zip(jnp.split(a, spec.groups, -1), jnp.split(b, spec.groups, -1), strict=True)
        return jnp.concatenate([apply(*part) for part in parts], axis=-1)
    groups = [jnp.moveaxis(t.reshape(*t.shape[:-1], spec.groups, -1), -2, 0) for t in (a, b)]
    results = jnp.moveaxis(lax.map(lambda part: apply(*part), tuple(groups)), 0, -2)
    return results.reshape(*results.shape[:-2], -1)


def sum_of_planes(spec: Spec, x: Array, kernel: Array) -> Array:
    """Convolve a volume as a sum, over the kernel's planes, of convolutions of planes."""
    flat, planes = _planes(spec, x)
    total = sum(native_forward(flat, plane, kernel[k]) for k, plane in enumerate(planes))
    return total.reshape(x.shape[0], *spec.output, kernel.shape[-1])


def gradients_of_planes(spec: Spec, x: Array, y: Array) -> Array:
    """Take the kernel gradient of a volume plane by plane of the kernel."""
    flat, planes = _planes(spec, x)
    y = y.reshape(-1, *y.shape[2:])
    form = cpu_kernel_gradient(flat, planes[0], y)
    return jnp.stack([form(flat, plane, y) for plane in planes])


def _planes(spec: Spec, x: Array) -> tuple[Spec, list[Array]]:
    """Return the convolution of a plane, and for each of the kernel's planes those it meets."""
    edges = [(0, 0, 0)] * x.ndim
    edges[1] = (*spec.padding[0], 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    count, stride = spec.output[0], spec.strides[0]
    planes = [
        lax.slice_in_dim(x, k, k + (count - 1) * stride + 1, stride, axis=1)
        for k in range(spec.kernel[0])
    ]
    flat = Spec(spec.size[1:], spec.kernel[1:], spec.strides[1:], spec.padding[1:], 1)
    return flat, [plane.reshape(-1, *plane.shape[2:]) for plane in planes]


def flipped_conv(spec: Spec, y: Array, kernel: Array) -> Array:
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
    return native_forward(plain, y, flipped, lhs_dilation=spec.strides)


def overlap_add(spec: Spec, y: Array, kernel: Array) -> Array:
    """Take the input gradient as one matrix product; the blocks it gives overlap and are summed."""
    rank, batch, outputs = len(spec.size), y.shape[0], y.shape[1:-1]
    channels = kernel.shape[-2]
    kernel, taps = _whole_strides(spec, kernel)
    columns = jnp.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)
    products = y.reshape(-1, y.shape[-1]) @ columns
    # (B, *outputs, tap, stride, tap, stride, ..., channels): one tap of each dimension at a time is
    # an image at full resolution, shifted by whole strides.
    pairs = [size for pair in zip(taps, spec.strides, strict=True) for size in pair]
    products = products.reshape(batch, *outputs, *pairs, channels)
    interleave = [0, *(axis for d in range(rank) for axis in (1 + d, 1 + rank + d)), 1 + 2 * rank]
    full = [n * s for n, s in zip(outputs, spec.strides, strict=True)]
    total = 0
    for index in itertools.product(*map(range, taps)):
        take = (slice(None),) * (1 + rank) + tuple(i for t in index for i in (t, slice(None)))
        block = products[take].transpose(interleave).reshape(batch, *full, channels)
        edges = [
            (t * s, (size - 1 - t) * s)
            for t, s, size in zip(index, spec.strides, taps, strict=True)
        ]
        total = total + jnp.pad(block, [(0, 0), *edges, (0, 0)])
    return _window(spec, total)


def polyphase(spec: Spec, y: Array, kernel: Array) -> Array:
    """Take the input gradient as one convolution that gives the pixels of a stride as channels."""
    rank, batch = len(spec.size), y.shape[0]
    kernel, taps = _whole_strides(spec, kernel)
    channels, features = kernel.shape[-2:]
    pairs = [size for pair in zip(taps, spec.strides, strict=True) for size in pair]
    order = [*range(0, 2 * rank, 2), 2 * rank + 1, *range(1, 2 * rank, 2), 2 * rank]
    kernel = kernel.reshape(*pairs, channels, features).transpose(order)
    kernel = jnp.flip(kernel.reshape(*taps, features, -1), range(rank))
    plain = Spec(
        y.shape[1:-1], tuple(taps), (1,) * rank, tuple((t - 1, t - 1) for t in taps), spec.groups
    )
    pixels = native_forward(plain, y, kernel)
    size = pixels.shape[1:-1]
    pixels = pixels.reshape(batch, *size, *spec.strides, channels)
    interleave = [0, *(axis for d in range(rank) for axis in (1 + d, 1 + rank + d)), 1 + 2 * rank]
    full = [n * s for n, s in zip(size, spec.strides, strict=True)]
    return _window(spec, pixels.transpose(interleave).reshape(batch, *full, channels))


def _whole_strides(spec: Spec, kernel: Array) -> tuple[Array, list[int]]:
    """Pad a kernel to a multiple of the stride; return it and its size in strides."""
    missing = [-k % s for k, s in zip(spec.kernel, spec.strides, strict=True)]
    kernel = jnp.pad(kernel, [*((0, m) for m in missing), (0, 0), (0, 0)])
    return kernel, [k // s for k, s in zip(kernel.shape, spec.strides, strict=False)]


def _window(spec: Spec, total: Array) -> Array:
    """Drop what the padding covers; rows that no window reached have a gradient of zero."""
    missing = [
        max(0, low + n - size)
        for (low, _), n, size in zip(spec.padding, spec.size, total.shape[1:-1], strict=True)
    ]
    total = jnp.pad(total, [(0, 0), *((0, m) for m in missing), (0, 0)])
    window = [slice(low, low + n) for (low, _), n in zip(spec.padding, spec.size, strict=True)]
    return total[(slice(None), *window)]


def batch_conv(spec: Spec, x: Array, y: Array) -> Array:
    """Take the kernel gradient as a convolution of `x` with `y`, batch and channels swapped."""
    rank = len(spec.size)
    padding = []
    for n, k, s, (low, _), m in zip(
        spec.size, spec.kernel, spec.strides, spec.padding, y.shape[1:-1], strict=True
    ):
        padding.append((low, k - 1 + (m - 1) * s + 1 - n - low))
    plain = spec._replace(strides=(1,) * rank, padding=tuple(padding))
    gradient = native_forward(
        plain, jnp.swapaxes(x, 0, -1), jnp.moveaxis(y, 0, -2), rhs_dilation=spec.strides
    )  # (in, *kernel, out)
    return jnp.moveaxis(gradient, 0, -2)


def patches_product(spec: Spec, x: Array, y: Array) -> Array:
    """Take the kernel gradient as a matrix product with the patches of `x`, for few channels."""
    patches = jnp.concatenate(_windows(spec, x, y), -1)
    gradient = patches.reshape(-1, patches.shape[-1]).T @ y.reshape(-1, y.shape[-1])
    return gradient.reshape(*spec.kernel, x.shape[-1], y.shape[-1])


def _windows(spec: Spec, x: Array, y: Array) -> list[Array]:
    """Return for each tap what of `x` meets `y`, (B, *output, in)."""
    edges = [
        (low, max(0, (m - 1) * s + k - low - n))
        for n, k, s, (low, _), m in zip(
            spec.size, spec.kernel, spec.strides, spec.padding, y.shape[1:-1], strict=True
        )
    ]
    x = jnp.pad(x, [(0, 0), *edges, (0, 0)])
    windows = []
    for offset in itertools.product(*map(range, spec.kernel)):
        window = [
            slice(k, k + (m - 1) * s + 1, s)
            for k, m, s in zip(offset, y.shape[1:-1], spec.strides, strict=True)
        ]
        windows.append(x[(slice(None), *window)])
    return windows


def taps_product(spec: Spec, x: Array, y: Array) -> Array:
    """Take the kernel gradient as a matrix product for each tap, for strides and few taps."""
    columns = y.reshape(-1, y.shape[-1])
    products = [window.reshape(-1, window.shape[-1]).T @ columns for window in _windows(spec, x, y)]
    return jnp.stack(products).reshape(*spec.kernel, x.shape[-1], y.shape[-1])


def forward_in_chunks(chunks: int, spec: Spec, x: Array, kernel: Array) -> Array:
    """Convolve parts of the batch one after another."""
    x = x.reshape(-1, chunks, *x.shape[1:])  # every n-th example, as below
    parts = [native_forward(spec, x[:, i], kernel) for i in range(chunks)]
    return jnp.stack(parts, axis=1).reshape(-1, *spec.output, kernel.shape[-1])


def in_chunks(function: Callable[..., Array], chunks: int, spec: Spec, x: Array, y: Array):
    """Add up a kernel gradient over parts of the batch that fit the cache."""
    # Every n-th example, so that a batch which is sharded over its first axis stays where it is.
    x, y = (a.reshape(-1, chunks, *a.shape[1:]) for a in (x, y))
    return sum(function(spec, x[:, i], y[:, i]) for i in range(chunks))
