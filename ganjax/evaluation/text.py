"""Figures of text: perplexity of a model, BLEU, self-BLEU, METEOR and distinct-n of sentences.

A sentence is a sequence of tokens: words, or anything hashable. NLTK counts n-grams and closest
lengths: `pip install 'ganjax[text]'`. The Fréchet distance of texts is `frechet_distance` of the
features (N, D) that a language model has of the sentences.
"""

import collections
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ganjax.types import Array, InputError

Sentence = Sequence[Hashable]
_EPSILON = 0.1  # matches that are counted where there are none, as smoothing 1 of NLTK


def perplexity(
    log_probabilities: Array | np.ndarray, mask: Array | np.ndarray | None = None
) -> float:
    """Return exp of the mean negative log-probability of tokens.

    It compares only where the tokens are the same: `bits_per_character` does not depend on them.

    Args:
      log_probabilities: natural logarithms, of any shape.
      mask: of the same shape; zero where a token does not count, such as padding.

    >>> round(perplexity(np.log([0.25, 0.25, 0.5]), [1, 1, 0]), 6)
    4.0
    """
    return float(np.exp(-_mean(log_probabilities, mask)))


def bits_per_character(
    log_probabilities: Array | np.ndarray,
    num_characters: int,
    mask: Array | np.ndarray | None = None,
) -> float:
    """Return the negative log-probability of a text in bits, over its number of characters.

    Args:
      log_probabilities: natural logarithms of its tokens, of any shape.
      num_characters: of the text that the tokens stand for.
      mask: see `perplexity`.

    >>> round(bits_per_character(np.log([0.25, 0.5]), 6), 6)
    0.5
    """
    if num_characters < 1:
        raise InputError(f"num_characters must be at least 1, it is {num_characters}.")
    values, weights = _masked(log_probabilities, mask)
    return float(-(values * weights).sum() / np.log(2) / num_characters)


def bleu(candidates: Sequence[Sentence], references: Sequence[Sentence], max_n: int = 4) -> float:
    """Return the mean BLEU of each candidate against all references.

    This is how text GANs are scored: precision of n-grams up to `max_n`, with equal weights and
    smoothing 1 of NLTK, against the whole reference set. It tells quality, not variety: repeating
    one good sentence scores high; read it with `self_bleu`.

    Args:
      candidates: the generated sentences.
      references: real ones, which training has not seen.
      max_n: the longest n-grams, usually 2 to 5.

    Returns:
      From 0 to 1.

    References:
      Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, 2002.
      Zhu et al., Texygen: A Benchmarking Platform for Text Generation Models, 2018
      (arXiv 1802.01886).
    """
    return float(np.mean(_scores(candidates, _References(references, max_n), own=False)))


def self_bleu(sentences: Sequence[Sentence], max_n: int = 4) -> float:
    """Return the mean BLEU of each sentence against all others: 1 where all are alike.

    Args:
      sentences: the generated sentences, two at least.
      max_n: the longest n-grams.

    References:
      Zhu et al., Texygen: A Benchmarking Platform for Text Generation Models, 2018
      (arXiv 1802.01886).
    """
    if len(sentences) < 2:
        raise InputError(f"self-BLEU compares sentences, there are {len(sentences)}.")
    return float(np.mean(_scores(sentences, _References(sentences, max_n), own=True)))


def meteor(candidates: Sequence[Sentence], references: Sequence[Sentence]) -> float:
    """Return the mean METEOR of each candidate against all references, by NLTK.

    Args:
      candidates: sentences of words.
      references: real ones.

    Raises:
      InputError: NLTK or its WordNet data is not on this machine.

    References:
      Banerjee and Lavie, METEOR: An Automatic Metric for MT Evaluation with Improved Correlation
      with Human Judgments, 2005.
    """
    _check(candidates, "candidates")
    _check(references, "references")
    _ngrams_of_nltk()
    from nltk.translate.meteor_score import meteor_score

    words = [list(map(str, sentence)) for sentence in references]
    try:
        return float(
            np.mean([meteor_score(words, list(map(str, sentence))) for sentence in candidates])
        )
    except LookupError as error:
        if "wordnet" not in str(error).lower():
            raise
        raise InputError(
            "METEOR needs NLTK's WordNet, which is not on this machine: run `python -m "
            "nltk.downloader wordnet` where there is a network."
        ) from error


