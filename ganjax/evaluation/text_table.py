"""`TEXT_METRICS`: every way to judge a model of text, and what each of them needs."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ganjax.evaluation.text import bleu, distinct, self_bleu
from ganjax.types import InputError

_BLEU_LENGTHS = (2, 3, 4, 5)


class TextSamples(NamedTuple):
    """What a model of text wrote, and what it says of text that was kept away.

    Attributes:
      sentences: what it wrote, in words.
      tokens: the same as they were written, (N, length).
      references: real sentences, in words; empty where none were.
      likelihood: sums over these of `negative_log_likelihood`, `tokens`, `characters`; None where
        the model has no likelihood or none were kept away.
      oracle: what says how likely it finds tokens, or None.
    """

    sentences: Sequence[Sequence[str]]
    tokens: np.ndarray
    references: Sequence[Sequence[str]]
    likelihood: dict[str, float] | None
    oracle: Any


class TextMetric(NamedTuple):
    """One way to judge a model of text.

    Attributes:
      names: of the figures it gives, by key.
      compute: `TextSamples -> values`.
      reads: what has to be there: "likelihood", "characters", "oracle", "references".
      of_samples: whether it looks at what was written.
    """

    names: dict[str, str]
    compute: Callable[[TextSamples], Sequence[float]]
    reads: tuple[str, ...] = ()
    of_samples: bool = True


def _words(sentences: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    return [sentence for sentence in sentences if len(sentence)]


def _nll(samples):
    sums = samples.likelihood
    return [sums["negative_log_likelihood"] / sums["tokens"]]


def _bits(samples):
    sums = samples.likelihood
    return [sums["negative_log_likelihood"] / math.log(2) / sums["characters"]]


def _bleu(samples):
    generated, real = _words(samples.sentences), _words(samples.references)
    return [bleu(generated, real, n) for n in _BLEU_LENGTHS]


def _self_bleu(samples):
    return [self_bleu(_words(samples.sentences), n) for n in _BLEU_LENGTHS]


TEXT_METRICS: dict[str, TextMetric] = {
    "perplexity": TextMetric(
        {"cross_entropy": "cross-entropy a token, nats", "perplexity": "perplexity"},
        lambda samples: [*_nll(samples), math.exp(min(_nll(samples)[0], 700.0))],
        ("likelihood",),
        of_samples=False,
    ),
    "bits_per_character": TextMetric(
        {"bits_per_character": "bits per character"},
        _bits,
        ("likelihood", "characters"),
        of_samples=False,
    ),
    "nll_oracle": TextMetric(
        {"nll_oracle": "NLL-oracle"},
        lambda samples: [samples.oracle.negative_log_likelihood(samples.tokens)],
        ("oracle",),
    ),
    "nll_generator": TextMetric(
        {"nll_generator": "NLL-generator"}, _nll, ("likelihood", "oracle"), of_samples=False
    ),
    "bleu": TextMetric({f"bleu_{n}": f"BLEU-{n}" for n in _BLEU_LENGTHS}, _bleu, ("references",)),
    "self_bleu": TextMetric(
        {f"self_bleu_{n}": f"self-BLEU-{n}" for n in _BLEU_LENGTHS}, _self_bleu
    ),
    "distinct": TextMetric(
        {f"distinct_{n}": f"distinct-{n}" for n in (1, 2, 3)},
        lambda samples: [distinct(_words(samples.sentences), n) for n in (1, 2, 3)],
    ),
}
TEXT_FIGURES = {key for metric in TEXT_METRICS.values() for key in metric.names}
# Of all of these less is better, but for:
TEXT_HIGHER_IS_BETTER = {key for key in TEXT_FIGURES if key.startswith(("bleu", "distinct"))}


def check_text_metric(name: str, there: set[str]) -> None:
    """Raise an `InputError` where a metric reads what is not there."""
    if name in ("bleu", "self_bleu", "distinct") and not importlib.util.find_spec("nltk"):
        raise InputError(f"{name} needs the package nltk: pip install 'ganjax[text]'")
    missing = [what for what in TEXT_METRICS[name].reads if what not in there]
    sentences = {
        "likelihood": "text that was kept away (data.held_out), a model with a likelihood, and a "
        "temperature above 0",
        "characters": "tokens that stand for characters, none of them for whatever is unknown",
        "oracle": "the data source oracle",
        "references": "sentences that were kept away (data.held_out)",
    }
    if missing:
        raise InputError(f"{name} needs {sentences[missing[0]]}: leave it out of the metrics")
