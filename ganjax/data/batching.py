"""Which examples are in which batch, and reading them ahead of the training.

The batch of a step is a pure function of seed and step: a resumed training sees exactly the
batches that the uninterrupted one would have seen.
"""

import collections
import concurrent.futures
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping

import numpy as np

from ganjax.data.dataset import Dataset
from ganjax.types import InputError

_READ_AHEAD_BYTES = 512 << 20


def batch_indices(
    num_examples: int,
    *,
    seed: int,
    rollbacks: int = 0,
    first_batch: int,
    num_batches: int,
    batch_size: int,
) -> np.ndarray:
    """Return the examples of some consecutive batches of an endless stream.

    Epoch e of the stream is a permutation of all examples seeded by (seed, rollbacks, e): each
    epoch visits every example once, and a batch may straddle two epochs.

    Args:
      num_examples: how many examples there are.
      seed: of the run, 0 or more.
      rollbacks: how often the training was set back; another number is another order.
      first_batch: index of the first batch.
      num_batches: how many batches.
      batch_size: examples a batch.

    Returns:
      int64 (num_batches, batch_size), in [0, num_examples).

    Raises:
      InputError: if there are fewer examples than a batch holds.

    >>> indices = batch_indices(6, seed=0, first_batch=0, num_batches=3, batch_size=4)
    >>> sorted(indices.reshape(-1)[:6].tolist()), sorted(indices.reshape(-1)[6:].tolist())
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    """
    if batch_size < 1 or num_batches < 0 or first_batch < 0 or seed < 0 or rollbacks < 0:
        raise ValueError(
            "expected a positive batch_size and no negative number, got "
            f"{batch_size=}, {num_batches=}, {first_batch=}, {seed=}, {rollbacks=}"
        )
    if num_examples < batch_size:
        raise InputError(
            f"there are {num_examples} examples to train on and a batch takes {batch_size}: lower "
            "batch_size or data.held_out, or add examples."
        )
    position = first_batch * batch_size
    end = position + num_batches * batch_size
    pieces = [np.empty(0, np.int64)]
    while position < end:
        epoch, start = divmod(position, num_examples)
        stop = min(num_examples, start + end - position)
        pieces.append(_permutation(num_examples, seed, rollbacks, epoch)[start:stop])
        position += stop - start
    return np.concatenate(pieces).reshape(num_batches, batch_size)


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, rollbacks: int, epoch: int) -> np.ndarray:
    sequence = np.random.SeedSequence(seed, spawn_key=(rollbacks, epoch))
    return np.random.Generator(np.random.Philox(sequence)).permutation(num_examples)


