import builtins

import numpy as np
import pytest

from ganjax.evaluation import text
from ganjax.types import InputError

nltk_bleu = pytest.importorskip("nltk.translate.bleu_score", reason="nltk is not installed")


def sentences(count, seed, vocabulary=12):
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary, random.integers(1, 12)).tolist() for _ in range(count)]


def by_nltk(candidate, references, n):
    smoothing = nltk_bleu.SmoothingFunction().method1
    weights = (1 / n,) * n
    return nltk_bleu.sentence_bleu(references, candidate, weights, smoothing_function=smoothing)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_bleu_is_that_of_nltk(n):
    candidates, references = sentences(30, 0), sentences(20, 1)
    expected = np.mean([by_nltk(candidate, references, n) for candidate in candidates])
    assert text.bleu(candidates, references, n) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [2, 4])
def test_self_bleu_leaves_out_the_sentence_itself(n):
    generated = [*sentences(25, 2), [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]
    expected = np.mean(
        [
            by_nltk(sentence, generated[:index] + generated[index + 1 :], n)
            for index, sentence in enumerate(generated)
        ]
    )
    assert text.self_bleu(generated, n) == pytest.approx(expected, rel=1e-12)


def test_variety_and_its_absence():
    same = [["a", "b", "c", "d", "e"]] * 5
    assert text.self_bleu(same) == pytest.approx(1.0)
    apart = [[5 * i + j for j in range(5)] for i in range(5)]
    assert text.self_bleu(apart) == 0.0
    assert text.distinct(same, 2) == pytest.approx(4 / 20)
    assert text.distinct(apart, 2) == 1.0


def test_a_candidate_that_is_a_reference_has_bleu_one():
    references = sentences(20, 3)
    whole = [sentence for sentence in references if len(sentence) > 4]
    assert text.bleu(whole, references) == pytest.approx(1.0)


def test_perplexity_of_a_uniform_model_is_its_vocabulary():
    logs = np.log(np.full((4, 6), 1 / 27))
    assert text.perplexity(logs) == pytest.approx(27)
    mask = np.ones((4, 6))
    mask[:, 3:] = 0
    logs[:, 3:] = -np.inf
    assert text.perplexity(logs, mask) == pytest.approx(27)
    assert text.bits_per_character(logs, 24, mask) == pytest.approx(12 * np.log2(27) / 24)


def test_bits_per_character_do_not_depend_on_the_tokens():
    """One text, cut into two tokens or four, of one probability."""
    assert text.bits_per_character(np.log([0.01, 0.04]), 8) == pytest.approx(
        text.bits_per_character(np.log([0.1, 0.1, 0.2, 0.2]), 8)
    )


def test_meteor_or_a_sentence():
    from nltk.corpus import wordnet

    # Words that differ are looked up as synonyms.
    words, others = [["the", "cat", "sat"]], [["the", "feline", "sat"]]
    assert text.meteor(words, words) > 0.9
    try:
        wordnet.ensure_loaded()
    except LookupError:
        with pytest.raises(InputError, match="METEOR needs NLTK's WordNet"):
            text.meteor(others, words)
    else:
        assert 0.3 < text.meteor(others, words) < 1.0


def test_without_nltk_there_is_a_sentence(monkeypatch):
    real_import = builtins.__import__

    def without(name, *arguments):
        if name.split(".")[0] == "nltk":
            raise ImportError(name)
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'ganjax\[text\]'"):
        text.distinct([["a", "b"]])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: text.bleu([], [["a"]]), "candidates must be a list of sentences"),
        (lambda: text.bleu([["a"]], ["a b"]), "references holds texts: split them"),
        (lambda: text.bleu([["a"]], [["a"]], 0), "max_n must be at least 1"),
        (lambda: text.self_bleu([["a"]]), "self-BLEU compares sentences, there are 1"),
        (lambda: text.distinct([["a"]], 2), "no sentence has 2 tokens"),
        (lambda: text.perplexity([0.0], [0.0]), "leaves 0"),
        (lambda: text.perplexity([np.nan]), "are not numbers"),
        (lambda: text.bits_per_character([0.0], 0), "num_characters must be at least 1"),
    ],
)
def test_wrong_input_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
