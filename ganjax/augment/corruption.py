"""ADA's filter of frequency bands, noise and cutout.

References:
  Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676,
  appendix B.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ganjax import axes
from ganjax.augment.numbers import Numbers
from ganjax.augment.pipes import Pipe
from ganjax.types import Array, Key

# The low-pass filter of the sym2 wavelet.
_SYM2 = np.array([1 - math.sqrt(3), 3 - math.sqrt(3), 3 + math.sqrt(3), 1 + math.sqrt(3)])
_SYM2 = _SYM2 / (4 * math.sqrt(2))
# How natural images spread their power over the bands.
_POWER = np.array([10, 1, 1, 1], np.float32) / 13


def filter_bands(images: Array, numbers: Numbers, pipe: Pipe) -> Array:
    """Amplify frequency bands of each image, which is continued by reflection.

    Args:
      images: (B, H, W, C).
      numbers: random numbers of the batch.
      pipe: how often and how far.
    """
    strengths = pipe.imgfilter * jnp.array(pipe.imgfilter_bands, jnp.float32)
    gains = jnp.exp2(numbers.values["imgfilter"] * pipe.imgfilter_std)
    gains = numbers.pick("imgfilter", strengths, gains, 1.0)
    # Each band's gain is followed by a normalisation to the expected power; all multiply.
    each = jnp.where(jnp.eye(4, dtype=bool), gains[:, :, None], 1.0)  # (B, changed band, band)
    each = each / jnp.sqrt(jnp.sum(_POWER * each**2, axis=-1, keepdims=True))
    gains = jnp.prod(each, axis=1).astype(images.dtype)

    def matrices(size):
        return jnp.einsum("bk,kij->bij", gains, _band_matrices(size), precision="highest")

    images = jnp.einsum("bij,bjwc->biwc", matrices(images.shape[1]), images, precision="highest")
    return jnp.einsum("bij,bhjc->bhic", matrices(images.shape[2]), images, precision="highest")


def add_noise(images: Array, numbers: Numbers, pipe: Pipe, key: Key) -> Array:
    """Add white noise to each image, of a standard deviation of its own."""
    deviation = jnp.abs(numbers.values["noise"]) * pipe.noise_std
    deviation = numbers.pick("noise", pipe.noise, deviation, 0.0)[..., None, None]
    noise = axes.draw(
        lambda key, n: jax.random.normal(key, (n, *images.shape[1:]), jnp.float32),
        key,
        images.shape[0],
    )
    return images + (noise * deviation).astype(images.dtype)


def cut_out(images: Array, numbers: Numbers, pipe: Pipe) -> Array:
    """Set a rectangle, centred anywhere in the image, to zero."""
    size = numbers.pick("cutout", pipe.cutout, jnp.float32(pipe.cutout_size), 0.0)
    centre = numbers.values["cutout"]  # (B, 2), of the width and height

    def inside(length, axis):
        positions = (jnp.arange(length) + 0.5) / length
        return jnp.abs(positions - centre[:, axis, None]) < size / 2

    columns, rows = inside(images.shape[2], 0), inside(images.shape[1], 1)
    cut = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(cut, jnp.zeros((), images.dtype), images)


@functools.cache
def _band_matrices(size: int) -> np.ndarray:
    """Return the four band filters as matrices (4, size, size), reflection at the ends included."""
    bank = _filter_bank()
    reach = bank.shape[1] // 2
    pixels = np.pad(np.arange(size), reach, mode="reflect" if size > 1 else "edge")
    matrices = np.zeros((4, size, size))
    rows = np.arange(size)[:, None]
    taps = np.arange(bank.shape[1])
    np.add.at(matrices, (slice(None), rows, pixels[rows + taps]), bank[:, None, :])
    return matrices.astype(np.float32)


def _filter_bank() -> np.ndarray:
    """Return filters of four octaves, (4, taps), from low to high frequencies.

    Their sum passes everything. Built from half-band filters H(z) H(1/z) / 2 and their mirror
    images: a band is split off on top, and what lies below it is filtered at half the rate.
    """
    low = np.convolve(_SYM2, _SYM2[::-1]) / 2
    alternating = _SYM2 * (-1) ** np.arange(len(_SYM2))
    high = np.convolve(alternating, alternating[::-1]) / 2
    filters = [np.ones(1)]
    for _ in range(3):
        # From the lowest octave up: what exists so far moves to half the frequency.
        spread = []
        for taps in filters:
            wide = np.zeros(2 * len(taps) - 1)
            wide[::2] = taps
            spread.append(np.convolve(wide, low))
        length = len(spread[0])
        edge = (length - len(high)) // 2
        filters = [*spread, np.pad(high, edge)]
    return np.stack(filters)
