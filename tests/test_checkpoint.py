"""Checkpoints: bit for bit, whole or not at all, never silently wrong."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ganjax import checkpoint
from ganjax.checkpoint import Checkpointer, restore_subtree
from ganjax.digest import digests, nested, sealed
from ganjax.types import InputError, Player, TrainState

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def init(seed: int = 0, width: int = 5) -> TrainState:
    """A small state with everything in it that a training may hold."""
    key = jax.random.key(seed)

    def player(key):
        params = {
            "Dense_0": {"kernel": jax.random.normal(key, (3, width)), "bias": jnp.zeros(width)},
            "w.1/2": jnp.linspace(-1, 1, 4, dtype=jnp.bfloat16),
        }
        return Player(
            params=params,
            variables={"batch_stats": {"mean": jnp.full(width, jnp.nan), "none": None}},
            opt_state=OPTIMIZER.init(params),
        )

    generator, discriminator = (
        player(jax.random.fold_in(key, 1)),
        player(jax.random.fold_in(key, 2)),
    )
    return TrainState(
        step=jnp.int32(0),
        rollbacks=jnp.int32(0),
        key=key,
        players={"generator": generator, "discriminator": discriminator},
        ema={"generator": {"params": jax.tree.map(jnp.copy, generator.params)}},
        augment=None,
        hyperparameters={"learning_rate": jnp.float32(1e-3)},
        running={"empty": jnp.zeros((0, 3)), "keys": jax.random.split(key, 2)},
    )


@jax.jit
def train_step(state: TrainState) -> TrainState:
    key = jax.random.fold_in(state.key, state.step)
    players = {}
    for number, (name, player) in enumerate(state.players.items()):
        noise = jax.random.normal(jax.random.fold_in(key, number), (3,))

        def loss(params, noise=noise):
            return jnp.sum((noise @ params["Dense_0"]["kernel"] + params["w.1/2"].mean()) ** 2)

        updates, opt_state = OPTIMIZER.update(
            jax.grad(loss)(player.params), player.opt_state, player.params
        )
        params = optax.apply_updates(player.params, updates)
        players[name] = player.replace(params=params, opt_state=opt_state)
    return state.replace(step=state.step + 1, players=players)


def train(state: TrainState, steps: int) -> TrainState:
    for _ in range(steps):
        state = train_step(state)
    return state


def bits(state) -> list[bytes]:
    def raw(x):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return [raw(x).tobytes() for x in jax.tree.leaves(state)]


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda x: x.dtype, actual)):
        assert leaf is not None, path
    assert [x.dtype for x in jax.tree.leaves(actual)] == [
        x.dtype for x in jax.tree.leaves(expected)
    ]
    assert [x.shape for x in jax.tree.leaves(actual)] == [
        x.shape for x in jax.tree.leaves(expected)
    ]
    assert bits(actual) == bits(expected)


def shapes() -> TrainState:
    return jax.eval_shape(init)


def save_steps(directory, steps, **settings) -> Checkpointer:
    checkpointer = Checkpointer(directory, **settings)
    for step in steps:
        checkpointer.save(step, {"x": jnp.full(3, step)}, metadata={"step": step})
    checkpointer.wait()
    return checkpointer


SMALL = {"x": jax.ShapeDtypeStruct((3,), jnp.int32)}


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


# Whole and exact.


def test_round_trip_is_exact_and_of_the_same_tree(tmp_path):
    state = train(init(), 3)
    metadata = {"config": {"seed": 1, "name": "ü", "none": None}, "phase": 0}
    with Checkpointer(tmp_path / "new" / "run") as checkpointer:
        checkpointer.save(3, state, metadata=metadata, metrics={"fid": jnp.float32(2)})
        restored, read = checkpointer.restore(shapes())
        assert_same(restored, state)
        assert read == metadata == checkpointer.metadata(3)
        assert checkpointer.steps() == [3]
        from_arrays, _ = checkpointer.restore(init(seed=7), 3)
        assert_same(from_arrays, state)


def test_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steps("run", [1]).close()
    assert Checkpointer(tmp_path / "run").steps() == [1]


def test_restored_arrays_may_be_donated(tmp_path):
    state = init()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(0, state, metadata={})
        restored, _ = checkpointer.restore(shapes())
    step = jax.jit(train_step, donate_argnums=0)
    expected = train_step(state)
    actual = step(restored)
    kernel = restored.players["generator"].params["Dense_0"]["kernel"]
    assert kernel.is_deleted()
    assert_same(actual, expected)


def test_state_may_be_donated_right_after_save(tmp_path):
    change = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    with Checkpointer(tmp_path, keep_last=9) as checkpointer:
        x = jnp.arange(2_000_000, dtype=jnp.float32)
        expected = []
        for step in range(4):
            expected.append(np.array(x))
            checkpointer.save(step, {"x": x}, metadata={})
            for _ in range(3):
                x = change(x)
        like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}
        for step in range(4):
            restored, _ = checkpointer.restore(like, step)
            np.testing.assert_array_equal(restored["x"], expected[step])


@pytest.mark.parametrize("interval", [1, 2, 4])
def test_resuming_equals_not_stopping(tmp_path, interval):
    expected = train(init(), 8)
    state = init()
    with Checkpointer(tmp_path) as checkpointer:
        for step in range(0, 4, interval):
            state = train(state, interval)
            checkpointer.save(step + interval, state, metadata={})
    with Checkpointer(tmp_path) as checkpointer:
        state, _ = checkpointer.restore(shapes())
        assert int(state.step) == 4
        for step in range(4, 8):
            state = train(state, 1)
            checkpointer.save(step + 1, state, metadata={})
    assert_same(state, expected)


def test_only_the_asked_part_is_read(tmp_path):
    state = train(init(), 2)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, state, metadata={"phase": 1})
    generator = shapes().players["generator"]
    like = {
        "ema": shapes().ema,
        "players": {"generator": {"params": generator.params, "variables": generator.variables}},
    }
    part, metadata = restore_subtree(tmp_path, like)
    assert metadata == {"phase": 1}
    assert_same(part["ema"], state.ema)
    assert_same(part["players"]["generator"]["params"], state.players["generator"].params)
    assert_same(part["players"]["generator"]["variables"], state.players["generator"].variables)


def test_part_is_read_where_the_rest_is_damaged(tmp_path):
    state = {"ema": jnp.zeros(4), "moments": jax.random.normal(jax.random.key(0), (500_000,))}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, state, metadata={})
        checkpointer.wait()
        largest = max(files_of(tmp_path / "2"), key=lambda path: path.stat().st_size)
        flip(largest, 1_000_000)
        part, _ = checkpointer.restore_subtree({"ema": state["ema"]})
        assert_same(part, {"ema": state["ema"]})
        with pytest.raises(InputError, match="damaged: moments"):
            checkpointer.restore(state)


@pytest.mark.slow
def test_restores_to_another_sharding(tmp_path):
    program = """
        import jax, jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec as P
        from ganjax.checkpoint import Checkpointer
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        across, along = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "data"))
        copies = NamedSharding(mesh, P())
        x = jnp.arange(64.0).reshape(8, 8)
        state = {"x": jax.device_put(x, across), "key": jax.device_put(jax.random.key(3), copies),
                 "keys": jax.device_put(jax.random.split(jax.random.key(1), 8), across)}
        def like(sharding):
            shape = lambda y, s: jax.ShapeDtypeStruct(y.shape, y.dtype, sharding=s)
            return {"x": shape(x, sharding), "key": shape(state["key"], copies),
                    "keys": shape(state["keys"], across)}
        with Checkpointer("run") as checkpointer:
            checkpointer.save(0, state, metadata={})
            for sharding in across, along, copies:
                restored, _ = checkpointer.restore(like(sharding))
                assert restored["x"].sharding == sharding
                assert restored["keys"].sharding.is_equivalent_to(across, 1)
                assert (restored["x"] == x).all() and (restored["keys"] == state["keys"]).all()
            restored, _ = checkpointer.restore(jax.eval_shape(lambda: state))
            assert restored["x"].devices() == {jax.devices()[0]}
            restored, _ = checkpointer.restore(state)
            assert restored["x"].sharding == across
    """
    flags = "--xla_force_host_platform_device_count=4"
    run_python(program, tmp_path, XLA_FLAGS=flags, NPROC="64")
    # Saved by four devices, read by this process.
    restored, _ = restore_subtree(tmp_path / "run", {"x": jax.ShapeDtypeStruct((8, 8), "float32")})
    np.testing.assert_array_equal(restored["x"], np.arange(64.0).reshape(8, 8))


def test_digest_of_bytes():
    x = jnp.arange(6, dtype=jnp.bfloat16)
    arrays = [x, x.reshape(2, 3), x.at[4].set(7), x[::-1], jnp.zeros(()), jnp.zeros((0, 2)), x > 2]
    values = digests(arrays)
    assert values[0] == values[1]
    assert len(set(values)) == len(values) - 1


# What is kept.


def test_keeps_last(tmp_path):
    assert save_steps(tmp_path, range(0, 6), keep_last=2).steps() == [4, 5]


def test_keeps_last_best_and_every(tmp_path):
    checkpointer = Checkpointer(
        tmp_path, keep_last=1, keep_best=2, best_metric="fid", keep_every_steps=4
    )
    fids = [9.0, 1.0, float("nan"), 5.0, 2.0, float("-inf"), 7.0, 8.0]
    for step, fid in enumerate(fids, start=1):
        checkpointer.save(step, {"x": jnp.zeros(1)}, metadata={}, metrics={"fid": fid})
    checkpointer.save(9, {"x": jnp.zeros(1)}, metadata={})  # no metric at all
    checkpointer.wait()
    assert checkpointer.steps() == [2, 4, 5, 8, 9]
    assert checkpointer.best_step() == 2
    assert checkpointer.latest_step() == 9


def test_best_of_max_and_none(tmp_path):
    with Checkpointer(tmp_path, best_metric="is", best_mode="max") as checkpointer:
        assert checkpointer.best_step() is None
        for step, value in enumerate([1.0, 3.0, float("nan"), float("inf"), 2.0]):
            checkpointer.save(step, {"x": jnp.zeros(1)}, metadata={}, metrics={"is": value})
        checkpointer.wait()
        assert checkpointer.best_step() == 1
    assert Checkpointer(tmp_path).best_step() is None


def test_metrics_may_come_after_the_save(tmp_path):
    state = {"weight": jnp.ones(3)}
    options = {"keep_last": 1, "keep_best": 1, "best_metric": "fid"}
    with Checkpointer(tmp_path, **options) as checkpointer:
        for step, value in ((1, 9.0), (2, 3.0), (3, 5.0), (4, None)):
            checkpointer.save(step, state, metadata={"step": step})
            if value is not None:
                checkpointer.add_metrics(step, {"fid": value})
        checkpointer.add_metrics(99, {"fid": 0.0})  # was never saved
        checkpointer.wait()
        assert checkpointer.steps() == [2, 4]
    again = Checkpointer(tmp_path, **options)
    assert again.best_step() == 2
    np.testing.assert_array_equal(again.restore(state, 2)[0]["weight"], 1.0)


def test_what_is_held_stays_until_its_metrics_come(tmp_path):
    state = {"weight": jnp.ones(3)}
    options = {"keep_last": 1, "keep_best": 1, "best_metric": "fid"}
    with Checkpointer(tmp_path, **options) as checkpointer:
        for step in (1, 2, 3, 4):
            if step < 3:
                checkpointer.hold(step)
            checkpointer.save(step, state, metadata={"step": step})
        checkpointer.wait()
        assert checkpointer.steps() == [1, 2, 4]
        checkpointer.add_metrics(1, {"fid": 2.0})
        assert checkpointer.steps() == [1, 2, 4]
        checkpointer.add_metrics(2, {"fid": 3.0})
        assert checkpointer.steps() == [1, 4]


def test_damaged_later_metrics_cost_the_metrics_and_nothing_else(tmp_path):
    state = {"weight": jnp.ones(3)}
    with Checkpointer(tmp_path, best_metric="fid") as checkpointer:
        checkpointer.save(1, state, metadata={"step": 1})
        checkpointer.add_metrics(1, {"fid": 2.0})
    (tmp_path / "1" / "metrics.json").write_text('{"crc32": 1, "record": {"fid": 0.0}}')
    again = Checkpointer(tmp_path, best_metric="fid")
    assert again.best_step() is None
    assert again.restore(state)[1] == {"step": 1}


def test_nothing_is_removed_before_the_next_is_committed(tmp_path):
    checkpointer = save_steps(tmp_path, [1], keep_last=1)
    unwritable = {"x": jnp.zeros(3)}
    with pytest.raises(ValueError, match="JSON"):
        checkpointer.save(2, unwritable, metadata={"function": print})
    assert checkpointer.steps() == [1]


def test_nothing_is_removed_before_the_next_is_proven(tmp_path, monkeypatch):
    """One bit is lost between the state and the disk: the older checkpoint is all there is."""

    def losing(leaves):
        return nested({path: leaf ^ 1 for path, leaf in leaves.items()})

    checkpointer = save_steps(tmp_path, [1], keep_last=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "nested", losing)
        checkpointer.save(2, {"x": jnp.full(3, 2)}, metadata={"step": 2})
        said = r"2 is damaged as soon as it is written: x does not have the bits.*nothing older is"
        with pytest.warns(UserWarning, match=said):
            checkpointer.wait()
    assert checkpointer.steps() == [1, 2]
    assert checkpointer.metadata() == {"step": 1}
    checkpointer.add_metrics(1, {"fid": 1.0})
    assert checkpointer.steps() == [1, 2]
    with pytest.warns(UserWarning, match="2 is damaged: .*went back to step 1"):
        assert checkpointer.restore(SMALL)[1] == {"step": 1}
    checkpointer.save(3, {"x": jnp.full(3, 3)}, metadata={"step": 3})
    checkpointer.wait()
    assert checkpointer.steps() == [2, 3]  # what is damaged is left to be looked at
    # Who comes next does not know what is sound, and removes nothing before it does.
    save_steps(tmp_path, [4], keep_last=1).close()
    assert Checkpointer(tmp_path).steps() == [4]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "record" / "metadata").write_text("{}"), "it cannot be read back"),
        (
            lambda path: (path / "record" / "metadata").write_text(json.dumps(sealed({"a": 1}))),
            "its record has changed",
        ),
        (lambda path: shutil.rmtree(path / "state"), "it cannot be read back"),
    ],
)
def test_proofs_notice_what_is_gone(tmp_path, monkeypatch, damage, said):
    finish = Checkpointer._finish

    def damaging(writer, path, record, shapes):
        writer.wait_until_finished()
        damage(path)
        return finish(writer, path, record, shapes)

    checkpointer = save_steps(tmp_path, [1], keep_last=1)
    monkeypatch.setattr(Checkpointer, "_finish", staticmethod(damaging))
    checkpointer.save(2, {"x": jnp.full(3, 2)}, metadata={"step": 2})
    with pytest.warns(UserWarning, match=said):
        checkpointer.wait()
    assert checkpointer.steps() == [1, 2]


def test_a_removed_directory_is_made_again(tmp_path):
    checkpointer = save_steps(tmp_path / "checkpoints", [1, 2])
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.warns(UserWarning, match="checkpoints was removed, and is made again"):
        checkpointer.save(2, {"x": jnp.full(3, 7)}, metadata={"again": True})
    state, metadata = checkpointer.restore(SMALL)
    assert (state["x"].tolist(), metadata) == ([7, 7, 7], {"again": True})
    shutil.rmtree(tmp_path / "checkpoints")
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"step 3 could not be written .*the latest .* is none"):
        checkpointer.save(3, {"x": jnp.zeros(3)}, metadata={})
    assert not tmp_path.exists()


def test_another_format_is_refused(tmp_path):
    save_steps(tmp_path, [1, 2]).close()
    path = tmp_path / "2" / "record" / "metadata"
    record = json.loads(path.read_text())["record"]
    assert record["format"] == 1
    path.write_text(json.dumps(sealed({**record, "format": 2})))
    with pytest.raises(InputError, match=r"2 has format 2 and this ganjax reads format 1: use the"):
        Checkpointer(tmp_path).restore(SMALL)
    del record["format"]  # as it was before there was one
    path.write_text(json.dumps(sealed(record)))
    assert Checkpointer(tmp_path).restore(SMALL)[1] == {"step": 2}
    path.write_text(json.dumps(sealed({"step": 2})))
    with pytest.warns(UserWarning, match="2 is damaged: its record is missing or has changed"):
        assert Checkpointer(tmp_path).restore(SMALL)[1] == {"step": 1}


def test_what_is_written_last_is_latest_also_after_going_back(tmp_path):
    checkpointer = save_steps(tmp_path, [1, 2, 3], keep_last=3)
    state, _ = checkpointer.restore(SMALL, 1)
    checkpointer.save(2, {"x": state["x"] + 10}, metadata={"again": True})
    checkpointer.wait()
    assert checkpointer.latest_step() == 2
    assert checkpointer.steps() == [1, 2, 3]
    fresh = Checkpointer(tmp_path)
    restored, metadata = fresh.restore(SMALL)
    assert metadata == {"again": True}
    assert restored["x"].tolist() == [11, 11, 11]
    assert sorted(os.listdir(tmp_path)) == ["1", "2.4", "3"]


def test_settings_are_checked(tmp_path):
    for settings in ({"keep_last": 0}, {"best_mode": "least"}, {"keep_every_steps": 0}):
        with pytest.raises(ValueError, match="expected"):
            Checkpointer(tmp_path, **settings)


# Foreign, damaged, cut short.


@pytest.mark.parametrize(
    ("like", "said"),
    [
        (lambda: jax.eval_shape(lambda: init(width=6)), r"bias is float32\[5\].*\[6\]"),
        (
            lambda: shapes().replace(step=jax.ShapeDtypeStruct((), "uint32")),
            "step is int32.*uint32",
        ),
        (lambda: shapes().replace(augment=shapes().step), "expected a leaf augment"),
        (lambda: shapes().replace(hyperparameters={}), "has a leaf hyperparameters/learning_rate"),
        (
            lambda: shapes().replace(key=jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))),
            "key<",
        ),
    ],
)
def test_another_tree_is_refused_by_name(tmp_path, like, said):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, init(), metadata={})
        checkpointer.wait()
        before = {path: path.read_bytes() for path in files_of(tmp_path)}
        with pytest.raises(InputError, match=said) as error:
            checkpointer.restore(like())
        assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in files_of(tmp_path)} == before


def test_nothing_there(tmp_path):
    checkpointer = Checkpointer(tmp_path / "none")
    assert checkpointer.steps() == []
    assert checkpointer.latest_step() is None
    with pytest.raises(InputError, match="expected a checkpoint"):
        checkpointer.restore(SMALL)
    with pytest.raises(InputError, match="step 7, and there is 1, 2"):
        save_steps(tmp_path, [1, 2]).restore(SMALL, 7)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Checkpointer(tmp_path / "file")


def test_empty_and_foreign_directories_are_no_checkpoints(tmp_path):
    save_steps(tmp_path, [1]).close()
    for name in ("5", "7.orbax-checkpoint-tmp", "logs", "8.removed"):
        (tmp_path / name).mkdir()
    (tmp_path / "6").write_text("")
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.steps() == [1]
    with pytest.warns(UserWarning, match=r"/5 is empty; went back to step 1$"):
        assert checkpointer.restore(SMALL)[1] == {"step": 1}
    checkpointer.save(5, {"x": jnp.full(3, 5)}, metadata={"step": 5})
    assert checkpointer.restore(SMALL)[1] == {"step": 5}  # what is empty was replaced
    assert sorted(os.listdir(tmp_path)) == ["1", "5", "5.2", "6", "logs"]


def test_goes_back_to_the_newest_sound_one(tmp_path):
    save_steps(tmp_path, [1, 2, 3], keep_last=3).close()
    checkpointer = Checkpointer(tmp_path)
    shutil.rmtree(tmp_path / "3" / "state")
    (tmp_path / "2" / "record" / "metadata").write_text("{")
    with pytest.warns(UserWarning, match=r"3 is damaged: .*2 is damaged: .*back to step 1"):
        state, metadata = checkpointer.restore(SMALL)
    assert metadata == {"step": 1}
    assert state["x"].tolist() == [1, 1, 1]
    with pytest.raises(InputError, match=r"3 is damaged: .*step 1 may be sound"):
        checkpointer.restore(SMALL, 3)
    # The damaged ones count for nothing, and the sound one stays until there are enough.
    checkpointer.keep_last = 1
    checkpointer.save(2, {"x": jnp.full(3, 4)}, metadata={"step": 4})
    assert checkpointer.restore(SMALL)[1] == {"step": 4}
    shutil.rmtree(tmp_path / "2.4" / "state")
    with (
        pytest.raises(InputError, match=r"2\.4 is damaged.*no other one"),
        warnings.catch_warnings(action="ignore"),
    ):
        Checkpointer(tmp_path).restore(SMALL)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def restore_or_refuse(directory: Path, state) -> bool:
    """Return whether a restore was refused; fail where it was silently wrong."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    try:
        restored, metadata = Checkpointer(directory).restore(like)
    except InputError:
        return True
    assert_same(restored, state)
    assert metadata == {"config": {"seed": 5}}
    return False


