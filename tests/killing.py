"""Ends trainings at random moments of their lives, restarts them, and says how they ended.

What is asserted of it is in `tests/test_killing.py`. A training here is `ganjax train` of a tiny
ring, and `ganjax resume` for as long as it has not come to its end, each in a process of its own.
"""

import collections
import dataclasses
import random
import re
import signal
import subprocess
import time
from pathlib import Path

from tiny_runs import start

from ganjax.checkpoint import Checkpointer

STEPS, EVERY = 2000, 50
FILE = f"""
from tiny_runs import ring_config

def get_config():
    return ring_config(
        steps={STEPS}, log_every_steps={EVERY}, checkpoint_every_steps={EVERY}
    )
"""
UNFINISHED = re.compile(r"\d+\.orbax-checkpoint-tmp.*")


@dataclasses.dataclass
class Ends:
    """How the processes ended.

    Attributes:
      phases: what they did when the signal came, and how many.
      steps: the last committed checkpoint at each signal, None where there was none.
      restarts: processes that were started where another one was ended.
      codes: exit codes of those that a signal ended.
      seconds: from the signal to the end of the process, by phase.
      said: lines that speak of a warning.
      finished: run directories of the trainings that came to their end.
    """

    phases: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    steps: list = dataclasses.field(default_factory=list)
    restarts: int = 0
    codes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    seconds: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    said: list = dataclasses.field(default_factory=list)
    finished: list = dataclasses.field(default_factory=list)


def begin(folder: Path, run: str, cache: Path) -> subprocess.Popen:
    """Start what a person, or a scheduler, would start: the training, or what is left of it."""
    (folder / "tiny.py").write_text(FILE)
    if (folder / run / "config.json").exists():
        command = ["resume", run]
    else:
        command = ["train", "tiny.py", "--run-directory", run]
    return start(["-m", "ganjax.cli", *command], folder, JAX_COMPILATION_CACHE_DIR=str(cache))


def undisturbed(folder: Path, cache: Path) -> float:
    """Train `folder/undisturbed` to its end and return how many seconds that took."""
    began = time.monotonic()
    process = begin(folder, "undisturbed", cache)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return time.monotonic() - began


def end_at_random(
    folder: Path,
    *,
    ends: int,
    life: float,
    number: int,
    chance: random.Random,
    cache: Path,
    name: str = "run",
) -> Ends:
    """Send a signal at a random moment of each process until so many have been ended by it.

    Every process is given a moment between its start and `life` seconds later. One that comes to
    its end before is the end of a training, and a new training begins; after the last signal the
    training is left alone.

    Args:
      folder: where the run directories lie.
      ends: how many processes to end.
      life: seconds that an undisturbed process takes; of later ones that is measured anew, because
        the machine may have other work at one time and not at another.
      number: of the signal.
      chance: gives the moments.
      cache: of compiled programs.
      name: what the names of run directories begin with.
    """
    result = Ends()
    while True:
        run = f"{name}-{len(result.finished)}"
        is_restart = (folder / run / "config.json").exists()
        result.restarts += is_restart
        process = begin(folder, run, cache)
        began, done = time.time(), sum(result.phases.values()) == ends
        try:
            process.wait(300 if done else chance.uniform(0, life))
        except subprocess.TimeoutExpired:
            assert not done, f"{run} has not ended in 300 seconds"
            sent = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
            phase = phase_of(folder / run, began)
            result.seconds[phase].append(time.monotonic() - sent)
        else:
            out, err = process.communicate()
            phase = None
        result.said += [line for line in err.splitlines() if "warn" in line.lower()]
        code = process.returncode
        if phase is not None and code:
            stopped = {-number, 128 + number}
            assert code in stopped, f"{run} in {phase}: exit code {code}\n{out}\n{err}"
            result.phases[phase] += 1
            result.codes[code] += 1
            result.steps.append(last_step(folder / run))
            continue
        assert code == 0, f"{run}: exit code {code}\n{out}\n{err}"
        if phase is None and not is_restart:
            life = time.time() - began
        result.finished.append(folder / run)
        if done:
            return result


def phase_of(run: Path, began: float) -> str:
    """Return what a process did that has just been ended, from what it has left."""
    checkpoints = run / "checkpoints"
    if not (run / "config.json").exists():
        return "start"
    metrics = run / "metrics.jsonl"  # written anew right before the first step
    if not metrics.exists() or metrics.stat().st_mtime < began:
        return "start" if last_step(run) is None else "restart"
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.exists() else []
    unfinished = [name for name in names if UNFINISHED.fullmatch(name)]
    if any((checkpoints / name).stat().st_mtime >= began for name in unfinished):
        return "save in flight"
    if str(STEPS) in names:
        return "evaluation and exit"
    return "steps"


def last_step(run: Path) -> int | None:
    return Checkpointer(run / "checkpoints").latest_step()


def name_of(number: int) -> str:
    return signal.Signals(number).name
