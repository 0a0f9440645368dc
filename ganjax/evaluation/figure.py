"""`Figure`: a measured number together with how it was made."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ganjax.types import Array


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
            *(
                f"{name.replace('_', ' ')} {self.settings[name]:g}"
                for name in self.settings
                if name in _SAMPLING
            ),
            f"standing statistics of {self.standing_batches}" if self.standing_batches else None,
        ]
        spread = "" if self.spread is None else f" ± {_number(self.spread)}"
        space = "" if self.name.isupper() else " "
        making = ", ".join(filter(None, parts))
        return f"{self.name}{space}({making}): {_number(self.value)}{spread}"


# What changes the choice of tokens, see `ganjax.generation.Sampling`.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


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
