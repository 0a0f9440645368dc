"""Writing: choices of tokens, prompts, caches, beams."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import generation
from ganjax.beams import beam_search
from ganjax.generation import Sampling, choose, generate, next_logits
from ganjax.networks.gpt import Transformer
from ganjax.networks.recurrent import GRUCell, LSTMCell, Recurrent
from ganjax.networks.relational_memory import RelationalMemoryCell
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB = 7
NETWORKS = {
    "gpt": Transformer(VOCAB, context=16, num_layers=2, heads=2, width=8),
    "gpt untied": Transformer(VOCAB, 16, 1, 2, 8, use_bias=False, tied=False),
    "lstm": Recurrent(VOCAB, (LSTMCell(6), LSTMCell(5)), 4),
    "gru": Recurrent(VOCAB, (GRUCell(6),), 6, tied=True),
    "relational": Recurrent(VOCAB, (RelationalMemoryCell(2, 2, 3),), 4),
}
KEY = jax.random.key(0)
# Every day one of each kind.
EVERY = [
    pytest.param(name, marks=() if name in ("gpt", "lstm") else pytest.mark.slow)
    for name in NETWORKS
]


def variables_of(network, scale=8.0, seed=0):
    """Weights that make some tokens much likelier than others."""
    variables = jax.jit(network.init)(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))
    return jax.tree.map(lambda a: a * scale if a.ndim > 1 else a, variables)


def test_top_k_keeps_the_likeliest():
    logits = jnp.array([[1.0, 3.0, 2.0, 0.0]])
    kept = np.isfinite(next_logits(logits, Sampling(top_k=2)))
    np.testing.assert_array_equal(kept, [[False, True, True, False]])


@pytest.mark.parametrize(("top_p", "count"), [(0.4, 1), (0.6, 2), (0.85, 3), (1.0, 4)])
def test_top_p_keeps_what_reaches_the_probability(top_p, count):
    logits = jnp.log(jnp.array([[0.1, 0.5, 0.3, 0.1]]))
    kept = np.isfinite(next_logits(logits, Sampling(top_p=top_p)))
    assert kept.sum() == count
    assert kept[0, 1]


def test_min_p_is_a_share_of_the_likeliest():
    logits = jnp.log(jnp.array([[0.6, 0.29, 0.11]]))
    kept = np.isfinite(next_logits(logits, Sampling(min_p=0.25)))
    np.testing.assert_array_equal(kept, [[True, True, False]])


def test_a_repetition_penalty_makes_known_tokens_less_likely():
    logits = jnp.array([[2.0, -2.0, 1.0]])
    seen = jnp.array([[True, True, False]])
    found = next_logits(logits, Sampling(repetition_penalty=2.0), seen)
    np.testing.assert_allclose(found, [[1.0, -4.0, 1.0]])


def test_temperature_divides_and_zero_takes_the_likeliest():
    logits = jnp.array([[1.0, 2.0, 0.0]])
    np.testing.assert_allclose(next_logits(logits, Sampling(0.5)), 2 * logits)
    assert all(int(choose(logits, generation.GREEDY, jax.random.key(i))[0]) == 1 for i in range(5))


@pytest.mark.parametrize("size", [1, 2, 5, 50])
def test_draws_follow_the_softmax(size):
    logits = jax.random.normal(jax.random.key(size), (size,)) * 2
    logits = jnp.where(jnp.arange(size) == 2, -jnp.inf, logits)
    count = 40_000
    found = generation.draw(KEY, jnp.tile(logits, (count, 1)))
    share = np.bincount(np.asarray(found), minlength=size) / count
    expected = np.asarray(jax.nn.softmax(logits))
    # Five standard deviations of a share.
    np.testing.assert_array_less(np.abs(share - expected), 5 * np.sqrt(expected / count) + 1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_extending_a_cache_gives_what_a_pass_over_all_gives(name):
    network = NETWORKS[name]
    variables = variables_of(network)
    tokens = jax.random.randint(KEY, (3, 9), 0, VOCAB)

    @jax.jit
    def both_ways(variables, tokens):
        cache = network.apply(variables, 3, 12, method="start")
        parts = []
        for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:]):
            logits, cache = network.apply(variables, cache, part, method="extend")
            parts.append(logits)
        return jnp.concatenate(parts, axis=1), network.apply(variables, tokens)

    in_parts, whole = both_ways(variables, tokens)
    np.testing.assert_allclose(in_parts, whole, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_mixtures_of_one_token_are_tokens(name):
    network = NETWORKS[name]
    variables = variables_of(network)
    tokens = jax.random.randint(KEY, (2, 5), 0, VOCAB)
    apply = jax.jit(network.apply)
    mixed = apply(variables, jax.nn.one_hot(tokens, VOCAB))
    np.testing.assert_allclose(mixed, apply(variables, tokens), atol=1e-4)


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_logits_do_not_look_ahead(name):
    network = NETWORKS[name]
    variables = variables_of(network)
    tokens = jax.random.randint(KEY, (1, 6), 0, VOCAB)
    other = tokens.at[0, 4].set((tokens[0, 4] + 1) % VOCAB)
    apply = jax.jit(network.apply)
    before, after = apply(variables, tokens), apply(variables, other)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [pytest.param(NETWORKS["gpt"], marks=pytest.mark.slow), NETWORKS["lstm"]]
)
def test_conditions_change_what_is_said(network):
    network = network.clone(num_classes=3)
    labels = jnp.zeros(2, jnp.int32)
    variables = jax.jit(network.init)(KEY, jnp.zeros((2, 1), jnp.int32), labels)
    variables = jax.tree.map(lambda a: a * 8, variables)
    tokens = jnp.zeros((3, 2), jnp.int32)
    apply = jax.jit(network.apply)
    found = apply(variables, tokens, jnp.arange(3))
    assert not np.allclose(found[0], found[1])
    # A vector that is one class is that class.
    vectors = apply(variables, tokens, jnp.eye(3))
    np.testing.assert_allclose(vectors, found, atol=1e-4)
    written = generate(
        network, variables, tokens, 3, key=KEY, labels=jnp.arange(3), sampling=generation.GREEDY
    )
    alone = generate(
        network,
        variables,
        tokens[2:],
        3,
        key=KEY,
        labels=jnp.array([2]),
        sampling=generation.GREEDY,
    )
    np.testing.assert_array_equal(written[2], alone[0])
    with pytest.raises(ValueError, match="needs labels"):
        network.apply(variables, tokens)


@pytest.mark.parametrize("name", [pytest.param("gpt", marks=pytest.mark.slow), "lstm"])
def test_prompts_of_different_lengths_are_written_on_as_if_alone(name):
    network = NETWORKS[name]
    variables = variables_of(network)
    prompts = [[1, 2, 3, 4], [5], [2, 2]]
    together = generate(network, variables, prompts, 5, key=KEY, sampling=generation.GREEDY)
    assert together.shape == (3, 9)
    for row, prompt in zip(np.asarray(together), prompts, strict=True):
        alone = generate(network, variables, [prompt], 5, key=KEY, sampling=generation.GREEDY)
        np.testing.assert_array_equal(row[: len(prompt) + 5], alone[0])
        np.testing.assert_array_equal(row[len(prompt) + 5 :], 0)


@pytest.mark.parametrize("prompts", [[[1, 2], [3]], [[3], [1, 2]], [[1], [2]]])
def test_no_new_tokens_are_the_prompts_and_padding(prompts):
    network = NETWORKS["lstm"]
    written = generate(network, variables_of(network), prompts, 0, key=KEY, pad_token=6)
    np.testing.assert_array_equal(written, generation.pad(prompts, 6)[0])


def likeliest(network, variables):
    """Return what tells the likeliest token after some, padded so that one program serves."""
    apply = jax.jit(network.apply)

    def after(tokens):
        padded = (
            jnp.zeros((1, network.context), jnp.int32).at[0, : len(tokens)].set(jnp.array(tokens))
        )
        return int(jnp.argmax(apply(variables, padded)[0, len(tokens) - 1]))

    return after


def test_greedy_takes_the_likeliest_token_each_time():
    network = NETWORKS["gpt"]
    variables, tokens = variables_of(network), [3, 1]
    written = generate(network, variables, [tokens], 6, key=KEY, sampling=generation.GREEDY)
    after = likeliest(network, variables)
    for _ in range(6):
        tokens = [*tokens, after(tokens)]
    np.testing.assert_array_equal(written[0], tokens)


@pytest.mark.slow
def test_beyond_its_context_a_model_goes_on_from_the_newer_half():
    network = NETWORKS["gpt"]  # 16 tokens
    variables, tokens, begin = variables_of(network), [3, 1, 4], 0
    written = generate(network, variables, [tokens], 40, key=KEY, sampling=generation.GREEDY)
    after = likeliest(network, variables)
    for _ in range(40):
        if len(tokens) - 1 - begin == 16:  # the cache is full
            begin = len(tokens) - 1 - 8
        tokens = [*tokens, after(tokens[begin:])]
    np.testing.assert_array_equal(written[0], tokens)


def test_a_prompt_longer_than_the_context_is_read_from_its_end():
    network = NETWORKS["gpt"]
    variables = variables_of(network)
    prompt = np.arange(30) % VOCAB
    written = generate(network, variables, [prompt], 1, key=KEY, sampling=generation.GREEDY)
    assert int(written[0, -1]) == likeliest(network, variables)(prompt[-9:])


def test_a_row_ends_with_its_stop_token():
    network = NETWORKS["lstm"]
    variables = variables_of(network, scale=1.0)
    prompts = np.ones((40, 1), np.int32)
    written = np.asarray(
        generate(network, variables, prompts, 12, key=KEY, stop_token=2, pad_token=6)
    )
    free = np.asarray(generate(network, variables, prompts, 12, key=KEY))
    assert (written == 2).any()
    for row, without in zip(written, free, strict=True):
        ends = np.flatnonzero(row == 2)
        end = ends[0] if len(ends) else len(row)
        np.testing.assert_array_equal(row[end + 1 :], 6)
        np.testing.assert_array_equal(row[: end + 1], without[: end + 1])


def test_what_is_not_written_is_padding_even_where_all_rows_end_early():
    network = NETWORKS["lstm"]
    variables = variables_of(network, scale=1.0)
    variables["params"]["output_bias"] = 100.0 * (jnp.arange(VOCAB) == 2)
    written = generate(network, variables, [[1, 1], [1]], 5, key=KEY, stop_token=2, pad_token=6)
    np.testing.assert_array_equal(written, [[1, 1, 2, *[6] * 4], [1, 2, *[6] * 5]])


def test_writing_in_pieces_is_writing_at_once():
    network = NETWORKS["gpt"]
    variables = variables_of(network)
    prompts, lengths = generation.pad([[1, 2, 3]])
    at_once = generate(network, variables, prompts, 25, key=KEY)

    @jax.jit
    def begin(variables):
        return generation.begin(network, variables, prompts, lengths, 28, KEY, known=3)

    @jax.jit
    def advance(variables, writing, until):
        return generation.advance(network, variables, writing, until, max_new_tokens=25)

    writing = begin(variables)
    for until in (5, 6, 20, 28):
        writing = advance(variables, writing, until)
    np.testing.assert_array_equal(writing.tokens, at_once)


def test_a_repetition_penalty_counts_what_was_written():
    network = NETWORKS["lstm"]
    variables = variables_of(network, scale=1.0)
    hard = Sampling(temperature=0.0, repetition_penalty=1e9)
    written = generate(
        network, variables, [[1]], VOCAB - 1, key=KEY, sampling=hard, vocab_size=VOCAB
    )
    free = generate(network, variables, [[1]], VOCAB - 1, key=KEY, sampling=generation.GREEDY)
    assert len(set(np.asarray(written)[0].tolist())) > len(set(np.asarray(free)[0].tolist()))


def best_sequences(network, variables, prompt, count, stop=None):
    """Every continuation of `count` tokens and its score, by trying all."""
    every = np.array(list(itertools.product(range(VOCAB), repeat=count)))
    sequences = np.concatenate([np.tile(prompt, (len(every), 1)), every], axis=1)
    logits = jax.jit(network.apply)(variables, jnp.asarray(sequences))
    chances = np.asarray(jax.nn.log_softmax(logits))
    scores = {}
    for row, tokens in zip(chances, every.tolist(), strict=True):
        if stop in tokens:
            tokens = tokens[: tokens.index(stop) + 1]
        places = len(prompt) - 1 + np.arange(len(tokens))
        scores[tuple(tokens)] = float(row[places, tokens].sum()) / len(tokens)
    return sorted(scores.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("stop", [None, 3])
def test_a_wide_beam_search_finds_the_best(stop):
    network = NETWORKS["lstm"]
    variables = variables_of(network, scale=2.0)
    sequences, scores = beam_search(
        network, variables, [[1, 2]], 2, num_beams=VOCAB, num_return=3, stop_token=stop, pad_token=9
    )
    expected = best_sequences(network, variables, [1, 2], 2, stop)[:3]
    for row, score, (tokens, best) in zip(sequences[0], scores[0], expected, strict=True):
        np.testing.assert_array_equal(row[2:], [*tokens, *([9] * (2 - len(tokens)))])
        assert score == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("stop", [None, 3])
def test_beams_wider_than_the_vocabulary_find_every_continuation_once(stop):
    network = NETWORKS["lstm"]
    variables = variables_of(network, scale=2.0)
    expected = best_sequences(network, variables, [1, 2], 2, stop)
    count = len(expected)
    assert count == (49 if stop is None else 43)
    settings = {"num_beams": 50, "stop_token": stop, "pad_token": 9}
    sequences, scores = beam_search(network, variables, [[1, 2]], 2, num_return=count, **settings)
    rows = [tuple(row[row != 9]) for row in np.asarray(sequences)[0, :, 2:]]
    assert sorted(rows) == sorted(tokens for tokens, _ in expected)
    np.testing.assert_allclose(scores[0], [score for _, score in expected], atol=1e-5)
    with pytest.raises(InputError, match=rf"num_return is {count + 1}, .* make only {count} cont"):
        beam_search(network, variables, [[1, 2]], 2, num_return=count + 1, **settings)


def test_beams_of_a_single_token():
    network = Recurrent(1, (LSTMCell(2),), 2)
    variables = variables_of(network)
    sequences, scores = beam_search(network, variables, [[0]], 2, num_beams=3)
    np.testing.assert_array_equal(sequences, [[[0, 0, 0]]])
    np.testing.assert_allclose(scores, [[0.0]], atol=1e-6)


def test_one_beam_is_greedy():
    network = NETWORKS["gpt"]
    variables = variables_of(network)
    prompts = [[1, 2], [3, 4]]
    sequences, _ = beam_search(network, variables, prompts, 6, num_beams=1)
    greedy = generate(network, variables, prompts, 6, key=KEY, sampling=generation.GREEDY)
    np.testing.assert_array_equal(sequences[:, 0], greedy)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling(-1.0), "temperature has to be 0 or more"),
        (Sampling(float("nan")), "temperature has to be 0 or more"),
        (Sampling(top_k=0), "top_k has to be 1 or more"),
        (Sampling(top_p=0.0), "top_p has to lie above 0"),
        (Sampling(min_p=1.5), "min_p has to lie above 0"),
        (Sampling(repetition_penalty=0.0), "repetition_penalty has to be above 0"),
        (Sampling(repetition_penalty=2.0), "needs vocab_size"),
    ],
)
def test_numbers_out_of_range(sampling, words):
    network = NETWORKS["lstm"]
    with pytest.raises(InputError, match=words):
        generate(network, variables_of(network), [[1]], 2, key=KEY, sampling=sampling)


def test_prompts_that_do_not_do():
    network = NETWORKS["gpt"]
    variables = variables_of(network)
    with pytest.raises(InputError, match="one token or more"):
        generate(network, variables, [[1], []], 2, key=KEY)
    with pytest.raises(InputError, match="0 or more, got -1"):
        generate(network, variables, [[1]], -1, key=KEY)
    with pytest.raises(InputError, match="prompts of one length"):
        beam_search(network, variables, [[1], [1, 2]], 2, num_beams=2)
    with pytest.raises(InputError, match="between 1 and num_beams 2"):
        beam_search(network, variables, [[1]], 2, num_beams=2, num_return=3)
    with pytest.raises(InputError, match="needs a context of 30"):
        beam_search(network, variables, [[1]], 30, num_beams=2)
    with pytest.raises(ValueError, match="looks at 16 tokens"):
        network.apply(variables, jnp.zeros((1, 17), jnp.int32))


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([1, 2, 3], r"prompts have the shape \(3,\), expected \(B, P\): a list of prompts"),
        (np.arange(3), r"prompts have the shape \(3,\)"),
        ([[[1, 2]]], r"prompts have the shape \(1, 1, 2\)"),
        ([], "there is no prompt"),
        (np.zeros((0, 4), int), "there is no prompt"),
        ([[1], [VOCAB, 0]], f"tokens lie between 0 and {VOCAB}, expected 0 to 6"),
        ([[-1]], "tokens lie between -1 and -1, expected 0 to 6"),
        ([[1.5, 2.0]], r"tokens are whole numbers, got 1\.5"),
    ],
)
def test_prompts_that_are_no_lists_of_known_tokens(prompts, words):
    # Refused before the weights are looked at.
    with pytest.raises(InputError, match=words):
        generate(NETWORKS["gpt"], {}, prompts, 2, key=KEY)
    with pytest.raises(InputError, match=words):
        beam_search(NETWORKS["gpt"], {}, prompts, 2, num_beams=2)


@pytest.mark.parametrize(
    ("num_classes", "labels", "words"),
    [
        (3, [3, 0], "labels lie between 0 and 3, expected 0 to 2"),
        (3, np.array([0, -1]), "labels lie between -1 and 0, expected 0 to 2"),
        (3, [1], r"labels have the shape \(1,\), expected classes \(2,\), integers, or vectors"),
        (3, np.zeros((2, 4)), r"labels have the shape \(2, 4\), .* vectors \(2, 3\)"),
        (0, [0, 0], "labels were given, but this model was trained without classes"),
    ],
)
def test_labels_that_do_not_fit(num_classes, labels, words):
    network = NETWORKS["lstm"].clone(num_classes=num_classes)
    with pytest.raises(InputError, match=words):
        generate(network, {}, [[1], [2]], 2, key=KEY, labels=labels)
    with pytest.raises(InputError, match=words):
        beam_search(network, {}, [[1], [2]], 2, num_beams=2, labels=labels)
