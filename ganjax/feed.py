"""How a chunk of steps gets its batches: from device memory, or streamed from the host."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ganjax import sharding
from ganjax.data import BatchStream, Dataset, batch_indices
from ganjax.data.batching import batch_bytes
from ganjax.types import Algorithm, InputError

# Above this, a data set is streamed from the host.
DEVICE_BYTES = 2 << 30
# What one dispatch takes of a stream: room for all of it is sent, however few steps are meant.
STREAM_BYTES = 16 << 20


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
    share = sharding.own_share(order["batch_size"], mesh)
    on_device = dataset.arrays is not None and (
        # Several processes read their shares, each its own.
        memory == "device"
        or (memory == "auto" and _num_bytes(dataset) <= DEVICE_BYTES and not mesh.is_multi_process)
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
        array = array.reshape(*lead, *array.shape[1:])
        if mesh.is_multi_process:
            whole = (*lead, order["batch_size"], *array.shape[len(lead) + 1 :])
            return jax.make_array_from_process_local_data(split, array, whole)
        return jax.device_put(array, split)

    if on_device:
        resident = sharding.replicate(dataset.arrays, mesh)

        def take(first_step, num_steps):
            indices = batch_indices(
                dataset.num_examples,
                first_batch=first_step * per_step,
                num_batches=num_steps * per_step,
                **order,
            )
            return resident, padded(indices[:, share].astype(np.int32))

        def batch(resident, indices):
            gathered = {name: array[indices] for name, array in resident.items()}
            return jax.lax.with_sharding_constraint(
                gathered, NamedSharding(mesh, sharding.batch_spec(per_step))
            )

        return Feed(take, batch, lambda: None, most_steps)

    stream = BatchStream(dataset, num_workers=num_workers, share=share, **order)

    def take_streamed(first_step, num_steps):
        batches = stream.take(first_step * per_step, num_steps * per_step)
        return (), {name: padded(array) for name, array in batches.items()}

    return Feed(take_streamed, lambda data, inputs: inputs, stream.close, most_steps)


def _num_bytes(dataset: Dataset) -> int:
    return sum(array.nbytes for array in dataset.arrays.values())
