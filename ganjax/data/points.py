"""Points in the plane: a ring of 8 Gaussians and a grid of 25, on which modes can be counted.

References:
  Metz et al. 2017, Unrolled Generative Adversarial Networks (the ring);
  Srivastava et al. 2017, VEEGAN (the grid).
"""

import numpy as np

from ganjax.data.dataset import Dataset, in_memory

_ANGLES = 2 * np.pi * np.arange(8) / 8
RING_CENTERS = 2 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1).astype(np.float32)
RING_STD = 0.02
GRID_CENTERS = np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], np.float32)
GRID_STD = 0.05

_NUM_POINTS = 100_000


def ring(split: str = "train", *, labels: bool = True, seed: int = 0) -> Dataset:
    """Return 100,000 points of 8 Gaussians on a circle of radius 2, standard deviation 0.02.

    Args:
      split: only "train".
      labels: whether the index of the centre is kept as label.
      seed: of the points.

    >>> ring().batch(np.arange(3))["image"].shape
    (3, 2)
    """
    return _mixture("ring (8 Gaussians)", split, RING_CENTERS, RING_STD, labels, seed)


def grid(split: str = "train", *, labels: bool = True, seed: int = 0) -> Dataset:
    """Return 100,000 points of a 5 by 5 grid of Gaussians, 2 apart, standard deviation 0.05.

    Args:
      split: only "train".
      labels: whether the index of the centre is kept as label.
      seed: of the points.
    """
    return _mixture("grid (25 Gaussians)", split, GRID_CENTERS, GRID_STD, labels, seed)


def _mixture(
    name: str, split: str, centers: np.ndarray, std: float, labels: bool, seed: int
) -> Dataset:
    generator = np.random.Generator(np.random.Philox(seed))
    label = generator.integers(len(centers), size=_NUM_POINTS, dtype=np.int32)
    noise = generator.standard_normal((_NUM_POINTS, 2), dtype=np.float32)
    arrays = {"image": centers[label] + np.float32(std) * noise}
    if labels:
        arrays["label"] = label
    return in_memory(name, split, arrays, num_classes=len(centers))
