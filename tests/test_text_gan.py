"""Text GANs: relaxed tokens, policy gradients, and the way from one phase to the next."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ganjax import losses, sharding
from ganjax.autoregressive import autoregressive
from ganjax.networks.conv_text import Discriminator, Generator
from ganjax.networks.recurrent import LSTMCell, Recurrent
from ganjax.networks.relational_memory import RelationalMemoryCell
from ganjax.networks.text_discriminators import ConvDiscriminator, RecurrentDiscriminator
from ganjax.penalties import Term, gradient_penalty
from ganjax.seqgan import seqgan, take_all
from ganjax.text_gan import relaxed, take_generator, text_gan
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB, LENGTH, BATCH = 8, 5, 6
LANGUAGE = Recurrent(VOCAB, (LSTMCell(6),), 4)
JUDGE = ConvDiscriminator(VOCAB, ((1, 3), (2, 3)), 4, dropout=0.0)
KEY = jax.random.key(0)
OPTIONS = {"vocab_size": VOCAB, "length": LENGTH}


def tokens_of(*lead):
    return jax.random.randint(KEY, (*lead, BATCH, LENGTH), 0, VOCAB)


@pytest.mark.slow
def test_relaxed_tokens_are_chances_and_sharper_at_a_lower_temperature():
    network = relaxed(LANGUAGE, length=LENGTH)
    variables = network.init(KEY, jnp.zeros((BATCH, 1)))
    assert float(variables["hyperparameters"]["inverse_temperature"]) == 1.0
    largest = []
    for sharpness in (1.0, 50.0):
        variables = {**variables, "hyperparameters": {"inverse_temperature": sharpness}}
        found, _ = network.apply(variables, jnp.zeros((BATCH, 1)), train=True, key=KEY)
        assert found.shape == (BATCH, LENGTH, VOCAB)
        np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)
        largest.append(found.max(-1).mean())
    assert largest[1] > largest[0]
    assert largest[1] > 0.9


@pytest.mark.slow
def test_straight_through_shows_tokens_and_learns_as_relaxed_ones_do():
    given = {"train": True, "key": KEY}
    found, gradients = [], []
    for straight in (False, True):
        network = relaxed(LANGUAGE, length=LENGTH, straight_through=straight)
        variables = network.init(KEY, jnp.zeros((BATCH, 1)))
        weights = jax.random.normal(KEY, (BATCH, LENGTH, VOCAB))

        def loss(params, network=network, variables=variables, weights=weights):
            images, _ = network.apply(
                {**variables, "params": params}, jnp.zeros((BATCH, 1)), **given
            )
            return jnp.sum(images * weights), images

        (_, images), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        found.append(images)
        gradients.append(gradient)
    hard = np.asarray(found[1])
    np.testing.assert_allclose(hard, np.eye(VOCAB)[hard.argmax(-1)], atol=1e-6)
    np.testing.assert_array_equal(hard.argmax(-1), np.asarray(found[0]).argmax(-1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_choices_follow_the_models_chances():
    network = relaxed(LANGUAGE, length=1)
    variables = network.init(KEY, jnp.zeros((2, 1)))
    variables["params"]["output_bias"] = jnp.log(jnp.arange(1.0, VOCAB + 1))
    variables["params"]["output"] = variables["params"]["output"] * 0
    images, _ = network.apply(variables, jnp.zeros((20_000, 1)), train=False, key=KEY)
    share = np.bincount(np.asarray(images)[:, 0].argmax(-1), minlength=VOCAB) / 20_000
    np.testing.assert_allclose(share, np.arange(1, VOCAB + 1) / 36, atol=0.02)


def test_what_follows_a_chosen_end_is_padding():
    found = []
    for ends in ({}, {"stop_token": 2, "pad_token": 1}):
        network = relaxed(LANGUAGE, length=LENGTH, **ends)
        variables = network.init(KEY, jnp.zeros((64, 1)))
        images, _ = network.apply(variables, jnp.zeros((64, 1)), train=True, key=KEY)
        found.append(np.asarray(images))
    ended = np.cumsum(found[0].argmax(-1) == 2, axis=1)
    after = (ended > 0) & ~((ended == 1) & (found[0].argmax(-1) == 2))
    assert 20 < after.sum() < after.size - 20
    np.testing.assert_array_equal(found[1][after], np.eye(VOCAB)[[1] * after.sum()])
    np.testing.assert_array_equal(found[1][~after], found[0][~after])


@pytest.mark.slow
def test_samples_of_a_conditional_generator_take_classes_in_turn():
    generator = Recurrent(VOCAB, (LSTMCell(4),), 4, num_classes=3)
    algorithm = text_gan(
        generator, ConvDiscriminator(None, ((2, 3),), 4, hidden=3), **OPTIONS, num_classes=3
    )
    state = algorithm.init(KEY)
    sampled = algorithm.sample(state, KEY, 4)
    assert sampled.shape == (4, LENGTH)
    np.testing.assert_array_equal(sampled, algorithm.sample(state, KEY, 4, jnp.arange(4) % 3))


@pytest.mark.parametrize(
    "judge",
    [
        ConvDiscriminator(VOCAB, ((2, 3),), 4, representations=2, num_classes=3),
        RecurrentDiscriminator(VOCAB, LSTMCell(4), 3, num_classes=3),
    ],
)
def test_a_class_adds_its_share_to_the_logits(judge):
    labels = jnp.array([0, 1, 1, 0, 2, 2])
    variables = judge.init(KEY, tokens_of(), labels)
    of_zero, of_one = (
        judge.apply(variables, tokens_of(), jnp.full(BATCH, n)).logits.reshape(BATCH, -1)
        for n in (0, 1)
    )
    mixed = judge.apply(variables, tokens_of(), jnp.array([0, 1, 1, 0, 0, 1])).logits
    picked = jnp.where(jnp.array([0, 1, 1, 0, 0, 1])[:, None] == 0, of_zero, of_one)
    np.testing.assert_allclose(mixed.reshape(BATCH, -1), picked, rtol=1e-6)
    assert bool(jnp.all(of_zero != of_one))
    with pytest.raises(ValueError, match="a network with 3 classes needs labels, got None"):
        judge.apply(variables, tokens_of())


DISCRIMINATORS = {
    "convolutions": JUDGE,
    "representations": ConvDiscriminator(None, ((2, 3),), 4, representations=2, hidden=3),
    "lstm": RecurrentDiscriminator(None, LSTMCell(4), 3),
}
GENERATORS = {
    "lstm": (LANGUAGE, "convolutions"),
    "relational": (Recurrent(VOCAB, (RelationalMemoryCell(1, 2, 3),), 4), "representations"),
    "textbook": (LANGUAGE, "lstm"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_every_pair_trains(name):
    generator, judge = GENERATORS[name]
    algorithm = text_gan(
        generator,
        DISCRIMINATORS[judge],
        **OPTIONS,
        # Of a relativistic loss, and of a hinge at first, the last bias has no gradient.
        loss=losses.non_saturating,
        discriminator_steps=2,
        schedules={"inverse_temperature": lambda step: 1.0 + step},
    )
    state = jax.jit(algorithm.init)(KEY)
    step = jax.jit(algorithm.train_step)
    batch = {"tokens": tokens_of(algorithm.batches_per_step).astype(jnp.uint8)}
    first, metrics = step(state, batch)
    second, more = step(first, batch)
    assert step._cache_size() == 1
    assert metrics.keys() == more.keys()
    assert all(np.isfinite(value) for value in more.values())
    for player in ("generator", "discriminator"):
        moved = jax.tree.map(
            lambda a, b: bool(jnp.any(a != b)),
            state.players[player].params,
            second.players[player].params,
        )
        assert all(jax.tree.leaves(moved)), moved
    # The schedule has reached the network: it was 2 in the second step.
    kept = second.players["generator"].variables["hyperparameters"]["inverse_temperature"]
    assert float(kept) == 2.0
    sampled = algorithm.sample(second, KEY, 3)
    assert sampled.shape == (3, LENGTH)
    assert sampled.dtype == jnp.int32
    sums = jax.jit(algorithm.evaluate)(second, {"tokens": tokens_of()}, KEY)
    assert float(sums["tokens"]) == BATCH * LENGTH


@pytest.mark.slow
def test_latents_to_chances_with_a_gradient_penalty():
    algorithm = text_gan(
        Generator(LENGTH, VOCAB, width=4, num_blocks=1),
        Discriminator(width=4, num_blocks=1),
        **OPTIONS,
        loss=losses.wasserstein,
        discriminator_terms=[Term("gradient_penalty", gradient_penalty, 10.0)],
    )
    state, metrics = jax.jit(algorithm.train_step)(
        jax.jit(algorithm.init)(KEY), {"tokens": tokens_of()}
    )
    assert metrics["penalty/gradient_penalty"] > 0
    sampled = algorithm.sample(state, KEY, 3)
    assert sampled.shape == (3, LENGTH)
    assert int(sampled.max()) < VOCAB
    assert float(jax.jit(algorithm.evaluate)(state, {"tokens": tokens_of()}, KEY)["count"]) == BATCH


@pytest.mark.slow
def test_a_relaxed_generator_learns_what_is_real():
    # Real sequences are of one token; the generator comes to write it.
    algorithm = text_gan(
        LANGUAGE,
        JUDGE,
        **OPTIONS,
        generator_optimizer=optax.adam(0.02, b1=0.5),
        discriminator_optimizer=optax.adam(0.02, b1=0.5),
    )
    batch = {"tokens": jnp.full((32, LENGTH), 3)}
    state = jax.jit(algorithm.init)(KEY)
    state, _ = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: algorithm.train_step(s, batch), state, length=300)
    )(state)
    assert np.mean(np.asarray(algorithm.sample(state, KEY, 200)) == 3) > 0.9


def _grammar(count: int, seed: int) -> np.ndarray:
    """Return sequences of six symbols, each one or two places after the one before it."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, 10), np.int32)
    for row in rows:
        symbol, length = 0, min(9, 3 + random.geometric(0.25) - 1)
        for place in range(length):
            symbol = (symbol + random.choice([1, 2], p=[0.8, 0.2])) % 6
            row[place] = 3 + symbol
        row[length] = 2
    return rows


