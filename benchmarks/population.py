"""What does training several members in one program gain over one run after another?

Each row is a strategy of `ganjax.population` against the same members one after another: a program
of the same steps of a single member, run once for each. Images count once for each member.

- `mlp`: the networks of configs/mlp_ring.py, batch 256.
- `mlp_small`: hidden layers of 32 instead of 128, batch 64.
- `mlp_large`: hidden layers of 512.
- `dcgan_narrow`: 28x28, width 8, batch 64.
- `dcgan`: 28x28, width 32, batch 64.
- `conv`: one convolution of the last one (14x14, 32 to 64 channels, 4x4, stride 2) and its two
  gradients: batched over weights by vmap, against one member after another in a loop.

    python benchmarks/population.py
    python benchmarks/population.py --cases mlp,dcgan_narrow --devices 2

`--devices 2` makes two virtual devices of a CPU; accelerators are found. The row of the strategy
that `auto` takes says so.
"""

import functools
from collections.abc import Callable

import common
import jax
import jax.numpy as jnp
import numpy as np

import ganjax
from ganjax import config, ops, penalties
from ganjax.build import make_optimizer
from ganjax.networks import dcgan, mlp
from ganjax.types import Algorithm

CASES = ("mlp", "mlp_small", "mlp_large", "dcgan_narrow", "dcgan", "conv")


def main() -> None:
    args = common.arguments(
        __doc__,
        CASES,
        members={"type": int, "default": 8, "help": "how many are trained (8)"},
        devices={"type": int, "default": 1, "help": "virtual devices of a CPU (1)"},
    )
    jax.config.update("jax_num_cpu_devices", args.devices)
    results = common.Results("population", args.out)
    for case in args.cases:
        if case == "conv":
            measure_conv(results, args.members, quick=args.quick)
        else:
            measure(results, case, args.members, quick=args.quick)


def ring(width: int) -> Algorithm:
    settings = config.load_file("mlp_ring").model
    return ganjax.gan(
        mlp.Generator((2,), hidden=(width, width)),
        mlp.Discriminator(hidden=(width, width)),
        latents=ganjax.latents.normal(2),
        generator_optimizer=make_optimizer(settings.generator, 20_000),
        discriminator_optimizer=make_optimizer(settings.discriminator, 20_000),
        discriminator_terms=[ganjax.Term("r1", penalties.r1, 0.02)],
        ema_half_life_images=20_000.0,
    )


def images(width: int) -> Algorithm:
    return ganjax.gan(
        dcgan.Generator((28, 28, 1), width=width),
        dcgan.Discriminator(width=width),
        latents=ganjax.latents.normal(64),
        share_fakes=True,
        ema_half_life_images=2_000.0,
    )


# Algorithm, shape of a batch, and steps of one dispatch on a CPU.
TRAININGS: dict[str, tuple[Callable[[], Algorithm], tuple[int, ...], int]] = {
    "mlp": (functools.partial(ring, 128), (256, 2), 50),
    "mlp_small": (functools.partial(ring, 32), (64, 2), 100),
    "mlp_large": (functools.partial(ring, 512), (256, 2), 5),
    "dcgan_narrow": (functools.partial(images, 8), (64, 28, 28, 1), 5),
    "dcgan": (functools.partial(images, 32), (64, 28, 28, 1), 2),
}


def measure(results: common.Results, case: str, size: int, *, quick: bool) -> None:
    """Add a row for each strategy."""
    build, shape, steps = TRAININGS[case]
    algorithm = build()
    if jax.default_backend() != "cpu":
        steps *= 10
    random = np.random.default_rng(0)
    if len(shape) == 4:
        batches = random.integers(0, 256, (steps, *shape), dtype=np.uint8)
    else:
        batches = random.normal(size=(steps, *shape)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), size)

    def program(trained):
        run = jax.jit(
            lambda state, images: jax.lax.scan(trained.train_step, state, {"image": images})[0],
            donate_argnums=0,
        )
        return lambda states: [run(state, batches) for state in states]

    def block(advance, states):
        """Return a function that trains a chunk and returns the images that all members saw."""
        states = [states]

        def train():
            states[0] = advance(states[0])
            jax.block_until_ready(states[0])
            return size * steps * shape[0]

        return train

    init = jax.jit(algorithm.init)
    functions = {"alone": block(program(algorithm), [init(key) for key in keys])}
    strategies = ["map", "vmap"]
    if len(jax.devices()) > 1:
        strategies += ["devices+map", "devices+vmap"]
    for strategy in strategies:
        members = ganjax.population(algorithm, size, strategy=strategy)
        functions[strategy] = block(program(members), [jax.jit(members.init)(keys)])
    rates = common.in_turns(functions, quick=quick)
    chosen = ganjax.population(algorithm, size).strategy
    for strategy in strategies:
        results.add(
            f"{case}/{strategy}",
            rates[strategy],
            rates["alone"],
            peer="one after another",
            members=size,
            devices=len(jax.devices()),
            auto=strategy == chosen,
        )


def measure_conv(results: common.Results, size: int, *, quick: bool) -> None:
    """Add a row for a convolution and one for each of its gradients."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(size, 64, 14, 14, 32)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(size, 4, 4, 32, 64)), jnp.float32)
    y = jnp.asarray(random.normal(size=(size, 64, 7, 7, 64)), jnp.float32)
    conv = functools.partial(ops.conv, strides=2)
    parts = {
        "forward": lambda x, kernel, y: conv(x, kernel),
        "input_gradient": lambda x, kernel, y: jax.vjp(lambda x: conv(x, kernel), x)[1](y),
        "kernel_gradient": lambda x, kernel, y: jax.vjp(lambda k: conv(x, k), kernel)[1](y),
    }

    def block(function):
        def run():
            jax.block_until_ready(function(x, kernel, y))
            return size * len(x[0])

        return run

    for name, part in parts.items():
        one_by_one = jax.jit(lambda *a, part=part: jax.lax.map(lambda m: part(*m), a))
        functions = {"vmap": block(jax.jit(jax.vmap(part))), "map": block(one_by_one)}
        rates = common.in_turns(functions, quick=quick)
        results.add(f"conv/{name}/vmap", rates["vmap"], rates["map"], peer="map", members=size)


if __name__ == "__main__":
    main()
