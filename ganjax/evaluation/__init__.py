"""How good the samples are: figures that say how they were made."""

from ganjax.evaluation.classifier import fashion_mnist_classifier
from ganjax.evaluation.collapse import diversity, is_collapsed
from ganjax.evaluation.extractor import Extractor, compiled_extractor, pixels
from ganjax.evaluation.metrics import (
    Moments,
    frechet_distance,
    frechet_distance_from_moments,
    inception_score,
    kernel_distance,
    precision_recall,
)
from ganjax.evaluation.plane import modes_covered
from ganjax.evaluation.protocol import (
    METRICS,
    Figure,
    Metric,
    Reference,
    evaluate_images,
    evaluate_points,
    fingerprint,
    prepare_reference,
)

__all__ = [
    "METRICS",
    "Extractor",
    "Figure",
    "Metric",
    "Moments",
    "Reference",
    "compiled_extractor",
    "diversity",
    "evaluate_images",
    "evaluate_points",
    "fashion_mnist_classifier",
    "fingerprint",
    "frechet_distance",
    "frechet_distance_from_moments",
    "inception_score",
    "is_collapsed",
    "kernel_distance",
    "modes_covered",
    "pixels",
    "precision_recall",
    "prepare_reference",
]
