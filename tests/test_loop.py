"""The loop: the same state for every cadence, feed and interruption; nothing saved that is lost."""

import contextlib
import os
import signal
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import assert_same_bits, start

from ganjax import feed, sharding
from ganjax.data import batch_indices
from ganjax.data.dataset import in_memory
from ganjax.loop import Callback, DivergedError, StoppedError, fit
from ganjax.types import Algorithm, InputError, Player, TrainState, step_key

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_EXAMPLES, BATCH_SIZE, STEPS = 37, 5, 11
# Example i holds the number i.
COUNTED = in_memory(
    "counted", "train", {"image": np.arange(NUM_EXAMPLES, dtype=np.float32)[:, None].repeat(2, 1)}
)


def recorder(*, per_step=1, steps=STEPS, bad_metric=None, bad_weights=None):
    """An algorithm whose state remembers each example it saw, and depends on keys and data."""

    def init(key):
        walker = Player(params={"w": jnp.zeros(3)}, variables={}, opt_state=())
        return TrainState(
            step=jnp.int32(0),
            rollbacks=jnp.int32(0),
            key=key,
            players={"walker": walker},
            ema={},
            augment=(),
            hyperparameters={},
            running={"seen": jnp.full((steps, per_step * BATCH_SIZE), -1.0)},
        )

    def train_step(state, batch):
        algorithm.calls.append(batch["image"].shape)
        seen = batch["image"][..., 0].reshape(-1)
        w = state.players["walker"].params["w"]
        w = 0.9 * w + jax.random.normal(step_key(state, "walk"), (3,)) * jnp.mean(seen)
        number = (state.step + 1).astype(jnp.float32)
        if bad_weights is not None:
            w = jnp.where(number == bad_weights, jnp.nan, w)
        metrics = {"number": number, "loss/walker": 2 * number}
        if bad_metric is not None:
            metrics["loss/walker"] = jnp.where(number == bad_metric, jnp.inf, 2 * number)
        state = state.replace(
            step=state.step + 1,
            players={"walker": state.players["walker"].replace(params={"w": w})},
            running={"seen": state.running["seen"].at[state.step].set(seen)},
        )
        return state, metrics

    algorithm = _Counted(init, train_step, None, None, per_step)
    algorithm.calls = []
    return algorithm


class _Counted(Algorithm):
    pass


def run(algorithm=None, *, state=None, **settings):
    algorithm = algorithm or recorder()
    state = algorithm.init(jax.random.key(3)) if state is None else state
    settings = {
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "seed": 4,
        "log_every_steps": 4,
    } | settings
    return fit(algorithm, state, COUNTED, **settings)


@pytest.fixture(scope="module")
def expected(quick_compilation):
    return jax.device_get(run())


def expected_order(per_step=1, steps=STEPS):
    return batch_indices(
        NUM_EXAMPLES, seed=4, first_batch=0, num_batches=per_step * steps, batch_size=BATCH_SIZE
    ).reshape(steps, -1)


@pytest.mark.parametrize(
    ("log_every", "save_every", "callback_every"),
    [(1, None, None), (3, 4, 5), (7, 2, None), (100, 1, 3), (11, 11, 11)],
)
def test_cadences_change_nothing(expected, log_every, save_every, callback_every):
    saved = []
    callbacks = []
    if callback_every:
        callbacks = [Callback(lambda progress: {"other": 1.0}, callback_every)]
    state = run(
        log_every_steps=log_every,
        save=lambda step, state: saved.append(step),
        save_every_steps=save_every,
        callbacks=callbacks,
    )
    assert_same_bits(state, expected)
    multiples = {} if save_every is None else range(save_every, STEPS, save_every)
    assert saved == [*multiples, STEPS]


@pytest.mark.parametrize("per_step", [1, 2, 3])
@pytest.mark.parametrize("memory", ["auto", "stream"])
def test_data_in_the_order_of_the_batches(per_step, memory):
    algorithm = recorder(per_step=per_step)
    state = run(algorithm, memory=memory)
    np.testing.assert_array_equal(state.running["seen"], expected_order(per_step))
    lead = () if per_step == 1 else (per_step,)
    assert algorithm.calls == [(*lead, BATCH_SIZE, 2)]


@pytest.mark.parametrize("per_step", [1, 2, 3])
def test_streamed_is_resident(per_step):
    states = [run(recorder(per_step=per_step), memory=memory) for memory in ("device", "stream")]
    assert_same_bits(*states)


