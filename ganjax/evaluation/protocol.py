"""What a published number is: a value together with how it was made."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ganjax.evaluation import metrics as measures
from ganjax.evaluation import neighbors
from ganjax.evaluation.extractor import Extractor
from ganjax.evaluation.moments import Moments
from ganjax.evaluation.plane import modes_covered
from ganjax.evaluation.stacked import NUM_MODES, modes_of_logits
from ganjax.types import Array, InputError, Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number and what one has to know to compare it with another.

    `dataclasses.asdict` gives what JSON takes, `Figure(**that)` brings it back.

    Attributes:
      name: what was measured, such as `Fréchet distance`, or `FID` where it is one.
      value: the number.
      num_samples: how many samples were generated for it.
      reference: what they were compared with, such as `held out`; None where with nothing.
      spread: standard deviation over splits of the samples, or standard error, where the metric has
        one.
      settings: of the metric, such as the number of neighbours.
      extractor: name of the network that turned images into features.
      extractor_hash: sha256 of its weights.
      features: which of its outputs.
      resize: how it brings images to the size that it knows.
      images: shape of the images and, where the reference was brought to it, by which rule.
      source_fingerprint: of samples that were there already.
      reference_fingerprint: of the reference examples: a hash of their content, of streamed files
        one of names and sizes.
      reference_data: name of the data set that they are of.
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
    settings: Mapping[str, int] = dataclasses.field(default_factory=dict)
    extractor: str | None = None
    extractor_hash: str | None = None
    features: str | None = None
    resize: str | None = None
    images: str | None = None
    source_fingerprint: str | None = None
    reference_data: str | None = None
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
        >>> print(Figure(name="FID", value=2.345, num_samples=50_000, reference="train",
        ...              extractor="inception-v3-tf1", ema=False))
        FID(inception-v3-tf1, 50k vs train, without EMA): 2.35
        """
        number = _count(self.num_samples)
        parts = [
            self.extractor,
            number if self.reference is None else f"{number} vs {self.reference}",
            self.images if self.images and "(" in self.images else None,
            None if self.truncation is None else f"truncation {self.truncation:g}",
            "without EMA" if self.ema is False else None,
            f"standing statistics of {self.standing_batches}" if self.standing_batches else None,
        ]
        spread = "" if self.spread is None else f" ± {_number(self.spread)}"
        space = "" if self.name.isupper() else " "
        making = ", ".join(filter(None, parts))
        return f"{self.name}{space}({making}): {_number(self.value)}{spread}"


class Reference(NamedTuple):
    """Real images as an extractor sees them, computed once for many evaluations.

    Attributes:
      name: what figures call it.
      fingerprint: of the images.
      extractor_hash: of the extractor that made the features.
      moments: of the features.
      num_images: how many there are; None where that is not known.
      features: (N, D) float32; None where only the moments are known.
      labels: (N,) integers; None where there are none.
      data: name of the data set that they are of.
    """

    name: str
    fingerprint: str
    extractor_hash: str
    moments: Moments
    num_images: int | None = None
    features: np.ndarray | None = None
    labels: np.ndarray | None = None
    data: str | None = None


def prepare_reference(
    images: Array | np.ndarray | Iterable[np.ndarray],
    *,
    extractor: Extractor,
    name: str = "held out",
    labels: np.ndarray | None = None,
    fingerprint_of: str | None = None,
    keep_features: bool = True,
) -> Reference:
    """Return what `evaluate_images` needs to know of real images.

    Args:
      images: (N, H, W, C), uint8 or float in [-1, 1]; or parts of them, one after the other, for
        which memory need not suffice at once.
      extractor: the network that judges.
      name: what figures call them.
      labels: (N,) integers, for distances within classes.
      fingerprint_of: what identifies the images; by default their `fingerprint`, which parts do not
        have.
      keep_features: whether to keep more than the moments: 400 MB for 50,000 images and 2,048
        features.
    """
    if isinstance(images, np.ndarray | jax.Array):
        fingerprint_of = fingerprint_of or fingerprint(images)
        images = [images]
    elif fingerprint_of is None:
        raise InputError("parts of images need fingerprint_of: say what identifies them.")
    seen = _gather(extractor, images, None, keep_features=keep_features, keep_logits=False)
    labels = None if labels is None else np.asarray(labels)
    return Reference(
        name, fingerprint_of, extractor.hash, seen.moments, seen.count, seen.features, labels
    )


