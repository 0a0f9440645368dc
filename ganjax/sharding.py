"""One train step on many devices: data parallelism as jit + NamedSharding, shard_map or pmap.

The state is replicated, the batch is split over the devices, and all three layouts compute what one
device computes on the same global batch: batch statistics are global, and latents, penalties and
augmentations draw for the global batch (dropout inside a network draws for a device's share under
shard_map and pmap). `jit` is the default; `pmap` is for programs that already use it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ganjax import axes
from ganjax.types import Algorithm, Array, Batch, InputError, Metrics, TrainState

AXIS = axes.DATA
LAYOUTS = ("jit", "shard_map", "pmap")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of one axis, `"data"`, over the devices; by default over all there are.

    >>> make_mesh().axis_names
    ('data',)
    """
    devices = list(jax.devices() if devices is None else devices)
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a copy of every leaf on every device of the mesh; the original stays usable.

    Where the mesh spans several processes, all of them make this call: arrays of one process take
    the values that process 0 has, global arrays are copied. NumPy arrays have to be the same
    everywhere.
    """
    place = NamedSharding(mesh, PartitionSpec())
    if mesh.is_multi_process:
        return jax.tree.map(lambda leaf: _everywhere(leaf, place), tree)
    # Without the copy the leaf on the first device would be the original, and donated with it.
    return jax.device_put(tree, place, may_alias=False)


def _everywhere(leaf: Any, place: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=place)(leaf)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _everywhere(jax.random.key_data(leaf), place)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        leaf = np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(leaf)))
    return jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])


def own_copy(tree: Any) -> Any:
    """Return replicated arrays as this process has them, on its first device, for its own use."""

    def take(leaf):
        return leaf if leaf.is_fully_addressable else leaf.addressable_data(0)

    return jax.tree.map(take, tree)


def shapes_on(shapes: Any, mesh: Mesh) -> Any:
    """Return shapes that say that each array lies on every device of a mesh of many processes."""
    if not mesh.is_multi_process:
        return shapes
    place = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes)


def own_share(batch_size: int, mesh: Mesh) -> slice:
    """Return which examples of a global batch this process's devices train on."""
    place = NamedSharding(mesh, batch_spec())
    indices = place.addressable_devices_indices_map((batch_size,)).values()
    bounds = {index.indices(batch_size)[:2] for (index,) in indices}
    share = slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))
    if share.stop - share.start != batch_size // mesh.shape[AXIS] * len(bounds):
        raise ValueError("the devices of a process have to be neighbours in the mesh")
    return share


def batch_spec(batches_per_step: int = 1) -> PartitionSpec:
    """Return how a batch is split: over its batch axis, the second where steps are stacked."""
    return PartitionSpec(AXIS) if batches_per_step == 1 else PartitionSpec(None, AXIS)


def shard_batch(batch: Mapping[str, Any], mesh: Mesh, batches_per_step: int = 1) -> Batch:
    """Split host arrays (or arrays of one device) over the mesh.

    Raises:
      InputError: the batch does not divide over the devices.
    """
    axis = 0 if batches_per_step == 1 else 1
    sizes = {array.shape[axis] for array in batch.values()}
    for size in sizes:
        check_batch_size(size, mesh)
    return jax.device_put(dict(batch), NamedSharding(mesh, batch_spec(batches_per_step)))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise where a batch does not divide over the devices of the mesh."""
    shares = mesh.shape[AXIS]
    if batch_size % shares:
        near = max(1, round(batch_size / shares)) * shares
        raise InputError(
            f"a batch of {batch_size} does not divide over {shares} devices; take a multiple of "
            f"{shares}, such as {near}"
        )


def train_step(
    algorithm: Algorithm, mesh: Mesh, layout: str = "jit", *, donate: bool = True
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Compile an algorithm's train step for the devices of a mesh.

    Args:
      algorithm: any algorithm.
      mesh: from `make_mesh`.
      layout: "jit", "shard_map" or "pmap".
      donate: let the new state take the memory of the old one, which is then gone; `pmap` with
        replicated states cannot, and keeps both.

    Returns:
      `(state, batch) -> (state, metrics)` for a replicated state and a global batch, both as
      `replicate` and `shard_batch` make them.

    >>> from ganjax import gan, latents
    >>> from ganjax.networks import mlp
    >>> algorithm = gan(mlp.Generator((2,)), mlp.Discriminator(), latents=latents.normal(8))
    >>> mesh = make_mesh()
    >>> step = train_step(algorithm, mesh)
    >>> state = replicate(algorithm.init(jax.random.key(0)), mesh)
    >>> batch = shard_batch({"image": np.zeros((16, 2), np.float32)}, mesh)
    >>> state, metrics = step(state, batch)
    """
    donated = (0,) if donate else ()
    if layout == "pmap":
        return _pmap(algorithm, mesh)
    step = spread(algorithm, mesh, layout)
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, batch_spec(algorithm.batches_per_step))
    return jax.jit(
        step,
        in_shardings=(replicated, split),
        out_shardings=(replicated, replicated),
        donate_argnums=donated,
    )


def spread(algorithm: Algorithm, mesh: Mesh, layout: str) -> Callable:
    """Return the train step on global arrays, not compiled, for use inside a larger program."""
    if layout == "jit":

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # what is drawn is split
                return algorithm.train_step(state, batch)

        return step
    if layout == "pmap":
        raise ValueError("pmap takes stacked shares, not global arrays; use train_step")
    if layout != "shard_map":
        raise InputError(f"layout has to be one of {', '.join(LAYOUTS)}; got {layout!r}")
    return jax.shard_map(
        algorithm.train_step,
        mesh=mesh,
        in_specs=(PartitionSpec(), batch_spec(algorithm.batches_per_step)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )


def _pmap(algorithm: Algorithm, mesh: Mesh) -> Callable:
    axis = 0 if algorithm.batches_per_step == 1 else 1
    step = jax.pmap(
        algorithm.train_step,
        axis_name=AXIS,
        in_axes=(None, axis),
        out_axes=None,
        devices=list(mesh.devices.flat),
    )

    def split(array: Array) -> Array:
        shape = array.shape
        parts = (mesh.size, shape[axis] // mesh.size)
        return array.reshape(*shape[:axis], *parts, *shape[axis + 1 :])

    def run(state, batch):
        for array in batch.values():
            check_batch_size(array.shape[axis], mesh)
        return step(state, {name: split(array) for name, array in batch.items()})

    return run


def state_bytes(state: TrainState) -> int:
    """Return the bytes of one replica of a state."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(state))
