"""Distances between two sets of features: pure functions in NumPy, float64.

They agree with torch-fidelity where both compute the same thing. `generated` and `real` are
always (N, D), one row an example.
"""

import itertools
from typing import NamedTuple

import numpy as np

from ganjax.types import InputError


class Moments(NamedTuple):
    """Count, mean and scatter of features that need not be in memory at once.

    Two halves merge to what the whole has, to rounding, whatever the order.

    >>> features = np.arange(12.0).reshape(6, 2) ** 2
    >>> whole = Moments.of(features)
    >>> halves = Moments.of(features[:2]).merge(Moments.of(features[2:]))
    >>> bool(np.allclose(halves.covariance, whole.covariance, rtol=1e-13))
    True

    Attributes:
      count: number of examples.
      mean: (D,) float64.
      scatter: (D, D) float64, the sum of outer products of deviations from the mean.

    References:
      Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
      Variances, 1979.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Return the moments of features (N, D) with N of at least one."""
        features = _features(features, "features")
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together."""
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"features of {len(self.mean)} and of {len(other.mean)} dimensions do not mix: "
                "take both from one extractor."
            )
        count = self.count + other.count
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.count * other.count / count)
        mean = self.mean + shift * (other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (D, D), as `numpy.cov` gives it."""
        if self.count < 2:
            raise InputError("a covariance needs at least two examples, this is one.")
        return self.scatter / (self.count - 1)


def frechet_distance(generated: np.ndarray | Moments, real: np.ndarray | Moments) -> float:
    """Return the Fréchet distance between Gaussians fitted to two sets of features.

    On the 2,048 Inception features this is the FID. It falls with the number of examples on
    either side: compare figures of equal numbers only.

    Args:
      generated: (N, D) features, or their `Moments`.
      real: (M, D) features, or their `Moments`.

    Returns:
      |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), at least 0.

    References:
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017 (arXiv 1706.08500).

    >>> line = np.linspace(-1.0, 1.0, 9)[:, None]
    >>> round(frechet_distance(line, line + 3.0), 9)
    9.0
    """
    generated, real = (
        moments if isinstance(moments, Moments) else Moments.of(moments)
        for moments in (generated, real)
    )
    return frechet_distance_from_moments(
        generated.mean, generated.covariance, real.mean, real.covariance
    )


