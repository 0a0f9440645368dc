"""Every layout computes what one device computes on the same global batch.

The comparison needs several devices, which have to be asked for before JAX starts: this file runs
itself in a process of its own with eight virtual ones, all cases in one process.
"""

import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import ganjax
from ganjax import augment, axes, latents, losses, ops, penalties, sharding
from ganjax.networks import layers
from ganjax.penalties import Term
from ganjax.types import DiscriminatorOutput, InputError, Optimizer

DEVICES, BATCH, CLASSES, STEPS = 8, 16, 3, 5
LAYOUTS = ("jit", "shard_map", "pmap", "check_vma")


class Generator(nn.Module):
    num_classes: int = 0

    @nn.compact
    def __call__(self, z, labels=None, *, train):
        if self.num_classes:
            z = jnp.concatenate([z, layers.LabelEmbedding(self.num_classes, 2)(labels)], axis=-1)
        x = nn.Dense(2 * 2 * 4, use_bias=False)(z).reshape(-1, 2, 2, 4)
        x = nn.relu(layers.BatchNorm()(x, train=train))
        return jnp.tanh(
            layers.ConvTranspose(1, (4, 4), 2, kernel_init=nn.initializers.normal(0.3))(x)
        )


class Discriminator(nn.Module):
    num_classes: int = 0
    batch_norm: bool = True

    @nn.compact
    def __call__(self, images, labels=None, *, train):
        x = layers.Conv(4, (3, 3), 2, kernel_init=nn.initializers.normal(0.3), use_bias=False)(
            images
        )
        if self.batch_norm:
            x = layers.BatchNorm()(x, train=train)
        x = nn.leaky_relu(x).reshape(x.shape[0], -1)
        if self.num_classes:
            x = x * (1 + layers.LabelEmbedding(self.num_classes, x.shape[-1])(labels))
        return nn.Dense(1)(x)


def classes_flip_shared_fakes():
    return ganjax.gan(
        Generator(CLASSES),
        Discriminator(CLASSES),
        latents=latents.normal(3),
        generator_optimizer=optax.sgd(0.03),
        discriminator_optimizer=optax.sgd(0.03),
        share_fakes=True,
        augment=augment.horizontal_flip(),
        num_classes=CLASSES,
        ema_half_life_images=10.0,
        ema_ramp_up=0.5,
    )


def penalties_and_everything_repeated():
    return ganjax.gan(
        Generator(),
        Discriminator(batch_norm=False),
        latents=latents.uniform(3),
        loss=losses.relativistic,
        generator_optimizer=Optimizer(optax.identity(), 0.03),
        discriminator_optimizer=Optimizer(optax.identity(), 0.03),
        discriminator_terms=[
            Term("gp", penalties.gradient_penalty, 1.0),
            Term("r1", penalties.r1, 0.1, 2),
        ],
        joint_pass=True,
        discriminator_steps=2,
        micro_batches=2,
    )


class StyleGenerator(nn.Module):
    """Latents -> styles -> images, with a tracked mean of the styles and noise per example."""

    num_classes: int

    def setup(self):
        self.embedding = layers.LabelEmbedding(self.num_classes, 2)
        self.first, self.last = nn.Dense(4), nn.Dense(16)
        self.mean = self.variable("style_mean", "mean", jnp.zeros, 4)

    def map(self, z, labels=None, *, train=False, truncation=1.0):
        styles = jnp.tanh(self.first(jnp.concatenate([z, self.embedding(labels)], axis=-1)))
        if train:
            batch_mean = axes.global_mean(jnp.mean(styles, axis=0))
            self.mean.value = 0.9 * self.mean.value + 0.1 * batch_mean
        return (self.mean.value + truncation * (styles - self.mean.value))[:, None]

    def synthesize(self, styles):
        noise = axes.draw(
            lambda key, n: jax.random.normal(key, (n, 4, 4, 1)),
            self.make_rng("noise"),
            styles.shape[0],
        )
        return jnp.tanh(self.last(styles[:, 0] ** 2).reshape(-1, 4, 4, 1) + 0.1 * noise)

    def __call__(self, z, labels=None, *, train=False):
        return self.synthesize(self.map(z, labels, train=train))


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.leaky_relu(nn.Dense(8)(images.reshape(images.shape[0], -1)))
        return DiscriminatorOutput(nn.Dense(1)(x)[:, 0], nn.Dense(CLASSES)(x))


