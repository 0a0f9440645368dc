import numpy as np
import pytest

from ganjax.data import Oracle

SMALL = {"length": 7, "vocab_size": 30, "width": 6}


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ganjax.data.oracle._PART", 20)
        yield


@pytest.fixture(scope="module")
def oracle():
    return Oracle(**SMALL)


@pytest.fixture(scope="module")
def samples(oracle):
    return oracle.sample(50, seed=1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_likelihood(oracle, tokens):
    """Return the log-probability of each token by an LSTM in NumPy, with plain gates."""
    weights = {k: np.asarray(v, np.float64) for k, v in oracle.variables["params"].items()}
    width, count = oracle.width, len(tokens)
    # What the oracle takes off the forget gate, because our cell adds one to it.
    bias = weights["layer0_bias"].copy()
    bias[width : 2 * width] += 1
    cell, output = np.zeros((2, count, width))
    inputs = np.full(count, oracle.start_token)
    found = np.empty(tokens.shape)
    for place, targets in enumerate(tokens.T):
        gates = weights["tokens"][inputs] @ weights["layer0_input_kernel"]
        gates = gates + output @ weights["layer0_recurrent_kernel"] + bias
        write, keep, new, show = np.split(gates, 4, axis=1)
        cell = sigmoid(keep) * cell + sigmoid(write) * np.tanh(new)
        output = sigmoid(show) * np.tanh(cell)
        logits = output @ weights["output"] + weights["output_bias"]
        top = logits.max(axis=1, keepdims=True)
        normalizer = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        found[:, place] = logits[np.arange(count), targets] - normalizer
        inputs = targets
    return found


@pytest.mark.parametrize("count", [1, 20, 50])
def test_the_likelihood_is_that_of_an_lstm(oracle, samples, count):
    tokens = samples[:count]
    expected = -log_likelihood(oracle, tokens).mean()
    assert oracle.negative_log_likelihood(tokens) == pytest.approx(expected, rel=1e-5)


def test_likelihood_of_tokens_in_a_small_type(oracle, samples):
    expected = oracle.negative_log_likelihood(samples)
    assert oracle.negative_log_likelihood(samples.astype(np.uint8)) == expected


def test_the_same_seeds_give_the_same_sequences_and_others_give_others(oracle, samples):
    assert samples.shape == (50, 7)
    assert samples.dtype == np.int32
    assert ((samples >= 0) & (samples < 30)).all()
    np.testing.assert_array_equal(Oracle(**SMALL).sample(50, seed=1), samples)
    for other in (oracle.sample(50, seed=2), Oracle(**SMALL, seed=1).sample(50, seed=1)):
        assert (other != samples).any(axis=1).mean() > 0.9
    assert len(np.unique(samples, axis=0)) > 40


@pytest.mark.parametrize("count", [1, 20, 33])
def test_fewer_sequences_are_the_first_of_more(oracle, samples, count):
    np.testing.assert_array_equal(oracle.sample(count, seed=1), samples[:count])


def test_all_weights_are_standard_normal():
    params = dict(Oracle(vocab_size=100, width=200).variables["params"])
    assert len(params) == 6
    write, keep, new, show = np.split(np.array(params.pop("layer0_bias")), 4)
    # Our cell adds one to the forget gate.
    params |= {"write": write, "keep": keep + 1, "new": new, "show": show}
    for name, values in params.items():
        error = 1 / np.sqrt(values.size)
        assert abs(values.mean()) < 4 * error, name
        assert abs(values.std() - 1) < 4 * error, name


def test_samples_follow_the_probabilities(oracle):
    # The first token: drawn from the distribution that the likelihood tells.
    first = oracle.sample(3000)[:, 0]
    every = np.zeros((30, 7), np.int32)
    every[:, 0] = np.arange(30)
    chances = np.exp(log_likelihood(oracle, every)[:, 0])
    counts = np.bincount(first, minlength=30)
    expected = 3000 * chances
    deviation = (counts - expected) / np.sqrt(expected * (1 - chances) + 1)
    assert chances.sum() == pytest.approx(1)
    assert np.abs(deviation).max() < 5


def test_its_own_sequences_are_likelier_to_it_than_others(oracle, samples, generator):
    own = oracle.negative_log_likelihood(samples)
    uniform = generator.integers(0, 30, samples.shape)
    assert own < np.log(30) < oracle.negative_log_likelihood(uniform)
    other = Oracle(**SMALL, seed=1)
    assert own + 0.5 < other.negative_log_likelihood(samples)