@pytest.mark.parametrize("per_step", [1, 3])
def test_large_examples_are_streamed_in_short_chunks(per_step, monkeypatch):
    step_bytes = per_step * BATCH_SIZE * COUNTED.arrays["image"][0].nbytes
    monkeypatch.setattr(feed, "STREAM_BYTES", 2 * step_bytes + 1)
    algorithm = recorder(per_step=per_step)
    state = run(algorithm, memory="stream", log_every_steps=5)
    assert_same_bits(state, run(recorder(per_step=per_step), memory="device"))
    assert len(algorithm.calls) == 1
    order = {"seed": 4, "rollbacks": 0, "batch_size": BATCH_SIZE}
    short = feed.make_feed(COUNTED, order, sharding.make_mesh(), algorithm, "stream", 0, 5)
    with contextlib.closing(short):
        assert short.most_steps == 2
        _, inputs = short.take(0, 1)
        assert inputs["image"].shape[0] == 2


def test_traced_once_whatever_the_cadences():
    algorithm = recorder()
    run(
        algorithm,
        log_every_steps=5,
        save=lambda step, state: None,
        save_every_steps=3,
        callbacks=[Callback(lambda progress: None, 2)],
    )
    assert len(algorithm.calls) == 1


@pytest.mark.parametrize("middle", [1, 4, 6])
def test_going_on_is_the_same(expected, middle):
    algorithm = recorder()
    state = run(algorithm, steps=middle)
    assert int(state.step) == middle
    assert_same_bits(run(algorithm, state=state), expected)


def test_nothing_to_do_changes_nothing(expected):
    state = jax.device_put(expected)
    saved = []
    assert_same_bits(run(state=state, save=lambda step, _: saved.append(step)), expected)
    assert saved == []


def test_steps_of_callbacks_and_what_they_see():
    shown, logged = [], []

    def show(progress):
        shown.append(progress.step)
        assert int(progress.state.step) == progress.step
        assert progress.metrics == {}
        return {"score": float(progress.step)} if progress.step == 8 else None

    def log(progress):
        assert progress.state is None
        logged.append((progress.step, dict(progress.metrics)))

    run(callbacks=[Callback(show, 4), Callback(log)], log_every_steps=5)
    assert shown == [4, 8, 11]
    # Means over steps 1 to 5, 6 to 10 and what is left.
    assert logged == [
        (5, {"number": 3.0, "loss/walker": 6.0}),
        (8, {"score": 8.0}),
        (10, {"number": 8.0, "loss/walker": 16.0}),
        (11, {"number": 11.0, "loss/walker": 22.0}),
    ]


def test_metrics_of_a_run_shorter_than_a_log_interval():
    logged = []
    run(steps=3, log_every_steps=100, callbacks=[Callback(logged.append)])
    assert [(p.step, p.metrics["number"]) for p in logged] == [(3, 2.0)]


def test_means_do_not_depend_on_chunks():
    def logged(**settings):
        lines = []
        run(callbacks=[Callback(lambda p: lines.append((p.step, p.metrics)))], **settings)
        return lines

    assert logged() == logged(save=lambda step, state: None, save_every_steps=1)


def test_speed_counts_images():
    speeds = []
    run(callbacks=[Callback(lambda p: speeds.append(p.images_per_second))], log_every_steps=3)
    assert len(speeds) == 4
    assert all(np.isfinite(speed) and speed >= 0 for speed in speeds)
    assert speeds[-1] > 0


def test_a_phase_begins_its_own_order():
    algorithm = recorder()
    saved, shown = [], []
    state = run(
        algorithm,
        steps=100 + STEPS,
        first_step=100,
        save=lambda step, state: saved.append(step),
        save_every_steps=4,
        callbacks=[Callback(lambda p: shown.append(p.step), 10)],
    )
    assert int(state.step) == STEPS
    np.testing.assert_array_equal(state.running["seen"], expected_order())
    assert saved == [104, 108, 111]
    assert shown == [110, 111]


def test_rollbacks_are_another_order():
    algorithm = recorder()
    state = algorithm.init(jax.random.key(3)).replace(rollbacks=jnp.int32(1))
    seen = run(algorithm, state=state).running["seen"]
    assert not np.array_equal(seen, expected_order())


@pytest.mark.parametrize("log_every", [1, 3, 50])
def test_metrics_that_are_not_finite(log_every):
    saved = []
    with pytest.raises(
        DivergedError, match="loss/walker not finite at step 7; before it: "
    ) as info:
        run(
            recorder(bad_metric=7),
            log_every_steps=log_every,
            save=lambda step, state: saved.append(step),
            save_every_steps=2,
        )
    assert saved == [2, 4, 6]
    assert "number" in str(info.value)


def test_the_last_values_before_a_bad_step_are_told():
    with pytest.raises(DivergedError, match=r"before it: loss/walker 8, number 4$"):
        # Step 5 is in the middle of a chunk of steps 4 to 7.
        run(recorder(bad_metric=5), log_every_steps=50)


