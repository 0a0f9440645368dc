"""Losses, gradients, weights and data that are not finite: stop, skip, or go back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import arrays, assert_same_bits, ring_config

from ganjax import build, data, gan, latents, loop, pictures, population, safeguard, train
from ganjax import penalties as penalties_of
from ganjax.networks import mlp
from ganjax.players import adam

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

GOOD = {"image": jnp.linspace(-1.0, 1.0, 16).reshape(8, 2)}
KEY = jax.random.key(0)


def game(**settings):
    networks = mlp.Generator((2,), (4,)), mlp.Discriminator((4,))
    return gan(*networks, latents=latents.normal(2), ema_half_life_images=20.0, **settings)


@pytest.mark.parametrize("value", [np.nan, pytest.param(-np.inf, marks=pytest.mark.slow)])
def test_a_bad_batch_changes_nothing_but_the_step(value):
    algorithm = safeguard.skip_non_finite(game())
    step = jax.jit(algorithm.train_step)
    state, metrics = step(algorithm.init(KEY), GOOD)
    assert metrics["skipped_steps"] == 0
    after, metrics = step(state, {"image": GOOD["image"].at[3, 1].set(value)})
    assert metrics["skipped_steps"] == 1
    assert int(after.step) == int(state.step) + 1
    assert_same_bits(after.replace(step=state.step), state)
    # And the game goes on.
    later, metrics = step(after, GOOD)
    assert metrics["skipped_steps"] == 0
    assert not np.array_equal(
        jax.tree.leaves(later.ema["generator"]["params"])[0],
        jax.tree.leaves(after.ema["generator"]["params"])[0],
    )


@pytest.mark.slow
def test_a_good_step_is_the_step_of_the_algorithm():
    algorithm = game()
    state, metrics = jax.jit(algorithm.train_step)(algorithm.init(KEY), GOOD)
    guarded = safeguard.skip_non_finite(algorithm)
    again, more = jax.jit(guarded.train_step)(guarded.init(KEY), GOOD)
    assert metrics.keys() == more.keys() - {"skipped_steps"}
    for path, leaf in arrays(state).items():
        np.testing.assert_allclose(arrays(again)[path], leaf, rtol=1e-6, atol=1e-7)


def test_a_gradient_that_only_a_lazy_penalty_spoils_is_seen():
    def spoilt(view, real_images, fake_images, key):
        # Finite, with a derivative that is not.
        return jnp.sqrt(0.0 * penalties_of.r1(view, real_images, fake_images, key))

    term = penalties_of.Term("spoilt", spoilt, weight=1.0, interval=2)
    algorithm = safeguard.skip_non_finite(game(discriminator_terms=[term]))
    step = jax.jit(algorithm.train_step)
    state = algorithm.init(KEY)
    skipped = []
    for _ in range(4):
        state, metrics = step(state, GOOD)
        skipped.append(int(metrics["skipped_steps"]))
    assert skipped == [1, 0, 1, 0]
    assert all(np.isfinite(leaf).all() for leaf in arrays(state.players).values())


@pytest.mark.slow
def test_members_of_a_population_skip_for_themselves():
    rates = np.array([1e-3, np.inf, 1e-3], np.float32)
    algorithm = safeguard.skip_non_finite(game(generator_optimizer=adam(1e-3)))
    members = population(algorithm, values={"generator_learning_rate": rates}, strategy="vmap")
    state = members.init(KEY)
    after, metrics = jax.jit(members.train_step)(state, GOOD)
    assert metrics["skipped_steps"].tolist() == [0, 1, 0]
    for before, now in zip(
        jax.tree.leaves(state.players["generator"].params),
        jax.tree.leaves(after.players["generator"].params),
        strict=True,
    ):
        assert np.array_equal(before[1], now[1])
    assert np.isfinite(jax.tree.leaves(after.players["generator"].params)[0]).all()


def spoil(algorithm, steps, rollbacks=(0,)):
    """Return the algorithm with a loss that is NaN at some steps, of some streams of numbers."""

    def train_step(state, batch):
        after, metrics = algorithm.train_step(state, batch)
        bad = jnp.isin(after.step, jnp.array(steps)) & jnp.isin(
            state.rollbacks, jnp.array(rollbacks)
        )
        loss = jnp.where(bad, jnp.nan, metrics["loss/generator"])
        return after, {**metrics, "loss/generator": loss}

    return algorithm._replace(train_step=train_step)


def fit(algorithm, **settings):
    points, _ = data.load("ring", held_out=0)
    logged = []
    state = loop.fit(
        algorithm,
        algorithm.init(KEY),
        points,
        batch_size=8,
        callbacks=[loop.Callback(logged.append)],
        **settings,
    )
    return state, [progress.metrics for progress in logged]


@pytest.mark.slow
def test_means_leave_out_what_was_skipped_and_count_it():
    one_by_one = safeguard.skip_non_finite(spoil(game(), [2, 3, 5]))
    _, singles = fit(one_by_one, steps=6, log_every_steps=1)
    assert [line["skipped_steps"] for line in singles] == [0, 1, 1, 0, 1, 0]
    assert np.isnan(singles[1]["loss/generator"])
    _, (line,) = fit(one_by_one, steps=6, log_every_steps=6)
    assert line["skipped_steps"] == 3
    losses = [s["loss/generator"] for s in singles if not s["skipped_steps"]]
    assert line["loss/generator"] == pytest.approx(np.mean(losses))


@pytest.mark.slow
def test_skipping_for_ever_is_a_divergence(monkeypatch):
    monkeypatch.setattr("ganjax.progress.MOST_SKIPPED_STEPS", 7)
    algorithm = safeguard.skip_non_finite(spoil(game(), range(5, 50)))
    saved = []
    with pytest.raises(loop.DivergedError, match="7 steps in a row up to step 11 were not finite"):
        fit(
            algorithm,
            steps=40,
            log_every_steps=4,
            save=lambda step, state: saved.append(arrays(state)),
            save_every_steps=4,
        )
    assert saved
    assert all(np.isfinite(leaf).all() for state in saved for leaf in state.values())


# Whole runs.


@pytest.fixture
def spoilt(monkeypatch):
    """Let trainings have losses that are NaN at some steps, for some numbers of roll-backs."""
    monkeypatch.setattr(pictures, "plot_curves", lambda *_: None)
    monkeypatch.setattr(pictures, "scatter", lambda *_: None)
    original = build.build

    def set_up(steps, rollbacks=(0,)):
        def spoilt_build(settings):
            experiment = original(settings)
            phases = [
                phase._replace(algorithm=spoil(phase.algorithm, steps, rollbacks))
                for phase in experiment.phases
            ]
            return experiment._replace(phases=phases)

        monkeypatch.setattr(train, "build", spoilt_build)

    return set_up


def config(**settings):
    return ring_config(steps=10, log_every_steps=1, checkpoint_every_steps=4, **settings)


def logged(run, name):
    return {line["step"]: line[name] for line in run.read_metrics() if name in line}


@pytest.mark.slow
def test_a_run_goes_back_and_on_with_other_batches(spoilt, tmp_path):
    spoilt([6])
    warnings = []
    report = train.Silent()
    report.warn = warnings.append
    result = train.train(config(on_divergence="roll_back"), str(tmp_path / "run"), report)
    assert int(result.state.step) == 10
    assert int(result.state.rollbacks) == 1
    (warning,) = warnings
    assert "loss/generator not finite at step 6" in warning
    assert "going on from step 4" in warning
    assert "roll-back 1 of 5" in warning
    assert logged(result.run, "roll_backs") == {4: 1}
    assert list(logged(result.run, "loss/generator")) == list(range(1, 11))
    # The same run without the fault, until the step that it went back to.
    spoilt([])
    clean = train.train(config(), str(tmp_path / "clean"))
    mine, other = (logged(r.run, "loss/generator") for r in (result, clean))
    assert [mine[s] for s in range(1, 5)] == [other[s] for s in range(1, 5)]
    assert all(mine[s] != other[s] for s in range(5, 11))


@pytest.mark.slow
def test_a_run_that_was_rolled_back_resumes_with_the_same_bits(spoilt, tmp_path):
    spoilt([6])
    settings = config(on_divergence="roll_back")
    whole = train.train(settings, str(tmp_path / "whole"))
    half = dataclasses.replace(settings, train=dataclasses.replace(settings.train, steps=9))
    train.train(half, str(tmp_path / "half"))
    resumed = train.resume(str(tmp_path / "half"), 10)
    assert_same_bits(resumed.state, whole.state)


@pytest.mark.slow
def test_without_a_checkpoint_it_begins_again(spoilt, tmp_path):
    spoilt([2])
    result = train.train(config(on_divergence="roll_back"), str(tmp_path / "run"))
    assert int(result.state.rollbacks) == 1
    assert list(logged(result.run, "loss/generator")) == list(range(1, 11))
    assert logged(result.run, "roll_backs") == {0: 1}


@pytest.mark.slow
def test_roll_backs_come_to_an_end(spoilt, tmp_path):
    spoilt([6], rollbacks=range(9))
    settings = config(on_divergence="roll_back", max_roll_backs=2)
    with pytest.raises(
        loop.DivergedError, match="the last good checkpoint is step 4; rolled back 2 times"
    ):
        train.train(settings, str(tmp_path / "run"))
    # Going on does not go through all of them again.
    report = train.Silent()
    report.warn = pytest.fail
    with pytest.raises(loop.DivergedError, match="step 4; rolled back 2 times"):
        train.resume(str(tmp_path / "run"), report=report)
    # What is left is a run that can be resumed, from a sound state.
    spoilt([])
    assert int(train.resume(str(tmp_path / "run")).state.step) == 10


@pytest.mark.slow
def test_a_run_skips(tmp_path):
    settings = config(on_divergence="skip")
    model = settings.model
    explosive = dataclasses.replace(model.generator, learning_rate=1e38)
    settings = dataclasses.replace(settings, model=dataclasses.replace(model, generator=explosive))
    result = train.train(settings, str(tmp_path / "run"))
    assert sum(logged(result.run, "skipped_steps").values()) > 0
    assert all(np.isfinite(leaf).all() for leaf in arrays(result.state.players).values())
    assert all(np.isfinite(leaf).all() for leaf in arrays(result.state.ema).values())