def distinct(sentences: Sequence[Sentence], n: int = 2) -> float:
    """Return the share of n-grams, over all sentences, that are different from each other.

    It falls with the number of sentences: compare equal numbers only.

    Args:
      sentences: the generated sentences.
      n: length of the n-grams.

    References:
      Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, 2016
      (arXiv 1510.03055).
    """
    _check(sentences, "sentences")
    grams = [gram for sentence in sentences for gram in _ngrams(sentence, n)]
    if not grams:
        raise InputError(f"no sentence has {n} tokens: choose a smaller n.")
    return len(set(grams)) / len(grams)


class _References:
    """The n-grams of many sentences, counted once.

    NLTK's own BLEU counts those of all references again for each candidate: with a thousand of
    both, a million times.
    """

    def __init__(self, sentences: Sequence[Sentence], max_n: int):
        _check(sentences, "references")
        if max_n < 1:
            raise InputError(f"max_n must be at least 1, it is {max_n}.")
        self.max_n = max_n
        self.lengths = collections.Counter(len(sentence) for sentence in sentences)
        # For each n-gram: the most that one sentence has, which one, and the most of another.
        self.most: dict[tuple, tuple[int, int, int]] = {}
        for index, sentence in enumerate(sentences):
            for n in range(1, max_n + 1):
                for gram, count in collections.Counter(_ngrams(sentence, n)).items():
                    best, owner, second = self.most.get(gram, (0, -1, 0))
                    if count > best:
                        best, owner, second = count, index, best
                    elif count > second:
                        second = count
                    self.most[gram] = best, owner, second

    def count(self, gram: tuple, without: int | None) -> int:
        best, owner, second = self.most.get(gram, (0, -1, 0))
        return second if owner == without else best

    def closest_length(self, length: int, without: int | None) -> int:
        known = self.lengths - collections.Counter([] if without is None else [without])
        return min(known, key=lambda other: (abs(other - length), other))


def _scores(candidates: Sequence[Sentence], references: _References, *, own: bool) -> list[float]:
    """Return the BLEU of each candidate; `own` leaves out the reference of its own index."""
    _check(candidates, "candidates")
    scores = []
    for index, sentence in enumerate(candidates):
        log_precisions = []
        for n in range(1, references.max_n + 1):
            counts = collections.Counter(_ngrams(sentence, n))
            matches = sum(
                min(count, references.count(gram, index if own else None))
                for gram, count in counts.items()
            )
            if n == 1 and not matches:
                break
            total = max(1, counts.total())
            log_precisions.append(np.log((matches or _EPSILON) / total))
        if not log_precisions:
            scores.append(0.0)
            continue
        length = len(sentence)
        closest = references.closest_length(length, length if own else None)
        brevity = 0.0 if length > closest else 1.0 - closest / length
        scores.append(float(np.exp(brevity + np.mean(log_precisions))))
    return scores


def _ngrams(sentence: Sentence, n: int) -> Iterable[tuple]:
    return _ngrams_of_nltk()(sentence, n)


def _ngrams_of_nltk() -> Any:
    try:
        from nltk.util import ngrams
    except ImportError as error:
        raise InputError(
            "figures of n-grams need the package nltk: pip install 'ganjax[text]'"
        ) from error
    return ngrams


def _check(sentences: Sequence[Sentence], name: str) -> None:
    if isinstance(sentences, str) or not len(sentences):
        raise InputError(f"{name} must be a list of sentences, one at least.")
    if any(isinstance(sentence, str) for sentence in sentences):
        raise InputError(
            f"a sentence is a list of tokens, {name} holds texts: split them into words first."
        )


def _masked(log_probabilities: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(log_probabilities, np.float64)
    weights = np.ones_like(values) if mask is None else np.asarray(mask, np.float64)
    if weights.shape != values.shape or not weights.sum():
        raise InputError(
            f"the mask must have the shape {values.shape} of the log-probabilities and leave some, "
            f"it has the shape {weights.shape} and leaves {weights.sum():g}."
        )
    values = np.where(weights != 0, values, 0.0)  # padding may be -inf
    if np.isnan(values).any():
        raise InputError("log-probabilities are not numbers: the model has diverged.")
    return values, weights


def _mean(log_probabilities: Any, mask: Any) -> float:
    values, weights = _masked(log_probabilities, mask)
    return float((values * weights).sum() / weights.sum())