def styles_and_terms_that_remember():
    return ganjax.gan(
        StyleGenerator(CLASSES),
        Classifier(),
        latents=latents.normal(3),
        generator_optimizer=optax.sgd(0.03),
        discriminator_optimizer=optax.sgd(0.03),
        generator_terms=[
            Term("path_length", penalties.path_length(decay=0.3, batch_shrink=2), 2.0, 2),
            Term("classes", penalties.classify_generated, 0.1),
        ],
        discriminator_terms=[Term("real", penalties.classify_real_and_fake, 1.0)],
        generator_batch_multiplier=2,
        num_classes=CLASSES,
        ema_half_life_images=10.0,
        schedules={"real": lambda step: 1.0 / (1.0 + step)},
    )


CASES = {
    case.__name__: case for case in (classes_flip_shared_fakes, penalties_and_everything_repeated)
}
SLOW_CASES = {"styles_and_terms_that_remember": styles_and_terms_that_remember}


def compile_step(algorithm, mesh, layout):
    if layout != "check_vma":
        return sharding.train_step(algorithm, mesh, layout, donate=False)
    # What a user writes who has a shard_map of their own.
    step = jax.shard_map(
        algorithm.train_step,
        mesh=mesh,
        in_specs=(PartitionSpec(), sharding.batch_spec(algorithm.batches_per_step)),
        out_specs=PartitionSpec(),
    )
    return jax.jit(step)


def batch_of(steps, seed):
    random = np.random.default_rng(seed)
    leading = (BATCH,) if steps == 1 else (steps, BATCH)
    return {
        "image": random.integers(0, 256, (*leading, 4, 4, 1), dtype=np.uint8),
        "label": random.integers(0, CLASSES, leading).astype(np.int32),
    }


def distance(ours, reference):
    """Return the largest relative L2 distance between two leaves."""
    return max(
        float(np.linalg.norm(np.asarray(a, np.float64) - b) / (np.linalg.norm(b) + 1e-6))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True)
    )


def compare_steps(name, mesh):
    algorithm = {**CASES, **SLOW_CASES}[name]()
    k = algorithm.batches_per_step
    batches = [batch_of(k, seed) for seed in range(STEPS)]
    initial = jax.jit(algorithm.init)(jax.random.key(0))

    def run(step, state, place):
        for batch in batches:
            state, metrics = step(state, place(batch))
            jax.block_until_ready(metrics)  # more virtual devices than cores can deadlock
        state = jax.device_get(state.replace(key=0))
        parts = {"players": state.players, "ema": state.ema, "running": state.running}
        return {n: v for n, v in parts.items() if v} | {"metrics": jax.device_get(metrics)}

    reference = run(jax.jit(algorithm.train_step), initial, lambda batch: batch)
    before = jax.device_get({n: p.params for n, p in initial.players.items()})
    after = {n: p.params for n, p in reference["players"].items()}
    moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), before, after)
    result = {"moved": min(max(jax.tree.leaves(player)) for player in moved.values())}
    for layout in LAYOUTS:
        ours = run(
            compile_step(algorithm, mesh, layout),
            sharding.replicate(initial, mesh),
            lambda batch: sharding.shard_batch(batch, mesh, k),
        )
        result[layout] = {part: distance(ours[part], reference[part]) for part in reference}
    return result


