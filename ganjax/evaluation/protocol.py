"""What a published number is: a value together with how it was made."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ganjax.evaluation import metrics as measures
from ganjax.evaluation.extractor import Extractor
from ganjax.evaluation.plane import modes_covered
from ganjax.types import Array, InputError, Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number and what one has to know to compare it with another.

    `dataclasses.asdict` gives what JSON takes, `Figure(**that)` brings it back.

    Attributes:
      name: what was measured, such as `Fréchet distance`.
      value: the number.
      num_samples: how many samples were generated for it.
      reference: what they were compared with, such as `held out`; None where with nothing.
      spread: standard deviation over splits of the samples, where the metric has one.
      extractor: name of the network that turned images into features.
      extractor_hash: sha256 of its weights.
      reference_fingerprint: the first half of the sha256 of the reference examples.
      num_reference: how many of these there are.
      truncation: the generator's truncation, None for none.
      ema: whether the running average of the generator was sampled; None where not known.
      standing_batches: over which batch norm's statistics were gathered anew; None for the running
        ones.
      seed: of the samples.
      batch_size: samples drawn at a time; with `seed` it determines them.
      versions: of the software.
    """

    name: str
    value: float
    num_samples: int
    reference: str | None = None
    spread: float | None = None
    extractor: str | None = None
    extractor_hash: str | None = None
    reference_fingerprint: str | None = None
    num_reference: int | None = None
    truncation: float | None = None
    ema: bool | None = None
    standing_batches: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(_software()))

    def __str__(self) -> str:
        """Return the number with the part of its making that fits on a line.

        >>> print(Figure(name="Fréchet distance", value=12.345, num_samples=1000,
        ...              reference="held out", extractor="fashion-mnist-classifier"))
        Fréchet distance (fashion-mnist-classifier, 1k vs held out): 12.3
        """
        number = _count(self.num_samples)
        parts = [
            self.extractor,
            number if self.reference is None else f"{number} vs {self.reference}",
            None if self.truncation is None else f"truncation {self.truncation:g}",
            "without EMA" if self.ema is False else None,
            f"standing statistics of {self.standing_batches}" if self.standing_batches else None,
        ]
        spread = "" if self.spread is None else f" ± {_number(self.spread)}"
        return f"{self.name} ({', '.join(filter(None, parts))}): {_number(self.value)}{spread}"


class Reference(NamedTuple):
    """Real images as an extractor sees them, computed once for many evaluations.

    Attributes:
      name: what figures call it.
      fingerprint: of the images.
      extractor_hash: of the extractor that made the features.
      features: (N, D) float32.
      moments: of the features.
    """

    name: str
    fingerprint: str
    extractor_hash: str
    features: np.ndarray
    moments: measures.Moments


def prepare_reference(
    images: Array | np.ndarray, *, extractor: Extractor, name: str = "held out"
) -> Reference:
    """Return what `evaluate_images` needs to know of real images (N, H, W, C).

    Uint8, or float in [-1, 1].
    """
    images = np.asarray(images)
    features = extractor.apply(images)["features"]
    moments = measures.Moments.of(features)
    return Reference(name, fingerprint(images), extractor.hash, features, moments)


class Metric(NamedTuple):
    """One way to judge generated images.

    Attributes:
      names: of the figures it gives, by key.
      compute: `(outputs of the extractor, reference) -> [(value, spread or None), ...]`.
      compares: whether it looks at the reference at all.
    """

    names: dict[str, str]
    compute: Callable[[Mapping[str, np.ndarray], Reference], list[tuple[float, float | None]]]
    compares: bool = True


METRICS = {
    "frechet_distance": Metric(
        {"frechet_distance": "Fréchet distance"},
        lambda outputs, reference: [
            (measures.frechet_distance(outputs["features"], reference.moments), None)
        ],
    ),
    "classifier_score": Metric(
        {"classifier_score": "classifier score"},
        lambda outputs, reference: [
            # A short run may ask for fewer samples than there are splits.
            measures.inception_score(outputs["logits"], num_splits=min(10, len(outputs["logits"])))
        ],
        compares=False,
    ),
    "kernel_distance": Metric(
        {"kernel_distance": "kernel distance"},
        lambda outputs, reference: [
            (measures.kernel_distance(outputs["features"], reference.features), None)
        ],
    ),
    "precision_recall": Metric(
        {"precision": "precision", "recall": "recall"},
        lambda outputs, reference: [
            (share, None)
            for share in measures.precision_recall(outputs["features"], reference.features)
        ],
    ),
}


