"""Several processes train as one, save for any number of others, and end together."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time

import numpy as np
import pytest
from tiny_runs import arrays, final_state, run_cli, start

from ganjax import config, processes, sharding, train
from ganjax.processes import ProcessOptions, several
from ganjax.run import RunDirectory
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

FILE = """
import dataclasses
from tiny_runs import ring_config
from ganjax.config import OptimizerSettings

def get_config():
    config = ring_config(steps=STEPS, log_every_steps=4, checkpoint_every_steps=4)
    sgd = OptimizerSettings(name="sgd", learning_rate=0.05)
    model = dataclasses.replace(config.model, generator=sgd, discriminator=sgd)
    return dataclasses.replace(config, model=model)
"""
PATIENCE = 8


def config_file(folder, steps):
    (folder / "tiny.py").write_text(FILE.replace("STEPS", str(steps)))
    return folder / "tiny.py"


def devices(count):
    # More threads than cores: virtual devices wait for each other.
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "NPROC": "64"}


def begin(folder, *arguments, count=2):
    """Start a command as several processes with two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = ["--coordinator", f"localhost:{port}", "--num-processes", count]
    flags += ["--patience-seconds", PATIENCE]
    command = ["-m", "ganjax.cli", *arguments, *flags, "--process-id"]
    return [start([*command, i], folder, **devices(2)) for i in range(count)]


def ended(started, timeout=240):
    """Return the exit codes, and what was said on the standard errors."""
    try:
        said = [process.communicate(timeout=timeout)[1] for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    return [process.returncode for process in started], said


def assert_close(actual, expected):
    actual, expected = arrays(actual), arrays(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(actual[path], leaf, rtol=0, atol=1e-5, err_msg=path)


def run_alone(folder, *arguments, count=1):
    process = start(["-m", "ganjax.cli", *arguments], folder, **devices(count))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def alone(tmp_path_factory, quick_compilation):
    """The state after 16 steps on one device, and how the loss went."""
    folder = tmp_path_factory.mktemp("alone")
    result = train.train(config.load_file(str(config_file(folder, 16))), str(folder / "run"))
    return result.state, losses(folder / "run")


def losses(run):
    lines = RunDirectory(run).read_metrics()
    return {line["step"]: line["loss/generator"] for line in lines if "loss/generator" in line}


@pytest.mark.slow
def test_two_processes_four_devices_and_one_are_the_same(alone, tmp_path):
    state, curve = alone
    config_file(tmp_path, 16)
    codes, said = ended(begin(tmp_path, "train", "tiny.py", "--run-directory", "two"))
    assert codes == [0, 0], said
    assert_close(final_state(tmp_path / "two", 16), state)
    assert losses(tmp_path / "two") == pytest.approx(curve, abs=1e-5)
    # Everything that a run leaves is there once.
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"curves.png", "evaluation.json", "samples", "metrics.jsonl"} <= names
    assert sum(name.startswith("events.out") for name in names) == 1

    run_alone(tmp_path, "train", "tiny.py", "--run-directory", "four", count=4)
    assert_close(final_state(tmp_path / "four", 16), state)


@pytest.mark.slow
def test_a_run_goes_from_two_processes_to_one_to_four_devices_and_back(alone, tmp_path):
    state, curve = alone
    config_file(tmp_path, 4)
    codes, said = ended(begin(tmp_path, "train", "tiny.py", "--run-directory", "run"))
    assert codes == [0, 0], said
    run_alone(tmp_path, "resume", "run", "--train.steps", 8)
    codes, said = ended(begin(tmp_path, "resume", "run", "--train.steps", 12))
    assert codes == [0, 0], said
    run_alone(tmp_path, "resume", "run", "--train.steps", 16, count=4)
    assert_close(final_state(tmp_path / "run", 16), state)
    # The losses are those of the same batches.
    assert losses(tmp_path / "run") == pytest.approx(curve, abs=1e-5)


# One of them is lost.


@pytest.fixture
def training(tmp_path):
    """Two supervisors whose children have written a checkpoint, and the children's numbers."""
    config_file(tmp_path, 1_000_000)
    started = begin(tmp_path, "train", "tiny.py", "--run-directory", "run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "4" / "state").exists():
        if any(process.poll() is not None for process in started) or time.monotonic() > deadline:
            pytest.fail(f"no checkpoint: {ended(started, timeout=1)}")
        time.sleep(0.05)
    folder = tmp_path / "run" / "processes"
    children = [json.loads((folder / str(i)).read_text())["pid"] for i in range(2)]
    yield started, children
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


SENTENCE = (
    r"^ganjax: process {} of 2 .*{}.*; go on from the last checkpoint by `ganjax resume run` with "
    r"the flags of all processes$"
)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1], ids=["the coordinator", "another"])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(lost, training, tmp_path):
    started, children = training
    os.kill(children[lost], signal.SIGKILL)
    begun = time.monotonic()
    codes, said = ended(started, timeout=60)
    # A grace for what ends by itself, and a breath.
    assert time.monotonic() - begun < 25
    assert codes == [75, 75], said
    for text in said:
        assert re.search(SENTENCE.format(lost, "was ended by SIGKILL"), text, re.MULTILINE), text

    done = max(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit())
    codes, said = ended(begin(tmp_path, "resume", "run", "--train.steps", done + 4))
    assert codes == [0, 0], said
    assert int(final_state(tmp_path / "run", done + 4).step) == done + 4


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1], ids=["the coordinator", "another"])
def test_a_process_that_stands_still_ends_all(lost, training):
    started, children = training
    os.kill(children[lost], signal.SIGSTOP)
    begun = time.monotonic()
    codes, said = ended(started, timeout=90)
    assert time.monotonic() - begun < PATIENCE + 25
    assert codes == [75, 75], said
    for text in said:
        assert re.search(SENTENCE.format(lost, "has not answered for"), text, re.MULTILINE), text


