"""ADA's geometric transforms: one random affine map an image, executed with little aliasing.

The image is continued by reflection, enlarged twice by a wavelet filter, sampled bilinearly where
the inverse map says, and shrunk again by the same filter.

References:
  Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676,
  appendix B.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ganjax import axes, ops
from ganjax.augment.matrices import product
from ganjax.augment.numbers import Numbers
from ganjax.augment.pipes import Pipe
from ganjax.types import Array

# The low-pass filter of the sym6 wavelet.
_SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
# So many pixels beyond the image the filter that shrinks it looks at.
_BORDER = len(_SYM6) // 4


def transform(images: Array, numbers: Numbers, pipe: Pipe) -> Array:
    """Move the pixels of each image.

    Args:
      images: (B, H, W, C).
      numbers: random numbers of the batch.
      pipe: which transforms there are.
    """
    height, width = images.shape[1:3]
    linear, offset = _inverse_maps(numbers, pipe, height, width)
    linear, offset = linear.astype(images.dtype), offset.astype(images.dtype)
    # The pixels of the result at twice the resolution, in pixels from the image's centre; the maps
    # say where each comes from.
    columns, rows = (
        jnp.arange(-2 * _BORDER, 2 * (size + _BORDER), dtype=images.dtype) / 2 - (size - 1) / 2
        for size in (width, height)
    )

    def source(i, size):
        """Return positions along one axis in pixels of the enlarged image."""
        from_columns = linear[:, i, 0, None] * columns + offset[:, i, None]
        from_rows = linear[:, i, 1, None] * rows
        return 2 * (from_rows[:, :, None] + from_columns[:, None, :] + (size - 1) / 2)

    enlarged, *positions = axes.vary_alike(
        _enlarge(images), _index(source(1, height), height), _index(source(0, width), width)
    )
    sampled = _sample(enlarged.shape[1:3], enlarged, *positions)
    shrunk = ops.downsample(sampled, 2, taps=_SYM6)
    return shrunk[:, _BORDER:-_BORDER, _BORDER:-_BORDER]


def _inverse_maps(numbers: Numbers, pipe: Pipe, height: int, width: int) -> tuple[Array, Array]:
    """Return the linear parts (B, 2, 2) and offsets (B, 2) of the maps from result to image.

    Coordinates are (column, row) in pixels from the centre.
    """
    values = numbers.values
    batch = len(values["xflip"])
    size = jnp.array([width, height], jnp.float32)
    linear = jnp.broadcast_to(jnp.eye(2, dtype=jnp.float32), (batch, 2, 2))
    offset = jnp.zeros((batch, 2))

    def pick(name, value, identity):
        return numbers.pick(name, getattr(pipe, name), value, identity)

    def turned(angle):
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        rows = jnp.concatenate([cosine, -sine], 1), jnp.concatenate([sine, cosine], 1)
        return product(linear, jnp.stack(rows, 1))

    def shifted(distance):
        return offset - product(linear, distance[..., None])[..., 0]

    def rotated(name):
        # Twice, so that one of them happens with the strength given.
        twice = 1 - jnp.sqrt(jnp.clip(1 - pipe.rotate * numbers.probability, 0, 1))
        angle = (2 * values[name] - 1) * (math.pi * pipe.rotate_max)
        return turned(jnp.where(numbers.gates[name] < twice, angle, 0.0))

    if pipe.xflip:
        flip = pick("xflip", jnp.floor(2 * values["xflip"]), 0.0)
        linear = linear * jnp.concatenate([1 - 2 * flip, jnp.ones_like(flip)], 1)[:, None]
    if pipe.rotate90:
        linear = turned(pick("rotate90", jnp.floor(4 * values["rotate90"]), 0.0) * (math.pi / 2))
    if pipe.xint:
        distance = pick("xint", (2 * values["xint"] - 1) * pipe.xint_max, 0.0)
        offset = shifted(jnp.round(distance * size))
    if pipe.scale:
        scale = pick("scale", jnp.exp2(values["scale"] * pipe.scale_std), 1.0)
        linear = linear / scale[..., None]
    if pipe.rotate:
        linear = rotated("rotate_before")
    if pipe.aniso:
        scale = pick("aniso", jnp.exp2(values["aniso"] * pipe.aniso_std), 1.0)
        linear = linear * jnp.concatenate([1 / scale, scale], 1)[:, None]
    if pipe.rotate:
        linear = rotated("rotate_after")
    if pipe.xfrac:
        offset = shifted(pick("xfrac", values["xfrac"] * pipe.xfrac_std, 0.0) * size)
    return linear, offset


# An image is continued by its reflection up to one pixel less than its size, and by zeros beyond
# that, as the official implementation does with the largest margin it takes. A reflection repeats
# itself, so that from this size on one period and the two ends, which the zeros change, are less
# than the whole.
_LEAST_COMPACT = 13
# Up to this size, enlarging as a product with one dense matrix is faster on a CPU than as a sum of
# shifted slices (2 to 4 times at 32 pixels).
_LARGEST_MATRIX = 128


def _enlarge(images: Array) -> Array:
    """Return images at twice the resolution, continued on all sides: (B, rows, columns, C)."""
    if max(images.shape[1:3]) > _LARGEST_MATRIX:
        padded = images[:, _continued(images.shape[1])][:, :, _continued(images.shape[2])]
        # One zero at each end, so that every position has two neighbours.
        return jnp.pad(ops.upsample(padded, 2, taps=_SYM6), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (jnp.asarray(_matrix(n), images.dtype) for n in images.shape[1:3])
    images = jnp.einsum("ij,bjwc->biwc", rows, images, precision="highest")
    return jnp.einsum("ij,bhjc->bhic", columns, images, precision="highest")


def _continued(size: int) -> np.ndarray:
    """Return which pixels of an axis follow each other in what is enlarged."""
    pixels = np.pad(np.arange(size), size - 1, mode="reflect")
    if size < _LEAST_COMPACT:
        return pixels
    return np.concatenate([pixels[: 2 * size + 4], pixels[-6:]])


@functools.cache
def _matrix(size: int) -> np.ndarray:
    """Return what `_enlarge` does along one axis as a matrix (rows, size)."""
    pixels = np.eye(size)[_continued(size)]
    taps = 2 * np.array(_SYM6) / sum(_SYM6)
    enlarged = np.zeros((2 * len(pixels) + len(taps), size))
    for k, tap in enumerate(taps):
        enlarged[k : k + 2 * len(pixels) : 2] += tap * pixels
    overlap = len(taps) // 2 - 1
    return np.pad(enlarged[overlap : overlap + 2 * len(pixels)], ((1, 1), (0, 0)))


def _index(position: Array, size: int) -> Array:
    """Return where in `_enlarge`'s result a position along one axis lies, both fractional.

    Position 0 is the first pixel of the image itself.
    """
    index = jnp.clip(position + (2 * size - 1), 0, 6 * size - 3)
    if size < _LEAST_COMPACT:
        return index
    in_end = index >= 6 * size - 9
    skipped = jnp.where(in_end, 2 * (size - 12), 4 * (size - 1))
    return jnp.where(index < 4 * size + 3, index, index - skipped)


# Bilinear sampling is linear in the images, and its transpose adds samples up where they came from.
# On a CPU four gathers are the fastest form of the one (8 times one gather of 2 x 2 patches) and a
# scatter of patches that of the other (4 times the four scatters that JAX makes of the gathers).
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sample(size: tuple[int, int], images: Array, rows: Array, columns: Array) -> Array:
    """Sample each image between its pixels.

    Args:
      size: (H, W).
      images: (B, H, W, C).
      rows: (B, n, m) in [0, H - 1].
      columns: (B, n, m) in [0, W - 1].

    Returns:
      (B, n, m, C).
    """
    top, left, down, right = _corners(size, rows, columns)
    pixels = images.reshape(images.shape[0], -1, images.shape[3])
    first = (top * size[1] + left).reshape(images.shape[0], -1, 1)

    def gather(distance):
        corner = jnp.take_along_axis(pixels, first + distance, 1, mode="promise_in_bounds")
        return corner.reshape(*rows.shape, -1)

    upper = gather(0) * (1 - right) + gather(1) * right
    lower = gather(size[1]) * (1 - right) + gather(size[1] + 1) * right
    return upper * (1 - down) + lower * down


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sample_transpose(size: tuple[int, int], samples: Array, rows: Array, columns: Array) -> Array:
    """Return images (B, H, W, C) to which every sample (B, n, m, C) adds where it was taken."""
    top, left, down, right = _corners(size, rows, columns)
    vertical = jnp.stack([1 - down, down], 3)  # (B, n, m, 2, 1)
    horizontal = jnp.stack([1 - right, right], 3)
    patches = samples[..., None, None, :] * vertical[..., None, :] * horizontal[..., None, :, :]
    zeros = jnp.zeros_like(samples, shape=(samples.shape[0], *size, samples.shape[3]))
    dimensions = lax.ScatterDimensionNumbers(
        update_window_dims=(3, 4, 5),
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=(1, 2),
        operand_batching_dims=(0,),
        scatter_indices_batching_dims=(0,),
    )
    return lax.scatter_add(
        zeros, jnp.stack([top, left], -1), patches, dimensions, mode="promise_in_bounds"
    )


def _corners(size: tuple[int, int], rows: Array, columns: Array) -> tuple[Array, ...]:
    """Return the pixel above and left of each position, int32, and the fractions beyond it."""
    top = jnp.clip(jnp.floor(rows), 0, size[0] - 2)
    left = jnp.clip(jnp.floor(columns), 0, size[1] - 2)
    fractions = (rows - top)[..., None], (columns - left)[..., None]
    return top.astype(jnp.int32), left.astype(jnp.int32), *fractions


_sample.defvjp(
    lambda size, images, *positions: (_sample(size, images, *positions), positions),
    lambda size, positions, y: (_sample_transpose(size, y, *positions), None, None),
)
_sample_transpose.defvjp(
    lambda size, samples, *positions: (_sample_transpose(size, samples, *positions), positions),
    lambda size, positions, x: (_sample(size, x, *positions), None, None),
)
