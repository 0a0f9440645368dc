"""What a training says of itself while it goes on: speed, metrics, and that they are finite."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ganjax.safeguard import SKIPPED
from ganjax.types import TrainState

# Where so many steps in a row are skipped, no other batch will help.
MOST_SKIPPED_STEPS = 100


class Progress(NamedTuple):
    """What a callback is told.

    Attributes:
      step: completed steps of the run.
      state: the state after `step`; to be read, not kept: the next chunk takes its memory. None
        for callbacks on metrics.
      metrics: means over the chunk that ended at `step`, of a population (S,) each; of
        `skipped_steps` the sum, and the means are of the other steps. Empty for callbacks on the
        state.
      images_per_second: over the time since training began or resumed, without compilation and
        without the time that callbacks took.
    """

    step: int
    state: TrainState | None
    metrics: Mapping[str, float]
    images_per_second: float


class Callback(NamedTuple):
    """Something that happens while training.

    Attributes:
      function: called with a `Progress`; may return metrics to be logged at that step.
      every_steps: None: after each chunk, with its metrics, one chunk late. Otherwise each time
        this divides the step, and after the last step, with the state.
    """

    function: Callable[[Progress], Mapping[str, float] | None]
    every_steps: int | None = None


class DivergedError(Exception):
    """A metric or a weight is not finite, of a population that of every member.

    `ganjax.skip_non_finite` makes of an algorithm one that leaves such steps out.
    """


class Clock:
    """Measures how fast the device trains; the first dispatch, which compiles, does not count."""

    def __init__(self, images_per_step: int):
        self._images_per_step = images_per_step
        self._steps, self._seconds = 0, 0.0
        self._since: float | None = None
        self._chunk = 1

    def arrived(self, steps: int) -> None:
        """Count the steps of a dispatch whose results have just come."""
        if self._since is None:
            self._since = time.perf_counter()
        else:
            self._steps += steps

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what does not train; nothing may be in flight."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
        yield
        self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._seconds + (time.perf_counter() - self._since if self._since else 0.0)

    @property
    def rate(self) -> float:
        return self._steps * self._images_per_step / self.seconds if self._steps else 0.0

    def next_chunk(self, most_steps: int) -> int:
        """Return how many steps to dispatch: twice as many as before, up to two seconds of them."""
        quick = 2.0 * self._steps / self.seconds if self._steps else 1.0
        self._chunk = max(1, min(2 * self._chunk, most_steps, int(quick)))
        return self._chunk


class Log:
    """Reads the metrics of each chunk when the next one is on its way, and averages them."""

    def __init__(self, callbacks: Sequence[Callback], clock: Clock, every_steps: int):
        self._callbacks = [c for c in callbacks if c.every_steps is None]
        self._clock = clock
        self._every_steps = every_steps
        self._pending: tuple[int, int, Mapping[str, jax.Array]] | None = None
        self._parts: list[Mapping[str, np.ndarray]] = []
        self._step = 0  # the last one whose metrics have come
        self._last: dict[str, np.ndarray] = {}  # these
        self._skipped_steps = 0  # in a row

    def push(self, step: int, chunk: int, metrics: Mapping[str, jax.Array]) -> None:
        self._read()
        self._pending = (step, chunk, metrics)

    def flush(self) -> None:
        self._read()

    def finish(self) -> None:
        """Report what has come since the last report, which may be less than an interval."""
        self._read()
        if self._parts:
            self._report_means()

    def report(self, step: int, metrics: Mapping[str, float] | None) -> None:
        for callback in self._callbacks if metrics else ():
            callback.function(Progress(step, None, metrics, self._clock.rate))

    def _read(self) -> None:
        if self._pending is None:
            return
        step, chunk, metrics = self._pending
        self._pending = None
        part = {name: array[:chunk] for name, array in jax.device_get(metrics).items()}
        self._clock.arrived(chunk)
        finite = {name: _finite(values, _kept(part)) for name, values in part.items()}
        if not np.all([*finite.values()]):
            index = int(np.argmin(np.all([*finite.values()], axis=0)))
            bad = [name for name in part if not finite[name][index]]
            raise DivergedError(self._what_happened(step + index + 1, bad, part, index))
        self._count_skipped(step, part)
        self._parts.append(part)
        self._step, self._last = step + chunk, {name: values[-1] for name, values in part.items()}
        if self._step % self._every_steps == 0:
            self._report_means()

    def _count_skipped(self, step: int, part: Mapping[str, np.ndarray]) -> None:
        for skipped in part.get(SKIPPED, ()):
            step += 1
            self._skipped_steps = self._skipped_steps + 1 if np.all(skipped) else 0
            if self._skipped_steps == MOST_SKIPPED_STEPS:
                raise DivergedError(
                    f"{MOST_SKIPPED_STEPS} steps in a row up to step {step} were not finite and "
                    "have been skipped"
                )

    def _report_means(self) -> None:
        whole = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        kept = _kept(whole)
        with np.errstate(invalid="ignore"):  # members that have diverged, or nothing but skipped
            means = {name: _mean(values, kept).tolist() for name, values in whole.items()}
        if SKIPPED in whole:
            means[SKIPPED] = np.sum(whole[SKIPPED], axis=0).tolist()
        self._parts = []
        self.report(self._step, means)

    def _what_happened(self, step, bad, part, index) -> str:
        before = {name: values[index - 1] for name, values in part.items()} if index else self._last
        shown = ", ".join(
            f"{name} {np.nanmean(value):.4g}" for name, value in sorted(before.items())
        )
        return (
            f"{' and '.join(sorted(bad))} not finite at step {step}; before it: {shown or 'none'}"
        )


def _kept(part: Mapping[str, np.ndarray]) -> np.ndarray | bool:
    """Return for each step (of a population for each member as well) whether it was not skipped."""
    return part[SKIPPED] == 0 if SKIPPED in part else True


def _finite(values: np.ndarray, kept: np.ndarray | bool) -> np.ndarray:
    """Return for each step whether a metric is finite, of a population that of any member."""
    return (np.isfinite(values) | np.logical_not(kept)).reshape(len(values), -1).any(axis=1)


def _mean(values: np.ndarray, kept: np.ndarray | bool) -> np.ndarray:
    count = np.sum(np.broadcast_to(kept, values.shape), axis=0)
    return np.sum(values, axis=0, where=kept) / count
