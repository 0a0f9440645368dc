"""Device axes that are bound while a step is traced, and what each layout asks of the step.

Under `jit` with sharded inputs arrays are global and nothing has to be done. Under `shard_map` and
`pmap` the step sees its device's share: means over the batch need a collective, gradients too, and
random numbers must be the same share of the same global draw. These functions do the right thing in
every layout, so that nothing else in the library asks which one it is in.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from ganjax.types import Array, Key

# Batches are split over this axis.
DATA = "data"
# Members of a population lie along this axis; each is a training of its own.
MEMBERS = "ganjax_members"


def bound_axes() -> tuple[str, ...]:
    """Return the names of the axes that share a batch here; empty under plain `jit`."""
    bound = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(name for name in bound if name != MEMBERS)


def varying_axes(*arrays: Array) -> frozenset[str]:
    """Return the axes over which JAX tracks that any of the arrays varies.

    Empty under `pmap` and `shard_map(check_vma=False)`, where nothing is tracked.
    """
    return frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))


def vary_alike(*arrays: Array) -> tuple[Array, ...]:
    """Cast arrays so that all vary over the axes that any of them varies over.

    A custom derivative returns gradients that vary as its operands do; casting in front of it makes
    JAX sum a replicated operand's gradient over the devices.
    """
    axes = varying_axes(*arrays)

    def cast(array):
        missing = tuple(axes - varying_axes(array))
        return lax.pcast(array, missing, to="varying") if missing else array

    return tuple(cast(a) for a in arrays)


def vary(tree: Any) -> Any:
    """Cast arrays with axes to vary over the devices, as a loop's carry has to that will.

    Scalars are left as they are.
    """
    bound = bound_axes()
    if not bound:
        return tree
    tracked = varying_axes(lax.axis_index(bound))

    def cast(array):
        missing = tuple(tracked - varying_axes(array))
        return lax.pcast(array, missing, to="varying") if missing and array.ndim else array

    return jax.tree.map(cast, tree)


def num_shares() -> int:
    """Return how many devices hold a share of the batch: global over local batch size."""
    return lax.axis_size(bound_axes()) if bound_axes() else 1


def global_mean(tree: Any) -> Any:
    """Average each leaf over the devices; the identity under plain `jit`."""
    axes = bound_axes()
    return lax.pmean(tree, axes) if axes else tree


def value_and_grad(function: Callable[..., tuple[Array, Any]]) -> Callable[..., Any]:
    """Differentiate the global mean of a loss with respect to its first argument.

    Args:
      function: `(params, *args) -> (loss, auxiliary)`, the loss a mean over the local batch.

    Returns:
      A function with the same arguments that returns ((loss, auxiliary), gradients), loss and
      gradients the same on every device.
    """

    def differentiate(params, *args):
        axes = bound_axes()
        if not axes:
            return jax.value_and_grad(function, has_aux=True)(params, *args)

        # With tracked axes the gradient of a replicated parameter is summed over devices by JAX, so
        # the mean belongs inside; without, that sum is ours, and the mean belongs outside.
        tracked = []

        def local(params, *args):
            loss, auxiliary = function(params, *args)
            if varying_axes(loss):
                tracked.append(True)
                loss = lax.pmean(loss, tuple(varying_axes(loss)))
            return loss, auxiliary

        (loss, auxiliary), gradients = jax.value_and_grad(local, has_aux=True)(params, *args)
        if not tracked:
            loss, gradients = lax.pmean((loss, gradients), axes)
        return (loss, auxiliary), gradients

    return differentiate


def with_own_gradients(tree: Any, *args: Any) -> Any:
    """Cast replicated arrays so that each device's gradients of them are of its share alone.

    Where JAX tracks device axes it sums the gradient of a replicated array over the devices; after
    this cast, as where nothing is tracked, that sum is the caller's.

    Args:
      tree: arrays, the same on every device.
      args: what they are used with, which varies over the axes in question.
    """
    tracked = varying_axes(*jax.tree.leaves(args))

    def cast(array):
        missing = tuple(tracked - varying_axes(array))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(cast, tree)


def draw(sample: Callable[[Key, int], Any], key: Key, batch: int) -> Any:
    """Draw random numbers per example that do not depend on the layout.

    Every device draws for the global batch and takes its share.

    Args:
      sample: `(key, n) -> array or tree with leading axis n`.
      key: random key, the same on every device.
      batch: the local batch size.
    """
    axes = bound_axes()
    if not axes:
        return _split(sample(key, batch))
    start = lax.axis_index(axes) * batch
    tree = sample(key, batch * num_shares())
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, batch), tree)


def _split(tree: Any) -> Any:
    """Put what was drawn where the examples of a sharded batch lie, if the mesh is known here."""
    mesh = jax.sharding.get_abstract_mesh()
    auto = not mesh.empty and DATA in mesh.axis_names
    if not auto or mesh.axis_types[mesh.axis_names.index(DATA)] is not AxisType.Auto:
        return tree
    # Without it every device would compute the generator's whole batch: nothing that comes from a
    # key alone tells the partitioner that it is a batch.
    shares = mesh.shape[DATA]

    def place(array):
        if shares == 1 or array.shape[0] % shares:
            return array
        return lax.with_sharding_constraint(array, PartitionSpec(DATA))

    return jax.tree.map(place, tree)


def all_finite(tree: Any) -> Array:
    """Return whether every element of every floating-point leaf is finite."""
    leaves = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]
    return jnp.array([jnp.all(jnp.isfinite(a)) for a in leaves], bool).all()