def _allowed(rows: np.ndarray) -> float:
    """Return the share of symbols that may follow the one before them."""
    before = np.concatenate([np.full((len(rows), 1), 3), rows[:, :-1]], axis=1)
    written = (rows != 2) & (np.cumsum(rows == 2, axis=1) == 0)
    fits = (rows > 2) & np.isin((rows - before) % 6, (1, 2))
    return float(fits[written].mean())


@pytest.mark.slow
def test_a_game_improves_on_the_likelihood_that_it_begins_with():
    form = {"length": 10, "start_token": 1, "stop_token": 2, "pad_token": 0}
    real, kept = jnp.asarray(_grammar(2000, 0)), jnp.asarray(_grammar(500, 1))
    language = Recurrent(9, (LSTMCell(16),), 8)

    def train(algorithm, state, steps):
        def body(state, key):
            rows = jax.random.randint(key, (64,), 0, len(real))
            return algorithm.train_step(state, {"tokens": real[rows]})

        keys = jax.random.split(jax.random.key(2), steps)
        return jax.jit(lambda state: jax.lax.scan(body, state, keys)[0])(state)

    def judged(algorithm, state):
        sums = algorithm.evaluate(state, {"tokens": kept}, KEY)
        written = np.asarray(algorithm.sample(state, KEY, 2000))
        return float(sums["negative_log_likelihood"] / sums["tokens"]), _allowed(written)

    likelihood = autoregressive(language, optimizer=optax.adam(1e-2), **form)
    start = train(likelihood, likelihood.init(KEY), 60)
    game = text_gan(
        language,
        RecurrentDiscriminator(None, LSTMCell(16), 8),
        vocab_size=9,
        straight_through=True,
        schedules={"inverse_temperature": lambda step: jnp.full((), 2.0)},
        generator_optimizer=optax.adam(3e-4, b1=0.5),
        discriminator_optimizer=optax.adam(3e-3, b1=0.5),
        **form,
    )
    played = train(game, take_generator(game.init(KEY), start), 1000)
    (nll_before, before), (nll, after) = judged(likelihood, start), judged(game, played)
    # It writes less that does not fit, and has lost little of its variety for that.
    assert 1 - after < 0.8 * (1 - before)
    assert nll < nll_before + 0.15