def frechet_distance_from_moments(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """Return the Fréchet distance between two Gaussians, whatever the ranks of the covariances.

    The eigenvalues of C1 C2 are those of the symmetric C1^½ C2 C1^½, whose roots are the
    singular values of C1^½ C2^½: nothing complex appears, and small ones keep their digits.

    Args:
      mean1: (D,).
      covariance1: (D, D), symmetric.
      mean2: (D,).
      covariance2: (D, D), symmetric.

    Raises:
      InputError: the shapes differ, or a value is not finite.
    """
    mean1, covariance1, mean2, covariance2 = (
        np.asarray(x, np.float64) for x in (mean1, covariance1, mean2, covariance2)
    )
    if mean1.shape != mean2.shape or covariance1.shape != covariance2.shape:
        raise InputError(
            f"the Fréchet distance compares features of one dimension, these have {len(mean1)} "
            f"and {len(mean2)}: take both from one extractor."
        )
    if not all(np.isfinite(x).all() for x in (mean1, covariance1, mean2, covariance2)):
        raise InputError("the moments hold values that are not finite.")
    product = _square_root(covariance1) @ _square_root(covariance2)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    shift = mean1 - mean2
    distance = shift @ shift + np.trace(covariance1) + np.trace(covariance2) - 2 * overlap
    return max(float(distance), 0.0)


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    # Rounding leaves about this much, of either sign, where an eigenvalue is zero.
    noise = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    roots = np.sqrt(np.where(values > noise, values, 0.0))
    return (vectors * roots) @ vectors.T


def inception_score(logits: np.ndarray, *, num_splits: int = 10) -> tuple[float, float]:
    """Return mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))).

    Between 1 and the number of classes. The splits are consecutive rows, not shuffled. Only with
    the Inception network's 1,008 logits is it the inception score of the literature.

    Args:
      logits: (N, num_classes), N of at least `num_splits`.
      num_splits: parts that are scored on their own; more means a lower score.

    References:
      Salimans et al., Improved Techniques for Training GANs, 2016 (arXiv 1606.03498).

    >>> certain = np.tile(100.0 * np.eye(4), (5, 1))
    >>> mean, std = inception_score(certain, num_splits=5)
    >>> round(mean, 6), round(std, 6)
    (4.0, 0.0)
    """
    logits = _features(logits, "logits")
    if not 1 <= num_splits <= len(logits):
        raise InputError(
            f"{len(logits)} examples do not make {num_splits} splits: pass a num_splits from 1 "
            f"to {len(logits)}."
        )
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    bounds = [len(p) * index // num_splits for index in range(num_splits + 1)]
    scores = []
    for start, stop in itertools.pairwise(bounds):
        marginal = p[start:stop].mean(axis=0)
        # A class that never appears has p = 0 in every row: 0 log 0 is 0.
        log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
        divergence = (p[start:stop] * (log_p[start:stop] - log_marginal)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))


def kernel_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the squared maximum mean discrepancy with the kernel (x·y/D + 1)³, unbiased.

    On the 2,048 Inception features this is the KID. Its expectation does not depend on the number
    of examples, so that it may be negative where the two sets are alike. Unlike the usual
    KID it takes all rows at once and no random subsets; of the longer set it uses the first rows.

    Args:
      generated: (N, D).
      real: (M, D).

    References:
      Bińkowski et al., Demystifying MMD GANs, 2018 (arXiv 1801.01401).
    """
    generated, real = _pair(generated, real)
    count = min(len(generated), len(real))
    if count < 2:
        raise InputError("the kernel distance needs at least two examples of each kind.")
    generated, real = generated[:count], real[:count]

    def kernel_sum(x: np.ndarray, y: np.ndarray, *, diagonal: bool) -> float:
        total = 0.0
        for start in range(0, count, 1000):
            block = (x[start : start + 1000] @ y.T / x.shape[1] + 1.0) ** 3
            if not diagonal:
                rows = np.arange(len(block))
                block[rows, start + rows] = 0.0
            total += block.sum()
        return total

    within = kernel_sum(generated, generated, diagonal=False)
    within += kernel_sum(real, real, diagonal=False)
    between = kernel_sum(generated, real, diagonal=True)
    return float(within / (count * (count - 1)) - 2 * between / count**2)


def precision_recall(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int = 3
) -> tuple[float, float]:
    """Return the share of generated within the real manifold, and of real within the generated.

    A manifold is the union of balls around its examples that reach to the k-th nearest other one.
    Precision falls with poor images, recall with missing variety. Around a lonely example the ball
    is large: with `fashion_mnist_classifier` 71 percent of uniform noise falls into such balls, so
    read precision together with the Fréchet distance.

    Args:
      generated: (N, D).
      real: (M, D).
      neighbours: k.

    References:
      Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models,
      2019 (arXiv 1904.06991).

    >>> square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> precision_recall(square[:2], square, neighbours=1)
    (1.0, 1.0)
    >>> precision_recall(square + 9.0, square, neighbours=1)
    (0.0, 0.0)
    """
    generated, real = _pair(generated, real)
    if not 1 <= neighbours < min(len(generated), len(real)):
        raise InputError(
            f"{neighbours} neighbours need more examples than that on both sides, "
            f"these are {len(generated)} and {len(real)}."
        )
    return _covered(generated, real, neighbours), _covered(real, generated, neighbours)


def _covered(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    """Return the share of points within a manifold's balls, in blocks of 1,000 rows."""
    radii = np.concatenate(
        [
            # The nearest is the example itself.
            np.partition(_squared_distances(block, manifold), neighbours, axis=1)[:, neighbours]
            for block in np.split(manifold, range(1000, len(manifold), 1000))
        ]
    )
    inside = [
        (_squared_distances(block, manifold) <= radii).any(axis=1)
        for block in np.split(points, range(1000, len(points), 1000))
    ]
    return float(np.concatenate(inside).mean())


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)
    return np.maximum(squares - 2.0 * x @ y.T, 0.0)


def _pair(generated: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    generated, real = _features(generated, "generated"), _features(real, "real")
    if generated.shape[1] != real.shape[1]:
        raise InputError(
            f"generated has {generated.shape[1]} features and real {real.shape[1]}: "
            "take both from one extractor."
        )
    return generated, real


def _features(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not len(values):
        raise InputError(
            f"{name} must have the shape (N, D) with N of at least one, it has {values.shape}."
        )
    if not np.isfinite(values).all():
        rows = int((~np.isfinite(values).all(axis=1)).sum())
        raise InputError(f"{rows} of {len(values)} rows of {name} are not finite.")
    return values
