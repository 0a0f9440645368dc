"""The training loop: chunks of steps per dispatch, and what happens between them.

`fit` knows an `Algorithm`, a `Dataset` and callbacks. It dispatches a chunk of steps, and only then
reads the metrics of the chunk before, so that the device never waits for the host. One program
serves chunks of any length, so callbacks may have any cadence.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ganjax import axes, sharding
from ganjax.data import BatchStream, Dataset, batch_indices
from ganjax.data.batching import batch_bytes
from ganjax.types import Algorithm, InputError, TrainState

# Above this, a data set is streamed from the host.
DEVICE_BYTES = 2 << 30
# What one dispatch takes of a stream: room for all of it is sent, however few steps are meant.
STREAM_BYTES = 16 << 20


class Progress(NamedTuple):
    """What a callback is told.

    Attributes:
      step: completed steps of the run.
      state: the state after `step`; to be read, not kept: the next chunk takes its memory. None
        for callbacks on metrics.
      metrics: means over the chunk that ended at `step`, of a population (S,) each; empty for
        callbacks on the state.
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
    """A loss or another metric is not finite, of a population that of every member."""


class StoppedError(Exception):
    """Somebody asked the training to stop; it did, with its state saved."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"stopped at step {step}")
        self.step, self.signal_number = step, signal_number


def fit(
    algorithm: Algorithm,
    state: TrainState,
    dataset: Dataset,
    *,
    steps: int,
    batch_size: int,
    seed: int = 0,
    log_every_steps: int = 100,
    callbacks: Sequence[Callback] = (),
    save: Callable[[int, TrainState], None] | None = None,
    save_every_steps: int | None = None,
    mesh: Mesh | None = None,
    layout: str = "jit",
    memory: str = "auto",
    num_workers: int = 0,
    first_step: int = 0,
) -> TrainState:
    """Train until `steps` steps are done.

    Args:
      algorithm: any algorithm, or a population.
      state: fresh, or restored in the middle of a run; its memory is taken over.
      dataset: batch `i` is a pure function of (`seed`, `i`), so a resumed run sees what the
        uninterrupted one would have seen.
      steps: the number of steps at which to stop, counted from the start of the run.
      batch_size: examples of one batch, over all devices.
      seed: of the order of the data.
      log_every_steps: steps over which logged metrics are averaged, and the most that one dispatch
        holds; it holds fewer where so many would take seconds.
      callbacks: see `Callback`.
      save: called with a sound state, at the cadence below, at the end and before stopping.
      save_every_steps: steps between two calls of `save`; None for the end only.
      mesh: devices; by default all, or those that a population spreads its members over.
      layout: "jit" or "shard_map".
      memory: "device" (all examples in device memory), "stream" (from the host), or "auto".
      num_workers: processes that decode a streamed data set.
      first_step: steps of earlier phases of the run, where `state.step` starts again from 0.

    Returns:
      The final state.

    Raises:
      InputError: batch, data set and devices do not go together.
      DivergedError: a metric is not finite.
      StoppedError: SIGINT or SIGTERM came; the state has been saved.

    >>> from ganjax import gan, latents, data
    >>> from ganjax.networks import mlp
    >>> algorithm = gan(mlp.Generator((2,)), mlp.Discriminator(), latents=latents.normal(8))
    >>> state = algorithm.init(jax.random.key(0))
    >>> ring, _ = data.load("ring")
    >>> state = fit(algorithm, state, ring, steps=4, batch_size=32)
    >>> int(state.step)
    4
    """
    mesh = mesh or getattr(algorithm, "mesh", None) or sharding.make_mesh()
    sharding.check_batch_size(batch_size, mesh)
    order = {"seed": seed, "rollbacks": int(state.rollbacks), "batch_size": batch_size}
    step = saved = int(state.step) + first_step
    if not int(state.step):
        saved = None
    state = jax.device_put(state, _placement(state, mesh), may_alias=False)
    with contextlib.ExitStack() as stack:
        feed = make_feed(dataset, order, mesh, algorithm, memory, num_workers, log_every_steps)
        stack.callback(feed.close)
        run_chunk = compile_chunk(algorithm, mesh, layout, feed, _placement(state, mesh))
        signals = stack.enter_context(caught_signals())
        clock = _Clock(batch_size * algorithm.batches_per_step)
        log = _Log(callbacks, clock, log_every_steps)
        cadences = {c.every_steps for c in callbacks if c.every_steps is not None}
        cadences |= {log_every_steps, save_every_steps or steps}
        chunk = 1  # the first dispatch compiles; later ones grow while they are quick

        def save_now():
            nonlocal saved
            log.flush()
            if save is None or saved == step:
                return
            if not bool(_is_sound(state)):
                raise DivergedError(f"weights that are not finite at step {step}")
            save(step, state)
            saved = step

        while step < steps:
            chunk = min([chunk, steps - step, *(every - step % every for every in cadences)])
            state, metrics = run_chunk(state, *feed.take(step - first_step, chunk), chunk)
            log.push(step, chunk, metrics)
            step += chunk
            chunk = clock.next_chunk(feed.most_steps)
            if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu":
                # Virtual devices that share cores deadlock when several programs are in flight.
                jax.block_until_ready(metrics)
            due = [
                callback
                for callback in callbacks
                if callback.every_steps and (step % callback.every_steps == 0 or step == steps)
            ]
            saving = step == steps or (save_every_steps and step % save_every_steps == 0)
            if due or saving or signals:
                log.flush()
                with clock.paused():
                    for callback in due:
                        log.report(step, callback.function(Progress(step, state, {}, clock.rate)))
                    if saving or signals:
                        save_now()
            if signals and step < steps:
                log.finish()
                raise StoppedError(step, signals[0])
        log.finish()
    return state


class Feed(NamedTuple):
    """How a chunk gets its batches.

    Attributes:
      take: `(first_step, num_steps) -> (data, inputs)`, arrays on the device; leaves of `inputs`
        have the most steps of a chunk as leading axis, however few of them are meant.
      batch: `(data, one step's inputs) -> batch`, inside the compiled program.
      close: gives back what it holds.
      most_steps: of one chunk.
    """

    take: Callable[[int, int], tuple[Any, Any]]
    batch: Callable[[Any, Any], Mapping[str, jax.Array]]
    close: Callable[[], None]
    most_steps: int


def make_feed(
    dataset: Dataset,
    order: Mapping[str, int],
    mesh: Mesh,
    algorithm: Algorithm,
    memory: str,
    num_workers: int,
    most_steps: int,
) -> Feed:
    """Keep a data set on the device and gather there, or stream it from the host."""
    per_step = algorithm.batches_per_step
    split = NamedSharding(mesh, PartitionSpec(None, *sharding.batch_spec(per_step)))
    on_device = dataset.arrays is not None and (
        memory == "device" or (memory == "auto" and _num_bytes(dataset) <= DEVICE_BYTES)
    )
    if memory == "device" and dataset.arrays is None:
        raise InputError(f"{dataset.name} does not fit in memory; set data.memory to stream")

    if not on_device:
        step_bytes = per_step * batch_bytes(dataset, order["batch_size"])
        most_steps = max(1, min(most_steps, STREAM_BYTES // step_bytes))
    lead = (most_steps,) if per_step == 1 else (most_steps, per_step)

    def padded(array):
        missing = most_steps * per_step - len(array)
        if missing:
            array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        return jax.device_put(array.reshape(*lead, *array.shape[1:]), split)

    if on_device:
        resident = sharding.replicate(dataset.arrays, mesh)

        def take(first_step, num_steps):
            indices = batch_indices(
                dataset.num_examples,
                first_batch=first_step * per_step,
                num_batches=num_steps * per_step,
                **order,
            )
            return resident, padded(indices.astype(np.int32))

        def batch(resident, indices):
            gathered = {name: array[indices] for name, array in resident.items()}
            return jax.lax.with_sharding_constraint(
                gathered, NamedSharding(mesh, sharding.batch_spec(per_step))
            )

        return Feed(take, batch, lambda: None, most_steps)

    stream = BatchStream(dataset, num_workers=num_workers, **order)

    def take_streamed(first_step, num_steps):
        batches = stream.take(first_step * per_step, num_steps * per_step)
        return (), {name: padded(array) for name, array in batches.items()}

    return Feed(take_streamed, lambda data, inputs: inputs, stream.close, most_steps)


def _num_bytes(dataset: Dataset) -> int:
    return sum(array.nbytes for array in dataset.arrays.values())


def compile_chunk(
    algorithm: Algorithm, mesh: Mesh, layout: str, feed: Feed, placement: Any = None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Return `(state, data, inputs, num_steps) -> (state, metrics)`, one program for any length.

    Metrics are (feed.most_steps,) each, of which the first `num_steps` are set. `placement` says
    where the state lies, by default on every device.
    """
    # Compiled on its own, the step is traced once although its result's form is asked for first.
    train_step = jax.jit(sharding.spread(algorithm, mesh, layout))

    def run(state, data, inputs, num_steps):
        def batch_at(i):
            return feed.batch(data, jax.tree.map(lambda a: a[i], inputs))

        forms = jax.eval_shape(lambda state: train_step(state, batch_at(0))[1], state)
        buffers = {
            name: jnp.zeros((feed.most_steps, *form.shape), form.dtype)
            for name, form in forms.items()
        }

        def body(i, carry):
            state, buffers = carry
            state, metrics = train_step(state, batch_at(i))
            return state, {name: buffers[name].at[i].set(metrics[name]) for name in buffers}

        return jax.lax.fori_loop(0, num_steps, body, (state, buffers))

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(run, donate_argnums=0, out_shardings=(placement or replicated, replicated))


