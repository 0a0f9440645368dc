"""The residual families: their parts, their sizes, and what holds in every shape and layout."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ganjax import axes, ops, sharding
from ganjax.networks import attention, biggan, layers, normalization, sagan, sngan, wgan_gp
from ganjax.networks.layers import as_network
from ganjax.networks.resampling import _transposed, resampled_conv
from ganjax.types import InputError

KEY = jax.random.key(0)
TINY = {"generator_width": 2, "discriminator_width": 2}
FAMILIES = {
    "wgan_gp": wgan_gp.WGANGP(latent_dim=6, **TINY),
    "sngan": sngan.SNGAN(latent_dim=6, **TINY),
    "sagan": sagan.SAGAN(latent_dim=6, **TINY),
    "biggan": biggan.BigGAN(latent_dim=12, shared_dim=5, attention="8", **TINY),
}


def initialised(networks, shape, labels, quick_jit, batch=4):
    """Return the two networks, variables and latents; nothing that starts at zero is zero."""
    generator, discriminator = (as_network(networks[n]) for n in ("generator", "discriminator"))
    z = networks["latents"].sample(KEY, batch)

    def init():
        images = jnp.zeros((batch, *shape))
        return generator.init(KEY, z, labels), discriminator.init(KEY, images, labels)

    def stir(path, value):
        stirred = any(name in jax.tree_util.keystr(path) for name in ("gamma", "embedding"))
        return value + 0.3 * jax.random.normal(KEY, value.shape) if stirred else value

    variables = jax.tree_util.tree_map_with_path(stir, quick_jit(init)())
    return generator, discriminator, *variables, z


def count(settings, shape, num_classes):
    networks = settings.build(shape, num_classes, jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32) if num_classes else None
    sizes = []
    for name, inputs in (("generator", (networks["latents"].dimension,)), ("discriminator", shape)):
        inputs = jax.ShapeDtypeStruct((2, *inputs), jnp.float32)
        variables = jax.eval_shape(as_network(networks[name]).init, KEY, inputs, labels)
        sizes.append(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])))
    return tuple(sizes)


def conv_size(inputs, outputs, size=3):
    return size * size * inputs * outputs + outputs


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (5, 1)])
def test_resampled_convolutions_are_the_two_steps_in_one(kernel_size, quick_jit):
    x = jax.random.normal(KEY, (2, 4, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (*kernel_size, 3, 5))

    @quick_jit
    def run(x, kernel):
        expected = ops.conv(ops.upsample(x), kernel), ops.downsample(ops.conv(x, kernel))
        return expected, [resampled_conv(x, kernel, way) for way in ("up", "down")]

    for expected, result in zip(*run(x, kernel), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_the_other_platforms_double_as_the_cpu_does(quick_jit):
    x = jax.random.normal(KEY, (2, 4, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    padded = kernel
    for axis in (0, 1):
        edges = [(0, 1) if d == axis else (0, 0) for d in range(4)]
        padded = jnp.pad(padded, edges) + jnp.pad(padded, [edge[::-1] for edge in edges])
    expected = quick_jit(lambda x: resampled_conv(x, kernel, "up"))(x)
    np.testing.assert_allclose(quick_jit(_transposed)(x, padded), expected, rtol=1e-4, atol=1e-4)
    exported = jax.jit(lambda x: resampled_conv(x, kernel, "up")).trace(x)
    text = exported.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") == 1


def test_resampled_convolutions_refuse_what_they_cannot():
    x, kernel = jnp.ones((1, 4, 5, 1)), jnp.ones((3, 3, 1, 1))
    with pytest.raises(ValueError, match=r"2 does not divide .*\(1, 4, 5, 1\)"):
        resampled_conv(x, kernel, "down")
    with pytest.raises(ValueError, match=r"odd sizes, got \(2, 3\)"):
        resampled_conv(x, jnp.ones((2, 3, 1, 1)), "up")
    with pytest.raises(ValueError, match="resample has to be"):
        resampled_conv(x, kernel, "sideways")


def test_batch_norm_keeps_the_unbiased_variance():
    x = 3 + 2 * jax.random.normal(KEY, (4, 2, 1, 5))
    module = normalization.ConditionalBatchNorm()
    variables = module.init(KEY, x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(5))
    y, updated = module.apply(variables, x, train=True, mutable="batch_stats")
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-3)
    mean, variance = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2), ddof=1)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * variance, rtol=1e-4)
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(
        module.apply({**variables, **updated}, x, train=False), expected, rtol=1e-4, atol=1e-4
    )


def test_standing_statistics_come_from_zeroed_ones():
    x = jax.random.normal(KEY, (8, 2, 2, 3))
    for module in (normalization.ConditionalBatchNorm(), layers.BatchNorm()):
        variables = module.init(KEY, x, train=True)
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        stored = {**variables, "batch_stats": zeros}
        _, updated = module.apply(stored, x, train=True, mutable="batch_stats")
        stats = jax.tree.map(lambda s: s / (1 - layers.MOMENTUM), updated["batch_stats"])
        mean, variance = jax.tree.leaves(stats)
        np.testing.assert_allclose(mean, np.mean(x, (0, 1, 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance, np.var(x, (0, 1, 2)), rtol=0.05)


def test_conditions_choose_scale_and_shift():
    x = jax.random.normal(KEY, (3, 2, 2, 4))
    labels = jnp.array([2, 0, 1])
    module = normalization.ConditionalBatchNorm(3, kernel_init=jax.nn.initializers.normal(1.0))
    variables = module.init(KEY, x, labels, train=False)
    y = module.apply(variables, x, labels, train=False)
    gain = variables["params"]["gain"]["embedding"][labels][:, None, None]
    bias = variables["params"]["bias"]["embedding"][labels][:, None, None]
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5) * (1 + gain) + bias, rtol=1e-4, atol=1e-5)
    mixed = module.apply(variables, x, jax.nn.one_hot(labels, 3), train=False)
    np.testing.assert_allclose(mixed, y, rtol=1e-4, atol=1e-5)
    fresh = normalization.ConditionalBatchNorm(3)
    at_first = fresh.apply(fresh.init(KEY, x, labels, train=False), x, labels, train=False)
    np.testing.assert_allclose(at_first, x, rtol=1e-4)


def test_attention_is_what_it_says():
    x = jax.random.normal(KEY, (2, 4, 6, 16))
    module = attention.SelfAttention(kernel_init=jax.nn.initializers.normal(0.3))
    variables = module.init(KEY, x)
    np.testing.assert_array_equal(module.apply(variables, x), x)
    params = {**variables["params"], "gamma": jnp.float32(0.7)}
    f, g, h, o = (np.asarray(params[n]["kernel"][0, 0]) for n in "fgho")
    assert [w.shape for w in (f, g, h, o)] == [(16, 2), (16, 2), (16, 8), (8, 16)]

    def pooled(a):
        return a.reshape(2, 2, 2, 3, 2, -1).max((2, 4)).reshape(2, 6, -1)

    flat = np.asarray(x).reshape(2, 24, 16)
    scores = flat @ f @ pooled(np.asarray(x @ g)).swapaxes(1, 2)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = flat + 0.7 * (weights @ pooled(np.asarray(x @ h)) @ o)
    result = module.apply({"params": params}, x)
    np.testing.assert_allclose(result.reshape(2, 24, 16), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="pools 2x2 positions"):
        module.init(KEY, x[:, :1])


@pytest.mark.slow
def test_attention_can_be_differentiated_twice(quick_jit):
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    module = attention.SelfAttention(kernel_init=jax.nn.initializers.normal(0.3))
    params = {**module.init(KEY, x)["params"], "gamma": jnp.float32(1.0)}

    def penalty(x):
        gradient = jax.grad(lambda x: jnp.sum(module.apply({"params": params}, x) ** 2))(x)
        return jnp.sum(gradient**2)

    value = quick_jit(penalty)
    direction = jax.random.normal(jax.random.key(1), x.shape)
    slope = jnp.sum(quick_jit(jax.grad(penalty))(x) * direction)
    step = 1e-2
    numeric = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=2e-2)


def test_a_generator_is_the_one_of_the_papers():
    # z to 4x4x256, three doublings at 256, batch norm, 3x3 to RGB.
    block = 2 * conv_size(256, 256) + conv_size(256, 256, 1) + 4 * 256
    generator = 129 * 4 * 4 * 256 + 3 * block + 2 * 256 + conv_size(256, 3)
    first = conv_size(3, 128) + conv_size(128, 128) + conv_size(3, 128, 1)
    halving = 2 * conv_size(128, 128) + conv_size(128, 128, 1)
    discriminator = first + halving + 2 * 2 * conv_size(128, 128) + 129
    assert count(sngan.SNGAN(), (32, 32, 3), 0) == (generator, discriminator)
    # Each of the six conditional norms has a table of ten instead of one scale and shift.
    conditional = generator + 9 * 6 * 2 * 256, discriminator + 10 * 128
    assert count(sngan.SNGAN(), (32, 32, 3), 10) == conditional
    narrow = 2 * conv_size(128, 128) + conv_size(128, 128, 1) + 4 * 128
    generator = 129 * 4 * 4 * 128 + 3 * narrow + 2 * 128 + conv_size(128, 3)
    assert count(wgan_gp.WGANGP(), (32, 32, 3), 0) == (generator, discriminator)
    assert count(wgan_gp.WGANGP(), (32, 32, 3), 10)[1] == discriminator + 129 * 10


def test_biggan_has_the_official_number_of_parameters():
    # As compare_gan asserts for the discriminator and BigGAN-PyTorch states for both.
    assert count(biggan.BigGAN(), (128, 128, 3), 1000) == (70_433_988, 87_982_370)
    official = biggan.BigGAN(128, "normal", 64, 64, shared=False, hierarchical=False, attention="0")
    generator, discriminator = count(official, (32, 32, 3), 10)
    assert round(generator / 1e6, 1) == 4.3  # issue 78 of BigGAN-PyTorch
    assert round(discriminator / 1e6, 1) == 4.2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("blocks", "shape"), [(4, (64, 64, 3)), (5, (128, 128, 3)), (6, (256, 256, 3))]
)
def test_larger_images_have_the_papers_channels(family, blocks, shape):
    networks = dataclasses.replace(FAMILIES[family], latent_dim=210).build(shape, 0, jnp.float32)
    generator = {
        "wgan_gp": {4: (8, 8, 4, 2, 1), 5: (8, 8, 8, 4, 2, 1), 6: (8, 8, 8, 8, 4, 2, 1)},
        "biggan": {
            4: (16, 16, 8, 4, 2),
            5: (16, 16, 8, 4, 2, 1),
            6: (16, 16, 8, 8, 4, 2, 1),
        },
    }.get(family, {4: (16, 8, 4, 2, 1), 5: (16, 16, 8, 4, 2, 1), 6: (16, 16, 16, 8, 4, 2, 1)})
    discriminator = {
        "wgan_gp": {4: (2, 4, 8, 8), 5: (2, 4, 8, 8, 8), 6: (2, 4, 8, 8, 8, 8)},
        "biggan": {
            4: (1, 2, 4, 8, 16),
            5: (1, 2, 4, 8, 16, 16),
            6: (1, 2, 4, 8, 8, 16, 16),
        },
    }.get(family, {4: (1, 2, 4, 8, 16), 5: (1, 2, 4, 8, 16, 16), 6: (1, 2, 4, 8, 16, 16, 16)})
    assert networks["generator"].channels == tuple(2 * c for c in generator[blocks])
    assert networks["discriminator"].channels == tuple(2 * c for c in discriminator[blocks])
    assert networks["discriminator"].num_halvings == blocks


def test_attention_follows_the_map_that_is_asked_for():
    def blocks(attention, side):
        networks = sagan.SAGAN(attention=attention).build((side, side, 3), 0, jnp.float32)
        return networks["generator"].attention, networks["discriminator"].attention

    assert blocks("auto", 32) == ((1,), (0,))
    assert blocks("auto", 128) == ((2,), (1,))
    assert blocks("16_64", 128) == ((1, 3), (0, 2))
    assert blocks("0", 128) == ((), ())
    with pytest.raises(InputError, match=r"resolutions joined by \"_\".* got 'a lot'"):
        blocks("a lot", 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "shape", "num_classes"),
    [(family, (8, 20, 1), 3) for family in FAMILIES] + [("sngan", (8, 8, 2), 0)],
)
def test_any_size_and_number_of_channels(family, shape, num_classes, quick_jit):
    networks = FAMILIES[family].build(shape, num_classes, jnp.float32)
    labels = jnp.array([0, 1, 2, 0]) if num_classes else None
    generator, discriminator, g, d, z = initialised(networks, shape, labels, quick_jit)

    @quick_jit
    def run(labels, labels_in_the_discriminator):
        images, g_updated = generator.apply(g, z, labels, train=True)
        output, d_updated = discriminator.apply(d, images, labels_in_the_discriminator, train=True)
        return images, output, g_updated, d_updated

    images, output, g_updated, d_updated = run(labels, labels)
    assert images.shape == (4, *shape)
    assert images.dtype == output.logits.dtype == jnp.float32
    assert np.abs(images).max() <= 1
    assert output.logits.shape == (4,)
    auxiliary = num_classes and family == "wgan_gp"
    assert (output.class_logits is not None) == bool(auxiliary)
    assert ("spectral" in g) == (family in ("sagan", "biggan"))
    assert ("spectral" in d) == (family != "wgan_gp")
    assert "batch_stats" not in d
    for old, new in ((g, g_updated), (d, d_updated)):
        others = {name: value for name, value in old.items() if name != "params"}
        assert jax.tree.structure(others) == jax.tree.structure(new)
        changed = jax.tree_util.tree_map_with_path(
            lambda path, a, b: bool(np.any(a != b)) or "sigma" in jax.tree_util.keystr(path),
            others,
            new,
        )
        assert all(jax.tree.leaves(changed)), changed
    if not num_classes:
        return
    other_images = run(labels[::-1], labels)[0]
    assert np.abs(other_images - images)[1:3].max() > 1e-3
    other = run(labels, labels[::-1])[1]
    if auxiliary:
        assert output.class_logits.shape == (4, 3)
        np.testing.assert_array_equal(other.logits, output.logits)
    else:
        np.testing.assert_allclose(other.logits[::3], output.logits[::3], rtol=1e-5)
        assert np.abs(other.logits - output.logits)[1:3].max() > 1e-5
        with pytest.raises(ValueError, match="3 classes needs labels"):
            jax.eval_shape(run, labels, None)
    with pytest.raises(ValueError, match="3 classes needs labels"):
        jax.eval_shape(run, None, labels)
    if family == "sagan":
        vectors = jax.nn.one_hot(labels, 3)
        soft = run(vectors, vectors)
        np.testing.assert_allclose(soft[0], images, atol=1e-5)
        np.testing.assert_allclose(soft[1].logits, output.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_each_block_of_biggan_has_a_piece_of_the_latent(quick_jit):
    networks = FAMILIES["biggan"].build((16, 16, 1), 0, jnp.float32)
    generator, _, g, _, z = initialised(networks, (16, 16, 1), None, quick_jit)
    assert z.shape[1] == 12  # four for the first layer and for each of two blocks
    generate = quick_jit(lambda z: generator.apply(g, z, train=False)[0])
    images = generate(z)
    for start in (0, 4, 8):
        moved = generate(z.at[:, start : start + 4].add(1.0))
        assert np.abs(moved - images).max() > 1e-3
    gain = g["params"]["block1"]["norm1"]["gain"]["kernel"]
    assert gain.shape[0] == 4


def test_bad_settings_are_one_sentence():
    def build(settings, shape, num_classes=0):
        return settings.build(shape, num_classes, jnp.float32)

    with pytest.raises(InputError, match=r"multiples of 4; got \(30, 30\), resize the images"):
        build(sngan.SNGAN(), (30, 30, 3))
    with pytest.raises(InputError, match=r"at least 8x8 pixels, but the data has \(6, 32\)"):
        build(wgan_gp.WGANGP(), (6, 32, 3))
    with pytest.raises(InputError, match=r"sagan makes images .* take the mlp"):
        build(sagan.SAGAN(), (2,))
    with pytest.raises(InputError, match="4 pieces, which do not divide a latent_dim of 30"):
        build(biggan.BigGAN(latent_dim=30), (32, 32, 3))
    with pytest.raises(InputError, match="set shared to true or hierarchical to false"):
        build(biggan.BigGAN(shared=False), (32, 32, 3), 10)
    with pytest.raises(InputError, match="initializer has to be one of orthogonal, normal, glorot"):
        build(biggan.BigGAN(initializer="zeros"), (32, 32, 3))
    with pytest.raises(InputError, match="below 1024 pixels; make the images smaller"):
        build(biggan.BigGAN(latent_dim=90), (1024, 1024, 3))
    for settings in FAMILIES.values():
        with pytest.raises(InputError, match="conditioning has to be one of projection, auxiliary"):
            build(type(settings)(conditioning="telepathy"), (32, 32, 3))


@pytest.mark.slow
def test_half_precision_is_near(quick_jit):
    shape, labels = (8, 8, 2), jnp.arange(8) % 3

    def run(dtype):
        networks = FAMILIES["biggan"].build(shape, 3, dtype)
        generator, discriminator, g, d, z = initialised(networks, shape, labels, quick_jit, 8)

        @quick_jit
        def judged():
            images, updated = generator.apply(g, z, labels, train=True)
            return images, discriminator.apply(d, images, labels, train=True)[0].logits, updated

        results = g, d, *judged()
        assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(jnp.float32)}
        return results[2:4]

    for half, single in zip(run(jnp.bfloat16), run(jnp.float32), strict=True):
        assert 1e-6 < np.linalg.norm(half - single) / np.linalg.norm(single) < 0.05


def compare_layouts():
    """Print how far each layout is from one device: results, statistics and gradients."""
    shape, labels = (8, 8, 1), jnp.arange(8) % 3
    # Attention does not mix examples.
    settings = dataclasses.replace(FAMILIES["biggan"], attention="0")
    networks = settings.build(shape, 3, jnp.float32)
    generator, discriminator, g, d, z = initialised(networks, shape, labels, jax.jit, 8)

    def loss(params, others, z, labels):
        images, g_others = generator.apply(
            {"params": params[0], **others[0]}, z, labels, train=True
        )
        output, d_others = discriminator.apply(
            {"params": params[1], **others[1]}, images, labels, train=True
        )
        return jnp.mean(output.logits**2), (g_others, d_others)

    def step(params, others, z, labels):
        (value, others), gradients = axes.value_and_grad(loss)(params, others, z, labels)
        return value, others, gradients

    params = g["params"], d["params"]
    others = tuple({k: v for k, v in tree.items() if k != "params"} for tree in (g, d))
    expected = jax.jit(step)(params, others, z, labels)
    mesh = sharding.make_mesh(jax.devices())
    split, same = PartitionSpec("data"), PartitionSpec()
    differences = {}
    for check_vma in (False, True):
        mapped = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(same, same, split, split),
            out_specs=same,
            check_vma=check_vma,
        )
        result = jax.jit(mapped)(params, others, z, labels)
        errors = jax.tree.map(
            lambda a, b: float(np.linalg.norm(a - b) / (0.1 + np.linalg.norm(b))),
            jax.device_get(result),
            jax.device_get(expected),
        )
        differences[str(check_vma)] = max(jax.tree.leaves(errors))
    print(json.dumps(differences))


@pytest.mark.slow
def test_layouts_agree():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    run = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    differences = json.loads(run.stdout.splitlines()[-1])
    assert set(differences) == {"False", "True"}
    assert max(differences.values()) < 1e-4, differences


if __name__ == "__main__":
    compare_layouts()
