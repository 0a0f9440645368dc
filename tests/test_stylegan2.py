"""StyleGAN2: the official numbers, and what holds in every form, size, layout and precision."""

import functools
import json
import math
import os
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_vectors
from jax.sharding import PartitionSpec
from reference_vectors import nchw, nhwc, relative_error

import ganjax
from ganjax import interop, penalties, sharding
from ganjax.interop import stylegan2 as official_stylegan2
from ganjax.networks import stylegan2, stylegan2_layers
from ganjax.networks.layers import as_network
from ganjax.types import InputError

REFERENCE = "stylegan2_cond32"
KEY = jax.random.key(0)
SMALL = {"z_dim": 8, "w_dim": 12, "mapping_layers": 2, "channel_base": 64, "channel_max": 8}


def small(shape=(16, 16, 3), num_classes=0, dtype=jnp.float32, **options):
    return stylegan2.StyleGAN2(**{**SMALL, **options}).build(shape, num_classes, dtype)


def filled(module, inputs, labels=None):
    """Return variables of ordinary sizes; nothing is zero."""

    def fill(path, shape):
        name = jax.tree_util.keystr(path)
        values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape.shape)
        if "bias" in name or "strength" in name or "mean" in name:
            values = 0.2 * values + ("affine" in name)
        return jnp.asarray(
            100 * values if "fc" in name and "mapping" in name else values, jnp.float32
        )

    shapes = jax.eval_shape(as_network(module).init, KEY, inputs, labels)
    return jax.tree_util.tree_map_with_path(fill, dict(shapes))


def initialised(networks, labels=None, batch=4):
    """Return both networks' variables and a batch of latents."""
    z = jax.random.normal(KEY, (batch, networks["generator"].z_dim))
    images = jnp.zeros((batch, *networks["generator"].image_shape))
    generator = filled(networks["generator"], z, labels)
    return generator, filled(networks["discriminator"], images, labels), z


def run(module, variables, *inputs, rngs=None, **static):
    """Apply a module, compiled once for the same arguments."""
    return _run(module, tuple(sorted(static.items())), variables, inputs, rngs)


@functools.partial(
    jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0}
)
def _run(module, static, variables, inputs, rngs):
    return module.apply(variables, *inputs, rngs=rngs, **dict(static))


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def official():
    config, state_dict = reference_vectors.weights(REFERENCE)
    return interop.import_state_dict("stylegan2", config, state_dict), state_dict


@pytest.fixture(scope="module")
def arrays():
    return reference_vectors.arrays(REFERENCE)


def test_styles_are_the_official_ones(official, arrays):
    gan, _ = official
    styles = gan.map(arrays["z"], arrays["label"])
    truncated = gan.map(arrays["z"], arrays["label"], truncation=0.7)
    assert relative_error(styles, arrays["ws"]) < 1e-5
    assert relative_error(truncated, arrays["ws_psi07"]) < 1e-5
    integers = np.argmax(arrays["label"], axis=1).astype(np.int32)
    np.testing.assert_allclose(gan.map(arrays["z"], integers), styles, rtol=1e-6)


def test_images_are_the_official_ones(official, arrays):
    gan, _ = official
    for noise, expected in (("const", "image_const_noise"), ("none", "image_no_noise")):
        images = gan.generate(arrays["z"], arrays["label"], noise=noise)
        assert relative_error(nchw(images), arrays[expected]) < 1e-5
    images = gan.synthesize(arrays["ws"], noise="const")
    assert relative_error(nchw(images), arrays["image_const_noise"]) < 1e-5


@pytest.mark.slow
def test_logits_and_the_gradient_penalty_are_the_official_ones(official, arrays, quick_jit):
    gan, _ = official
    images, labels = nhwc(arrays["x"]), arrays["label"]
    assert relative_error(gan.discriminate(images, labels), arrays["logits"][:, 0]) < 1e-5

    def penalty(params):
        variables = {**gan.discriminator_variables, "params": params}

        def logits(images):
            return gan.discriminator.apply(variables, images, labels).logits

        slopes = jax.grad(lambda images: jnp.sum(logits(images)))(images)
        values = jnp.sum(jnp.square(slopes), axis=(1, 2, 3))
        return jnp.mean(values), values

    gradients, values = quick_jit(jax.grad(penalty, has_aux=True))(
        gan.discriminator_variables["params"]
    )
    assert relative_error(values, arrays["r1_penalty"]) < 1e-5
    named = gan.to_state_dict({"discriminator": gradients})
    for name in ("b4.conv.weight", "b32.conv0.weight"):
        assert relative_error(named[f"D.{name}"], arrays[f"d_r1_mean/d_{name}"]) < 1e-4, name


