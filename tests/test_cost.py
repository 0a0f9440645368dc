"""What a compiled program costs, and that a train step costs on many devices what it has to.

The second needs several devices, which have to be asked for before JAX starts: this file runs
itself in a process of its own with eight virtual ones.
"""

import json
import math
import os
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import ganjax
from ganjax import cost, latents, sharding
from ganjax.hlo import Collective, Program
from ganjax.networks import dcgan, mlp

DEVICES, BATCH, SHAPE, WIDTH = 8, 64, (16, 16, 1), 8
# Channels of the batch norms of the networks below.
GENERATOR_CHANNELS, DISCRIMINATOR_CHANNELS = 16 + 8, 16
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def adversarial(**options):
    return ganjax.gan(
        dcgan.Generator(SHAPE, width=WIDTH),
        dcgan.Discriminator(width=WIDTH),
        latents=latents.normal(8),
        **options,
    )


# Operations.


def test_a_loop_of_known_length_counts_as_often_as_it_runs():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def body(x, _):
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)
        return jnp.tanh(x @ jnp.ones((4, 4))), None

    loop = compiled(lambda x: lax.scan(body, x, length=12)[0], x)
    once = compiled(lambda x: body(x, None)[0], x).cost_analysis()["flops"]
    measured = cost.analyze(loop)
    assert measured.complete
    assert measured.flops == pytest.approx(12 * once, rel=0.02)
    assert loop.cost_analysis()["flops"] < 2 * once  # what is made up for


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 9, 7, 4), (3, 3, 4, 5), {"window_strides": (2, 1), "padding": "SAME"}),
        ((2, 9, 7, 4), (4, 4, 4, 5), {"window_strides": (2, 2), "padding": [(1, 2), (0, 3)]}),
        ((2, 5, 5, 3), (4, 4, 3, 2), {"padding": [(2, 2), (2, 2)], "lhs_dilation": (2, 2)}),
        ((2, 9, 9, 3), (3, 3, 3, 2), {"padding": "VALID", "rhs_dilation": (2, 3)}),
        ((2, 6, 6, 4), (3, 3, 2, 6), {"padding": "SAME", "feature_group_count": 2}),
        ((4, 6, 6, 3), (3, 3, 3, 6), {"padding": "SAME", "batch_group_count": 2}),
    ],
)
def test_convolutions_are_counted_as_xla_counts_them(shape, kernel, options):
    options = {"window_strides": (1, 1), "dimension_numbers": DIMENSIONS} | options
    text = f"""ENTRY %main (x: f32[1]) -> f32[1] {{
      %x = f32[{",".join(map(str, shape))}]{{3,2,1,0}} parameter(0)
      %k = f32[{",".join(map(str, kernel))}]{{3,2,1,0}} parameter(1)
    {{line}}
    }}"""
    lowered = jax.jit(lambda x, k: lax.conv_general_dilated(x, k, **options)).lower(
        jax.ShapeDtypeStruct(shape, "float32"), jax.ShapeDtypeStruct(kernel, "float32")
    )
    lines = lowered.as_text("hlo").splitlines()
    line = next(line for line in lines if " convolution(" in line)
    head, _, rest = line.partition(" convolution(")
    line = f"{head} convolution(%x, %k){rest.partition(')')[2]}"
    flops = Program(text.replace("{line}", line)).matrix_flops(repeat=False)
    assert flops == lowered.cost_analysis()["flops"]


@pytest.mark.slow
def test_the_step_of_a_wgan_counts_each_critic_update():
    """Between one and five critic updates lie four times what lies between one and two."""

    def flops(steps):
        algorithm = ganjax.gan(
            mlp.Generator((2,)),
            mlp.Discriminator(),
            latents=latents.normal(8),
            discriminator_steps=steps,
        )
        measured = cost.step_cost(algorithm, (2,), 64)
        assert measured.complete
        return measured.flops

    one, two, five = flops(1), flops(2), flops(5)
    assert five - one == pytest.approx(4 * (two - one), rel=0.05)
    assert two > 1.3 * one


