"""Trainings that are killed at random moments end as if nothing had happened.

The figures of `benchmarks/results/*/kills.jsonl` are those of the exhaustive test:

    KILLS_OUT=benchmarks/results/cpu-2-cores/kills.jsonl pytest -m exhaustive tests/test_killing.py
"""

import importlib
import os
import random
import signal
import time
from pathlib import Path

import killing
import pytest
from tiny_runs import assert_same_bits, final_state, logged

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_compilation):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def lives(folder, tmp_path_factory):
    """Seconds of an undisturbed process, the first with nothing compiled, and its programs."""
    cache = tmp_path_factory.mktemp("programs")
    cold = killing.undisturbed(folder, cache)
    (folder / "undisturbed").rename(folder / "first")
    return cold, killing.undisturbed(folder, cache), cache


def assert_as_undisturbed(runs, folder, *, same_lines=True):
    expected, lines = (
        final_state(folder / "undisturbed", killing.STEPS),
        logged(folder / "undisturbed"),
    )
    steps = list(range(killing.EVERY, killing.STEPS + 1, killing.EVERY))
    assert [line["step"] for line in lines] == steps
    for run in runs:
        assert_same_bits(final_state(run, killing.STEPS), expected)
        if same_lines:
            assert logged(run) == lines
        else:  # stopping closes an interval of the log early
            there = [line["step"] for line in logged(run)]
            assert there == sorted(set(there))
            assert set(steps) <= set(there)


def end_at_random(folder, lives, **options):
    _, warm, cache = lives
    options = {"life": warm, "cache": cache, "number": signal.SIGKILL, **options}
    return killing.end_at_random(folder, **options)


@pytest.mark.slow
def test_killed_at_random_moments(folder, lives):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    ends = end_at_random(folder, lives, ends=8, chance=random.Random(seed), name="killed")
    assert ends.restarts > 0
    assert not ends.said
    assert_as_undisturbed(ends.finished, folder)


@pytest.mark.slow
def test_stopped_at_random_moments(folder, lives):
    """SIGTERM, as before a preemption: saved and ended in time wherever it comes."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    ends = end_at_random(
        folder, lives, ends=8, chance=random.Random(seed), number=signal.SIGTERM, name="stopped"
    )
    print(dict(ends.seconds), ends.codes)
    # Two dispatches of two seconds each and a save; some of it for a machine that is busy.
    assert max(map(max, ends.seconds.values())) < 10
    assert not ends.said
    assert_as_undisturbed(ends.finished, folder, same_lines=False)


@pytest.mark.exhaustive
def test_killed_at_fifty_random_moments(folder, lives, tmp_path, monkeypatch):
    began = time.monotonic()
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    cold = end_at_random(
        folder, lives, ends=8, chance=chance, life=lives[0], cache=tmp_path / "cold", name="cold"
    )
    warm = end_at_random(folder, lives, ends=42, chance=chance, name="killed")
    finished = cold.finished + warm.finished
    assert_as_undisturbed(finished, folder)
    phases = cold.phases + warm.phases
    assert phases["save in flight"] > 0
    assert not warm.said

    if not os.environ.get("KILLS_OUT"):
        return
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    out = Path(__file__).parents[1] / os.environ["KILLS_OUT"]
    steps = [step for step in cold.steps + warm.steps if step is not None]
    importlib.import_module("common").Results("kills", out, add_to=True).add_row(
        "SIGKILL at random moments",
        kills=sum(phases.values()),
        phases=dict(phases),
        with_nothing_compiled=sum(cold.phases.values()),
        checkpoint_steps=sorted(steps),
        without_checkpoint=sum(phases.values()) - len(steps),
        restarts=cold.restarts + warm.restarts,
        failed_restarts=0,
        trainings=len(finished),
        different_bits=0,
        warnings=sorted(set(cold.said)),
        seconds_of_a_process=lives[1],
        seconds=time.monotonic() - began,
        seed=seed,
    )
