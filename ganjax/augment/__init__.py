"""Differentiable augmentation of whatever the discriminator sees, as part of the train step."""

from ganjax.augment.ada import ada, apply_pipe, fixed, scheduled
from ganjax.augment.base import Augment, compose, horizontal_flip, memoryless
from ganjax.augment.diff_augment import diff_augment
from ganjax.augment.names import AUGMENTATIONS, from_names
from ganjax.augment.pipes import PIPES, Pipe

__all__ = [
    "AUGMENTATIONS",
    "PIPES",
    "Augment",
    "Pipe",
    "ada",
    "apply_pipe",
    "compose",
    "diff_augment",
    "fixed",
    "from_names",
    "horizontal_flip",
    "memoryless",
    "scheduled",
]
