"""Many trainings in one program: seeds for error bars, or settings of a hyper-parameter.

The members of a population share the step counter and, by default, each batch; nothing else. Every
array of the state has a leading axis of members, but for `step` and `rollbacks`, which stay scalar:
a lazy penalty is a `lax.cond` on the step, and of one whose predicate differs from member to member
JAX computes both branches in every step.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from ganjax import axes, sharding
from ganjax.types import Algorithm, Array, Batch, InputError, Key, Metrics, TrainState

STRATEGIES = ("auto", "vmap", "map", "devices", "devices+vmap", "devices+map")
# Members with fewer parameters leave most of an accelerator idle; not measured.
SMALL = 4_000_000


class Population(NamedTuple):
    """An `Algorithm` that trains several members at once, and what is special about it.

    Attributes:
      init: `(key) -> TrainState` of all members. One key for each, (S,), or a single one: then
        members with `values` all start from it, so that nothing but these differs, and members
        without start from `jax.random.split(key, S)`.
      train_step: `(state, batch) -> (state, metrics)`, metrics (S,) float32.
      sample: as in `Algorithm`, (S, N, ...); labels and latents are the same for all members.
      evaluate: as in `Algorithm`, sums and counts (S,).
      batches_per_step: of the algorithm, times S where members have batches of their own.
      member: `(state, index) -> TrainState` of one member, as the algorithm alone knows it.
      size: S, the number of members.
      strategy: the one in use: "vmap", "map", "devices+vmap" or "devices+map".
      mesh: of the devices that the members are spread over, or None; its axis "data" has size 1.
    """

    init: Callable[[Key], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    sample: Callable[..., Array]
    evaluate: Callable[[TrainState, Batch, Key], Metrics]
    batches_per_step: int
    member: Callable[[TrainState, int], TrainState]
    size: int
    strategy: str
    mesh: Mesh | None


def population(
    algorithm: Algorithm,
    size: int | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    strategy: str = "auto",
    devices: Sequence[jax.Device] | None = None,
    own_batches: bool = False,
) -> Population:
    """Return the training of several members of an algorithm as one algorithm.

    Each member is what the algorithm alone makes of its key and its values, up to rounding.

    Args:
      algorithm: of one member.
      size: the number of members S; may be left out where `values` says it.
      values: (S,) values of entries of `state.hyperparameters` by name, such as
        `{"r1": [0.1, 1.0, 10.0]}`; other entries are the algorithm's own. Several names go side
        by side: member i has the i-th value of each.
      strategy: how members are computed. "vmap": each operation for all members at once. "map":
        one member after another, in a loop inside the program. "devices+vmap", "devices+map":
        members spread over devices, an equal number on each, which go by vmap or map there.
        "devices" chooses between these two. On a CPU it takes vmap for networks without
        convolutions and map for others, on an accelerator vmap for members of fewer than 4 million
        parameters and map for larger ones. "auto" is "devices" where there are several and the
        members divide over them, and otherwise chooses in the same way.
      devices: to spread the members over; by default all, or the first S where there are more.
      own_batches: let each member have batches of its own: S times as many make a step, those of
        the first member first.

    Returns:
      A `Population`, which has the fields of an `Algorithm`.

    Raises:
      InputError: an unknown hyper-parameter or strategy, sizes that do not agree, or members that
        do not divide over the devices.

    >>> from ganjax import gan, latents
    >>> from ganjax.networks import mlp
    >>> algorithm = gan(mlp.Generator((2,)), mlp.Discriminator(), latents=latents.normal(8))
    >>> seeds = population(algorithm, 3)
    >>> states = jax.jit(seeds.init)(jax.random.key(0))
    >>> states, metrics = jax.jit(seeds.train_step)(states, {"image": jnp.zeros((16, 2))})
    >>> metrics["loss/generator"].shape, states.step.shape
    ((3,), ())
    """
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0))
    values = {name: jnp.asarray(array, jnp.float32) for name, array in (values or {}).items()}
    size = _check_size(size, values, shapes.hyperparameters)
    if strategy not in STRATEGIES:
        near = difflib.get_close_matches(str(strategy), STRATEGIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"strategy is {strategy!r}, expected {' or '.join(STRATEGIES)}{hint}")
    devices = list(jax.devices() if devices is None else devices)[:size]
    if strategy == "auto" and len(devices) > 1 and size % len(devices) == 0:
        strategy = "devices"
    if strategy == "auto":
        strategy = _suited(shapes, devices[0].platform)
    if strategy == "devices":
        strategy = f"devices+{_suited(shapes, devices[0].platform)}"
    outer, _, inner = strategy.rpartition("+")
    mesh = _make_mesh(devices, size) if outer else None
    local = size // len(devices) if outer else size

    def lift(function):
        """Map `(own, common) -> (own, common)` over the leading axis of what is own."""
        lifted = _over_members(function, local, inner)
        if mesh is None:
            return lifted
        specs = (PartitionSpec(axes.MEMBERS), PartitionSpec())
        # Tracked, the gradient of a common batch would be summed over members.
        return jax.shard_map(lifted, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)

    per_step = algorithm.batches_per_step * (size if own_batches else 1)

    def init(key: Key) -> TrainState:
        if key.ndim == 0:
            key = jnp.broadcast_to(key, (size,)) if values else jax.random.split(key, size)
        if key.shape != (size,):
            raise InputError(f"expected one key or {size}, one a member; got {key.shape}")

        def init_member(own, common):
            key, values = own
            state = algorithm.init(key)
            values = jax.tree.map(jnp.array, values)  # copies: aliases cannot be donated
            return _split(state.replace(hyperparameters=state.hyperparameters | values))

        return _join(*lift(init_member)((key, values), ()))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        own, common = _split(state)
        own_batch, common_batch = {}, batch
        if own_batches:
            own_batch, common_batch = _deal(batch, size, algorithm.batches_per_step), {}

        def step_member(own, common):
            (own, own_batch), (common, common_batch) = own, common
            state, metrics = algorithm.train_step(_join(own, common), {**own_batch, **common_batch})
            own, common = _split(state)
            return (own, metrics), common

        (own, metrics), common = lift(step_member)((own, own_batch), (common, common_batch))
        return _join(own, common), metrics

    def sample(
        state: TrainState,
        key: Key,
        num_samples: int,
        labels: Array | None = None,
        *,
        latents: Array | None = None,
        truncation: float | None = None,
        ema: bool = True,
    ) -> Array:
        own, common = _split(state)

        def sample_member(own, common):
            common, key, labels, latents = common
            return algorithm.sample(
                _join(own, common),
                key,
                num_samples,
                labels,
                latents=latents,
                truncation=truncation,
                ema=ema,
            ), ()

        return lift(sample_member)(own, (common, key, labels, latents))[0]

    def evaluate(state: TrainState, batch: Batch, key: Key) -> Metrics:
        own, common = _split(state)

        def evaluate_member(own, common):
            common, batch, key = common
            return algorithm.evaluate(_join(own, common), batch, key), ()

        return lift(evaluate_member)(own, (common, batch, key))[0]

    def member(state: TrainState, index: int) -> TrainState:
        own, common = _split(state)
        return _join(jax.tree.map(lambda leaf: leaf[index], own), common)

    return Population(init, train_step, sample, evaluate, per_step, member, size, strategy, mesh)


def _suited(shapes: TrainState, platform: str) -> str:
    """Return how several members are best computed on one device.

    On a CPU matrix products that are batched over weights gain a little and convolutions lose much.
    """
    params = [player.params for player in shapes.players.values()]
    sizes = [leaf.shape for leaf in jax.tree.leaves(params)]
    if platform == "cpu":
        return "map" if any(len(shape) > 2 for shape in sizes) else "vmap"
    return "vmap" if sum(map(math.prod, sizes)) < SMALL else "map"


def _check_size(
    size: int | None, values: Mapping[str, Array], hyperparameters: Mapping[str, Any]
) -> int:
    """Return the number of members, on which `size` and every value agree."""
    for name, array in values.items():
        if name not in hyperparameters:
            near = difflib.get_close_matches(name, hyperparameters, n=1, cutoff=0.5)
            known = ", ".join(sorted(hyperparameters)) or "none"
            hint = f"did you mean {near[0]!r}?" if near else f"this algorithm has: {known}"
            raise InputError(f"there is no hyper-parameter {name!r}; {hint}")
        if array.ndim != 1:
            raise InputError(
                f"the values of {name!r} have to be one number a member, got shape {array.shape}"
            )
        size = len(array) if size is None else size
        if len(array) != size:
            raise InputError(f"{name!r} has {len(array)} values, but there are {size} members")
    if size is None or size < 1:
        raise InputError(f"a population has at least one member, got {size}")
    return size


def _make_mesh(devices: Sequence[jax.Device], size: int) -> Mesh:
    if size % len(devices):
        near = max(1, round(size / len(devices))) * len(devices)
        raise InputError(
            f"{size} members do not divide over {len(devices)} devices; take {near} members, or "
            "give it fewer devices"
        )
    # Whoever splits a batch over "data" finds nothing to split.
    grid = np.array(devices).reshape(1, -1)
    return Mesh(grid, (sharding.AXIS, axes.MEMBERS), axis_types=(AxisType.Auto,) * 2)


def _split(state: TrainState) -> tuple[TrainState, tuple[Array, Array]]:
    """Return what each member has of its own and what all have in common."""
    return state.replace(step=None, rollbacks=None), (state.step, state.rollbacks)


def _join(own: TrainState, common: tuple[Array, Array]) -> TrainState:
    step, rollbacks = common
    return own.replace(step=step, rollbacks=rollbacks)


def _over_members(function: Callable, size: int, strategy: str) -> Callable:
    """Lift `(own, common) -> (own, common)` to what is own having a leading axis `size`."""
    if size == 1:  # a batch of one kernel would still be a grouped convolution

        def alone(own, common):
            own, common = function(jax.tree.map(lambda leaf: leaf[0], own), common)
            return jax.tree.map(lambda leaf: leaf[None], own), common

        return alone
    if strategy == "vmap":
        return jax.vmap(function, in_axes=(0, None), out_axes=(0, None))

    def one_by_one(own, common):
        own, common = jax.lax.map(lambda own: function(own, common), own)
        return own, jax.tree.map(lambda leaf: leaf[0], common)

    return one_by_one


def _deal(batch: Batch, size: int, batches_per_step: int) -> dict[str, Array]:
    """Give each member its share of the batches: (S, *batches, B, ...)."""
    lead = (size,) if batches_per_step == 1 else (size, batches_per_step)
    one = size * batches_per_step == 1
    return {
        name: jnp.reshape(array, (*lead, *jnp.shape(array)[0 if one else 1 :]))
        for name, array in batch.items()
    }
