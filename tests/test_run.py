"""The run directory: who may write there, and that nothing in it is lost or mixed up."""

import json
import os
import struct
import subprocess
import sys
import types

import numpy as np
import pytest

from ganjax.loop import Progress
from ganjax.run import MetricsLog, RunDirectory, device_name, versions, wandb_callback
from ganjax.types import InputError

RECORD = {"config": {"name": "x"}, "data": {"shape": [2]}}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "one")
    run.create(RECORD)
    return run


def test_create_and_record(run):
    assert run.record() == RECORD
    assert {path.name for path in run.path.iterdir()} == {"config.json", "lock"}


def test_an_empty_directory_will_do(tmp_path):
    RunDirectory(tmp_path).create(RECORD)
    assert RunDirectory(str(tmp_path)).record() == RECORD


def test_what_a_process_left_that_was_killed_in_create_is_no_obstacle(tmp_path):
    (tmp_path / "lock").write_text("12345")
    (tmp_path / "config.json.new").write_text('{"conf')
    RunDirectory(tmp_path).create(RECORD)
    assert RunDirectory(tmp_path).record() == RECORD
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "lock"}


def test_of_two_that_create_one_becomes_the_run(tmp_path):
    with RunDirectory(tmp_path).locked(), pytest.raises(InputError, match="is in use by process"):
        RunDirectory(tmp_path).create(RECORD)
    assert not (tmp_path / "config.json").exists()


def test_a_run_that_is_gone_or_taken_is_noticed(run):
    run.check_held()
    with run.locked():
        run.check_held()
        (run.path / "lock").unlink()
        run.check_held()
        (run.path / "lock").write_text("12345")
        with pytest.raises(InputError, match="process 12345 has begun anew there"):
            run.check_held()
        (run.path / "config.json").unlink()
        with pytest.raises(InputError, match=r"was removed while it trained \(config.json is gone"):
            run.check_held()
    run.check_held()


def test_create_overwrites_nothing(run):
    with pytest.raises(InputError, match=r"already holds a run; continue it with `ganjax resume"):
        run.create({**RECORD, "config": {}})
    assert run.record() == RECORD


def test_create_mixes_with_nothing(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is no run; choose an empty or a new"):
        RunDirectory(tmp_path).create(RECORD)
    with pytest.raises(InputError, match="exists and is no run"):
        RunDirectory(tmp_path / "thesis.txt").create(RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_person_would_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunDirectory("runs/a").shown == os.path.join("runs", "a")
    assert RunDirectory("..").shown == str(tmp_path.parent)
    assert str(RunDirectory("runs/a")) == str(tmp_path / "runs" / "a")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "config.json is broken: "),
        ("[]", "config.json is not what a run writes there"),
        ('{"config": {}}', "config.json is not what a run writes there"),
    ],
)
def test_broken_record(run, text, sentence):
    (run.path / "config.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        run.record()


def test_no_record(tmp_path):
    with pytest.raises(InputError, match=r"holds no run: config.json is missing$"):
        RunDirectory(tmp_path).record()
    with pytest.raises(InputError, match=r"missing; there is no such directory$"):
        RunDirectory(tmp_path / "none").record()


def test_rewrite(run):
    run.rewrite({**RECORD, "more": 1})
    assert run.record() == {**RECORD, "more": 1}
    assert {path.name for path in run.path.iterdir()} == {"config.json", "lock"}


def test_one_process_at_a_time(run):
    with run.locked():
        with pytest.raises(InputError, match=f"is in use by process {os.getpid()}; wait for it"):
            RunDirectory(run.path).locked().__enter__()
        assert (run.path / "lock").read_text() == str(os.getpid())
    with run.locked():
        pass


def test_metrics_have_every_step_once(run):
    log = MetricsLog(run, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": step / 10})
    log.close()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # as a killed process leaves it
    log = MetricsLog(run, 20)
    log.write(30, {"loss": 3.5})
    log.close()
    assert [(line["step"], line["loss"]) for line in run.read_metrics()] == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.5),
    ]