@pytest.mark.slow
def test_a_machine_that_is_gone_ends_the_others(training):
    started, children = training
    started[1].kill()
    os.kill(children[1], signal.SIGKILL)
    begun = time.monotonic()
    code, said = ended(started[:1], timeout=90)
    assert time.monotonic() - begun < PATIENCE + 25
    assert code == [75], said
    assert re.search(SENTENCE.format(1, "answer"), said[0], re.MULTILINE), said[0]


@pytest.mark.slow
def test_a_notice_to_one_stops_all_at_the_same_step(training, tmp_path):
    started, _ = training
    started[1].send_signal(signal.SIGTERM)
    begun = time.monotonic()
    codes, said = ended(started, timeout=90)
    assert time.monotonic() - begun < 30
    assert codes == [143, 143], said
    (step,) = re.findall(r"SIGTERM: saved step (\d+); continue", said[0])
    assert "saved" not in said[1]
    state = final_state(tmp_path / "run", int(step))
    assert int(state.step) == int(step)


@pytest.mark.slow
def test_a_directory_that_holds_a_run_is_refused_by_all(tmp_path):
    config_file(tmp_path, 4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    codes, said = ended(begin(tmp_path, "train", "tiny.py", "--run-directory", "run"), timeout=90)
    assert codes == [2, 75], said
    assert "run already holds a run" in said[0]
    assert "process 0 of 2" in said[1]


# Flags.


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"coordinator": "a:1", "num_processes": 2}, "need all of --coordinator"),
        ({"process_id": 1}, "need all of --coordinator"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": -1}, "expected 0 to 1"),
        ({"coordinator": "a:99999", "num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "--num-processes has to be"),
        ({"patience_seconds": 0.5}, "--patience-seconds has to be 2 to"),
        ({"patience_seconds": float("inf")}, "--patience-seconds has to be 2 to"),
    ],
)
def test_flags_that_make_no_sense(flags, sentence):
    with pytest.raises(InputError, match=sentence):
        several(ProcessOptions(**flags))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # no step: nothing was started
        ({name: "2" for name in processes._SLURM}, True),
        ({name: "1" for name in processes._SLURM}, False),
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_what_a_scheduler_has_started(environment, expected, monkeypatch):
    monkeypatch.setattr(os, "environ", environment)
    assert several(ProcessOptions()) is expected
    assert several(ProcessOptions(num_processes=1)) is False


def test_several_processes_need_a_common_directory(refuse):
    sentence = refuse("train", "mlp_ring", "--coordinator", "localhost:1", "--num-processes", "2")
    assert "need all of --coordinator" in sentence
    all_flags = ("--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "0")
    assert "the same --run-directory" in refuse("train", "mlp_ring", *all_flags)


@pytest.fixture
def refuse(capsys):
    def run(*arguments):
        assert run_cli(*arguments) == 2
        return capsys.readouterr().err

    return run


# What a supervisor makes of its child and of the others, with children that train nothing.


def supervise(folder, monkeypatch, program, patience=2.0):
    monkeypatch.setattr(processes, "_BEAT_SECONDS", 0.1)
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 1.0)
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    popen = processes.subprocess.Popen
    monkeypatch.setattr(
        processes.subprocess,
        "Popen",
        lambda command, **more: popen([sys.executable, "-c", program], **more),
    )
    options = ProcessOptions("localhost:1", 2, 0, patience)
    try:
        return processes.supervise([], folder / "run", options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


BEATS = """
import json, os, time
pipe = int(os.environ["GANJAX_SUPERVISOR_PIPE"])
os.write(pipe, json.dumps([0, 2, 5]).encode() + b"\\n")
"""


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_an_exit_code_is_passed_on(code, tmp_path, monkeypatch, capfd):
    assert supervise(tmp_path, monkeypatch, f"raise SystemExit({code})") == code
    assert capfd.readouterr().err == ""
    status = json.loads((tmp_path / "run/processes/0").read_text())
    assert (status["state"], status["code"]) == ("ended", code)


def test_a_child_out_of_memory_is_named(tmp_path, monkeypatch, capfd):
    program = "import os; os.kill(os.getpid(), 9)"
    assert supervise(tmp_path, monkeypatch, program) == 75
    assert "process 0 of 2 was ended by SIGKILL (out of memory?)" in capfd.readouterr().err


def test_a_silent_child_is_ended(tmp_path, monkeypatch, capfd):
    begun = time.monotonic()
    assert supervise(tmp_path, monkeypatch, BEATS + "time.sleep(60)") == 75
    assert time.monotonic() - begun < 10
    assert "process 0 of 2 has not answered for" in capfd.readouterr().err


def test_what_an_earlier_start_has_left_is_no_loss(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run" / "processes"
    folder.mkdir(parents=True)
    (folder / "1").write_text(json.dumps({"state": "ended", "code": 75, "start": 5}))
    assert supervise(tmp_path, monkeypatch, BEATS + "time.sleep(1)") == 0
    assert capfd.readouterr().err == ""


def writes(status, **entries):
    """Return a program that joins, lets another one write its status, and waits."""
    text = json.dumps({"host": "far", "pid": 7, **entries})
    return BEATS + (
        "import pathlib; time.sleep(0.5); "
        f"pathlib.Path({str(status)!r}).write_text({text!r}); time.sleep(WAIT)"
    )


def test_another_that_has_ended_badly_ends_this_one(tmp_path, monkeypatch, capfd):
    program = writes(tmp_path / "run/processes/1", state="ended", code=2, start=5)
    assert supervise(tmp_path, monkeypatch, program.replace("WAIT", "60"), patience=20.0) == 75
    said = capfd.readouterr().err
    assert "process 1 of 2 (far, pid 7) ended with exit code 2" in said
    assert "resume" not in said  # where there is no run yet


def test_another_that_fails_before_all_have_come_ends_this_one(tmp_path, monkeypatch, capfd):
    program = writes(tmp_path / "run/processes/1", state="ended", code=2, start=None)
    program = program.replace("[0, 2, 5]", "[0, 2, None]").replace("WAIT", "60")
    assert supervise(tmp_path, monkeypatch, program, patience=20.0) == 75
    assert "process 1 of 2 (far, pid 7) ended with exit code 2" in capfd.readouterr().err


def test_nothing_is_left_in_a_folder_of_something_else(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    assert supervise(tmp_path, monkeypatch, "raise SystemExit(2)") == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "entries",
    [
        {"state": "ended", "code": 75, "start": 4},  # of an earlier start, which ends late
        {"state": "ended", "code": 143, "start": 5},  # stopped, as this one is about to be
        {"state": "ended", "code": 0, "start": 5},
    ],
)
def test_another_end_is_no_loss(entries, tmp_path, monkeypatch, capfd):
    program = writes(tmp_path / "run/processes/1", **entries).replace("WAIT", "1")
    assert supervise(tmp_path, monkeypatch, program) == 0
    assert capfd.readouterr().err == ""


def test_a_supervisor_that_stood_still_itself_blames_nobody(tmp_path, monkeypatch, capfd):
    # Both sleep for longer than the patience, as a machine does that is put to sleep.
    times = iter([0.0, 0.0, 0.0, *[100.0 + i / 100 for i in range(100_000)]])
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(times))
    program = BEATS + "[os.write(pipe, b'\\n') or time.sleep(0.1) for _ in range(8)]"
    assert supervise(tmp_path, monkeypatch, program) == 0
    assert capfd.readouterr().err == ""


def test_a_process_that_runs_already_is_not_started_again(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "processes"
    folder.mkdir(parents=True)
    beats = iter(range(100))

    def beat(_):
        status = {"state": "running", "host": "here", "pid": 7, "beats": next(beats)}
        (folder / "0").write_text(json.dumps(status))

    beat(0)
    monkeypatch.setattr(processes.time, "sleep", beat)
    options = ProcessOptions("localhost:1", 2, 0)
    with pytest.raises(InputError, match=r"process 0 of this run is already running \(here, pid 7"):
        processes.supervise([], tmp_path / "run", options)


# Shares.


def test_a_process_alone_has_the_whole_batch():
    mesh = sharding.make_mesh()
    assert sharding.own_share(16, mesh) == slice(0, 16)
