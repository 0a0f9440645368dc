"""A killed or stopped process and an undisturbed one end with the same bits in every leaf."""

import dataclasses
import random
import re
import signal
import time

import pytest
from tiny_runs import assert_same_bits, final_state, logged, ring_config, start

from ganjax import train

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS = 1500
FILE = f"""
from tiny_runs import ring_config

def get_config():
    return ring_config(steps={STEPS}, log_every_steps=50, checkpoint_every_steps=50)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, quick_compilation):
    """A run that nothing happens to, with one checkpoint at its end."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    settings = ring_config(steps=STEPS, log_every_steps=50, checkpoint_every_steps=STEPS)
    train.train(settings, str(run))
    return run


def wait_for_checkpoint(run, process, timeout=120):
    deadline = time.monotonic() + timeout
    while not (run / "checkpoints" / "50" / "state").exists():
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def started(tmp_path, undisturbed):
    """A training in another process that has written its first checkpoint."""
    (tmp_path / "tiny.py").write_text(FILE)
    run = tmp_path / "run"
    process = start(["-m", "ganjax.cli", "train", "tiny.py", "--run-directory", run], tmp_path)
    wait_for_checkpoint(run, process)
    yield process, run
    if process.poll() is None:
        process.kill()
        process.communicate()


def assert_as_undisturbed(run, undisturbed):
    assert_same_bits(final_state(run, STEPS), final_state(undisturbed, STEPS))
    assert [line["step"] for line in logged(run)] == list(range(50, STEPS + 1, 50))
    assert logged(run) == logged(undisturbed)


def test_killed_at_any_moment(started, undisturbed):
    process, run = started
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    steps = [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    assert steps
    assert max(steps) < STEPS, "the run was over before it was killed"
    result = train.resume(str(run))
    assert int(result.state.step) == STEPS
    assert_as_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_stopped_by_signals(started, undisturbed, tmp_path):
    process, run = started
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    sentence = r"^ganjax: SIGTERM: saved step (\d+); continue with `ganjax resume run`$"
    (step,) = re.findall(sentence, err, re.MULTILINE)
    assert 50 <= int(step) < STEPS
    assert "Traceback" not in err

    process = start(["-m", "ganjax.cli", "resume", "run"], tmp_path)
    while len(logged(run)) <= int(step) // 50 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert re.search(
        r"^ganjax: SIGINT: saved step \d+; continue with `ganjax resume run`$", err, re.MULTILINE
    )

    train.resume(str(run))
    assert_same_bits(final_state(run, STEPS), final_state(undisturbed, STEPS))
    steps = [line["step"] for line in logged(run)]
    assert steps == sorted(set(steps))
    assert set(range(50, STEPS + 1, 50)) <= set(steps)


@pytest.mark.slow
def test_another_interval_is_the_same_run(undisturbed, tmp_path):
    settings = ring_config(steps=STEPS, log_every_steps=50, checkpoint_every_steps=700)
    half = dataclasses.replace(
        settings, train=dataclasses.replace(settings.train, steps=STEPS // 2)
    )
    train.train(half, str(tmp_path / "run"))
    train.resume(str(tmp_path / "run"), STEPS)
    assert_as_undisturbed(tmp_path / "run", undisturbed)