def test_values_that_are_not_finite_are_null(run):
    log = MetricsLog(run, 0)
    log.write(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    log.close()
    (line,) = (run.path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "a": None, "b": None, "c": 1.0}
    assert run.curves() == {"c": ([1], [1.0])}


def test_events_are_what_tensorboard_reads(run):
    log = MetricsLog(run, 0)
    log.write(10, {"loss": 0.5, "other": 2.0})
    log.close()
    log = MetricsLog(run, 4)
    log.picture("samples", np.zeros((3, 2, 3), np.uint8), 7)
    log.close()
    from tensorboardX.proto import event_pb2

    def events(path):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]

    # Two in one second have one name: the second takes the place of the first.
    (path, *_) = sorted(run.path.glob("events.out.tfevents.*"))[::-1]
    version, start, picture = events(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, start.session_log.START)
    assert (picture.step, picture.summary.value[0].tag) == (7, "samples")
    assert picture.summary.value[0].image.height == 3


def test_a_disk_that_takes_no_events(run, monkeypatch):
    log = MetricsLog(run, 0)
    log._events._last.result()

    def full(event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._events, "_write", full)

    def write():
        for step in range(1000):  # never waits for a thread that has died
            log.write(step, {"loss": 0.5})

    with pytest.raises(InputError, match="No space left on device"):
        write()
    log.close()


def test_a_log_does_not_import_torch(run, tmp_path):
    (tmp_path / "torch.py").write_text("slow = True")
    program = f"""if True:
        import sys
        from ganjax.run import MetricsLog, RunDirectory
        MetricsLog(RunDirectory({str(run.path)!r}), 0).close()
        assert "torch" not in sys.modules
        import torch
        assert torch.slow
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)


def test_curves_of_nothing(run):
    assert run.read_metrics() == []
    assert run.curves() == {}


def test_evaluations_are_appended(run):
    run.add_evaluation(1, {"a": {"value": 1.0}})
    run.add_evaluation(2, {"a": {"value": 2.0}})
    entries = json.loads((run.path / "evaluation.json").read_text())
    assert entries == [
        {"step": 1, "figures": {"a": {"value": 1.0}}},
        {"step": 2, "figures": {"a": {"value": 2.0}}},
    ]


def test_broken_evaluations(run):
    (run.path / "evaluation.json").write_text('[{"step"')
    with pytest.raises(InputError, match=r"evaluation.json is broken"):
        run.add_evaluation(1, {})
    assert (run.path / "evaluation.json").read_text() == '[{"step"'


def test_what_a_disk_says_is_a_sentence(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(run.path), "write_text", full)
    with pytest.raises(InputError, match=r"writing to .*one failed: No space left on device$"):
        run.rewrite(RECORD)


def test_versions_and_device():
    assert {"python", "jax", "flax", "orbax-checkpoint"} <= versions().keys()
    assert device_name()


def test_weights_and_biases_gets_each_line_at_its_step(tmp_path, monkeypatch):
    logged = []

    class Session:
        def log(self, values):
            logged.append(values)

        def define_metric(self, name, step_metric):
            logged.append((name, step_metric))

    started = {}

    def init(**settings):
        started.update(settings)
        return Session()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    callback = wandb_callback("garments", RunDirectory(tmp_path / "run"), {"seed": 3})
    callback.function(Progress(20, None, {"loss/generator": 0.5}, 100.0))
    assert started == {"project": "garments", "name": "run", "config": {"seed": 3}}
    callback.function(Progress(10, None, {"evaluation/recall": 0.5}, 0.0))
    assert logged == [
        ("*", "step"),
        {"loss/generator": 0.5, "step": 20},
        {"evaluation/recall": 0.5, "step": 10},  # late
    ]
    assert callback.every_steps is None


def test_weights_and_biases_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'ganjax\[wandb\]'"):
        wandb_callback("garments", RunDirectory(tmp_path / "run"), {})