def compare_axes(mesh):
    """Compare `ganjax.axes` and `ganjax.ops` on shares with the whole, with SGD's raw gradients."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(BATCH, 4, 4, 2)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(3, 3, 2, 3)), jnp.float32)

    def loss(kernel, x):
        y = ops.conv(x, kernel, strides=2)
        y = ops.conv_transpose(jnp.tanh(y), jnp.swapaxes(kernel, -1, -2), strides=2)
        return jnp.mean(jnp.sin(y)), {"scale": jnp.mean(y**2)}

    def with_penalty(kernel, x):
        value, auxiliary = loss(kernel, x)
        slope = jax.grad(lambda x: x.shape[0] * loss(kernel, x)[0])(x)
        return value + jnp.mean(slope**2), auxiliary

    def everything(kernel, x):
        (value, auxiliary), gradient = axes.value_and_grad(with_penalty)(kernel, x)
        drawn = axes.draw(lambda key, n: jax.random.normal(key, (n,)), jax.random.key(3), len(x))
        return {
            "value": value,
            "gradient": gradient,
            "auxiliary": axes.global_mean(auxiliary),
            "drawn": axes.global_mean(jnp.mean(drawn * x[:, 0, 0, 0])),
            "images": jnp.float32(len(x) * axes.num_shares()),
        }

    expected = jax.jit(everything)(kernel, x)
    result = {}
    for check_vma in (True, False):
        step = jax.jit(
            jax.shard_map(
                everything,
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec(sharding.AXIS)),
                out_specs=PartitionSpec(),
                check_vma=check_vma,
            )
        )
        ours = step(kernel, x)
        result[str(check_vma)] = {name: distance(ours[name], expected[name]) for name in expected}
    return result


def describe_placement(mesh):
    """Return what the sentences say and where arrays lie."""
    sentences = {}
    algorithm = classes_flip_shared_fakes()
    step = sharding.train_step(algorithm, mesh, "pmap")
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    for name, call in {
        "shard_batch": lambda: sharding.shard_batch({"image": np.zeros((20, 4, 4, 1))}, mesh),
        "stacked": lambda: sharding.shard_batch({"image": np.zeros((8, 3, 4, 4, 1))}, mesh, 8),
        "pmap": lambda: step(state, {"image": np.zeros((6, 4, 4, 1))}),
    }.items():
        try:
            call()
        except InputError as error:
            sentences[name] = str(error)
    stacked = sharding.shard_batch({"image": np.zeros((2, BATCH, 3))}, mesh, 2)["image"]
    return {
        "sentences": sentences,
        "share": stacked.addressable_shards[0].data.shape,
        "replica": sharding.replicate(np.zeros(3), mesh).addressable_shards[7].data.shape,
    }


def main():
    jax.config.update("jax_num_cpu_devices", DEVICES)
    mesh = sharding.make_mesh()
    assert mesh.size == DEVICES
    names = sys.argv[1:]
    results = {name: compare_steps(name, mesh) for name in names if name != "axes"}
    if "axes" in names:
        results |= {"axes": compare_axes(mesh), **describe_placement(mesh)}
    print(json.dumps(results))


def measure(*names):
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(ganjax.__file__)))
    environment = {
        **os.environ,
        "PYTHONPATH": checkout,
        "NPROC": "64",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    process = subprocess.run(
        [sys.executable, __file__, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def measured():
    return measure("axes")


@pytest.fixture(scope="module")
def compared():
    return measure(*CASES)


def check(result, layout):
    assert result["moved"] > 1e-2
    assert set(result[layout]) >= {"players", "metrics"}
    for part, error in result[layout].items():
        assert error < 1e-5, (part, error)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_layouts_train_like_one_device(case, layout, compared):
    check(compared[case], layout)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES)
def test_more_layouts_train_like_one_device(case):
    result = measure(case)[case]
    for layout in LAYOUTS:
        check(result, layout)


@pytest.mark.parametrize("check_vma", ["True", "False"])
def test_gradients_means_and_draws_of_shares_are_those_of_the_whole(check_vma, measured):
    for name, error in measured["axes"][check_vma].items():
        assert error < 2e-6, (name, error)


def test_a_batch_that_does_not_divide_is_named(measured):
    sentence = "a batch of {} does not divide over 8 devices; take a multiple of 8, such as {}"
    assert measured["sentences"] == {
        "shard_batch": sentence.format(20, 16),
        "stacked": sentence.format(3, 8),
        "pmap": sentence.format(6, 8),
    }


def test_arrays_are_split_and_replicated(measured):
    assert measured["share"] == [2, 2, 3]
    assert measured["replica"] == [3]


def test_layouts_are_named():
    mesh = sharding.make_mesh(jax.devices()[:1])
    with pytest.raises(InputError, match="one of jit, shard_map, pmap; got 'fsdp'"):
        sharding.train_step(classes_flip_shared_fakes(), mesh, "fsdp")
    with pytest.raises(ValueError, match="use train_step"):
        sharding.spread(classes_flip_shared_fakes(), mesh, "pmap")


@pytest.mark.parametrize("donate", [True, False])
def test_donation_is_a_choice(donate):
    mesh = sharding.make_mesh(jax.devices()[:1])

    class Counter:
        batches_per_step = 1

        def train_step(self, state, batch):
            return state + 1, {"size": jnp.float32(batch["x"].shape[0])}

    step = sharding.train_step(Counter(), mesh, donate=donate)
    state = sharding.replicate(jnp.zeros(3), mesh)
    after, metrics = step(state, sharding.shard_batch({"x": np.zeros(4)}, mesh))
    assert state.is_deleted() == donate
    assert metrics["size"] == 4
    assert after.sharding == NamedSharding(mesh, PartitionSpec())


def test_the_bytes_of_a_state_are_counted():
    algorithm = classes_flip_shared_fakes()
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    without_key = jax.tree.leaves(state.replace(key=()))
    expected = sum(4 * int(np.prod(a.shape)) for a in without_key)
    assert sharding.state_bytes(state) == expected + state.key.dtype.itemsize


if __name__ == "__main__":
    main()
