"""What does `ganjax.fit` cost beyond the compiled step that it runs?

images/s of a whole training (data, metrics, log files, progress lines) against the bare jitted
train step in a Python loop on one batch that already lies on the device, and against one
`lax.scan` of as many steps. A training runs in a thread of its own and stops between two of its
chunks while the others have their turns; a turn of it is some log intervals, with an empty
pipeline at both ends. Compilation comes before the first turn.

    python benchmarks/loop.py --cases dcgan28,mlp
"""

import dataclasses
import importlib.util
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common
import jax

from ganjax import config
from ganjax.build import Experiment, build
from ganjax.loop import Callback, fit
from ganjax.run import MetricsLog, RunDirectory


class Case(NamedTuple):
    """A shipped configuration with another batch size and memory."""

    configuration: str
    batch_size: int
    memory: str
    turn_steps: int


CASES = {
    "mlp": Case("mlp_ring", 256, "device", 1500),
    "mlp_streamed": Case("mlp_ring", 256, "stream", 1500),
    "dcgan28": Case("quickstart", 32, "device", 100),
    "dcgan28_streamed": Case("quickstart", 32, "stream", 100),
    "dcgan28_wide": Case("quickstart", 64, "device", 50),
}


STEPS = 10**9  # more than are done


def main() -> None:
    args = common.arguments(__doc__, CASES)
    results = common.Results("loop", args.out)
    for name in args.cases:
        case = CASES[name]
        experiment = build(_settings(case))
        with tempfile.TemporaryDirectory() as folder:
            training = Training(experiment, case, Path(folder))
            bare = {"step": bare_steps(experiment, case), "scan": scanned_steps(experiment, case)}
            rates = common.in_turns({"fit": training.turn, **bare}, quick=args.quick)
            training.end()
        results.add(name, rates["fit"], rates["step"], peer="bare step in a Python loop")
        results.add(name, rates["fit"], rates["scan"], peer="bare step in one lax.scan")


def _settings(case: Case) -> config.Config:
    settings = config.load_file(case.configuration)
    return dataclasses.replace(
        settings,
        train=dataclasses.replace(settings.train, batch_size=case.batch_size),
        data=dataclasses.replace(settings.data, memory=case.memory),
    )


class Training:
    """A `fit` that goes on for one turn at a time."""

    def __init__(self, experiment: Experiment, case: Case, folder: Path):
        self._experiment, self._case, self._folder = experiment, case, folder
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._ending = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()  # the first turn compiles

    def turn(self) -> float:
        """Train for one turn and return its images."""
        self._go.release()
        self._wait()
        return self._case.turn_steps * self._case.batch_size

    def end(self) -> None:
        self._ending = True
        self._go.release()
        self._thread.join()

    def _wait(self) -> None:
        self._paused.acquire()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        def pause(progress):
            self._paused.release()
            self._go.acquire()
            if self._ending:
                raise _EndError

        settings = self._experiment.config
        algorithm = self._experiment.model.algorithm
        try:
            fit(
                algorithm,
                jax.jit(algorithm.init)(jax.random.key(0)),
                self._experiment.train,
                steps=STEPS,
                batch_size=self._case.batch_size,
                log_every_steps=settings.train.log_every_steps,
                memory=self._case.memory,
                callbacks=[
                    Callback(metrics_writer(self._folder)),
                    Callback(pause, self._case.turn_steps),
                ],
            )
        except _EndError:
            pass
        except BaseException as error:
            self._error = error
            self._paused.release()


class _EndError(Exception):
    pass


def metrics_writer(folder: Path) -> Callable:
    """Return what the command line does with metrics, as far as its packages are installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        print("metrics go to a file of JSON lines only: no tensorboardX here", file=sys.stderr)
        lines = (folder / "metrics.jsonl").open("a")
        return lambda progress: lines.write(json.dumps(dict(progress.metrics)) + "\n")
    from ganjax.report import Console

    log, console = MetricsLog(RunDirectory(folder), 0), Console()
    console.start(0, STEPS)

    def write(progress):
        values = {**progress.metrics, "images_per_second": progress.images_per_second}
        log.write(progress.step, values)
        console.progress(progress)

    return write


def bare_steps(experiment: Experiment, case: Case) -> Callable[[], float]:
    """Return a turn of the jitted train step, called in a Python loop on one resident batch."""
    algorithm = experiment.model.algorithm
    state, batch = _start(experiment, case)
    train_step = jax.jit(algorithm.train_step, donate_argnums=0)

    def turn():
        nonlocal state
        for _ in range(case.turn_steps):
            state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))
        return case.turn_steps * case.batch_size

    return turn


def scanned_steps(experiment: Experiment, case: Case) -> Callable[[], float]:
    """Return a turn of as many train steps in one dispatch, all on one resident batch."""
    algorithm = experiment.model.algorithm
    state, batch = _start(experiment, case)

    def steps(state, batch):
        return jax.lax.scan(
            lambda state, _: algorithm.train_step(state, batch), state, length=case.turn_steps
        )

    run = jax.jit(steps, donate_argnums=0)

    def turn():
        nonlocal state
        state, metrics = run(state, batch)
        jax.block_until_ready((state, metrics))
        return case.turn_steps * case.batch_size

    return turn


def _start(experiment: Experiment, case: Case):
    algorithm = experiment.model.algorithm
    images = experiment.train.batch(range(case.batch_size))["image"]
    return jax.jit(algorithm.init)(jax.random.key(0)), {"image": jax.device_put(images)}


if __name__ == "__main__":
    main()
