"""Mean and covariance of features that need not be in memory at once."""

from typing import NamedTuple

import jax
import numpy as np

from ganjax.types import InputError

# Rows that are centred and multiplied at a time: 64 MiB of float64 at 2,048 features.
_BLOCK = 4096


class Moments(NamedTuple):
    """Count, mean and scatter of features, in float64.

    Parts merge to what the whole has, to rounding, whatever their number and order; a part may be a
    batch, a device's share or a process's. Moments of D features take 8 D² bytes: 32 MiB for the
    2,048 of Inception, however many examples there are.

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
        """Return the moments of features (N, D) with N of at least one.

        Raises:
          InputError: the shape is another, or a value is not finite.
        """
        features = as_features(features, "features")
        parts = [
            cls._of_block(features[start : start + _BLOCK].astype(np.float64))
            for start in range(0, len(features), _BLOCK)
        ]
        return cls.of_parts(parts)

    @classmethod
    def _of_block(cls, features: np.ndarray) -> "Moments":
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    @classmethod
    def of_parts(cls, parts: list["Moments"]) -> "Moments":
        """Return the moments of all parts together; there must be one at least."""
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        return total

    @classmethod
    def of_statistics(cls, mean: np.ndarray, covariance: np.ndarray, count: int) -> "Moments":
        """Return the moments that have a mean (D,) and an unbiased covariance (D, D).

        Raises:
          InputError: the shapes do not fit, a value is not finite, or count is below two.
        """
        mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            raise InputError(
                f"expected a mean (D,) and a covariance (D, D), these have the shapes {mean.shape} "
                f"and {covariance.shape}."
            )
        if count < 2:
            raise InputError(f"a covariance needs at least two examples, count is {count}.")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise InputError("the statistics hold values that are not finite.")
        scale = np.abs(covariance).max()
        if not np.allclose(covariance, covariance.T, rtol=0, atol=1e-6 * scale):
            raise InputError("the covariance is not symmetric: these are no statistics.")
        if np.linalg.eigvalsh(covariance)[0] < -1e-4 * scale:
            raise InputError("the covariance has negative variances: these are no statistics.")
        return cls(int(count), mean, covariance * (count - 1))

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

    def over_processes(self) -> "Moments":
        """Return the moments of the features of all JAX processes; each of them has to call it."""
        if jax.process_count() == 1:
            return self
        from jax.experimental import multihost_utils

        # As bytes: without x64, JAX would round the doubles on their way.
        numbers = np.concatenate([[float(self.count)], self.mean, self.scatter.reshape(-1)])
        gathered = multihost_utils.process_allgather(numbers.view(np.uint32))
        dim = len(self.mean)
        parts = [
            Moments(int(x[0]), x[1 : dim + 1], x[dim + 1 :].reshape(dim, dim))
            for x in (np.ascontiguousarray(row).view(np.float64) for row in np.asarray(gathered))
        ]
        return self.of_parts(parts)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (D, D), as `numpy.cov` gives it."""
        if self.count < 2:
            raise InputError("a covariance needs at least two examples, this is one.")
        return self.scatter / (self.count - 1)


def as_features(values: np.ndarray, name: str) -> np.ndarray:
    """Return values as floats (N, D), N of at least one; float32 stays, to save memory.

    Raises:
      InputError: the shape is another, or a value is not finite.
    """
    values = np.asarray(values)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 2 or not len(values):
        raise InputError(
            f"{name} must have the shape (N, D) with N of at least one, it has {values.shape}."
        )
    finite = np.isfinite(values)
    if not finite.all():
        rows = int((~finite.all(axis=1)).sum())
        raise InputError(f"{rows} of {len(values)} rows of {name} are not finite.")
    return values


def as_pair(generated: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets as floats (N, D) and (M, D).

    Raises:
      InputError: as `as_features`, or they differ in D.
    """
    generated, real = as_features(generated, "generated"), as_features(real, "real")
    if generated.shape[1] != real.shape[1]:
        raise InputError(
            f"generated has {generated.shape[1]} features and real {real.shape[1]}: "
            "take both from one extractor."
        )
    return generated, real