def test_a_loop_of_unknown_length_is_said():
    program = compiled(
        lambda x, n: lax.fori_loop(0, n, lambda _, x: x @ x, x), jnp.ones((4, 4)), jnp.int32(3)
    )
    measured = cost.analyze(program)
    assert not measured.complete
    assert measured.flops < 2 * 128 + 32


# Memory.


def test_memory_is_that_of_the_arrays():
    x = jax.ShapeDtypeStruct((100, 100), "float32")
    plain = cost.memory(jax.jit(lambda x: x + 1).lower(x).compile())
    assert (plain.arguments, plain.outputs, plain.donated) == (40_000, 40_000, 0)
    assert plain.peak == 80_000 + plain.temporaries
    donated = cost.memory(jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile())
    assert donated.donated == 40_000
    assert donated.peak == 40_000 + donated.temporaries
    product = cost.memory(jax.jit(lambda x: (x @ x) @ (x @ x.T)).lower(x).compile())
    assert product.temporaries >= 2 * 40_000


@pytest.mark.slow
def test_micro_batches_take_less_memory():
    plain, parts = (cost.step_cost(adversarial(micro_batches=n), SHAPE, 64) for n in (1, 4))
    assert parts.memory.temporaries < 0.6 * plain.memory.temporaries
    assert parts.memory.arguments == plain.memory.arguments
    assert parts.flops == pytest.approx(plain.flops, rel=0.1)


# Collectives.

PROGRAM = """HloModule step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body (t: (s32[], bf16[4,2])) -> (s32[], bf16[4,2]) {
  %t = (s32[], bf16[4,2]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %v = bf16[4,2]{1,0} get-tuple-element(%t), index=1
  %r = bf16[4,2]{1,0} all-reduce(%v), replica_groups={{0,1}}, to_apply=%add
  ROOT %n = (s32[], bf16[4,2]{1,0}) tuple(%i, %r)
}

%condition (t: (s32[], bf16[4,2])) -> pred[] {
  %t = (s32[], bf16[4,2]{1,0}) parameter(0)
  ROOT %p = pred[] constant(true)
}

%due (d: f32[8]) -> f32[8] {
  %d = f32[8]{0} parameter(0)
  ROOT %e = f32[8]{0:T(128)} all-to-all(%d), replica_groups={{0,1}}, dimensions={0}
}

%idle (q: f32[8]) -> f32[8] {
  ROOT %q = f32[8]{0} parameter(0)
}

ENTRY %main (x: f32[8], y: bf16[4,2], s: s32[]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %y = bf16[4,2]{1,0} parameter(1)
  %s = s32[] parameter(2)
  %u = (s32[], bf16[4,2]{1,0}) tuple(%s, %y)
  %w = (s32[], bf16[4,2]{1,0}) while(%u), condition=%condition, body=%body, BACKEND
  %g = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={{0,1}}, dimensions={0}
  %h = f32[16]{0} all-gather-done(%g)
  %m = (f32[8]{0}, pred[]) all-reduce(%x, %z), channel_id=1, to_apply=%add
  %z = pred[] constant(false)
  ROOT %k = f32[8]{0} conditional(%s, %x, %x), branch_computations={%due, %idle}
}
"""


@pytest.mark.parametrize(
    ("backend", "rounds"),
    [('backend_config={"known_trip_count":{"n":"5"},"x":0}', 5), ("metadata={}", 1)],
)
def test_collectives_are_read_from_the_text(backend, rounds):
    program = Program(PROGRAM.replace("BACKEND", backend))
    assert set(program.collectives()) == {
        Collective("all-reduce", 16, rounds, False),
        Collective("all-gather", 64, 1, False),
        Collective("all-reduce", 33, 1, False),
        Collective("all-to-all", 32, 1, True),
    }
    assert program.is_complete() == (rounds == 5)


@pytest.mark.parametrize("rounds", [1, 5])
def test_work_of_a_library_in_a_loop_is_not_known(rounds):
    call = '%v = bf16[4,2]{1,0} custom-call(%i), custom_call_target="__cublas$gemm"'
    text = PROGRAM.replace("%v = bf16[4,2]{1,0} get-tuple-element(%t), index=1", call)
    known = f'backend_config={{"known_trip_count":{{"n":"{rounds}"}}}}'
    assert Program(text.replace("BACKEND", known)).is_complete() == (rounds == 1)