def damage_every_file(tmp_path: Path, damage, repeats: int) -> dict[str, int]:
    """Damage a checkpoint one file at a time; return how often each was refused."""
    state = {
        "params": jax.random.normal(jax.random.key(0), (40, 50)),
        "key": jax.random.key(1),
        "step": jnp.int32(6),
    }
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, metadata={"config": {"seed": 5}})
    refused = {}
    for path in files_of(tmp_path / "1"):
        sound = path.read_bytes()
        count = 0
        for repeat in range(repeats):
            damage(path, repeat)
            count += restore_or_refuse(tmp_path, state)
            path.write_bytes(sound)
        refused[str(path.relative_to(tmp_path))] = count
    assert not restore_or_refuse(tmp_path, state)
    return refused


def check_bit_flips(tmp_path, repeats):
    random = np.random.default_rng(0)

    def damage(path, repeat):
        # The first 90 %, because a data file ends in nodes that are no longer read.
        flip(path, random.integers(8 * path.stat().st_size * 9 // 10))

    refused = damage_every_file(tmp_path, damage, repeats)
    data = max(refused, key=lambda name: (tmp_path / name).stat().st_size)
    assert refused[data] == refused["1/record/metadata"] == repeats


@pytest.mark.slow
def test_flipped_bit_in_any_file_is_never_silent(tmp_path):
    check_bit_flips(tmp_path, repeats=3)


@pytest.mark.exhaustive
def test_many_flipped_bits_are_never_silent(tmp_path):
    check_bit_flips(tmp_path, repeats=200)


@pytest.mark.slow
def test_truncated_or_missing_file_is_never_silent(tmp_path):
    def damage(path, repeat):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * repeat // 3])
        if repeat == 2:
            path.unlink()

    refused = damage_every_file(tmp_path, damage, 3)
    data = max(refused, key=lambda name: (tmp_path / name).stat().st_size)
    assert refused[data] == refused["1/record/metadata"] == 3


def test_lost_name_of_an_array_is_damage(tmp_path):
    save_steps(tmp_path, [1]).close()
    names = tmp_path / "1" / "state" / "_METADATA"
    names.write_text(names.read_text().replace("x", "y"))
    with pytest.raises(InputError, match="is damaged"):
        Checkpointer(tmp_path).restore(SMALL)


# Interrupted.


def run_python(program: str, directory: Path, **environment: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        cwd=directory,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return finished.stdout


TRAIN = """
    import sys
    import jax
    from ganjax.checkpoint import Checkpointer
    from tests.test_checkpoint import init, shapes, train
    directory, steps, interval = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with Checkpointer(directory) as checkpointer:
        start = checkpointer.latest_step()
        state = init() if start is None else checkpointer.restore(shapes())[0]
        print("start", int(state.step), flush=True)
        while int(state.step) < steps:
            state = train(state, interval)
            checkpointer.save(int(state.step), state, metadata={"step": int(state.step)})
            print(int(state.step), flush=True)
"""


def check_kills(tmp_path: Path, kills: int) -> None:
    """Kill a training that saves at each step, resume it with other intervals, and compare."""
    random = np.random.default_rng(0)
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(TRAIN))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    steps, latest = 100_000, -1
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, str(program), str(tmp_path / "run"), str(steps), str(1 + kill % 3)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        start = int(process.stdout.readline().split()[1])
        assert start >= latest  # nothing that was committed is lost
        for _ in range(random.integers(2, 8)):
            process.stdout.readline()
        time.sleep(random.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        latest = Checkpointer(tmp_path / "run").latest_step() or 0
        assert latest > start
    with Checkpointer(tmp_path / "run") as checkpointer:
        state, metadata = checkpointer.restore(shapes())  # a warning would be an error
        checkpointer.save(latest + 4, train(state, 4), metadata={})
    assert metadata == {"step": latest}
    assert_same(state, train(init(), latest))
    names = os.listdir(tmp_path / "run")
    assert all(name.isdigit() for name in names), "leftovers are removed"
    assert len(names) == 2


@pytest.mark.slow
def test_killed_in_the_middle_of_saves(tmp_path):
    check_kills(tmp_path, kills=3)


@pytest.mark.slow
def test_killed_many_times_in_the_middle_of_saves(tmp_path):
    check_kills(tmp_path, kills=30)


@pytest.mark.slow
def test_saves_take_few_threads(tmp_path):
    # Of the 128 that Orbax allows, each would stay for 20 s after the last save.
    more = run_python(
        """
        import os
        import jax.numpy as jnp
        from ganjax.checkpoint import Checkpointer

        state = {str(number): jnp.full((64, 64), number) for number in range(200)}
        with Checkpointer("run") as checkpointer:
            before = len(os.listdir("/proc/self/task"))
            for step in range(3):
                checkpointer.save(step, state, metadata={})
                checkpointer.wait()
            print(len(os.listdir("/proc/self/task")) - before)
        """,
        tmp_path,
    )
    assert int(more) <= 32


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
@pytest.mark.parametrize("asked", ["", "5"])
def test_a_command_allocates_from_few_arenas(tmp_path, asked):
    found = run_python(
        """
        import ctypes, pathlib, threading
        from ganjax.quiet import share_memory_arenas
        share_memory_arenas()
        libc = ctypes.CDLL(None)
        libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
        everyone = threading.Barrier(8)
        def work():
            libc.malloc(1000)
            everyone.wait()
        threads = [threading.Thread(target=work) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        file = ctypes.c_void_p(libc.fopen(b"arenas.xml", b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        print(pathlib.Path("arenas.xml").read_text().count("<heap nr"))
        """,
        tmp_path,
        **({"MALLOC_ARENA_MAX": asked} if asked else {}),
    )
    assert int(found) == int(asked or 2)


def test_full_disk(small_disk, capfd):
    sound = {"x": jax.random.normal(jax.random.key(0), (1000,))}
    large = {"x": jax.random.normal(jax.random.key(1), (2_000_000,))}
    like = {"x": jax.ShapeDtypeStruct((1000,), jnp.float32)}
    run = small_disk / "run"
    checkpointer = Checkpointer(run, keep_last=1)
    checkpointer.save(1, sound, metadata={})
    checkpointer.save(2, large, metadata={})
    with pytest.raises(InputError, match=r"step 2 could not .*no space left.*one is of step 1"):
        checkpointer.save(3, sound, metadata={})
    assert checkpointer.steps() == [1]
    assert os.listdir(run) == ["1"]
    checkpointer.save(2, large, metadata={})
    with pytest.raises(InputError, match="no space left"):
        checkpointer.wait()
    assert_same(checkpointer.restore(like)[0], sound)
    # It can go on once there is space.
    checkpointer.save(3, sound, metadata={})
    checkpointer.wait()
    assert checkpointer.steps() == [3]
    checkpointer.save(4, large, metadata={})
    with pytest.raises(InputError, match="no space left"):
        checkpointer.close()
    checkpointer.close()
    assert capfd.readouterr() == ("", "")


def test_a_disk_without_any_space(small_disk):
    checkpointer = save_steps(small_disk, [1])
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    (small_disk / "filler").write_bytes(bytes(free))

    def save():
        checkpointer.save(2, {"x": jnp.zeros(3)}, metadata={})
        checkpointer.wait()

    with pytest.raises(InputError, match="no space left"):
        save()
    (small_disk / "filler").unlink()
    assert Checkpointer(small_disk).restore(SMALL)[1] == {"step": 1}


def test_an_error_inside_the_context_is_not_hidden(small_disk):
    def work():
        with Checkpointer(small_disk) as checkpointer:
            checkpointer.save(1, {"x": jnp.ones(3_000_000)[::-1] * 1.7}, metadata={})
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        Checkpointer(tmp_path / "file" / "run").save(1, {"x": jnp.zeros(1)}, metadata={})


def test_states_that_cannot_be_saved(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(ValueError, match="a/b is a float"):
        checkpointer.save(1, {"a": {"b": 1.0}}, metadata={})
    with pytest.raises(ValueError, match="same name"):
        checkpointer.save(1, {"a.b": jnp.zeros(1), "a": {"b": jnp.ones(1)}}, metadata={})
    assert os.listdir(tmp_path) == []


def test_record_can_be_read_without_this_library(tmp_path):
    save_steps(tmp_path, [4]).close()
    record = json.loads((tmp_path / "4" / "record" / "metadata").read_text())["record"]
    assert record["metadata"] == {"step": 4}
    assert record["leaves"]["x"][:2] == [[3], "int32"]