@pytest.mark.slow
def test_path_lengths_are_the_official_ones_and_differentiable_again(official, arrays, quick_jit):
    gan, _ = official

    def lengths(params):
        variables = {**gan.generator_variables, "params": params}

        def synthesize(styles):
            return gan.generator.apply(variables, styles, noise="none", method="synthesize")

        # The stored noise is already divided by sqrt(H W).
        noise = 32 * nhwc(arrays["pl_noise"])
        lengths = penalties.path_lengths(synthesize, arrays["ws"], noise)
        return jnp.mean(lengths), lengths

    params = gan.generator_variables["params"]
    gradients, values = quick_jit(jax.grad(lengths, has_aux=True))(params)
    assert relative_error(values, arrays["path_lengths"]) < 1e-5

    # Euler: they are of degree one in what makes images of features, and of degree zero in kernels
    # that demodulation normalises.
    gradients, params = gradients["synthesis"], params["synthesis"]
    products = {
        name: jnp.vdot(gradients[name]["kernel"], params[name]["kernel"])
        for name in params
        if not name.endswith("const")
    }
    total = sum(value for name, value in products.items() if name.endswith("torgb"))
    np.testing.assert_allclose(total, jnp.mean(values), rtol=1e-5)
    for name in products:
        if name.endswith(("conv0", "conv1")):
            norms = [jnp.linalg.norm(tree[name]["kernel"]) for tree in (gradients, params)]
            assert norms[0] > 0
            assert abs(products[name]) < 1e-5 * norms[0] * norms[1], name


def test_names_go_out_as_they_came_in(official):
    gan, state_dict = official
    again = gan.to_state_dict(gan)
    assert set(again) == set(state_dict)
    for name, array in state_dict.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("architecture", ["orig", "resnet", "skip"])
def test_every_form_has_official_names(architecture):
    config = {
        **SMALL,
        "img_resolution": 16,
        "architecture": architecture,
        "d_architecture": architecture,
    }
    modules = official_stylegan2.networks(config)
    inputs = (jnp.zeros((2, 8)), jnp.zeros((2, 16, 16, 3)))
    for part, module, x in zip(("generator", "discriminator"), modules, inputs, strict=True):
        variables = jax.eval_shape(as_network(module).init, KEY, x)
        paths = {
            tuple(key.key for key in path)
            for path, _ in jax.tree_util.tree_leaves_with_path(variables)
        }
        table = official_stylegan2.names(config, part)
        assert paths == {entry.path for entry in table.values()} - {None}
        assert ("b8.skip.weight" in table) == (part == "discriminator" and architecture == "resnet")
        assert any(name.endswith("b16.resample_filter") for name in table)