class Counter(nn.Module):
    """A judge that likes a token: each one in a sequence adds to the logit."""

    @nn.compact
    def __call__(self, x, labels=None):
        scale = self.param("scale", nn.initializers.constant(1.0), ())
        wanted = 3 if labels is None else 3 + labels[:, None]
        return scale * (jnp.sum(x == wanted, axis=1) - 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [0, 2])
def test_policy_gradients_raise_the_reward(num_classes):
    algorithm = seqgan(
        Recurrent(VOCAB, (LSTMCell(6),), 4, num_classes=num_classes),
        Counter(),
        length=LENGTH,
        generator_optimizer=optax.adam(0.05),
        discriminator_optimizer=optax.sgd(0.0),
        discriminator_steps=1,
        num_rollouts=4,
        baseline=True,
        num_classes=num_classes,
    )
    batch = {"tokens": jnp.zeros((32, LENGTH), jnp.uint8)}
    wanted = np.full(200, 3)
    if num_classes:
        batch["label"] = jnp.arange(32) % 2
        wanted += np.arange(200) % 2
    state = jax.jit(algorithm.init)(KEY)
    state, metrics = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: algorithm.train_step(s, batch), state, length=80)
    )(state)
    assert metrics["reward"][-1] > metrics["reward"][0] + 0.3
    assert np.mean(np.asarray(algorithm.sample(state, KEY, 200)) == wanted[:, None]) > 0.9


