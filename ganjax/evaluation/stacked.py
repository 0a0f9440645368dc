"""Stacked Fashion-MNIST: a thousand modes that can be counted."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ganjax.evaluation.classifier import fashion_mnist_classifier
from ganjax.evaluation.extractor import Extractor, compiled_extractor
from ganjax.types import Array, InputError

NUM_MODES = 1000


class StackedModes(NamedTuple):
    """Which of the thousand modes samples fall into.

    Attributes:
      modes_covered: modes with at least one sample, 0 to 1,000.
      divergence: KL(samples || uniform) of the modes' shares, in nats; 0 where all are equally
        frequent, log 1000 = 6.9 where all samples fall into one.
    """

    modes_covered: int
    divergence: float


@functools.cache
def stacked_classifier() -> Extractor:
    """Return the extractor that sees three garments in the channels of images (N, 28, 28, 3).

    Its features (N, 192) are those of the three channels, its logits (N, 30) too, as
    `fashion_mnist_classifier` gives them.
    """
    single = fashion_mnist_classifier()

    def network(images: Array) -> dict[str, Array]:
        channels = jnp.moveaxis(images, -1, 1).reshape(-1, 28, 28, 1)
        outputs = single.network(channels)
        return {name: x.reshape(len(images), -1) for name, x in outputs.items()}

    return compiled_extractor(
        "stacked-fashion-mnist-classifier",
        single.hash,
        network,
        image_shape=(28, 28, 3),
        logits="logits",
        metrics=("frechet_distance", "stacked_modes"),
    )


def stacked_modes(images: Array | np.ndarray) -> StackedModes:
    """Count the modes of images whose three channels are three independent garments.

    Each channel is classified on its own; the three classes make one of 1,000 modes. The counts
    compare with each other and not with those published for stacked MNIST, whose digits are easier
    to tell apart. The divergence of N perfect samples is about 1000 / 2N, not 0.

    Args:
      images: (N, 28, 28, 3), uint8 or float in [-1, 1]. The literature takes N = 26,000.

    References:
      Metz et al., Unrolled Generative Adversarial Networks, 2017 (arXiv 1611.02163).
      Lin et al., PacGAN, 2018 (arXiv 1712.04086).
    """
    return modes_of_logits(stacked_classifier()(images)["logits"])


def modes_of_logits(logits: np.ndarray) -> StackedModes:
    """Count the modes that the logits (N, 30) of three classifications name.

    >>> modes_of_logits(np.eye(30)[[3, 3]] + np.eye(30)[[15, 16]] + np.eye(30)[[20, 20]])
    StackedModes(modes_covered=2, divergence=6.2146...)
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != 30 or not len(logits):
        raise InputError(f"expected logits (N, 30) of three channels, these are {logits.shape}.")
    classes = logits.reshape(-1, 3, 10).argmax(axis=2)
    counts = np.bincount(classes @ [100, 10, 1], minlength=NUM_MODES)
    shares = counts[counts > 0] / len(logits)
    return StackedModes(int((counts > 0).sum()), float((shares * np.log(shares * NUM_MODES)).sum()))
