"""Every family of image networks trains a step: with classes and without, square and not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import build, config
from ganjax.checkpoint import Checkpointer
from ganjax.config import ADA, GAN, Config, OptimizerSettings, Penalty, Train
from ganjax.networks.biggan import BigGAN
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.r3gan import R3GAN
from ganjax.networks.sagan import SAGAN
from ganjax.networks.sngan import SNGAN
from ganjax.networks.stylegan2 import StyleGAN2
from ganjax.networks.wgan_gp import WGANGP

BATCH, CLASSES = 4, 3
KEY = jax.random.key(0)
NARROW = {"latent_dim": 8, "generator_width": 2, "discriminator_width": 2}
ADAM = OptimizerSettings(beta1=0.0)
# Small networks in the training that their paper gives them.
FAMILIES = {
    "dcgan": GAN(network=DCGAN(latent_dim=8, generator_width=2, discriminator_width=2)),
    "wgan_gp": GAN(
        network=WGANGP(**NARROW),
        loss="wasserstein",
        penalties={"gradient_penalty": Penalty(10.0)},
        discriminator_steps=2,
        generator_batch_multiplier=2,
    ),
    "sngan": GAN(
        network=SNGAN(**NARROW), loss="hinge", discriminator_steps=2, generator_batch_multiplier=2
    ),
    "sagan": GAN(network=SAGAN(**NARROW), loss="hinge", generator=ADAM),
    "biggan": GAN(
        network=BigGAN(latent_dim=12, generator_width=2, discriminator_width=2, attention="8"),
        loss="hinge",
        ema_half_life_images=100.0,
        ema_start_steps=1,
        augment="diff_augment",
    ),
    "stylegan2": GAN(
        network=StyleGAN2(
            z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, mbstd_group_size=2
        ),
        penalties={"r1": Penalty(1.0, 2), "path_length": Penalty(2.0, 2)},
        augment="flip+ada",
        ada=ADA(initial=0.5, ramp_images=100, interval=1),
        ema_half_life_images=100.0,
    ),
    "r3gan": GAN(
        network=R3GAN(latent_dim=8, width=8, group_width=4, blocks=1),
        loss="relativistic",
        penalties={
            "r1": Penalty(0.05, final_weight=0.005),
            "r2": Penalty(0.05, final_weight=0.005),
        },
        discriminator=OptimizerSettings(
            beta1=0.0, beta2=0.9, final_beta2=0.99, schedule="cosine", final_learning_rate=5e-5
        ),
        ema_half_life_images=100.0,
        ema_burn_in=True,
        burn_in_steps=10,
        augment="ada",
        ada=ADA(pipe="r3gan", probability=0.5, ramp_images=10),
    ),
}
CONDITIONING = {"wgan_gp": {"classify_real": Penalty(1.0), "classify_generated": Penalty(0.1)}}


def model_of(name, shape, num_classes, **settings):
    family = FAMILIES[name]
    if num_classes and name in CONDITIONING:
        penalties = {**family.penalties, **CONDITIONING[name]}
        family = dataclasses.replace(family, penalties=penalties)
    if shape[-1] not in (1, 3):  # what colours are is not defined there
        family = dataclasses.replace(family, augment=None)
    family = dataclasses.replace(family, conditional=bool(num_classes))
    settings = Config(model=family, train=Train(steps=10, batch_size=BATCH, **settings))
    return build.build_model(settings, shape, num_classes)


def batch_of(algorithm, shape, num_classes, seed=0):
    random = np.random.default_rng(seed)
    k = algorithm.batches_per_step
    leading = (BATCH,) if k == 1 else (k, BATCH)
    batch = {"image": jnp.asarray(random.integers(0, 256, (*leading, *shape), np.uint8))}
    if num_classes:
        batch["label"] = jnp.asarray(random.integers(0, num_classes, leading, np.int32))
    return batch


def test_every_network_for_images_is_here():
    of_text = {"gpt", "lstm", "seqgan", "relgan", "lstm_pair", "conv_text"}
    assert set(FAMILIES) == set(config.NETWORKS) - {"mlp", "conv_vae"} - of_text


# Tracing alone takes seconds. The other values beside each other are in the test below this one.
EVERYDAY = [((16, 16, 3), CLASSES, "bfloat16")]
SELDOM = [((8, 16, 1), CLASSES, "bfloat16"), ((24, 16, 4), 0, "bfloat16")]
MATRIX = [
    pytest.param(*case, id=f"{case}", marks=() if case in EVERYDAY else pytest.mark.slow)
    for case in (*EVERYDAY, *SELDOM)
]


@pytest.mark.parametrize(("shape", "num_classes", "precision"), MATRIX)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("sngan", "r3gan") else pytest.mark.slow) for n in FAMILIES],
)
def test_a_step_keeps_the_states_type(name, shape, num_classes, precision):
    algorithm = model_of(name, shape, num_classes, precision=precision).algorithm
    batch = batch_of(algorithm, shape, num_classes)
    state = jax.eval_shape(algorithm.init, KEY)
    after, metrics = jax.eval_shape(algorithm.train_step, state, batch)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    assert {m.dtype for m in metrics.values()} == {jnp.dtype(jnp.float32)}
    samples = jax.eval_shape(functools.partial(algorithm.sample, num_samples=2), state, KEY)
    assert samples.shape == (2, *shape)
    assert samples.dtype == jnp.float32
    for player in after.players.values():
        assert {a.dtype for a in jax.tree.leaves(player.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "num_classes"), [((16, 16, 3), CLASSES), ((8, 16, 1), 0)], ids=["classes", "wide"]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_steps_train_and_resume_with_the_same_bits(name, shape, num_classes, tmp_path, quick_jit):
    algorithm = model_of(name, shape, num_classes).algorithm
    batches = [batch_of(algorithm, shape, num_classes, seed) for seed in range(4)]
    traces = []

    def step(state, batch):
        traces.append(True)
        return algorithm.train_step(state, batch)

    step = quick_jit(step)
    state = initial = quick_jit(algorithm.init)(KEY)
    for batch in batches[:2]:
        state, _ = step(state, batch)
    with Checkpointer(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, state, metadata={})
        checkpoints.wait()
        resumed, _ = checkpoints.restore(jax.eval_shape(algorithm.init, KEY))
    for batch in batches[2:]:
        state, metrics = step(state, batch)
        resumed, again = step(resumed, batch)
    assert len(traces) == 1
    for ours, theirs in zip(
        jax.tree.leaves((state.replace(key=0), metrics)),
        jax.tree.leaves((resumed.replace(key=0), again)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    for value in metrics.values():
        assert np.isfinite(value)
    for player, before in initial.players.items():
        moved = jax.tree.map(
            lambda a, b: bool(np.any(a != b)), before.params, state.players[player].params
        )
        still = [jax.tree_util.keystr(p) for p, m in jax.tree.leaves_with_path(moved) if not m]
        assert len(still) <= 0.1 * len(jax.tree.leaves(moved)), (player, still)
    samples = quick_jit(algorithm.sample, static_argnums=2)(state, KEY, 3)
    assert samples.shape == (3, *shape)
    assert np.all(np.isfinite(samples))
