"""R3GAN against the official implementation, the paper's sizes, and images of other shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_vectors
from reference_vectors import nchw, nhwc, relative_error

from ganjax import interop
from ganjax.networks.r3gan import R3GAN, stage_sizes
from ganjax.types import InputError

NAME = "r3gan_cond16"


@pytest.fixture(scope="module")
def official():
    return interop.import_state_dict("r3gan", *reference_vectors.weights(NAME))


def small(**settings):
    settings = {"width": 16, "group_width": 8, "latent_dim": 8, "blocks": 1} | settings
    return R3GAN(generator_embedding_dim=4, **settings)


@pytest.fixture(scope="module")
def run(quick_jit):
    return lambda *arguments: run_both(quick_jit, *arguments)


def run_both(jit, parts, num_classes=0, batch=3):
    """Return images, logits and both networks' parameters."""
    labels = jnp.arange(batch) % num_classes if num_classes else None
    z = parts["latents"].sample(jax.random.key(0), batch)

    @jit
    def both(z, labels):
        generator = parts["generator"].init(jax.random.key(1), z, labels)
        images = parts["generator"].apply(generator, z, labels)
        discriminator = parts["discriminator"].init(jax.random.key(2), images, labels)
        logits = parts["discriminator"].apply(discriminator, images, labels).logits
        return images, logits, generator["params"], discriminator["params"]

    return both(z, labels)


def test_the_official_images(official):
    vectors = reference_vectors.arrays(NAME)
    images = official.generate(vectors["z"], vectors["label"])
    assert relative_error(nchw(images), vectors["image"]) < 1e-5


def test_the_official_logits_and_both_derivatives(official):
    vectors = reference_vectors.arrays(NAME)
    x, label = jnp.asarray(nhwc(vectors["x"])), vectors["label"]

    @jax.jit
    def penalty(variables):
        def logits(x):
            values = official.replace(discriminator_variables=variables).discriminate(x, label)
            return jnp.sum(values), values

        gradient, values = jax.grad(logits, has_aux=True)(x)
        r1 = jnp.sum(gradient**2, axis=(1, 2, 3))
        return jnp.mean(r1), (r1, values)

    variables = official.discriminator_variables
    gradients, (r1, logits) = jax.jit(jax.grad(penalty, has_aux=True))(variables)
    assert relative_error(logits, vectors["logits"]) < 1e-5
    assert relative_error(r1, vectors["r1_penalty"]) < 1e-4
    names = [name for name in vectors if name.startswith("d_r1_mean/d_")]
    assert names
    for name in names:
        ours = official.to_state_dict(gradients)["D." + name.removeprefix("d_r1_mean/d_")]
        assert relative_error(ours, vectors[name]) < 1e-4


def count(module, inputs, num_classes):
    labels = jax.ShapeDtypeStruct((2, num_classes), jnp.float32) if num_classes else None
    inputs = jax.ShapeDtypeStruct((2, *inputs), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs, labels)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("settings", "shape", "num_classes", "millions"),
    [
        (R3GAN(), (32, 32, 3), 10, (20.78, 21.28)),
        (R3GAN(), (64, 64, 3), 0, (22.4, 22.4)),
        (R3GAN(widths=(1536,) * 4, groups=(96,) * 4), (32, 32, 3), 1000, (82.9, 86.6)),
        (R3GAN(widths=(1536,) * 5, groups=(96,) * 5), (64, 64, 3), 1000, (103.6, 107.2)),
    ],
    ids=["CIFAR-10", "FFHQ-64", "ImageNet-32", "ImageNet-64"],
)
def test_the_parameter_counts_of_the_paper(settings, shape, num_classes, millions):
    parts = settings.build(shape, num_classes, jnp.float32)
    counts = (
        count(parts["generator"], (64,), num_classes),
        count(parts["discriminator"], shape, num_classes),
    )
    # 86.549 is 86.6 there, rounded twice.
    np.testing.assert_allclose(np.divide(counts, 1e6), millions, atol=0.052)