class BatchStream:
    """The batches of a training, read ahead in background threads or worker processes.

    `take(i, n)` equals `dataset.batch(batch_indices(..., first_batch=i, num_batches=n))` exactly,
    whatever reads it.

    Args:
      dataset: what to read from.
      seed: of the run.
      batch_size: examples a batch.
      rollbacks: how often the training was set back.
      num_workers: processes that read; 0 reads in threads, which is enough unless decoding is
        the limit. A data set in memory is always read in a thread. A script that uses workers
        needs the usual `if __name__ == "__main__":` around its main part.
      prefetch_batches: how many batches are read ahead; by default up to 64, as far as they take
        less than 512 MiB.
      share: which examples of each batch are read; by default all.
      timeout_seconds: how long to wait for one batch.

    >>> from ganjax.data.points import ring
    >>> with BatchStream(ring(), seed=0, batch_size=32) as stream:
    ...     stream.take(0, 5)["image"].shape
    (5, 32, 2)
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch_size: int,
        rollbacks: int = 0,
        num_workers: int = 0,
        prefetch_batches: int | None = None,
        share: slice = slice(None),
        timeout_seconds: float = 600.0,
    ):
        self.dataset = dataset
        self._order = {"seed": seed, "rollbacks": rollbacks, "batch_size": batch_size}
        batch_indices(dataset.num_examples, first_batch=0, num_batches=0, **self._order)
        self._share, self._share_size = share, len(range(batch_size)[share])
        self._num_workers = 0 if dataset.arrays is not None else num_workers
        if prefetch_batches is None:
            prefetch_batches = max(
                2, min(64, _READ_AHEAD_BYTES // batch_bytes(dataset, self._share_size))
            )
        self._prefetch_batches = prefetch_batches
        self._timeout_seconds = timeout_seconds
        self._executor: concurrent.futures.Executor | None = None
        # Futures of the batches _next, _next + 1, ...
        self._pending: collections.deque[concurrent.futures.Future] = collections.deque()
        self._next = 0

    def take(self, first_batch: int, num_batches: int) -> dict[str, np.ndarray]:
        """Return batches, or their shares, as arrays (num_batches, batch_size, ...).

        In order (each call starts where the last one ended) the batches have been read ahead; any
        other call starts over from there.

        Raises:
          InputError: if an example cannot be read; the message names the file.
          RuntimeError: if a worker died, failed or did not answer in time.
        """
        if first_batch != self._next:
            self._forget()
            self._next = first_batch
        batches = {
            name: np.empty((num_batches, self._share_size, *shape), dtype)
            for name, (shape, dtype) in self.dataset.features.items()
        }
        for i in range(num_batches):
            self._read_ahead(at_least=1)
            batch = self._result(self._pending[0])
            self._pending.popleft()
            self._next += 1
            for name, leaf in batch.items():
                batches[name][i] = leaf
        self._read_ahead()
        return batches

    def close(self) -> None:
        """Stop reading ahead and end the workers."""
        self._forget()
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _forget(self) -> None:
        if not self._num_workers:
            # A pool of processes that breaks chokes on futures that are cancelled (Python 3.11).
            for future in self._pending:
                future.cancel()
        self._pending.clear()

    def _read_ahead(self, at_least: int = 0) -> None:
        for _ in range(max(at_least, self._prefetch_batches) - len(self._pending)):
            indices = batch_indices(
                self.dataset.num_examples,
                first_batch=self._next + len(self._pending),
                num_batches=1,
                **self._order,
            )[0, self._share]
            self._pending.append(self._submit(indices))

    def _submit(self, indices: np.ndarray) -> concurrent.futures.Future:
        if self._executor is None:
            self._executor = self._start()
        try:
            if self._num_workers:
                return self._executor.submit(_read_in_worker, indices)
            return self._executor.submit(self.dataset.batch, indices)
        except concurrent.futures.BrokenExecutor as error:
            # Reported, like any other failure, when the batch is taken.
            future: concurrent.futures.Future = concurrent.futures.Future()
            future.set_exception(error)
            return future

    def _start(self) -> concurrent.futures.Executor:
        if not self._num_workers:
            num_threads = 1 if self.dataset.arrays is not None else min(8, os.cpu_count() or 1)
            return concurrent.futures.ThreadPoolExecutor(num_threads, "ganjax-data")
        return concurrent.futures.ProcessPoolExecutor(
            self._num_workers,
            # Not fork: JAX has threads.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self.dataset,),
        )

    def _result(self, future: concurrent.futures.Future) -> Mapping[str, np.ndarray]:
        where = f"batch {self._next} of {self.dataset.name}"
        try:
            return future.result(self._timeout_seconds)
        except InputError:
            self.close()
            raise
        except concurrent.futures.BrokenExecutor as error:
            self.close()
            raise RuntimeError(
                f"a data worker died before {where} was read (killed, out of memory, or a script "
                'without `if __name__ == "__main__":`); lower data.num_workers and resume.'
            ) from error
        except TimeoutError as error:
            processes = list((getattr(self._executor, "_processes", None) or {}).values())
            self.close()
            for process in processes:
                process.kill()
            raise RuntimeError(
                f"{where} could not be read in {self._timeout_seconds:g} seconds; see whether the "
                "disk answers, and resume."
            ) from error
        except Exception as error:
            self.close()
            raise RuntimeError(
                f"{where} could not be read: {type(error).__name__}: {error}"
            ) from error


def batch_bytes(dataset: Dataset, batch_size: int) -> int:
    """Return the bytes of one batch, 1 or more."""
    example = sum(
        int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in dataset.features.values()
    )
    return max(1, batch_size * example)


_worker_dataset: Dataset | None = None


def _start_worker(dataset: Dataset) -> None:
    global _worker_dataset
    _worker_dataset = dataset
    # Control-C and a closed terminal go to the whole process group; the training process decides
    # what they mean. SIGTERM stays: the pool ends its workers by it.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _read_in_worker(indices: np.ndarray) -> dict[str, np.ndarray]:
    return _worker_dataset.batch(indices)
