"""Has the generator collapsed? A cheap look at a grid of samples, for use inside a run."""

import numpy as np

from ganjax.types import Array, InputError


def diversity(images: Array | np.ndarray) -> float:
    """Return the mean distance between two of the images, per pixel.

    The mean over all pairs of the root mean square difference, in units where pixels lie in
    [-1, 1]. It costs one product of the (N, pixels) matrix with itself.

    Args:
      images: (N, H, W, C) with N of at least two, uint8 or float in [-1, 1].

    Raises:
      InputError: there are fewer than two images.

    >>> images = np.zeros((2, 4, 4, 1), np.uint8)
    >>> images[1] = 255
    >>> diversity(images), diversity(images[[0, 0]])
    (2.0, 0.0)
    """
    images = np.asarray(images)
    if images.ndim < 2 or len(images) < 2:
        raise InputError(f"diversity compares images, these have the shape {images.shape}.")
    scale = 127.5 if images.dtype == np.uint8 else 1.0
    pixels = images.reshape(len(images), -1).astype(np.float64) / scale
    pixels -= pixels.mean(axis=0)  # distances stay, rounding shrinks
    squares = (pixels * pixels).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * pixels @ pixels.T, 0.0)
    above = np.triu_indices(len(images), 1)
    return float(np.sqrt(distances[above] / pixels.shape[1]).mean())


def is_collapsed(
    images: Array | np.ndarray,
    real_images: Array | np.ndarray,
    *,
    threshold: float = 0.4,
) -> str | None:
    """Return a sentence when samples differ far less from each other than real images do.

    A generator that has just been initialised paints almost the same grey everywhere: ask only
    after some training. What this cannot see is a generator that repeats a few very different
    images; recall and the Fréchet distance show that.

    Args:
      images: (N, H, W, C) samples of distinct latents, uint8 or float in [-1, 1].
      real_images: (M, H, W, C); as many as a sample grid has, such as 64, are enough.
      threshold: share of the real diversity below which samples count as collapsed. Fashion-MNIST's
        classes, taken one at a time, have 0.56 (trousers) to 0.98 (bags) of the diversity of all.

    Returns:
      What was found and what to try, or None where nothing is wrong.

    >>> real = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    >>> is_collapsed(real[:16], real)
    >>> is_collapsed(real[:1].repeat(16, axis=0), real)
    'the samples have collapsed: they differ 0.00 times as much ...'
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        return "the samples hold values that are not finite: the generator has diverged."
    real = diversity(real_images)
    if real == 0.0:
        return None
    share = diversity(images) / real
    if share >= threshold:
        return None
    return (
        f"the samples have collapsed: they differ {share:.2f} times as much from each other as "
        f"real images do, where {threshold:g} is the least to expect. Go back to an earlier "
        "checkpoint, lower the learning rates, or add a gradient penalty such as R1."
    )
