"""References of large sets, kept on disk: looking at 50,000 images takes an hour of a CPU."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ganjax.evaluation.extractor import Extractor, weights_sha256
from ganjax.evaluation.moments import Moments
from ganjax.evaluation.protocol import prepare_reference
from ganjax.evaluation.table import Reference
from ganjax.evaluation.weights import cache_directory, write_archive
from ganjax.files import read_arrays, reason
from ganjax.types import InputError

_MIN_SECONDS = 5.0


def cached_reference(
    images: Callable[[], Iterable[np.ndarray]],
    *,
    extractor: Extractor,
    fingerprint: str,
    name: str,
    stamp: str = "",
    labels: np.ndarray | None = None,
    needs_features: bool = True,
    min_seconds: float = _MIN_SECONDS,
) -> Reference:
    """Return a reference from the disk, or prepare it and keep it there.

    It is found by the hash of the extractor, its output, the fingerprint of the images and the
    stamp. A copy that is damaged is made again.

    Args:
      images: called for the images, in parts, where there is no copy.
      extractor: the network that judges.
      fingerprint: of the images.
      name: what figures call them.
      stamp: what else tells that they are the same, where the fingerprint does not cover content.
      labels: (N,) integers, for distances within classes.
      needs_features: whether the moments alone do not suffice.
      min_seconds: what is prepared more quickly is not kept.
    """
    key = f"{extractor.hash} {extractor.features} {extractor.resize} {fingerprint} {stamp}"
    path = cache_directory("references") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    found = _read(path)
    if found is not None and ("features" in found or not needs_features):
        moments = Moments(int(found["count"]), found["mean"], found["scatter"])
        features = found.get("features") if needs_features else None
        return Reference(
            name, fingerprint, extractor.hash, moments, moments.count, features, labels
        )
    started = time.perf_counter()
    reference = prepare_reference(
        images(),
        extractor=extractor,
        name=name,
        labels=labels,
        fingerprint_of=fingerprint,
        keep_features=needs_features,
    )
    if time.perf_counter() - started >= min_seconds:
        tensors = dict(zip(Moments._fields, map(np.asarray, reference.moments), strict=True))
        if reference.features is not None:
            tensors["features"] = reference.features
        about = {"extractor": extractor.name, "reference": name, "fingerprint": fingerprint}
        with contextlib.suppress(InputError):  # a disk that is full costs time, nothing else
            write_archive(path, tensors, about)
    return reference


def read_statistics(path: Path, extractor: Extractor) -> Reference | None:
    """Return the reference that an .npz with `mu` and `sigma` holds, None where it is no such file.

    pytorch-fid and others publish statistics of data sets so. What made them the file does not say.

    Raises:
      InputError: the file is broken, or holds what cannot be statistics.
    """
    tensors = read_arrays(path)
    if not {"mu", "sigma"} <= set(tensors):
        return None
    mean, covariance = tensors["mu"], tensors["sigma"]
    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu":
        raise InputError(
            f"{path} holds no statistics: mu is {mean.dtype}, sigma {covariance.dtype}"
        )
    try:
        with np.errstate(all="ignore"):  # what is too large for float64 is refused as infinite
            # The number does not matter any more.
            moments = Moments.of_statistics(mean, covariance, 2)
    except (InputError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise InputError(f"{path} holds no statistics: {reason(error)}") from error
    fingerprint = weights_sha256({"mu": mean, "sigma": covariance})[:32]
    return Reference(f"statistics of {path}", fingerprint, extractor.hash, moments)


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of a sound copy, else None."""
    try:
        tensors = read_arrays(path)
        metadata = json.loads(tensors.pop("__metadata__").tobytes())
        return tensors if metadata["sha256"] == weights_sha256(tensors) else None
    except Exception:  # missing, cut short, or of another kind
        return None