def test_weights_that_are_not_finite_are_not_saved():
    saved = []
    with pytest.raises(DivergedError, match="weights that are not finite at step 6"):
        run(
            recorder(bad_weights=5),
            save=lambda step, state: saved.append(step),
            save_every_steps=2,
        )
    assert saved == [2, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_stops(expected, number):
    before = signal.getsignal(number)
    saved = {}

    def interrupt(progress):
        if progress.step == 6:
            os.kill(os.getpid(), number)

    algorithm = recorder()
    with pytest.raises(StoppedError) as info:
        run(
            algorithm,
            callbacks=[Callback(interrupt, 3)],
            save=lambda step, state: saved.update({step: jax.device_get(state)}),
        )
    assert (info.value.step, info.value.signal_number) == (6, number)
    assert list(saved) == [6]
    assert signal.getsignal(number) is before
    assert_same_bits(run(algorithm, state=jax.device_put(saved[6])), expected)


def test_a_signal_at_the_end_is_told_after_the_state_is_saved(expected):
    saved = {}
    with pytest.raises(StoppedError) as info:
        run(
            callbacks=[Callback(lambda p: os.kill(os.getpid(), signal.SIGTERM), STEPS)],
            save=lambda step, state: saved.update({step: jax.device_get(state)}),
        )
    assert info.value.step == STEPS
    assert_same_bits(saved[STEPS], expected)


def test_a_second_signal_has_its_usual_effect():
    def interrupt(progress):
        del progress
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[Callback(interrupt, 3)])
    assert signal.getsignal(signal.SIGINT) is before


def test_input_errors():
    with pytest.raises(InputError, match="37 examples to train on and a batch takes 38"):
        run(batch_size=38)
    with pytest.raises(InputError, match="layout has to be one of"):
        run(layout="rings")
    import dataclasses

    streamed = dataclasses.replace(COUNTED, arrays=None, read=COUNTED.batch)
    algorithm = recorder()
    state = algorithm.init(jax.random.key(3))
    with pytest.raises(InputError, match=r"counted does not fit in memory; set data.memory"):
        fit(algorithm, state, streamed, steps=1, batch_size=BATCH_SIZE, memory="device")


def test_a_set_that_is_read_on_demand(expected):
    import dataclasses

    streamed = dataclasses.replace(COUNTED, arrays=None, read=COUNTED.batch)
    algorithm = recorder()
    state = algorithm.init(jax.random.key(3))
    state = fit(algorithm, state, streamed, steps=STEPS, batch_size=BATCH_SIZE, seed=4)
    assert_same_bits(state, expected)


FOUR_DEVICES = """
    import jax, optax
    jax.config.update("jax_num_cpu_devices", 4)
    import numpy as np
    from ganjax import data, gan, latents, sharding
    from ganjax.loop import fit
    from ganjax.networks import mlp

    algorithm = gan(
        mlp.Generator((2,), (8,), batch_norm=True), mlp.Discriminator((8,)),
        latents=latents.normal(4), discriminator_steps=2,
        generator_optimizer=optax.sgd(0.05), discriminator_optimizer=optax.sgd(0.05),
        ema_half_life_images=50.0,
    )
    ring, _ = data.load("ring", held_out=0)
    devices = jax.devices()
    assert len(devices) == 4

    def train(devices, layout, memory="auto"):
        state = algorithm.init(jax.random.key(0))
        mesh = sharding.make_mesh(devices)
        return jax.device_get(fit(
            algorithm, state, ring, steps=9, batch_size=16, log_every_steps=4, mesh=mesh,
            layout=layout, memory=memory,
        ))

    one = train(devices[:1], "jit")
    start = jax.device_get(algorithm.init(jax.random.key(0)))
    moved = [np.abs(a - b).max() for a, b in zip(
        jax.tree.leaves(one.players), jax.tree.leaves(start.players), strict=True)]
    assert max(moved) > 1e-2, moved
    for layout, memory in (("jit", "device"), ("shard_map", "stream")):
        four = train(devices, layout, memory)
        for part in ("players", "ema"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0),
                getattr(four, part), getattr(one, part),
            )
    print("same")
"""


@pytest.mark.slow
def test_four_devices_are_one(tmp_path):
    process = start(["-c", textwrap.dedent(FOUR_DEVICES)], tmp_path, NPROC="64")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out.strip()) == (0, "same"), err


def test_batch_has_to_divide_over_devices():
    mesh = types.SimpleNamespace(shape={"data": 4})
    with pytest.raises(InputError, match=r"a batch of 6 does not divide over 4 devices.*such as 8"):
        sharding.check_batch_size(6, mesh)
