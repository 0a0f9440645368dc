"""What a compiled program costs: operations, memory, and what it sends between devices.

Every number is of one device and of one run of the program. They are the compiler's: read from the
program that will run, not from the model, so that they show a pass that was computed twice or an
array that was gathered without need.

XLA's own count takes the body of a loop once. Where the compiler knows how often a loop runs, as it
does for `lax.scan` and `lax.fori_loop` between constants, the matrix products and convolutions in
it are added for the other rounds, and its collectives are counted for each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ganjax.hlo import Collective, Program
from ganjax.types import Algorithm, Batch, TrainState


class Memory(NamedTuple):
    """Bytes of device memory, as the compiler assigned them.

    Attributes:
      arguments: what is given to the program, such as the state and a batch.
      outputs: what it returns.
      donated: the part of the outputs that takes the place of donated arguments.
      temporaries: what is needed while it runs. On a CPU without what the kernels of convolutions
        and matrix products allocate for themselves.
    """

    arguments: int
    outputs: int
    donated: int
    temporaries: int

    @property
    def peak(self) -> int:
        """All that is held at once while the program runs."""
        return self.arguments + self.outputs - self.donated + self.temporaries


class Cost(NamedTuple):
    """What one run of a program costs one device.

    Attributes:
      flops: floating-point operations.
      bytes_accessed: bytes read and written by its instructions; loops count once.
      memory: what it holds.
      collectives: in no particular order.
      complete: whether `flops` and `collectives` take every loop as often as it runs. If not, a
        loop whose length the compiler does not know, or one with a library call, counted once.
    """

    flops: float
    bytes_accessed: float
    memory: Memory
    collectives: tuple[Collective, ...]
    complete: bool


def analyze(compiled: Any) -> Cost:
    """Return what a compiled program costs.

    Args:
      compiled: what `jax.jit(function).lower(...).compile()` returns.

    >>> program = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32")).compile()
    >>> cost = analyze(program)
    >>> cost.flops, cost.memory.outputs, cost.collectives
    (1024.0, 256, ())
    """
    properties = compiled.cost_analysis() or {}
    if isinstance(properties, list):
        properties = properties[0]
    program = Program(compiled.as_text())
    once, all_rounds = (program.matrix_flops(repeat=repeat) for repeat in (False, True))
    return Cost(
        flops=properties.get("flops", 0.0) + all_rounds - once,
        bytes_accessed=properties.get("bytes accessed", 0.0),
        memory=memory(compiled),
        collectives=tuple(program.collectives()),
        complete=program.is_complete(),
    )


def memory(compiled: Any) -> Memory:
    """Return what a compiled program holds in device memory."""
    stats = compiled.memory_analysis()
    return Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
    )


def collectives(text: str) -> tuple[Collective, ...]:
    """Return the collectives in the text of a compiled program (`compiled.as_text()`).

    >>> collectives('''
    ... ENTRY %main (x: f32[8]) -> f32[8] {
    ...   %x = f32[8]{0} parameter(0)
    ...   ROOT %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
    ... }''')
    (Collective(kind='all-reduce', bytes=32, count=1, conditional=False),)
    """
    return tuple(Program(text).collectives())


def step_inputs(
    algorithm: Algorithm,
    shape: Sequence[int],
    batch_size: int,
    num_classes: int = 0,
    *,
    tokens: bool = False,
) -> tuple[TrainState, Batch]:
    """Return the shapes of a train step's arguments, to lower it without making any arrays.

    Args:
      algorithm: any algorithm.
      shape: of one example; (H, W, C) is taken for images in uint8, anything else for float32.
      batch_size: examples of one batch.
      num_classes: 0 where the batches have no labels.
      tokens: whether the examples are sequences (S,) of tokens.
    """
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    lead = (batch_size,)
    if algorithm.batches_per_step > 1:
        lead = (algorithm.batches_per_step, batch_size)
    dtype = "uint8" if len(shape) == 3 else "float32"
    batch = {"image": jax.ShapeDtypeStruct((*lead, *shape), dtype)}
    if tokens:
        batch = {"tokens": jax.ShapeDtypeStruct((*lead, *shape), "int32")}
    if num_classes:
        batch["label"] = jax.ShapeDtypeStruct(lead, "int32")
    return state, batch


def step_cost(
    algorithm: Algorithm,
    shape: Sequence[int],
    batch_size: int,
    num_classes: int = 0,
    *,
    tokens: bool = False,
) -> Cost:
    """Compile a train step for one device, with the state donated, and return what it costs.

    >>> from ganjax import gan, latents
    >>> from ganjax.networks import mlp
    >>> algorithm = gan(mlp.Generator((2,)), mlp.Discriminator(), latents=latents.normal(8))
    >>> step_cost(algorithm, (2,), batch_size=16).complete
    True
    """
    state, batch = step_inputs(algorithm, shape, batch_size, num_classes, tokens=tokens)
    step = jax.jit(algorithm.train_step, donate_argnums=0)
    return analyze(step.lower(state, batch).compile())