class Samples(NamedTuple):
    """Generated images as an extractor sees them.

    Attributes:
      count: how many.
      moments: of the features.
      features: (N, D) float32; None where no metric asks for more than the moments.
      logits: (N, num_classes) float32; None where no metric asks for them.
      labels: (N,) the classes that were asked for; None where there are none.
    """

    count: int
    moments: Moments
    features: np.ndarray | None
    logits: np.ndarray | None
    labels: np.ndarray | None


class Metric(NamedTuple):
    """One way to judge generated images.

    Attributes:
      names: of the figures it gives, by key.
      compute: `(samples, reference) -> ([(value, spread or None), ...], settings)`.
      needs: what it reads besides the moments: "features", "logits", "labels".
      compares: whether it looks at the reference at all.
    """

    names: dict[str, str]
    compute: Callable[[Samples, Reference], tuple[list[tuple[float, float | None]], dict[str, int]]]
    needs: tuple[str, ...] = ()
    compares: bool = True


def _frechet_distance(samples, reference):
    # Of few examples their features are the shorter way to the same distance.
    few = samples.features is not None and samples.count <= samples.features.shape[1]
    generated = samples.features if few else samples.moments
    return [(measures.frechet_distance(generated, reference.moments), None)], {}


def _frechet_distance_at_infinity(samples, reference):
    # Below, covariances are too poor for distances to follow the line.
    dim = samples.features.shape[1]
    settings = {"num_points": 15, "min_samples": max(samples.count // 10, 2 * dim)}
    if samples.count < 2 * settings["min_samples"]:
        raise InputError(
            f"the extrapolation to infinity needs {4 * dim:,} samples or more of {dim:,} features, "
            f"these are {samples.count:,}: raise num_samples, or leave it out."
        )
    return [
        measures.frechet_distance_at_infinity(samples.features, reference.moments, **settings)
    ], settings


def _intra_class_frechet_distance(samples, reference):
    mean, _ = measures.intra_class_frechet_distance(
        samples.features, samples.labels, reference.features, reference.labels
    )
    return [(mean, None)], {"num_classes": len(np.unique(reference.labels))}


def _kernel_distance(samples, reference):
    # Subsets of a set that is hardly larger would all be the same.
    size = min(1000, samples.count // 2, len(reference.features) // 2)
    settings = {"num_subsets": 100, "subset_size": max(2, size)}
    return [
        measures.kernel_distance_of_subsets(samples.features, reference.features, **settings)
    ], settings


def _classifier_score(samples, reference):
    # A short run may ask for fewer samples than there are splits.
    splits = min(10, samples.count)
    return [measures.inception_score(samples.logits, splits)], {"num_splits": splits}


def _precision_recall(samples, reference):
    shares = neighbors.precision_recall(samples.features, reference.features, 3)
    return [(share, None) for share in shares], {"num_neighbors": 3}


def _density_coverage(samples, reference):
    shares = neighbors.density_coverage(samples.features, reference.features, 5)
    return [(share, None) for share in shares], {"num_neighbors": 5}


def _stacked_modes(samples, reference):
    modes = modes_of_logits(samples.logits)
    return [(value, None) for value in modes], {"num_modes": NUM_MODES}


METRICS = {
    "frechet_distance": Metric({"frechet_distance": "Fréchet distance"}, _frechet_distance),
    "classifier_score": Metric(
        {"classifier_score": "classifier score"}, _classifier_score, ("logits",), compares=False
    ),
    "kernel_distance": Metric(
        {"kernel_distance": "kernel distance"}, _kernel_distance, ("features",)
    ),
    "precision_recall": Metric(
        {"precision": "precision", "recall": "recall"}, _precision_recall, ("features",)
    ),
    "density_coverage": Metric(
        {"density": "density", "coverage": "coverage"}, _density_coverage, ("features",)
    ),
    "frechet_distance_at_infinity": Metric(
        {"frechet_distance_at_infinity": "Fréchet distance at infinity"},
        _frechet_distance_at_infinity,
        ("features",),
    ),
    "intra_class_frechet_distance": Metric(
        {"intra_class_frechet_distance": "intra-class Fréchet distance"},
        _intra_class_frechet_distance,
        ("features", "labels"),
    ),
    "stacked_modes": Metric(
        {"modes_covered": "modes covered", "mode_divergence": "KL of modes"},
        _stacked_modes,
        ("logits",),
        compares=False,
    ),
}
# Every figure there can be, by key: those of the metrics, and that of points in the plane.
FIGURES = (*(key for metric in METRICS.values() for key in metric.names), "good_share")
# Where more is better; of everything else less is.
HIGHER_IS_BETTER = frozenset(
    {"classifier_score", "precision", "recall", "density", "coverage", "modes_covered"}
    | {"good_share"}
)


def check_metrics(
    metrics: Sequence[str], extractor: Extractor, reference: Reference | None = None
) -> None:
    """Refuse metrics that are not known or cannot be had.

    Raises:
      InputError: there is no such metric, the extractor knows no classes, or the reference lacks
        what it takes.
    """
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"there is no metric {name!r}: choose from {', '.join(METRICS)}.")
        needs, compares = METRICS[name].needs, METRICS[name].compares
        if name == "stacked_modes" and name not in extractor.metrics:
            raise InputError(f"{extractor.name} does not see stacked garments: leave {name} out.")
        if "logits" in needs and extractor.logits is None:
            raise InputError(f"{extractor.name} knows no classes: leave {name} out.")
        if reference is None or not compares:
            continue
        for part in ("features", "labels"):
            if part in needs and getattr(reference, part) is None:
                raise InputError(
                    f"{name} needs the {part} of the reference, and {reference.name!r} has none: "
                    "compare with the images themselves, or leave it out."
                )


def check_reference(reference: Reference, extractor: Extractor, image_shape: Sequence[int]) -> None:
    """Refuse a reference whose features are not those of the extractor.

    Args:
      reference: what samples are to be compared with.
      extractor: the network that judges.
      image_shape: (H, W, C) of the samples.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    if not extractor.traceable:
        return
    dim = jax.eval_shape(extractor.network, image)[extractor.features].shape[-1]
    if len(reference.moments.mean) != dim:
        raise InputError(
            f"{reference.name} has statistics of {len(reference.moments.mean):,} features, and "
            f"{extractor.name} makes {dim:,}: choose the --extractor that they were made with."
        )


def evaluate_images(
    sample: Callable[[Key, int], Any],
    reference_images: Array | np.ndarray | Reference,
    *,
    extractor: Extractor,
    num_samples: int = 1000,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str] | None = None,
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
      sample: `(key, n) -> images` (n, H, W, C), float in [-1, 1] or uint8; or `(images, labels)`.
        It is always called with n = `batch_size`, so that one compiled program serves; compile it
        yourself.
      reference_images: (M, H, W, C) real images that training did not see, or what
        `prepare_reference` made of them, which saves time when evaluating again and again.
      extractor: the network that judges.
      num_samples: how many to generate; surplus ones of the last batch are dropped.
      seed: of `jax.random.key`; batch i gets `fold_in(key, i)`.
      batch_size: samples drawn at a time.
      metrics: keys of `METRICS`; by default those of the extractor.
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
    metrics = extractor.metrics if metrics is None else tuple(metrics)
    if not isinstance(reference_images, Reference):
        check_metrics(metrics, extractor)
        reference_images = prepare_reference(reference_images, extractor=extractor, name=reference)
    samples = draw_samples(
        sample,
        extractor=extractor,
        num_samples=num_samples,
        seed=seed,
        batch_size=batch_size,
        metrics=metrics,
    )
    return compare(
        samples,
        reference_images,
        extractor=extractor,
        metrics=metrics,
        truncation=truncation,
        ema=ema,
        standing_batches=standing_batches,
        seed=seed,
        batch_size=batch_size,
    )


def draw_samples(
    sample: Callable[[Key, int], Any],
    *,
    extractor: Extractor,
    num_samples: int,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str],
) -> Samples:
    """Generate images and look at them: the part of an evaluation that keeps a device busy.

    Arguments are those of `evaluate_images`; `metrics` say what to keep.
    """
    if num_samples < 2 or batch_size < 1:
        raise InputError(
            f"num_samples must be at least 2 and batch_size at least 1, they are {num_samples} "
            f"and {batch_size}."
        )
    sample_key = jax.random.key(seed)

    def parts() -> Iterator[tuple[Any, Any]]:
        for index, start in enumerate(range(0, num_samples, batch_size)):
            drawn = sample(jax.random.fold_in(sample_key, index), batch_size)
            images, labels = drawn if isinstance(drawn, tuple) else (drawn, None)
            if len(images) != batch_size:
                raise InputError(
                    f"sample was asked for {batch_size} images and gave {len(images)}."
                )
            left = num_samples - start
            yield images[:left], None if labels is None else labels[:left]

    labels = []

    def images() -> Iterator[Any]:
        for part, part_labels in parts():
            if part_labels is not None:
                labels.append(part_labels)
            yield part

    needs = {need for name in metrics for need in METRICS[name].needs}
    seen = _gather(
        extractor, images(), None, keep_features="features" in needs, keep_logits="logits" in needs
    )
    return seen._replace(labels=np.concatenate(labels) if labels else None)


def look_at(
    images: Iterable[np.ndarray],
    *,
    extractor: Extractor,
    metrics: Sequence[str],
    labels: np.ndarray | None = None,
) -> Samples:
    """Return what the metrics need to know of images that are there already, in parts."""
    needs = {need for name in metrics for need in METRICS[name].needs}
    return _gather(
        extractor, images, labels, keep_features="features" in needs, keep_logits="logits" in needs
    )


def _gather(
    extractor: Extractor,
    images: Iterable[Any],
    labels: np.ndarray | None,
    *,
    keep_features: bool,
    keep_logits: bool,
) -> Samples:
    count, moments, waiting = 0, [], []
    features, logits = [], []
    for outputs in extractor.stream(images):
        values = outputs[extractor.features]
        count += len(values)
        waiting.append(values)
        # The fewer the merges, the less the work; the parts need not stay.
        if sum(map(len, waiting)) >= 2048:
            moments = [Moments.of_parts([*moments, Moments.of(np.concatenate(waiting))])]
            waiting = []
        if keep_features:
            features.append(values)
        if keep_logits and extractor.logits:
            logits.append(outputs[extractor.logits])
    if waiting:
        moments.append(Moments.of(np.concatenate(waiting)))
    if not moments:
        raise InputError("there are no images to look at.")
    return Samples(
        count=count,
        moments=Moments.of_parts(moments),
        features=np.concatenate(features) if features else None,
        logits=np.concatenate(logits) if logits else None,
        labels=labels,
    )


def compare(
    samples: Samples,
    reference: Reference,
    *,
    extractor: Extractor,
    metrics: Sequence[str],
    **about: Any,
) -> dict[str, Figure]:
    """Return the figures of samples: the part of an evaluation that the host computes.

    Args:
      samples: from `draw_samples` or `look_at`.
      reference: what they are compared with.
      extractor: the network that judged both.
      metrics: keys of `METRICS`.
      about: what figures record of the samples: images, source_fingerprint, truncation, ema,
        standing_batches, seed and batch_size.
    """
    check_metrics(metrics, extractor, reference)
    if reference.extractor_hash != extractor.hash:
        raise InputError(
            f"the reference {reference.name!r} was prepared with another extractor than "
            f"{extractor.name}: prepare it again."
        )
    if samples.labels is None and any("labels" in METRICS[name].needs for name in metrics):
        raise InputError("distances within classes need samples with labels, these have none.")
    made = {
        "num_samples": samples.count,
        "extractor": extractor.name,
        "extractor_hash": extractor.hash,
        "resize": extractor.resize,
        **about,
    }
    compared = {
        "reference": reference.name,
        "reference_fingerprint": reference.fingerprint,
        "num_reference": reference.num_images,
        "reference_data": reference.data,
    }
    figures = {}
    for metric in (METRICS[name] for name in metrics):
        values, settings = metric.compute(samples, reference)
        for (key, name), (value, spread) in zip(metric.names.items(), values, strict=True):
            figures[key] = Figure(
                name=extractor.published.get(key, name),
                value=value,
                spread=spread,
                settings=settings,
                features=extractor.logits if "logits" in metric.needs else extractor.features,
                **made,
                **(compared if metric.compares else {}),
            )
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
