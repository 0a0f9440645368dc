"""Distances between two sets of features, and scores of logits: pure functions, float64.

They agree with torch-fidelity where both compute the same thing. `generated` and `real` are
always (N, D), one row an example.
"""

import itertools
from typing import NamedTuple

import numpy as np

from ganjax.evaluation.moments import Moments, as_features, as_pair
from ganjax.types import InputError


class Gaussian(NamedTuple):
    """A mean and a factor of the covariance, prepared once for many distances.

    Attributes:
      mean: (D,).
      factor: (D, R) with covariance = factor @ factor.T.
    """

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, features: "np.ndarray | Moments | Gaussian") -> "Gaussian":
        """Return the Gaussian with the mean and covariance of features (N, D) or `Moments`."""
        if isinstance(features, Gaussian):
            return features
        if not isinstance(features, Moments):
            features = as_features(features, "features")
            count, dim = features.shape
            if count < 2:
                raise InputError("a covariance needs at least two examples, this is one.")
            if count <= dim:  # the examples themselves are a factor, and the smaller one
                mean = features.mean(axis=0, dtype=np.float64)
                return cls(mean, (features - mean).T / np.sqrt(count - 1))
            features = Moments.of(features)
        return cls(features.mean, _factor(features.covariance))

    def distance(self, other: "Gaussian") -> float:
        """Return the Fréchet distance: |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), at least 0.

        The eigenvalues of C1 C2 are the squares of the singular values of F1ᵀ F2, whatever the
        factors: nothing complex appears, and small ones keep their digits.
        """
        if self.mean.shape != other.mean.shape:
            raise InputError(
                "the Fréchet distance compares features of one dimension, these have "
                f"{len(self.mean)} and {len(other.mean)}: take both from one extractor."
            )
        overlap = np.linalg.svd(self.factor.T @ other.factor, compute_uv=False).sum()
        shift = self.mean - other.mean
        variances = (self.factor**2).sum() + (other.factor**2).sum()
        return max(float(shift @ shift + variances - 2 * overlap), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return a factor (D, R) of a positive semi-definite matrix (D, D)."""
    # Rounding leaves about this much, of either sign, where an eigenvalue is zero.
    noise = len(covariance) * np.finfo(np.float64).eps * max(covariance.diagonal().max(), 0.0)
    try:
        factor = np.linalg.cholesky(covariance)
        if factor.diagonal().min() ** 2 > noise:
            return factor
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(noise, len(values) * np.finfo(np.float64).eps * values[-1])
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_distance(
    generated: np.ndarray | Moments | Gaussian, real: np.ndarray | Moments | Gaussian
) -> float:
    """Return the Fréchet distance between Gaussians fitted to two sets of features.

    On the 2,048 Inception features this is the FID. It falls with the number of examples on
    either side: compare figures of equal numbers only, or see `frechet_distance_at_infinity`.

    Args:
      generated: (N, D) features, N of at least two, or their `Moments`.
      real: (M, D) features, or their `Moments`.

    Returns:
      |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), at least 0.

    References:
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017 (arXiv 1706.08500).

    >>> line = np.linspace(-1.0, 1.0, 9)[:, None]
    >>> round(frechet_distance(line, line + 3.0), 9)
    9.0
    """
    return Gaussian.of(generated).distance(Gaussian.of(real))


def frechet_distance_from_moments(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """Return the Fréchet distance between two Gaussians, whatever the ranks of the covariances.

    Args:
      mean1: (D,).
      covariance1: (D, D), symmetric.
      mean2: (D,).
      covariance2: (D, D), symmetric.

    Raises:
      InputError: the shapes differ, or a value is not finite.
    """
    values = [np.asarray(x, np.float64) for x in (mean1, covariance1, mean2, covariance2)]
    if not all(np.isfinite(x).all() for x in values):
        raise InputError("the moments hold values that are not finite.")
    one, two = (Gaussian(mean, _factor(cov)) for mean, cov in (values[:2], values[2:]))
    return one.distance(two)


def frechet_distance_at_infinity(
    generated: np.ndarray,
    real: np.ndarray | Moments | Gaussian,
    *,
    num_points: int = 15,
    min_samples: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the Fréchet distance extrapolated to infinitely many generated samples.

    The distance of N samples is close to a line in 1/N. It is measured at `num_points` values of N,
    evenly spaced, on random subsets; the line's value at 1/N = 0 is the result. What the number of
    real examples adds remains.

    Args:
      generated: (N, D) features.
      real: (M, D) features, or their `Moments`.
      num_points: distances measured.
      min_samples: the smallest subset; by default a tenth of N (5,000 of the paper's 50,000). It
        should well exceed D.
      seed: of the subsets.

    Returns:
      The extrapolated distance and its standard error from the fit.

    References:
      Chong and Forsyth, Effectively Unbiased FID and Inception Score and where to find them, 2020
      (arXiv 1911.07023).

    >>> random = np.random.default_rng(0)
    >>> few, many = random.standard_normal((2000, 8)), random.standard_normal((50_000, 8))
    >>> at_infinity, error = frechet_distance_at_infinity(few, many)
    >>> at_infinity < frechet_distance(few, many)
    True
    """
    generated = as_features(generated, "generated")
    count = len(generated)
    smallest = min_samples if min_samples is not None else max(2, count // 10)
    if not 2 <= smallest < count or num_points < 3:
        raise InputError(
            f"the extrapolation needs 2 <= min_samples < {count} and num_points of at least 3, "
            f"they are {smallest} and {num_points}."
        )
    real, random = Gaussian.of(real), np.random.default_rng(seed)
    sizes = np.unique(np.linspace(smallest, count, num_points).astype(int))
    distances = [
        Gaussian.of(generated[random.choice(count, size, replace=False)]).distance(real)
        for size in sizes
    ]
    inputs = np.stack([np.ones(len(sizes)), 1.0 / sizes], axis=1)
    fit, *_ = np.linalg.lstsq(inputs, np.array(distances))
    freedom = max(len(sizes) - 2, 1)
    variance = ((inputs @ fit - distances) ** 2).sum() / freedom
    error = np.sqrt(variance * np.linalg.inv(inputs.T @ inputs)[0, 0])
    return float(fit[0]), float(error)


def intra_class_frechet_distance(
    generated: np.ndarray,
    generated_labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
) -> tuple[float, dict[int, float]]:
    """Return the Fréchet distance within each class, and their mean.

    It sees what the distance of all classes together hides: a class that is drawn without variety,
    or as another.

    Args:
      generated: (N, D) features.
      generated_labels: (N,) integers: the classes that were asked for.
      real: (M, D) features.
      real_labels: (M,) integers.

    Returns:
      The mean over the classes that `real` has, and the distance of each.

    Raises:
      InputError: a class has fewer than two examples on either side.

    References:
      Miyato and Koyama, cGANs with Projection Discriminator, 2018 (arXiv 1802.05637).
    """
    generated, real = as_pair(generated, real)
    generated_labels, real_labels = np.asarray(generated_labels), np.asarray(real_labels)
    for name, labels, features in (
        ("generated", generated_labels, generated),
        ("real", real_labels, real),
    ):
        if labels.shape != (len(features),):
            raise InputError(
                f"the labels of {name} have the shape {labels.shape}, expected ({len(features)},)."
            )
    distances = {}
    for label in np.unique(real_labels):
        ours, theirs = generated[generated_labels == label], real[real_labels == label]
        if min(len(ours), len(theirs)) < 2:
            raise InputError(
                f"class {label} has {len(ours)} generated and {len(theirs)} real examples, "
                "expected two at least of each: take more samples."
            )
        distances[int(label)] = frechet_distance(ours, theirs)
    return float(np.mean(list(distances.values()))), distances


def inception_score(logits: np.ndarray, num_splits: int = 10) -> tuple[float, float]:
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
    logits = as_features(logits, "logits").astype(np.float64)
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
    of examples, so that it may be negative where the two sets are alike. It takes all rows at once,
    of the longer set the first ones; `kernel_distance_of_subsets` gives the usual mean over random
    subsets.

    Args:
      generated: (N, D).
      real: (M, D).

    References:
      Bińkowski et al., Demystifying MMD GANs, 2018 (arXiv 1801.01401).
    """
    generated, real = as_pair(generated, real)
    count = min(len(generated), len(real))
    if count < 2:
        raise InputError("the kernel distance needs at least two examples of each kind.")
    return _kernel_distance(generated[:count], real[:count])


def kernel_distance_of_subsets(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the mean of `kernel_distance` over random subsets, and its standard error.

    This is how KID is published. The subsets are drawn from one pair of sets, so that the error
    tells how exactly these were compared, and not how much another training would differ.

    Args:
      generated: (N, D).
      real: (M, D).
      num_subsets: subsets of each set.
      subset_size: examples in each; fewer where a set has fewer.
      seed: of the subsets.
    """
    generated, real = as_pair(generated, real)
    size = min(subset_size, len(generated), len(real))
    if size < 2 or num_subsets < 2:
        raise InputError(
            f"the kernel distance of subsets needs two of them and two examples in each at least, "
            f"these are {num_subsets} of {size}."
        )
    random = np.random.default_rng(seed)

    def subset(features: np.ndarray) -> np.ndarray:
        return features[random.choice(len(features), size, replace=False)]

    distances = [_kernel_distance(subset(generated), subset(real)) for _ in range(num_subsets)]
    return float(np.mean(distances)), float(np.std(distances, ddof=1) / np.sqrt(num_subsets))


def _kernel_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Compare two sets of one size."""
    generated, real = generated.astype(np.float64), real.astype(np.float64)
    count = len(generated)

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
