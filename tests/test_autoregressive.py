"""Language models trained on the likelihood, and what a text GAN shares with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ganjax.autoregressive import autoregressive, log_probabilities, weights
from ganjax.generation import Sampling
from ganjax.networks.gpt import Transformer
from ganjax.networks.pointwise import gelu, standardize
from ganjax.networks.recurrent import LSTMCell, Recurrent
from ganjax.players import adam
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB, LENGTH = 9, 6
NETWORK = Recurrent(VOCAB, (LSTMCell(8),), 4)


def tokens_of(batch=8, length=LENGTH, seed=0):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, VOCAB)


def test_the_loss_is_the_mean_cross_entropy_of_what_follows():
    algorithm = autoregressive(NETWORK, length=LENGTH, start_token=0, windows=True)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    tokens = tokens_of()
    variables = {"params": state.players["generator"].params}
    chances = jax.nn.log_softmax(jax.jit(NETWORK.apply)(variables, tokens[:, :-1]))
    expected = -np.mean(np.take_along_axis(np.asarray(chances), tokens[:, 1:, None], axis=2))
    _, metrics = jax.jit(algorithm.train_step)(state, {"tokens": tokens})
    assert metrics["loss/cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_a_start_token_stands_in_front_of_lines():
    with_start = jnp.concatenate([jnp.full((8, 1), 3), tokens_of()], axis=1)
    params = jax.jit(NETWORK.init)(jax.random.key(0), tokens_of())

    @functools.partial(jax.jit, static_argnums=1)
    def of(tokens, start):
        return log_probabilities(NETWORK, params, tokens, start_token=start)[0]

    found, expected = of(tokens_of(), 3), of(with_start, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_padding_does_not_count():
    def loss_of(tokens):
        algorithm = autoregressive(NETWORK, length=LENGTH, start_token=1, pad_token=0)
        state = jax.jit(algorithm.init)(jax.random.key(0))
        _, metrics = jax.jit(algorithm.train_step)(state, {"tokens": tokens})
        return float(metrics["loss/cross_entropy"])

    tokens = 1 + tokens_of() % (VOCAB - 1)
    short = tokens[:, :3]
    padded = jnp.pad(short, ((0, 0), (0, 3)))
    assert loss_of(padded) == pytest.approx(loss_of(short), rel=1e-5)


@pytest.mark.slow
def test_micro_batches_of_unequal_lengths_give_the_whole_batch_gradient():
    tokens = np.array(1 + tokens_of() % (VOCAB - 1))
    tokens[::2, 2:] = 0
    states = []
    for parts in (1, 4):
        algorithm = autoregressive(
            NETWORK,
            length=LENGTH,
            start_token=1,
            pad_token=0,
            optimizer=optax.sgd(0.5),
            micro_batches=parts,
        )
        state = jax.jit(algorithm.init)(jax.random.key(0))
        state, _ = jax.jit(algorithm.train_step)(state, {"tokens": jnp.asarray(tokens)})
        states.append(state.players["generator"].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)


def test_it_learns_a_rule_and_writes_by_it():
    # Counting on: what follows a token is certain.
    rows = (np.arange(VOCAB)[:, None] + np.arange(LENGTH + 1)) % VOCAB
    algorithm = autoregressive(
        NETWORK, length=LENGTH, start_token=0, windows=True, optimizer=adam(0.03, b1=0.9)
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    batch = {"tokens": jnp.asarray(rows, jnp.uint8)}
    state, metrics = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: algorithm.train_step(s, batch), state, length=200)
    )(state)
    assert metrics["loss/cross_entropy"][-1] < 0.05
    written = algorithm.sample(state, jax.random.key(1), 3)
    np.testing.assert_array_equal(written, np.tile(np.arange(1, LENGTH + 1), (3, 1)))
    sums = jax.jit(algorithm.evaluate)(state, batch, jax.random.key(0))
    assert float(sums["tokens"]) == VOCAB * LENGTH
    assert float(sums["negative_log_likelihood"] / sums["tokens"]) < 0.05


@pytest.mark.slow
def test_the_running_average_is_what_is_sampled_and_scored():
    algorithm = autoregressive(
        NETWORK, length=LENGTH, start_token=0, optimizer=optax.sgd(5.0), ema_half_life_images=1e9
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    batch = {"tokens": tokens_of()}
    before = jax.jit(algorithm.evaluate)(state, batch, jax.random.key(0))
    state, _ = jax.jit(algorithm.train_step)(state, batch)
    after = jax.jit(algorithm.evaluate)(state, batch, jax.random.key(0))
    assert after["negative_log_likelihood"] == pytest.approx(
        float(before["negative_log_likelihood"]), rel=1e-5
    )
    greedy = {"sampling": Sampling(0.0)}
    averaged = algorithm.sample(state, jax.random.key(0), 2, **greedy)
    raw = algorithm.sample(state, jax.random.key(0), 2, ema=False, **greedy)
    assert not np.array_equal(averaged, raw)


@pytest.mark.slow
def test_classes_decide_what_is_written():
    network = NETWORK.clone(num_classes=2)
    algorithm = autoregressive(
        network, length=3, start_token=0, num_classes=2, optimizer=adam(0.05, b1=0.9)
    )
    batch = {"tokens": jnp.array([[1, 1, 1], [2, 2, 2]]), "label": jnp.array([0, 1])}
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state, _ = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: algorithm.train_step(s, batch), state, length=150)
    )(state)
    written = algorithm.sample(state, jax.random.key(1), 4)
    np.testing.assert_array_equal(written, [[1] * 3, [2] * 3] * 2)
    with pytest.raises(ValueError, match="needs the entries"):
        algorithm.train_step(state, {"tokens": batch["tokens"]})


def test_dropout_is_for_training_alone():
    network = Transformer(VOCAB, LENGTH, 1, 2, 8, dropout=0.5)
    algorithm = autoregressive(network, length=LENGTH, start_token=0)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    batch = {"tokens": tokens_of()}
    evaluate = jax.jit(algorithm.evaluate)
    first, second = (evaluate(state, batch, jax.random.key(i)) for i in range(2))
    assert first == second
    params = {"params": state.players["generator"].params}

    @jax.jit
    def noisy(key):
        settings = {"start_token": 0, "train": True, "key": key}
        return log_probabilities(network, params, batch["tokens"], **settings)[0]

    assert not np.allclose(noisy(jax.random.key(0)), noisy(jax.random.key(1)))


def test_it_has_no_latents():
    algorithm = autoregressive(NETWORK, length=2, start_token=0)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    with pytest.raises(InputError, match="no latents"):
        algorithm.sample(state, jax.random.key(0), 2, latents=jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([5], "labels lie between 5 and 5, expected 0 to 2"),
        ([0, 1], r"labels have the shape \(2,\), expected classes \(1,\)"),
        (np.zeros((1, 2)), r"labels have the shape \(1, 2\), .* vectors \(1, 3\)"),
    ],
)
def test_labels_that_do_not_fit(labels, words):
    network = NETWORK.clone(num_classes=3)
    algorithm = autoregressive(network, length=2, start_token=0, num_classes=3)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    with pytest.raises(InputError, match=words):
        algorithm.sample(state, jax.random.key(0), 1, labels)


def test_classes_can_be_chosen_in_a_program():
    network = NETWORK.clone(num_classes=3)
    algorithm = autoregressive(network, length=2, start_token=0, num_classes=3)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    sample = functools.partial(algorithm.sample, key=jax.random.key(0), num_samples=2)
    numbers = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert jax.eval_shape(lambda s, y: sample(s, labels=y), state, numbers).shape == (2, 2)
    vectors = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    with pytest.raises(InputError, match=r"labels have the shape \(2, 4\)"):
        jax.eval_shape(lambda s, y: sample(s, labels=y), state, vectors)
    with pytest.raises(InputError, match=r"the shape \(2, 4\), expected classes \(B,\)"):
        jax.eval_shape(network.apply, weights(state), jnp.zeros((2, 1), jnp.int32), vectors)


@pytest.mark.parametrize("shape", [(3, 5), pytest.param((2, 4, 16), marks=pytest.mark.slow)])
def test_hand_written_derivatives_are_those_of_the_formulas(shape):
    x = 3 * jax.random.normal(jax.random.key(0), shape) + 1
    weights = jax.random.normal(jax.random.key(1), shape)

    def plain_norm(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)

    def plain_gelu(x):
        return jax.nn.gelu(x, approximate=True)

    for ours, plain in ((standardize, plain_norm), (gelu, plain_gelu)):
        np.testing.assert_allclose(ours(x), plain(x), atol=2e-6)
        found, expected = (
            jax.grad(lambda x, f=f: jnp.sum(f(x) * weights))(x) for f in (ours, plain)
        )
        np.testing.assert_allclose(found, expected, atol=5e-6)
    assert float(gelu(jnp.float32(-200.0))) == 0.0
    assert float(jax.grad(gelu)(jnp.float32(-200.0))) == 0.0