def evaluate_images(
    sample: Callable[[Key, int], Array],
    reference_images: Array | np.ndarray | Reference,
    *,
    extractor: Extractor,
    num_samples: int = 1000,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str] = ("frechet_distance", "classifier_score"),
    reference: str = "held out",
    truncation: float | None = None,
    ema: bool | None = None,
    standing_batches: int | None = None,
) -> dict[str, Figure]:
    """Generate images and compare them with real ones.

    The Fréchet distance and the classifier score of a Fashion-MNIST classifier are neither FID nor
    IS, which are made with the Inception network, and compare with no number of the literature.
    `fashion_mnist_classifier` says what real images get: that is the best to hope for.

    Args:
      sample: `(key, n) -> images` (n, H, W, C), float in [-1, 1] or uint8. It is always called with
        n = `batch_size`, so that one compiled program serves; compile it yourself.
      reference_images: (M, H, W, C) real images that training did not see, or what
        `prepare_reference` made of them, which saves time when evaluating again and again.
      extractor: the network that judges.
      num_samples: how many to generate; surplus ones of the last batch are dropped.
      seed: of `jax.random.key`; batch i gets `fold_in(key, i)`.
      batch_size: samples drawn at a time.
      metrics: keys of `METRICS`.
      reference: what figures call the reference images.
      truncation: recorded in the figures; `sample` applies it.
      ema: recorded in the figures.
      standing_batches: recorded in the figures.

    Returns:
      Figures by key, such as `frechet_distance` and `classifier_score`.

    Raises:
      InputError: images of a wrong shape or with values that are not finite, an unknown metric, or
        a reference prepared with another extractor.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        raise InputError(f"there is no metric {unknown[0]!r}: choose from {', '.join(METRICS)}.")
    if num_samples < 2 or batch_size < 1:
        raise InputError(
            f"num_samples must be at least 2 and batch_size at least 1, they are {num_samples} "
            f"and {batch_size}."
        )
    if not isinstance(reference_images, Reference):
        reference_images = prepare_reference(reference_images, extractor=extractor, name=reference)
    elif reference_images.extractor_hash != extractor.hash:
        raise InputError(
            f"the reference {reference_images.name!r} was prepared with another extractor than "
            f"{extractor.name}: prepare it again."
        )
    sample_key = jax.random.key(seed)
    parts = []
    for index, start in enumerate(range(0, num_samples, batch_size)):
        images = np.asarray(sample(jax.random.fold_in(sample_key, index), batch_size))
        if len(images) != batch_size:
            raise InputError(f"sample was asked for {batch_size} images and gave {len(images)}.")
        parts.append(extractor.apply(images[: num_samples - start]))
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    made = {
        "num_samples": num_samples,
        "extractor": extractor.name,
        "extractor_hash": extractor.hash,
        "truncation": truncation,
        "ema": ema,
        "standing_batches": standing_batches,
        "seed": seed,
        "batch_size": batch_size,
    }
    compared = {
        "reference": reference_images.name,
        "reference_fingerprint": reference_images.fingerprint,
        "num_reference": len(reference_images.features),
    }
    figures = {}
    for metric in (METRICS[name] for name in metrics):
        values = metric.compute(outputs, reference_images)
        for (key, name), (value, spread) in zip(metric.names.items(), values, strict=True):
            against = compared if metric.compares else {}
            figures[key] = Figure(name=name, value=value, spread=spread, **made, **against)
    return figures


def evaluate_points(
    sample: Callable[[Key, int], Array],
    centers: Array | np.ndarray,
    std: float | np.ndarray,
    *,
    num_samples: int = 2500,
    seed: int = 0,
    truncation: float | None = None,
    ema: bool | None = None,
) -> dict[str, Figure]:
    """Generate points and say which modes of a mixture they cover, as `modes_covered` counts.

    Args:
      sample: `(key, n) -> points` (n, D), called once with n = `num_samples`.
      centers: (K, D) means of the modes.
      std: standard deviation of the modes.
      num_samples: VEEGAN's and PacGAN's 2,500; more samples find more modes.
      seed: of `jax.random.key`.
      truncation: recorded in the figures.
      ema: recorded in the figures.

    Returns:
      Figures `modes_covered` and `good_share`.

    >>> figures = evaluate_points(lambda key, n: np.zeros((n, 2)), [[0, 0], [9, 9]], 0.1)
    >>> print(figures["modes_covered"])
    modes covered (2.5k vs 2 modes): 1
    """
    centers = np.asarray(centers)
    points = np.asarray(sample(jax.random.key(seed), num_samples))
    measured = modes_covered(points, centers, std)
    return {
        name: Figure(
            name={"good_share": "good samples"}.get(name, name.replace("_", " ")),
            value=value,
            num_samples=len(points),
            reference=f"{len(centers)} modes",
            reference_fingerprint=fingerprint(centers),
            num_reference=len(centers),
            truncation=truncation,
            ema=ema,
            seed=seed,
            batch_size=num_samples,
        )
        for name, value in measured.items()
    }


def fingerprint(examples: Array | np.ndarray) -> str:
    """Return 32 hexadecimal digits that change with any value, the order, shape or dtype."""
    examples = np.ascontiguousarray(examples)
    digest = hashlib.sha256(f"{examples.dtype} {examples.shape}\n".encode())
    digest.update(examples.tobytes())
    return digest.hexdigest()[:32]


@functools.cache
def _software() -> dict[str, str]:
    """Return the versions of what computes figures, and the kind of device."""
    versions = {name: importlib.metadata.version(name) for name in ("ganjax", "jax", "numpy")}
    return {
        **versions,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }


def _count(number: int) -> str:
    if number >= 1000 and number % 100 == 0:
        return f"{number / 1000:g}k"
    return f"{number:,}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.1f}"
