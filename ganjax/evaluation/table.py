"""`METRICS`: every way to judge samples by what an extractor sees, and what each of them needs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ganjax.evaluation import metrics as measures
from ganjax.evaluation import neighbors
from ganjax.evaluation.extractor import Extractor
from ganjax.evaluation.moments import Moments
from ganjax.evaluation.stacked import NUM_MODES, modes_of_logits
from ganjax.types import InputError


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