def test_something_else_is_no_program():
    with pytest.raises(ValueError, match="expected the text of a compiled program, such as"):
        cost.collectives("module @jit_f {}")


def main():
    jax.config.update("jax_num_cpu_devices", DEVICES)
    results = {}
    for shared in (True, False):
        algorithm = adversarial(share_fakes=shared)
        inputs = cost.step_inputs(algorithm, SHAPE, BATCH)
        for layout, devices in (("one", 1), ("jit", DEVICES), ("shard_map", DEVICES)):
            mesh = sharding.make_mesh(jax.devices()[:devices])
            step = sharding.train_step(algorithm, mesh, "jit" if layout == "one" else layout)
            measured = cost.analyze(step.lower(*inputs).compile())
            results[f"{layout} {shared}"] = {
                "flops": measured.flops * devices,
                "kinds": Counter(each.kind for each in measured.collectives),
                "bytes": sum(each.bytes * each.count for each in measured.collectives),
                "complete": measured.complete,
            }
    algorithm = adversarial(micro_batches=4)
    step = sharding.train_step(algorithm, sharding.make_mesh(), "shard_map")
    parts = cost.analyze(step.lower(*cost.step_inputs(algorithm, SHAPE, BATCH * 4)).compile())
    results["parts"] = sum(each.bytes * each.count for each in parts.collectives)
    print(json.dumps(results))


@pytest.fixture(scope="module")
def measured():
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(ganjax.__file__)))
    environment = {
        **os.environ,
        "PYTHONPATH": checkout,
        "NPROC": "64",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    process = subprocess.run(
        [sys.executable, __file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def expected_bytes(shared):
    """Return the bytes of the gradients of each network, and of the batch statistics of a step."""
    players = jax.eval_shape(adversarial().init, jax.random.key(0)).players
    gradients = {
        name: sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(player.params))
        for name, player in players.items()
    }
    # Two float32 a channel, forward and backward: the discriminator passes over real, fake and the
    # generator's images, and the generator's own pass is differentiated once, but made twice where
    # the two updates do not share it.
    discriminator = 3 * 2 * DISCRIMINATOR_CHANNELS
    generator = (2 if shared else 3) * GENERATOR_CHANNELS
    return gradients, 2 * 4 * (discriminator + generator)


STEPS = [("jit", True), ("jit", False), ("shard_map", True), ("shard_map", False)]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "shared"), STEPS)
def test_each_device_does_its_share(layout, shared, measured):
    one, many = measured[f"one {shared}"], measured[f"{layout} {shared}"]
    assert one["complete"]
    assert many["complete"]
    assert many["flops"] == pytest.approx(one["flops"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "shared"), STEPS)
def test_gradients_and_statistics_are_summed_and_nothing_else_is_sent(layout, shared, measured):
    many = measured[f"{layout} {shared}"]
    gradients, statistics = expected_bytes(shared)
    assert set(many["kinds"]) == {"all-reduce"}
    rest = many["bytes"] - sum(gradients.values()) - statistics
    scalars = 4 * 16  # metrics
    if layout == "shard_map":
        assert 0 < rest <= scalars
    else:
        # The partitioner sums the discriminator's gradients of its two passes apart. XLA's GPU
        # compiler has a pass that joins such sums, its CPU compiler has none.
        assert 0 < rest <= gradients["discriminator"] + scalars


@pytest.mark.slow
def test_micro_batches_send_their_gradients_once(measured):
    gradients, statistics = expected_bytes(shared=False)
    # Batch norm looks at each part.
    rest = measured["parts"] - sum(gradients.values()) - 4 * statistics
    assert 0 < rest <= 4 * 16  # metrics


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_one_device_sends_nothing(shared, measured):
    assert measured[f"one {shared}"]["bytes"] == 0


if __name__ == "__main__":
    main()