def _placement(state: TrainState, mesh: Mesh) -> Any:
    """Return where each array lies: on every device, or where a population has put its members."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(leaf):
        spread = isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated
        return leaf.sharding if spread else replicated

    return jax.tree.map(place, state)


@jax.jit
def _is_sound(state: TrainState) -> jax.Array:
    weights = (state.players, state.ema)
    if state.key.ndim:  # a population goes on while a member does
        return jax.vmap(axes.all_finite)(weights).any()
    return axes.all_finite(weights)


class _Clock:
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


class _Log:
    """Reads the metrics of each chunk when the next one is on its way, and averages them."""

    def __init__(self, callbacks: Sequence[Callback], clock: _Clock, every_steps: int):
        self._callbacks = [c for c in callbacks if c.every_steps is None]
        self._clock = clock
        self._every_steps = every_steps
        self._pending: tuple[int, int, Mapping[str, jax.Array]] | None = None
        self._parts: list[Mapping[str, np.ndarray]] = []
        self._step = 0  # the last one whose metrics have come
        self._last: dict[str, np.ndarray] = {}  # these

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
        finite = {name: _finite(values) for name, values in part.items()}
        if not np.all([*finite.values()]):
            index = int(np.argmin(np.all([*finite.values()], axis=0)))
            bad = [name for name in part if not finite[name][index]]
            raise DivergedError(self._what_happened(step + index + 1, bad, part, index))
        self._parts.append(part)
        self._step, self._last = step + chunk, {name: values[-1] for name, values in part.items()}
        if self._step % self._every_steps == 0:
            self._report_means()

    def _report_means(self) -> None:
        with np.errstate(invalid="ignore"):  # members that have diverged
            means = {
                name: np.mean(np.concatenate([part[name] for part in self._parts]), axis=0).tolist()
                for name in self._parts[0]
            }
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


def _finite(values: np.ndarray) -> np.ndarray:
    """Return for each step whether a metric is finite, of a population that of any member."""
    return np.isfinite(values).reshape(len(values), -1).any(axis=1)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one has its usual effect."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def handler(number, frame):
        del frame
        caught.append(number)
        for each in numbers:
            signal.signal(each, before[each])

    for number in numbers:
        signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number in numbers:
            signal.signal(number, before[number])
