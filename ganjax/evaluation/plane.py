"""Modes of a mixture in the plane: which of them a generator found."""

import numpy as np

from ganjax.types import Array, InputError


def modes_covered(
    points: np.ndarray | Array,
    centers: np.ndarray | Array,
    std: float | np.ndarray,
    *,
    num_stds: float = 3.0,
    min_samples: int = 1,
) -> dict[str, float]:
    """Count the modes that samples fall into, and the share of samples that fall into one.

    A sample is good when it lies within three standard deviations of its nearest mode; a mode is
    covered when it is the nearest one of at least one good sample. That is the convention of VEEGAN
    and PacGAN, who count over 2,500 samples. In the plane a perfect generator has a share of
    1 - exp(-9/2) = 0.989 good samples, not 1.

    Args:
      points: (N, D) samples; those that are not finite are not good.
      centers: (K, D) means of the modes.
      std: standard deviation of every mode in each direction, or one for each mode (K,).
      num_stds: radius within which a sample is good.
      min_samples: good samples that make a mode covered.

    Returns:
      `modes_covered`, from 0 to K, and `good_share`, from 0 to 1.

    Raises:
      InputError: the shapes do not fit together, or a `std` is not positive.

    References:
      Srivastava et al., VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning,
      2017 (arXiv 1705.07761).
      Lin et al., PacGAN: The power of two samples in generative adversarial networks, 2018
      (arXiv 1712.04086); `MetricLogger` of its code.

    >>> modes_covered([[0.1, 0.0], [0.2, 0.0], [5.0, 5.0]], [[0.0, 0.0], [1.0, 0.0]], 0.1)
    {'modes_covered': 1, 'good_share': 0.666...}
    """
    points, centers = np.asarray(points, np.float64), np.asarray(centers, np.float64)
    stds = np.asarray(std, np.float64)
    if points.ndim != 2 or centers.ndim != 2 or points.shape[1:] != centers.shape[1:]:
        raise InputError(
            f"points (N, D) and centers (K, D) must agree in D, they have the shapes "
            f"{points.shape} and {centers.shape}."
        )
    if not len(points) or not len(centers):
        raise InputError(f"{len(points)} points and {len(centers)} modes: there must be some.")
    if stds.shape not in ((), (len(centers),)) or not (stds > 0).all():
        raise InputError(
            f"std must be positive, one number or one for each of the {len(centers)} modes; "
            f"it is {std}."
        )
    distances = np.sqrt(((points[:, None] - centers) ** 2).sum(axis=-1)) / stds  # (N, K)
    nearest = distances.argmin(axis=1)
    good = distances[np.arange(len(points)), nearest] < num_stds
    counts = np.bincount(nearest[good], minlength=len(centers))
    return {
        "modes_covered": int((counts >= min_samples).sum()),
        "good_share": float(good.mean()),
    }