def test_ffhq_256_has_the_widths_and_groups_of_the_paper():
    generator = R3GAN().build((256, 256, 3), 0, jnp.float32)["generator"]
    assert generator.widths == (768, 768, 768, 768, 384, 192, 96)
    assert generator.groups == (96, 96, 96, 96, 48, 24, 12)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "num_classes"), [((8, 12, 1), 5), ((7, 6, 4), 0)])
def test_any_shape_and_any_number_of_channels(shape, num_classes, run):
    parts = small().build(shape, num_classes, jnp.float32)
    images, logits, *_ = run(parts, num_classes)
    assert images.shape == (3, *shape)
    assert logits.shape == (3,)
    assert np.isfinite(images).all()
    assert np.isfinite(logits).all()


@pytest.mark.slow
def test_training_starts_at_the_identity(run):
    shape = (8, 8, 3)
    parts = small(blocks=2).build(shape, 0, jnp.float32)
    images, logits, generator, discriminator = run(parts)
    for params in (generator, discriminator):
        blocks = [name for name in params if "block" in name]
        assert len(blocks) == 4
        for name in blocks:
            assert not np.any(params[name]["conv3"])
            assert not np.any(params[name]["bias1"])
            # N(0, gain^2 / fan-in), the gain scaled down by the fourth root of four blocks
            kernel = np.asarray(params[name]["conv2"])
            expected = np.sqrt(2 / 1.04) * 4**-0.25 / np.sqrt(np.prod(kernel.shape[:3]))
            assert kernel.std() == pytest.approx(expected, rel=0.1)
    # Without its blocks the network is linear but for what they add, which is nothing.
    doubled = jax.tree.map(lambda x: x, generator)
    for name in [name for name in generator if "block" in name]:
        doubled[name] = {**doubled[name], "conv1": 2 * doubled[name]["conv1"]}
    again = parts["generator"].apply(
        {"params": doubled}, parts["latents"].sample(jax.random.key(0), 3)
    )
    np.testing.assert_allclose(again, images, atol=1e-6)
    assert logits.std() > 0


@pytest.mark.slow
def test_bfloat16_leaves_the_smallest_map_alone(run):
    shape = (8, 8, 3)
    exact = run(small().build(shape, 0, jnp.float32))
    mixed = run(small().build(shape, 0, jnp.bfloat16))
    full = run(small(float32_stages=2).build(shape, 0, jnp.bfloat16))
    assert mixed[0].dtype == mixed[1].dtype == jnp.float32
    assert 1e-4 < relative_error(mixed[0], exact[0]) < 3e-2
    np.testing.assert_allclose(full[0], exact[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "smallest"), [((32, 32), (4, 4)), ((32, 48), (4, 6)), ((28, 28), (7, 7))]
)
def test_the_smallest_map_is_what_halving_leaves(size, smallest):
    assert stage_sizes(size)[0] == smallest


@pytest.mark.parametrize(
    ("settings", "shape", "words"),
    [
        ({}, (30, 30, 3), "smaller side is 4 to 7"),
        ({}, (14, 21, 3), r"\(14, 21\) ends at \(14, 21\)"),
        ({}, (2, 32, 3), "smaller side is 4 to 7"),
        ({"widths": (16, 16)}, (16, 16, 3), "give 3 of each"),
        ({"groups": (5, 5, 5)}, (16, 16, 3), "do not divide into 5 groups"),
        ({"blocks": 0}, (16, 16, 3), "blocks has to be 1 or more"),
        ({}, (2,), "take the mlp"),
    ],
)
def test_what_does_not_fit_is_refused(settings, shape, words):
    with pytest.raises(InputError, match=words):
        small(**settings).build(shape, 0, jnp.float32)


def test_a_conditional_network_asks_for_labels():
    parts = small().build((8, 8, 3), 5, jnp.float32)
    with pytest.raises(ValueError, match="needs labels"):
        parts["discriminator"].init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
