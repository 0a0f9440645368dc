"""What nearest neighbours tell: precision and recall, density and coverage, copies."""

from collections.abc import Iterator

import numpy as np

from ganjax.evaluation.moments import as_features, as_pair
from ganjax.types import Array, InputError

# So many rows' distances to all others are held at a time, and so many rows are doubles at a time.
_ROWS, _COLUMNS = 500, 4096


def precision_recall(
    generated: np.ndarray, real: np.ndarray, num_neighbors: int = 3
) -> tuple[float, float]:
    """Return the share of generated within the real manifold, and of real within the generated.

    A manifold is the union of balls around its examples that reach to the k-th nearest other one.
    Precision falls with poor images, recall with missing variety. Around a lonely example the ball
    is large: with `fashion_mnist_classifier` 71 percent of uniform noise falls into such balls, so
    read precision together with the Fréchet distance, or take `density_coverage`.

    Args:
      generated: (N, D).
      real: (M, D).
      num_neighbors: k.

    References:
      Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models,
      2019 (arXiv 1904.06991).

    >>> square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> precision_recall(square[:2], square, num_neighbors=1)
    (1.0, 1.0)
    >>> precision_recall(square + 9.0, square, num_neighbors=1)
    (0.0, 0.0)
    """
    generated, real = _checked(generated, real, num_neighbors)

    def covered(points: np.ndarray, manifold: np.ndarray) -> float:
        radii = _radii(manifold, num_neighbors)
        inside = [(d <= radii).any(axis=1) for d in _distances(points, manifold)]
        return float(np.concatenate(inside).mean())

    return covered(generated, real), covered(real, generated)


def density_coverage(
    generated: np.ndarray, real: np.ndarray, num_neighbors: int = 5
) -> tuple[float, float]:
    """Return density and coverage, which a few lonely real examples do not spoil.

    Density counts for each generated example the real balls that it lies in, over k; 1 is what real
    images get, and it may exceed 1. Coverage is the share of real examples whose ball holds a
    generated one, at most 1.

    Args:
      generated: (N, D).
      real: (M, D).
      num_neighbors: k.

    References:
      Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2020
      (arXiv 2002.09797).

    >>> square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> density_coverage(square[:1], square, num_neighbors=1)
    (3.0, 0.75)
    """
    generated, real = _checked(generated, real, num_neighbors, least_generated=1)
    radii = _radii(real, num_neighbors)
    balls, hit = 0, np.zeros(len(real), bool)
    for distances in _distances(generated, real):
        inside = distances <= radii
        balls += int(inside.sum())
        hit |= inside.any(axis=0)
    return balls / (num_neighbors * len(generated)), float(hit.mean())


def nearest_neighbors(
    generated: np.ndarray, real: np.ndarray, num_neighbors: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each generated example the nearest real ones: indices and distances.

    With training images as `real`, this is how one sees whether a generator has memorised.

    Args:
      generated: (N, D).
      real: (M, D), M of at least `num_neighbors`.
      num_neighbors: how many, the nearest first.

    Returns:
      (N, num_neighbors) integers into `real`, and Euclidean distances.

    >>> indices, distances = nearest_neighbors([[0.0], [5.0]], [[4.0], [1.0]])
    >>> indices.tolist(), distances.tolist()
    ([[1], [0]], [[1.0], [1.0]])
    """
    generated, real = as_pair(generated, real)
    if not 1 <= num_neighbors <= len(real):
        raise InputError(
            f"there are {len(real)} real examples: num_neighbors must be from 1 to that, it is "
            f"{num_neighbors}."
        )
    indices, distances = [], []
    for block in _distances(generated, real):
        rows = np.arange(len(block))[:, None]
        near = np.argpartition(block, num_neighbors - 1, axis=1)[:, :num_neighbors]
        near = near[rows, np.argsort(block[rows, near], axis=1, kind="stable")]
        indices.append(near)
        distances.append(np.sqrt(block[rows, near]))
    return np.concatenate(indices), np.concatenate(distances)


def duplicates(images: Array | np.ndarray, tolerance: float = 0.05) -> float:
    """Return the share of images that have a near copy among the others.

    Args:
      images: (N, H, W, C), N of at least two, uint8 or float in [-1, 1].
      tolerance: root mean square difference per pixel, in units where pixels lie in [-1, 1], up to
        which two images are copies. Of 1,000 real images of Fashion-MNIST or CIFAR-10 none are.

    >>> images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    >>> duplicates(images), duplicates(images[[0, 1, 0, 2]])
    (0.0, 0.5)
    """
    images = np.asarray(images)
    if images.ndim < 2 or len(images) < 2:
        raise InputError(f"duplicates are sought among images, these have shape {images.shape}.")
    scale = 127.5 if images.dtype == np.uint8 else 1.0
    pixels = as_features(images.reshape(len(images), -1).astype(np.float64) / scale, "images")
    pixels -= pixels.mean(axis=0)  # distances stay, rounding shrinks
    limit = tolerance**2 * pixels.shape[1]
    copies = [
        # Each is as near to itself as can be.
        (distances <= limit).sum(axis=1) > 1
        for distances in _distances(pixels, pixels)
    ]
    return float(np.concatenate(copies).mean())


def _checked(
    generated: np.ndarray, real: np.ndarray, num_neighbors: int, least_generated: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    generated, real = as_pair(generated, real)
    enough = len(generated) > num_neighbors if least_generated is None else True
    if not (1 <= num_neighbors < len(real) and enough):
        raise InputError(
            f"{num_neighbors} neighbours need more examples than that on both sides, "
            f"these are {len(generated)} and {len(real)}."
        )
    return generated, real


def _radii(manifold: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Return each example's squared distance to the k-th nearest other one."""
    return np.concatenate(
        [
            # The nearest is the example itself.
            # Copied: a view would keep the whole block in memory.
            np.partition(block, num_neighbors, axis=1)[:, num_neighbors].copy()
            for block in _distances(manifold, manifold)
        ]
    )


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the squared distances of x (N, D) to y (M, D), float64, some rows of x at a time."""
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS].astype(np.float64)
        distances = np.empty((len(rows), len(y)))
        for first in range(0, len(y), _COLUMNS):
            columns = y[first : first + _COLUMNS].astype(np.float64)
            part = distances[:, first : first + _COLUMNS]
            np.matmul(rows, columns.T, out=part)
            part *= -2.0
            part += (columns * columns).sum(axis=1)
        distances += (rows * rows).sum(axis=1)[:, None]
        yield np.maximum(distances, 0.0, out=distances)