@pytest.mark.slow
def test_steps_of_seqgan():
    common = {"length": LENGTH, "num_rollouts": 2, "rollout_rate": 0.8}
    alone = seqgan(LANGUAGE, JUDGE, **common, discriminator_steps=2, generator_steps=0)
    both = seqgan(LANGUAGE, JUDGE, **common, discriminator_steps=2)
    state = jax.jit(both.init)(KEY)
    batch = {"tokens": tokens_of(2)}
    only, metrics = jax.jit(alone.train_step)(state, batch)
    assert only.players["generator"] is not None
    jax.tree.map(
        np.testing.assert_array_equal,
        only.players["generator"].params,
        state.players["generator"].params,
    )
    assert "reward" not in metrics
    played, metrics = jax.jit(both.train_step)(state, batch)
    assert 0 < metrics["reward"] < 1
    # What rolls out follows the generator slowly.
    jax.tree.map(
        lambda rollout, old, new: np.testing.assert_allclose(
            rollout, 0.8 * old + 0.2 * new, atol=1e-6
        ),
        played.running["rollout"],
        state.players["generator"].params,
        played.players["generator"].params,
    )
    with pytest.raises(ValueError, match="consumes 2 batches"):
        both.train_step(state, {"tokens": tokens_of(3)})
    with pytest.raises(ValueError, match=r"needs the entries \['tokens'\], got \['image'\]"):
        both.train_step(state, {"image": tokens_of(2)})
    with pytest.raises(InputError, match="no latents"):
        both.sample(state, KEY, 2, latents=jnp.zeros((2, 1)))


@pytest.mark.slow
def test_phases_hand_their_generator_on():
    likelihood = autoregressive(LANGUAGE, length=LENGTH, start_token=0, ema_half_life_images=10.0)
    learnt, _ = jax.jit(likelihood.train_step)(
        jax.jit(likelihood.init)(KEY), {"tokens": tokens_of()}
    )
    relaxed_game = text_gan(LANGUAGE, JUDGE, **OPTIONS, ema_half_life_images=10.0)
    state = take_generator(jax.jit(relaxed_game.init)(jax.random.key(5)), learnt)
    assert_equal = np.testing.assert_array_equal
    params = learnt.players["generator"].params
    jax.tree.map(assert_equal, state.players["generator"].params, params)
    average = learnt.ema["generator"]["params"]
    jax.tree.map(assert_equal, state.ema["generator"]["params"], average)
    jax.jit(relaxed_game.train_step, donate_argnums=0)(state, {"tokens": tokens_of()})
    # Donating what was handed on leaves the phase before as it was.
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(learnt))
    policy_game = seqgan(LANGUAGE, JUDGE, length=LENGTH, discriminator_steps=1, num_rollouts=1)
    state = take_all(jax.jit(policy_game.init)(jax.random.key(5)), learnt)
    jax.tree.map(assert_equal, state.running["rollout"], params)
    second = take_all(jax.jit(policy_game.init)(jax.random.key(6)), state)
    jax.tree.map(
        assert_equal,
        second.players["discriminator"].params,
        state.players["discriminator"].params,
    )
    fresh = jax.jit(policy_game.init)(jax.random.key(6))
    assert take_all(fresh, None) is fresh
    assert take_generator(fresh, None) is fresh


