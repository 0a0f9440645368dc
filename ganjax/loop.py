"""The training loop: chunks of steps per dispatch, and what happens between them.

`fit` knows an `Algorithm`, a `Dataset` and callbacks. It dispatches a chunk of steps, and only then
reads the metrics of the chunk before, so that the device never waits for the host. One program
serves chunks of any length, so callbacks may have any cadence.
"""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ganjax import axes, sharding
from ganjax.data import Dataset
from ganjax.feed import Feed, make_feed
from ganjax.progress import Callback, Clock, DivergedError, Log, Progress
from ganjax.types import Algorithm, InputError, TrainState

# Counts on from one training of this process to the next, as JAX wants it.
_dispatches = itertools.count()


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
      mesh: devices; by default all, those of other processes included, or those that a population
        spreads its members over. With several processes every process makes the same call, reads
        its share of each batch, and has to do the same in `save` and in callbacks on the state.
      layout: "jit" or "shard_map".
      memory: "device" (all examples in device memory), "stream" (from the host), or "auto".
      num_workers: processes that decode a streamed data set.
      first_step: steps of earlier phases of the run, where `state.step` starts again from 0.

    Returns:
      The final state.

    Raises:
      InputError: batch, data set and devices do not go together.
      DivergedError: a metric is not finite.
      StoppedError: SIGINT, SIGTERM or SIGHUP came; the state has been saved.

    >>> from ganjax import gan, latents, data
    >>> from ganjax.networks import mlp
    >>> algorithm = gan(mlp.Generator((2,)), mlp.Discriminator(), latents=latents.normal(8))
    >>> state = algorithm.init(jax.random.key(0))
    >>> ring, _ = data.load("ring")
    >>> state = fit(algorithm, state, ring, steps=4, batch_size=32)
    >>> int(state.step)
    4
    """
    if log_every_steps < 1 or (save_every_steps or 1) < 1 or num_workers < 0:
        raise InputError(
            "log_every_steps and save_every_steps have to be 1 or more and num_workers 0 or more, "
            f"got {log_every_steps}, {save_every_steps} and {num_workers}"
        )
    if memory not in ("auto", "device", "stream"):
        raise InputError(f"memory is {memory!r}, expected auto, device or stream")
    mesh = mesh or getattr(algorithm, "mesh", None) or sharding.make_mesh()
    sharding.check_batch_size(batch_size, mesh)
    order = {"seed": seed, "rollbacks": int(state.rollbacks), "batch_size": batch_size}
    step = saved = int(state.step) + first_step
    if not int(state.step):
        saved = None
    several = mesh.is_multi_process
    if several:
        state = sharding.replicate(state, mesh)
    else:
        state = jax.device_put(state, _placement(state, mesh))
    with contextlib.ExitStack() as stack:
        feed = make_feed(dataset, order, mesh, algorithm, memory, num_workers, log_every_steps)
        stack.callback(feed.close)
        run_chunk = compile_chunk(algorithm, mesh, layout, feed, _placement(state, mesh))
        signals = [] if several else stack.enter_context(caught_signals())
        clock = Clock(batch_size * algorithm.batches_per_step)
        log = Log(callbacks, clock, log_every_steps)
        cadences = {c.every_steps for c in callbacks if c.every_steps is not None}
        cadences |= {log_every_steps, save_every_steps or steps}
        chunk = agreed = 1  # the first dispatch compiles; later ones grow while they are quick
        dispatches = 0

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
            try:
                inputs = feed.take(step - first_step, chunk)
            except Exception:
                if not signals:
                    raise
                save_now()  # a signal to all of the group has ended the readers
                log.finish()
                raise StoppedError(step, signals[0]) from None
            state, metrics = run_chunk(state, *inputs, chunk)
            log.push(step, chunk, metrics)
            step += chunk
            dispatches += 1
            chunk = clock.next_chunk(feed.most_steps)
            if several:
                # All have to dispatch the same; asking costs a wait, so it is asked ever less.
                if dispatches & (dispatches - 1) == 0:
                    agreed = int(multihost_utils.broadcast_one_to_all(np.int32(chunk)))
                chunk = agreed
                # JAX passes a SIGTERM to any process on, and lets all stop at the same dispatch.
                if multihost_utils.reached_preemption_sync_point(next(_dispatches)):
                    signals.append(signal.SIGTERM)
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
            if signals:
                log.finish()
                raise StoppedError(step, signals[0])
        log.finish()
    return state


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


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of dying of them; a second one does as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    # A terminal is closed; not where that is to be ignored, as under nohup.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}

    def handler(number, frame):
        nonlocal since
        del frame
        caught.append(number)
        since = time.monotonic()
        for each in numbers:
            signal.signal(each, before[each] if each == signal.SIGINT else again)

    def again(number, frame):
        del frame
        # A shell and the system both tell of a closed terminal; `timeout` tells a process twice.
        if time.monotonic() - since > 1.0:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    since = 0.0

    for number in numbers:
        signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number in numbers:
            signal.signal(number, before[number])