def test_parameters_at_256x256():
    # The layers of the official summary for this size, as in
    # https://github.com/NVlabs/stylegan2-ada-pytorch/issues/182 and of its 1024x1024 networks.
    z, images = jnp.zeros((4, 512)), jnp.zeros((4, 256, 256, 3))
    networks = stylegan2.StyleGAN2().build((256, 256, 3), 0, jnp.float32)
    generator, discriminator = (
        jax.eval_shape(as_network(networks[part]).init, KEY, x)["params"]
        for part, x in (("generator", z), ("discriminator", images))
    )
    wide, narrow = 2622465, (1442561 + 721409 + 132099) + (426369 + 213249 + 66051)
    assert size(generator["mapping"]) == 8 * 262656
    assert size(generator["synthesis"]) == 8192 + 9 * wide + 5 * 264195 + narrow
    assert size(generator) == 30_034_338
    blocks = (512 + 32768 + 147584 + 295168) + (131072 + 590080 + 1180160)
    blocks += 4 * (262144 + 2 * 2359808)
    assert size(discriminator) == blocks + 2364416 + 4194816 + 513 == 28_864_129


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "shape", "num_classes"),
    [("orig", (8, 12, 1), 0), ("resnet", (14, 14, 4), 3), ("skip", (16, 8, 2), 0)],
)
def test_every_form_trains_at_any_size(architecture, shape, num_classes, quick_jit):
    networks = small(shape, num_classes, architecture=architecture, d_architecture=architecture)
    labels = jnp.array([0, 1, 2, 1]) % num_classes if num_classes else None
    generator, discriminator, z = initialised(networks, labels)

    def loss(params):
        images, updated = networks["generator"].apply(
            {**generator, "params": params[0]},
            z,
            labels,
            train=True,
            rngs={"noise": KEY},
            mutable=["style_mean"],
        )
        output = networks["discriminator"].apply({"params": params[1]}, images, labels, train=True)
        return jnp.sum(jnp.sin(output.logits)), (images, updated)

    gradients, (images, updated) = quick_jit(jax.grad(loss, has_aux=True))(
        (generator["params"], discriminator["params"])
    )
    assert images.shape == (4, *shape)
    assert images.dtype == jnp.float32
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient != 0), path
    assert updated["style_mean"]["mean"].shape == (12,)


@pytest.mark.parametrize(
    ("size", "near"),
    [((30, 30), "32x32"), ((4, 4), "8x8"), ((33, 64), "40x64"), ((100, 60), "104x64")],
)
def test_sizes_that_do_not_fit_are_refused_with_one_that_does(size, near):
    with pytest.raises(InputError, match=f"make them {near}"):
        small((*size, 3))
    stylegan2_layers.block_sizes(tuple(map(int, near.split("x"))))


@pytest.mark.slow
def test_truncation_goes_to_the_mean_image():
    networks = small()
    generator = networks["generator"]
    variables, _, z = initialised(networks)
    draw = functools.partial(run, generator, variables, noise="none")
    assert np.std(draw(z), axis=0).max() > 0.01
    mean = jnp.broadcast_to(variables["style_mean"]["mean"], (1, generator.num_styles, 12))
    expected = draw(mean, method="synthesize")
    np.testing.assert_allclose(draw(z, truncation=0.0), jnp.repeat(expected, 4, 0), atol=1e-5)

    styles = run(generator, variables, z, method="map")
    coarse = run(generator, variables, z, truncation=0.0, truncation_cutoff=3, method="map")
    np.testing.assert_array_equal(coarse[:, 3:], styles[:, 3:])
    np.testing.assert_allclose(coarse[:, :3], jnp.repeat(mean[:, :3], 4, 0), atol=1e-6)


def test_the_mean_style_follows_the_batch_in_training_only():
    networks = small(mean_decay=0.9)
    variables, _, z = initialised(networks)
    call = functools.partial(
        run, networks["generator"], variables, z, mutable="style_mean", method="map"
    )
    styles, same = call()
    np.testing.assert_array_equal(same["style_mean"]["mean"], variables["style_mean"]["mean"])
    # Mixing takes other styles for later layers, but the mean is that of the given latents.
    _, moved = call(train=True, rngs={"noise": KEY})
    expected = 0.9 * variables["style_mean"]["mean"] + 0.1 * jnp.mean(styles[:, 0], axis=0)
    np.testing.assert_allclose(moved["style_mean"]["mean"], expected, rtol=1e-5, atol=1e-6)


def test_styles_are_mixed_as_often_as_asked():
    networks = small(mixing_probability=0.75)
    variables, *_ = initialised(networks)
    z = jax.random.normal(KEY, (400, 8))
    call = functools.partial(run, networks["generator"], variables, z, method="map")
    mixed, plain = call(train=True, rngs={"noise": KEY}), call()
    assert mixed.shape == (400, 6, 12)
    kept = np.abs(mixed - plain).max(axis=2) < 1e-4
    np.testing.assert_array_equal(np.sort(kept, axis=1)[:, ::-1], kept)  # the first layers, always
    assert kept[:, 0].all()
    assert 0.65 < np.mean(~kept.all(axis=1)) < 0.85
    counts = np.bincount(kept.sum(axis=1), minlength=7)
    assert counts[0] == 0
    assert (counts[1:6] > 30).all()  # 60 expected of each
    with pytest.raises(ValueError, match=r"style mixing in training needs a random key"):
        call(train=True)