def test_a_filter_longer_than_the_sequence():
    judge = ConvDiscriminator(VOCAB, ((9, 2),), 4)
    with pytest.raises(InputError, match="looks at 9 tokens, but sequences have 5"):
        judge.init(KEY, tokens_of())


LAYOUTS_PROGRAM = """
    import json
    import jax, jax.numpy as jnp, numpy as np, optax
    from ganjax import losses, sharding
    from ganjax.autoregressive import autoregressive
    from ganjax.networks.gpt import Transformer
    from ganjax.networks.recurrent import LSTMCell, Recurrent
    from ganjax.networks.text_discriminators import ConvDiscriminator
    from ganjax.seqgan import seqgan
    from ganjax.text_gan import text_gan

    network = Recurrent(8, (LSTMCell(6),), 4)
    classes = Recurrent(8, (LSTMCell(6),), 4, num_classes=3)
    judge = ConvDiscriminator(8, ((2, 3),), 4, dropout=0.0)
    judge_of_classes = ConvDiscriminator(8, ((2, 3),), 4, dropout=0.0, num_classes=3)
    sgd = {"generator_optimizer": optax.sgd(0.1), "discriminator_optimizer": optax.sgd(0.1)}
    algorithms = {
        "lstm": autoregressive(
            classes, length=5, start_token=1, pad_token=0, optimizer=optax.sgd(0.1), num_classes=3
        ),
        "gpt": autoregressive(
            Transformer(8, 5, 1, 2, 4), length=5, start_token=0, optimizer=optax.sgd(0.1)
        ),
        "relaxed": text_gan(network, judge, vocab_size=8, length=5, **sgd),
        "policy": seqgan(
            classes, judge_of_classes, length=5, discriminator_steps=2, num_rollouts=2,
            num_classes=3, **sgd
        ),
    }
    random = np.random.default_rng(0)

    def flat(state):
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(state.players)])

    def run(algorithm, batches, num_devices, layout):
        mesh = sharding.make_mesh(jax.devices()[:num_devices])
        step = sharding.train_step(algorithm, mesh, layout, donate=False)
        start = jax.jit(algorithm.init)(jax.random.key(0))
        state = sharding.replicate(start, mesh)
        for batch in batches:
            batch = sharding.shard_batch(batch, mesh, algorithm.batches_per_step)
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
        return flat(state), flat(start)

    results = {}
    for name, algorithm in algorithms.items():
        lead = (2,) if algorithm.batches_per_step == 2 else ()
        batches = [
            {
                "tokens": random.integers(0, 8, (*lead, 16, 5)),
                "label": random.integers(0, 3, (*lead, 16)),
            }
            for _ in range(3)
        ]
        state, start = run(algorithm, batches, 1, "jit")
        for layout in sharding.LAYOUTS:
            other, _ = run(algorithm, batches, 4, layout)
            moved = np.linalg.norm(state - start)
            results[f"{name} {layout}"] = float(np.linalg.norm(other - state) / moved)
    print(json.dumps(results))
"""


@pytest.mark.slow
def test_every_layout_on_four_devices_computes_what_one_device_does():
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LAYOUTS_PROGRAM)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": "64"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    errors = json.loads(result.stdout.splitlines()[-1])
    assert len(errors) == 4 * len(sharding.LAYOUTS)
    for name, error in errors.items():
        assert error < 1e-5, name
