"""How good the samples are: figures that say how they were made."""

from ganjax.evaluation.choice import choose_extractor
from ganjax.evaluation.classifier import cifar10_classifier, fashion_mnist_classifier
from ganjax.evaluation.collapse import diversity, is_collapsed
from ganjax.evaluation.extractor import Extractor, compiled_extractor, pixels
from ganjax.evaluation.figure import Figure, fingerprint
from ganjax.evaluation.inception import inception_v3
from ganjax.evaluation.metrics import (
    frechet_distance,
    frechet_distance_at_infinity,
    frechet_distance_from_moments,
    inception_score,
    intra_class_frechet_distance,
    kernel_distance,
    kernel_distance_of_subsets,
)
from ganjax.evaluation.moments import Moments
from ganjax.evaluation.neighbors import (
    density_coverage,
    duplicates,
    nearest_neighbors,
    precision_recall,
)
from ganjax.evaluation.plane import modes_covered
from ganjax.evaluation.protocol import (
    compare,
    draw_samples,
    evaluate_images,
    evaluate_points,
    look_at,
    prepare_reference,
)
from ganjax.evaluation.references import cached_reference, read_statistics
from ganjax.evaluation.smoothness import perceptual_path_length
from ganjax.evaluation.stacked import StackedModes, stacked_classifier, stacked_modes
from ganjax.evaluation.table import (
    FIGURES,
    HIGHER_IS_BETTER,
    METRICS,
    Metric,
    Reference,
    Samples,
    check_metrics,
    check_reference,
)
from ganjax.evaluation.text import (
    bits_per_character,
    bleu,
    distinct,
    meteor,
    perplexity,
    self_bleu,
)
from ganjax.evaluation.text_table import (
    TEXT_FIGURES,
    TEXT_HIGHER_IS_BETTER,
    TEXT_METRICS,
    TextMetric,
    TextSamples,
)
from ganjax.evaluation.weights import cache_directory

__all__ = [
    "FIGURES",
    "HIGHER_IS_BETTER",
    "METRICS",
    "TEXT_FIGURES",
    "TEXT_HIGHER_IS_BETTER",
    "TEXT_METRICS",
    "Extractor",
    "Figure",
    "Metric",
    "Moments",
    "Reference",
    "Samples",
    "StackedModes",
    "TextMetric",
    "TextSamples",
    "bits_per_character",
    "bleu",
    "cache_directory",
    "cached_reference",
    "check_metrics",
    "check_reference",
    "choose_extractor",
    "cifar10_classifier",
    "compare",
    "compiled_extractor",
    "density_coverage",
    "distinct",
    "diversity",
    "draw_samples",
    "duplicates",
    "evaluate_images",
    "evaluate_points",
    "fashion_mnist_classifier",
    "fingerprint",
    "frechet_distance",
    "frechet_distance_at_infinity",
    "frechet_distance_from_moments",
    "inception_score",
    "inception_v3",
    "intra_class_frechet_distance",
    "is_collapsed",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "look_at",
    "meteor",
    "modes_covered",
    "nearest_neighbors",
    "perceptual_path_length",
    "perplexity",
    "pixels",
    "precision_recall",
    "prepare_reference",
    "read_statistics",
    "self_bleu",
    "stacked_classifier",
    "stacked_modes",
]
