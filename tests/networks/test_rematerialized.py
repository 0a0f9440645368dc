"""Networks whose activations are computed again: the same numbers from less memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import ganjax
from ganjax import build, cost, latents, penalties
from ganjax.config import GAN, VAE, Config, Train
from ganjax.networks import dcgan
from ganjax.networks.conv_vae import ConvVAE
from ganjax.networks.layers import as_network, rematerialized
from ganjax.networks.mlp import MLP
from ganjax.penalties import Term

CLASSES, BATCH, SHAPE = 3, 4, (12, 12, 1)
KEY = jax.random.key(0)


def batch_of(steps=None, seed=0):
    random = np.random.default_rng(seed)
    lead = (BATCH,) if steps is None else (steps, BATCH)
    return {
        "image": random.integers(0, 256, (*lead, *SHAPE), dtype=np.uint8),
        "label": random.integers(0, CLASSES, lead).astype(np.int32),
    }


# The convolutions' own gradients, to the second order, outside and inside of loops and branches.
CASES = {
    "shared fakes": {"share_fakes": True},
    "R1 and lazy R2": {
        "discriminator_terms": [
            Term("r1", penalties.r1, 0.5),
            Term("r2", penalties.r2, 0.5, interval=2),
        ]
    },
    "critic steps and micro-batches": {
        "discriminator_terms": [Term("gp", penalties.gradient_penalty, 1.0)],
        "discriminator_steps": 2,
        "micro_batches": 2,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_trains_alike(case, quick_jit):
    options = CASES[case]
    generator = dcgan.Generator(SHAPE, width=2, num_classes=CLASSES)
    discriminator = dcgan.Discriminator(
        width=2, num_classes=CLASSES, batch_norm="discriminator_terms" not in options
    )
    results = []
    for wrap in (as_network, rematerialized):
        algorithm = ganjax.gan(
            wrap(generator),
            wrap(discriminator),
            latents=latents.normal(3),
            num_classes=CLASSES,
            generator_optimizer=optax.sgd(0.05),
            discriminator_optimizer=optax.sgd(0.05),
            **options,
        )
        step = quick_jit(algorithm.train_step)
        state = first = jax.jit(algorithm.init)(KEY)
        for seed in range(3):
            state, metrics = step(state, batch_of(options.get("discriminator_steps"), seed))
        results.append((state.players, metrics))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first.players, state.players)
    assert min(max(jax.tree.leaves(player)) for player in moved.values()) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), *results)


_MEASURE = """
import json
import jax
from ganjax import cost, gan, latents
from ganjax.networks import dcgan
from ganjax.networks.layers import as_network, rematerialized

shape, found = (64, 64, 3), []
for wrap in (as_network, rematerialized):
    algorithm = gan(
        wrap(dcgan.Generator(shape, width=32)),
        wrap(dcgan.Discriminator(width=32)),
        latents=latents.normal(16),
        share_fakes=True,
    )
    measured = cost.step_cost(algorithm, shape, batch_size=32)
    found.append((measured.memory.temporaries, measured.flops))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_it_uses_less_memory():
    # In the order that takes least memory, as on a GPU: on a CPU the default is to have as much as
    # possible to do at a time. XLA reads this flag once, when it starts.
    flags = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(ganjax.__file__).parents[1]),
        "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
    }
    process = subprocess.run(
        [sys.executable, "-c", _MEASURE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    (plain, plain_flops), (spared, spared_flops) = json.loads(process.stdout)
    assert spared < 0.85 * plain
    assert 1.1 * plain_flops < spared_flops < 1.5 * plain_flops


@pytest.mark.parametrize("model", [GAN(network=MLP(generator_hidden=(8,))), VAE(ConvVAE(width=4))])
def test_a_configuration_asks_for_it(model):
    def count(rematerialize):
        settings = Config(model=model, train=Train(rematerialize=rematerialize))
        algorithm = build.build_model(settings, SHAPE, 0).algorithm
        inputs = cost.step_inputs(algorithm, SHAPE, BATCH)
        return str(jax.make_jaxpr(algorithm.train_step)(*inputs)).count("remat")

    assert count(True) > 0
    assert count(False) == 0