@pytest.mark.slow
def test_noise_modes():
    networks = small()
    variables, _, z = initialised(networks)
    z = jnp.repeat(z[:1], 2, axis=0)
    draw = functools.partial(run, networks["generator"], variables, z)
    first = draw(rngs={"noise": KEY})
    assert np.abs(first[0] - first[1]).max() > 1e-3
    assert np.abs(first - draw(rngs={"noise": jax.random.key(1)})).max() > 1e-3
    const, none = draw(noise="const"), draw(noise="none")
    np.testing.assert_allclose(const[0], const[1], atol=1e-5)
    assert np.abs(const - none).max() > 1e-3
    with pytest.raises(InputError, match="noise has to be one of random, const, none; got 'some'"):
        draw(noise="some")
    with pytest.raises(ValueError, match="random noise needs a random key"):
        draw()


@pytest.mark.slow
def test_a_modulated_convolution_is_one_with_kernels_of_their_own():
    x = jax.random.normal(KEY, (3, 5, 4, 6))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 6, 7))
    scales = 1 + jax.random.normal(jax.random.key(2), (3, 6))
    modulated_conv = jax.jit(stylegan2_layers.modulated_conv)
    ours = modulated_conv(x, kernel, scales)
    for example in range(3):
        own = kernel * scales[example, :, None]
        own = own / jnp.sqrt(jnp.sum(own**2, axis=(0, 1, 2)))
        expected = jax.jit(ganjax.ops.conv)(x[example : example + 1], own)
        np.testing.assert_allclose(ours[example : example + 1], expected, atol=1e-5)
    half = modulated_conv(x.astype(jnp.float16), 1e4 * kernel, 1e4 * scales)
    np.testing.assert_allclose(half, ours, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_low_precision_is_close(dtype):
    options = {"shape": (32, 32, 3), "low_precision_resolutions": 2}
    networks, low = small(**options), small(dtype=dtype, **options)
    generator, discriminator, z = initialised(networks)
    images = run(networks["generator"], generator, z, noise="const")
    ours = run(low["generator"], generator, z, noise="const")
    assert ours.dtype == jnp.float32
    assert 1e-5 < relative_error(ours, images) < 0.02
    logits = run(networks["discriminator"], discriminator, images).logits
    ours = run(low["discriminator"], discriminator, images).logits
    assert ours.dtype == jnp.float32
    assert 1e-5 < relative_error(ours, logits) < 0.05
    none = small(dtype=dtype, shape=(32, 32, 3), low_precision_resolutions=0, conv_clamp=None)
    exact = run(none["generator"], generator, z, noise="const")
    np.testing.assert_array_equal(exact, images)


def test_activations_are_clamped():
    x = jnp.array([-100.0, 1.0, 100.0])
    np.testing.assert_allclose(
        stylegan2_layers.activate(x, gain=0.5, clamp=8.0),
        [-4.0, 0.5 * math.sqrt(2), 4.0],
        rtol=1e-6,
    )


def test_groups_of_the_minibatch_stddev_are_the_official_ones():
    x = jax.random.normal(KEY, (6, 2, 3, 4))
    y = np.asarray(stylegan2_layers.minibatch_stddev(x, 3, train=True))
    np.testing.assert_array_equal(y[..., :4], x)
    for n in range(6):
        group = np.asarray(x)[n % 2 :: 2]
        expected = np.mean(np.sqrt(np.var(group, axis=0) + 1e-8))
        np.testing.assert_allclose(y[n, ..., 4], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="a batch of 5 does not divide into groups of 3"):
        stylegan2_layers.minibatch_stddev(x[:5], 3, train=True)
    assert stylegan2_layers.minibatch_stddev(x[:5], 3, train=False).shape == (5, 2, 3, 5)


def test_bad_input_is_named():
    networks = small(num_classes=3)
    variables, _, z = initialised(networks, jnp.zeros(4, jnp.int32))
    with pytest.raises(ValueError, match="a network with 3 classes needs labels"):
        networks["generator"].apply(variables, z)
    with pytest.raises(
        ValueError, match=r"integers \(B,\) or vectors \(B, 3\), got float32 \(4, 2\)"
    ):
        networks["generator"].apply(variables, z, jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"latents have to have shape \(B, 8\), got \(4, 9\)"):
        networks["generator"].apply(variables, jnp.zeros((4, 9)), jnp.zeros(4, jnp.int32))
    with pytest.raises(ValueError, match=r"styles have to have shape \(B, 6, 12\)"):
        networks["generator"].apply(variables, jnp.zeros((4, 8, 12)), method="synthesize")
    with pytest.raises(InputError, match="d_architecture has to be one of skip, resnet, orig"):
        small(d_architecture="residual")
    with pytest.raises(InputError, match="take the mlp"):
        small(shape=(2,))


def gradients_of(networks, generator, discriminator, key, inputs):
    """Return images, mean style and the gradients of a loss with R1 for a share of a batch."""
    z, labels = inputs["z"], inputs["labels"]
    (network, judge) = networks["generator"], networks["discriminator"]

    def loss(params, z, labels):
        images, updated = network.apply(
            {**generator, "params": params[0]},
            z,
            labels,
            train=True,
            rngs={"noise": key},
            mutable=["style_mean"],
        )

        def logits(images):
            return judge.apply({"params": params[1]}, images, labels, train=True).logits

        slopes = jax.grad(lambda images: jnp.sum(logits(images)))(images)
        penalty = jnp.sum(jnp.square(slopes), axis=(1, 2, 3))
        return jnp.mean(jnp.sin(logits(images)) + penalty), (images, updated)

    params = (generator["params"], discriminator["params"])
    (value, (images, updated)), gradients = ganjax.axes.value_and_grad(loss)(params, z, labels)
    return images, {"loss": ganjax.axes.global_mean(value), **updated}, gradients


def compare_layouts():
    mesh = sharding.make_mesh()
    assert mesh.size == 8
    networks = small((8, 8, 1), 2, mapping_layers=1, architecture="orig", d_architecture="orig")
    inputs = {
        "z": jax.random.normal(KEY, (16, 8)),
        "labels": jnp.arange(16, dtype=jnp.int32) % 2,
    }
    generator, discriminator, _ = initialised(networks, jnp.zeros(4, jnp.int32))
    compute = functools.partial(gradients_of, networks, generator, discriminator)
    expected = jax.device_get(jax.jit(compute)(KEY, inputs))
    result = {}
    for check_vma in (True, False):
        share = PartitionSpec(sharding.AXIS)
        step = jax.shard_map(
            compute,
            mesh=mesh,
            in_specs=(PartitionSpec(), share),
            out_specs=(share, PartitionSpec(), PartitionSpec()),
            check_vma=check_vma,
        )
        ours = jax.device_get(jax.jit(step)(KEY, inputs))
        result[f"shard_map, check_vma={check_vma}"] = _distances(ours, expected)
    with jax.set_mesh(mesh):
        ours = jax.device_get(jax.jit(compute)(KEY, sharding.shard_batch(inputs, mesh)))
    result["jit"] = _distances(ours, expected)
    print(json.dumps(result))


def _distances(ours, expected):
    parts = ("images", "statistics", "gradients")
    return {
        part: max(
            float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-6))
            for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
        )
        for part, x, y in zip(parts, ours, expected, strict=True)
    }


@pytest.mark.slow
def test_every_layout_gives_the_images_and_gradients_of_one_device():
    environment = {
        **os.environ,
        "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.abspath(ganjax.__file__))),
        "NPROC": "64",
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    process = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=500
    )
    assert process.returncode == 0, process.stderr[-3000:]
    measured = json.loads(process.stdout.splitlines()[-1])
    assert len(measured) == 3
    for layout, distances in measured.items():
        for part, distance in distances.items():
            assert distance < 1e-5, (layout, part, distance)


if __name__ == "__main__":
    compare_layouts()
