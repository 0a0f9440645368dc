import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ganjax.data.batching import BatchStream, batch_indices
from ganjax.data.dataset import in_memory
from ganjax.types import InputError


def numbered(num_examples=50):
    images = np.arange(num_examples, dtype=np.uint8)[:, None, None, None]
    return in_memory("numbered", "train", {"image": images, "label": np.arange(num_examples) % 3})


def streamed(read):
    return dataclasses.replace(numbered(), name="streamed", arrays=None, read=read)


def read_numbers(indices):
    return {
        "image": indices.astype(np.uint8)[:, None, None, None],
        "label": (indices % 3).astype(np.int32),
    }


def read_and_name_the_broken_file(indices):
    raise InputError("cat.png cannot be decoded.")


def read_and_fail(indices):
    raise KeyError("gone")


def read_and_die(indices):
    os.kill(os.getpid(), signal.SIGKILL)


def read_and_hang(indices):
    time.sleep(1000)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 10), (10, 3), (7, 7), (11, 4)])
def test_every_epoch_visits_each_example_once(num_examples, batch_size):
    num_batches = 5 * num_examples
    stream = batch_indices(
        num_examples, seed=3, first_batch=0, num_batches=num_batches, batch_size=batch_size
    ).reshape(-1)
    epochs = stream.reshape(-1, num_examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(num_examples)] * len(epochs))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)  # all orders differ


def test_a_batch_is_a_function_of_seed_rollbacks_and_index_alone():
    def indices(first_batch, num_batches, seed=1, rollbacks=0):
        return batch_indices(
            23,
            seed=seed,
            rollbacks=rollbacks,
            first_batch=first_batch,
            num_batches=num_batches,
            batch_size=5,
        )

    together = indices(0, 40)
    for i in (39, 0, 17):  # out of order
        np.testing.assert_array_equal(indices(i, 1)[0], together[i])
    assert (indices(0, 40, seed=2) != together).any()
    assert (indices(0, 40, rollbacks=1) != together).any()
    assert (indices(0, 40, seed=0, rollbacks=1) != together).any()


def test_the_order_is_the_one_of_the_first_release():
    # A resumed training needs the order that it was begun with.
    indices = batch_indices(10, seed=0, first_batch=0, num_batches=2, batch_size=6)
    assert indices.tolist() == [[2, 4, 1, 5, 0, 3], [7, 9, 8, 6, 6, 5]]


def test_far_positions_are_found_at_once():
    started = time.monotonic()
    batch_indices(1000, seed=0, first_batch=10**12, num_batches=2, batch_size=64)
    assert time.monotonic() - started < 1


def test_fewer_examples_than_a_batch_are_refused():
    with pytest.raises(InputError, match="there are 50 examples to train on and a batch takes 64"):
        BatchStream(numbered(), seed=0, batch_size=64)


@pytest.mark.parametrize(
    ("dataset", "num_workers"), [(numbered(), 0), (streamed(read_numbers), 0), (numbered(), 2)]
)
def test_a_stream_gives_the_batches_of_the_indices(dataset, num_workers):
    check_stream(dataset, num_workers)


def test_worker_processes_give_the_same_batches():
    check_stream(streamed(read_numbers), 2)


def check_stream(dataset, num_workers):
    with BatchStream(
        dataset, seed=5, batch_size=8, rollbacks=1, num_workers=num_workers, prefetch_batches=3
    ) as stream:
        # In order, then a jump back (a roll-back), a jump ahead, and nothing.
        for first_batch, num_batches in [(0, 4), (4, 4), (2, 1), (100, 7), (107, 1), (108, 0)]:
            batches = stream.take(first_batch, num_batches)
            indices = batch_indices(
                50,
                seed=5,
                rollbacks=1,
                first_batch=first_batch,
                num_batches=num_batches,
                batch_size=8,
            )
            np.testing.assert_array_equal(batches["image"][..., 0, 0, 0], indices)
            np.testing.assert_array_equal(batches["label"], indices % 3)
            assert batches["image"].dtype == np.uint8
            assert batches["image"].shape == (num_batches, 8, 1, 1, 1)


def test_a_stream_reads_ahead():
    seen = []

    def read(indices):
        seen.append(len(indices))
        return read_numbers(indices)

    with BatchStream(streamed(read), seed=0, batch_size=4, prefetch_batches=6) as stream:
        stream.take(0, 1)
        deadline = time.monotonic() + 10
        while len(seen) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(seen) == 7


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("read", "error", "message"),
    [
        (read_and_name_the_broken_file, InputError, "^cat.png cannot be decoded.$"),
        (read_and_fail, RuntimeError, "batch 3 of streamed could not be read: KeyError: 'gone'"),
    ],
)
def test_a_failure_while_reading_is_one_sentence(read, error, message, num_workers):
    with (
        BatchStream(streamed(read), seed=0, batch_size=4, num_workers=num_workers) as stream,
        pytest.raises(error, match=message),
    ):
        stream.take(3, 2)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_sentence_and_the_stream_can_be_used_again():
    with BatchStream(streamed(read_and_die), seed=0, batch_size=4, num_workers=2) as stream:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a data worker died before batch 0 of streamed"):
                stream.take(0, 1)


def test_a_worker_that_hangs_is_one_sentence():
    with (
        BatchStream(
            streamed(read_and_hang), seed=0, batch_size=4, num_workers=1, timeout_seconds=1
        ) as stream,
        pytest.raises(RuntimeError, match="could not be read in 1 seconds"),
    ):
        stream.take(0, 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_workers_end_when_the_training_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_batching import BatchStream, read_numbers, streamed\n"
        "if __name__ == '__main__':\n"
        "    dataset = streamed(read_numbers)\n"
        "    stream = BatchStream(dataset, seed=0, batch_size=4, num_workers=1)\n"
        "    stream.take(0, 1)\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    found = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, check=False)
    assert found.returncode == -signal.SIGKILL
    (worker,) = found.stdout.split()
    deadline = time.monotonic() + 20
    while alive(int(worker)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process):
    # A process that ended stays as a zombie until its new parent notices.
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
