"""Official names and layouts in and out, and what an `ImportedGAN` does and refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_vectors
from reference_vectors import nhwc

from ganjax import interop
from ganjax.interop import layouts
from ganjax.types import InputError

NAMES = {
    "r3gan": "r3gan_cond16",
    "stylegan2": "stylegan2_cond32",
    "biggan": "biggan_cifar32",
}


@pytest.fixture(scope="module")
def weights():
    return {name: reference_vectors.weights(file) for name, file in NAMES.items()}


@pytest.fixture(scope="module")
def gans(weights):
    return {name: interop.import_state_dict(name, *weights[name]) for name in NAMES}


def assert_equal(ours, official):
    assert set(ours) == set(official)
    for name, array in official.items():
        assert isinstance(ours[name], np.ndarray)
        assert ours[name].shape == array.shape, name
        np.testing.assert_allclose(ours[name], array, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("architecture", NAMES)
def test_every_tensor_comes_back(architecture, weights, gans):
    gan, (_, state_dict) = gans[architecture], weights[architecture]
    assert_equal(gan.to_state_dict(gan), state_dict)
    assert next(iter(gan.to_state_dict(gan.generator_variables))).startswith("G.")
    assert_equal(
        gan.to_state_dict(
            {
                "generator": gan.generator_variables,
                "discriminator": gan.discriminator_variables,
            }
        ),
        state_dict,
    )


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("part", ["generator", "discriminator"])
def test_a_tree_tells_which_network_it_is_of(architecture, part, weights, gans):
    gan, (_, state_dict) = gans[architecture], weights[architecture]
    variables = getattr(gan, f"{part}_variables")
    prefix = part[0].upper() + "."
    official = {name: a for name, a in state_dict.items() if name.startswith(prefix)}
    assert_equal(gan.to_state_dict(variables), official)
    # Bare parameters, as gradients are, have no buffers.
    params = gan.to_state_dict(variables["params"])
    assert_equal(params, {name: official[name] for name in params})
    assert not any("filter" in n or "Kernel" in n or "stored" in n or "w_avg" in n for n in params)
    assert len(params) == len(jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("architecture", NAMES)
def test_the_layouts_hold_for_gradients(architecture, weights, gans):
    """The inner product of two trees is the same by either names."""
    gan, (_, state_dict) = gans[architecture], weights[architecture]
    params = gan.generator_variables["params"]
    direction = jax.tree.map(
        lambda x: np.asarray(jnp.cos(jnp.arange(x.size)).reshape(x.shape)), params
    )
    ours = sum(
        np.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (params, direction)), strict=True)
    )
    official = gan.to_state_dict(direction)
    theirs = sum(np.vdot(state_dict[name], array) for name, array in official.items())
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.slow
def test_a_pytree_that_jit_and_grad_take(gans):
    gan = gans["r3gan"]
    vectors = reference_vectors.arrays(NAMES["r3gan"])
    x, label = nhwc(vectors["x"])[:2], vectors["label"][:2]

    @jax.jit
    def mean_logit(gan):
        return jnp.mean(gan.discriminate(x, label))

    assert mean_logit(gan) == pytest.approx(vectors["logits"][:2].mean(), rel=1e-4)
    gradients = jax.grad(mean_logit)(gan)
    assert isinstance(gradients, interop.ImportedGAN)
    bias = gan.to_state_dict(gradients.discriminator_variables["params"])["D.EmbeddingLayer.weight"]
    assert bias.shape == (8, 10)
    assert np.abs(bias).max() > 0
    assert {f.name for f in dataclasses.fields(gan)} >= {
        "generator",
        "generator_variables",
        "discriminator",
        "discriminator_variables",
    }


@pytest.mark.slow
def test_labels_are_numbers_or_one_hot(gans):
    for architecture in ("r3gan", "biggan"):
        vectors = reference_vectors.arrays(NAMES[architecture])
        z, labels = vectors["z"][:2], vectors["label"][:2]
        if labels.ndim == 1:
            numbers, rows = labels, np.eye(10, dtype=np.float32)[labels]
        else:
            numbers, rows = labels.argmax(1), labels
        images = [gans[architecture].generate(z, label) for label in (numbers, rows)]
        np.testing.assert_allclose(*images, rtol=1e-5, atol=1e-6)
        assert images[0].dtype == jnp.float32


@pytest.mark.slow
def test_training_mode_also_returns_the_new_statistics(gans):
    gan, vectors = gans["biggan"], reference_vectors.arrays(NAMES["biggan"])
    images, new = gan.generate(vectors["z"], vectors["label"], train=True)
    assert images.shape == (6, 32, 32, 3)
    before, after = gan.to_state_dict(gan), new.to_state_dict(new)
    assert not np.array_equal(
        before["G.output_layer.0.stored_mean"], after["G.output_layer.0.stored_mean"]
    )
    np.testing.assert_array_equal(before["G.linear.weight"], after["G.linear.weight"])
    np.testing.assert_array_equal(before["D.linear.u0"], after["D.linear.u0"])
    logits, newer = new.discriminate(images, vectors["label"], train=True)
    assert logits.shape == (6,)
    u = "D.blocks.0.0.conv1.u0"
    assert not np.array_equal(after[u], newer.to_state_dict(newer)[u])


@pytest.mark.slow
def test_noise_is_random_constant_or_none(gans):
    gan, vectors = gans["stylegan2"], reference_vectors.arrays(NAMES["stylegan2"])
    z, label = vectors["z"][:2], vectors["label"][:2]
    styles = gan.map(z, label)
    ours = gan.generate(z, label, noise="none")
    np.testing.assert_allclose(ours, gan.synthesize(styles, noise="none"), atol=1e-5)
    default = gan.generate(z, label)
    np.testing.assert_array_equal(default, gan.generate(z, label))
    other = gan.generate(z, label, key=jax.random.key(1))
    assert np.abs(default - other).max() > 1e-3
    with pytest.raises(ValueError, match="random, const, none; got 'some'"):
        gan.generate(z, label, noise="some")


@pytest.mark.parametrize("architecture", ["r3gan", "biggan"])
def test_what_needs_styles_is_refused_without(architecture, gans):
    gan, vectors = gans[architecture], reference_vectors.arrays(NAMES[architecture])
    z, label = vectors["z"], vectors["label"]
    with pytest.raises(ValueError, match="no styles to truncate"):
        gan.generate(z, label, truncation=0.7)
    with pytest.raises(ValueError, match="adds no noise"):
        gan.generate(z, label, noise="const")
    with pytest.raises(ValueError, match="nothing to map"):
        gan.map(z, label)
    with pytest.raises(ValueError, match="nothing to synthesize"):
        gan.synthesize(z)


def changed(weights, **changes):
    config, state_dict = weights["r3gan"]
    config = {**config, **changes.pop("config", {})}
    state_dict = {**state_dict, **changes}
    return config, {name: a for name, a in state_dict.items() if a is not None}


BIAS = "D.MainLayers.0.Layers.0.NonLinearity1.Bias"
FILTER = "G.MainLayers.1.Layers.0.Resampler.Kernel"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({BIAS: None}, f"1 missing: {BIAS}"),
        ({FILTER: None}, f"1 missing: {FILTER}"),
        ({"D.more": np.zeros(1)}, "1 unknown: D.more"),
        ({"optimizer": np.zeros(1)}, "begin with G. or D., got optimizer"),
        ({BIAS: np.zeros(3)}, rf"{BIAS} has shape \(3,\), but this configuration needs \(32,\)"),
        ({FILTER: np.ones((4, 4))}, "is not the constant"),
        ({"config": {"c_embedding": 9}}, r"has shape .*, but this configuration needs"),
        ({"config": {"blocks": [2, 2, 2]}}, "missing: "),
        ({"config": {"image_resolution": 32}}, "3 widths make images of 16x16"),
        ({"config": {"cardinality": [5, 4, 2]}}, "do not divide into 5 groups"),
        ({"config": {"z_dim": object()}}, "numbers, strings and lists"),
    ],
)
def test_weights_that_do_not_fit_are_named(changes, words, weights):
    with pytest.raises((InputError, ValueError), match=words):
        interop.import_state_dict("r3gan", *changed(weights, **changes))


def test_what_is_missing_is_counted(weights):
    config, state_dict = weights["stylegan2"]
    few = {name: a for name, a in state_dict.items() if "synthesis" not in name}
    with pytest.raises(InputError, match=r"\d\d missing: G\.synthesis\S+, .* and \d+ more"):
        interop.import_state_dict("stylegan2", config, few)
    with pytest.raises(InputError, match="one of stylegan2, r3gan, biggan, gpt2; got 'dcgan'"):
        interop.import_state_dict("dcgan", config, state_dict)
    with pytest.raises(InputError, match="no array at all"):
        interop.import_state_dict("stylegan2", config, {})


def test_one_network_alone(weights):
    config, state_dict = weights["r3gan"]
    generator = {name: a for name, a in state_dict.items() if name[:2] == "G."}
    gan = interop.import_state_dict("r3gan", config, generator)
    assert gan.discriminator_variables is None
    assert_equal(gan.to_state_dict(gan), generator)
    with pytest.raises(ValueError, match="no weights of a discriminator"):
        gan.discriminate(jnp.zeros((1, 16, 16, 3)), jnp.zeros(1, jnp.int32))


def test_trees_of_neither_network(gans):
    gan = gans["r3gan"]
    with pytest.raises(ValueError, match=r"name the network as in .*tree"):
        gan.to_state_dict({"conv": jnp.zeros(3)})
    block = {"stage0_block0": gan.generator_variables["params"]["stage0_block0"]}
    with pytest.raises(ValueError, match="name the network"):
        gan.to_state_dict(block)
    assert len(gan.to_state_dict({"discriminator": block})) == 5


@pytest.mark.parametrize(
    ("layout", "shape", "ours"),
    [
        (layouts.same, (3,), (3,)),
        (layouts.conv, (2, 3, 4, 5), (4, 5, 3, 2)),
        (layouts.linear, (2, 3), (3, 2)),
        (layouts.image, (2, 3, 4), (3, 4, 2)),
        (layouts.reshaped((), (1,)), (), (1,)),
        (layouts.linear_to_image(2, 3, 4), (24, 5), (5, 24)),
        (layouts.linear_from_image(2, 3, 4), (5, 24), (24, 5)),
        (layouts.bias_to_image(2, 3, 4), (24,), (24,)),
    ],
)
def test_a_layout_and_its_inverse(layout, shape, ours):
    array = np.arange(np.prod(shape)).reshape(shape)
    there = layout.to_ours(array)
    assert there.shape == ours
    np.testing.assert_array_equal(layout.to_official(there), array)


def test_a_dense_layer_before_and_after_an_image():
    x = np.random.default_rng(0).normal(size=(2, 5))
    weight = np.random.default_rng(1).normal(size=(24, 5))
    image = (x @ weight.T).reshape(2, 2, 3, 4).transpose(0, 2, 3, 1)
    kernel = layouts.linear_to_image(2, 3, 4).to_ours(weight)
    np.testing.assert_allclose((x @ kernel).reshape(2, 3, 4, 2), image)
    back = layouts.linear_from_image(2, 3, 4).to_ours(weight.T)
    flat = image.transpose(0, 3, 1, 2).reshape(2, 24)
    np.testing.assert_allclose(image.reshape(2, 24) @ back, flat @ weight)
