import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.networks import dcgan
from ganjax.types import InputError

KEY = jax.random.key(0)


def build(shape, num_classes=0, dtype=jnp.float32, **options):
    return dcgan.DCGAN(**options).build(shape, num_classes, dtype)


def abstract(networks, labels=None):
    """Return (images, logits) and both networks' variables as shapes, nothing computed."""

    def run():
        z = jnp.zeros((2, networks["latents"].dimension))
        images, generator = networks["generator"].init_with_output(KEY, z, labels, train=True)
        output, discriminator = networks["discriminator"].init_with_output(
            KEY, images, labels, train=True
        )
        return images, output.logits, generator, discriminator

    return jax.eval_shape(run)


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("image_size", [(28, 28), (32, 32), (64, 64), (30, 22), (6, 5), (8, 64)])
def test_any_image_shape_comes_out_and_goes_in(image_size, channels):
    shape = (*image_size, channels)
    images, logits, *_ = abstract(build(shape))
    assert images.shape == (2, *shape)
    assert logits.shape == (2,)
    assert images.dtype == logits.dtype == jnp.float32


def test_parameters_of_the_preset_at_28x28():
    _, _, generator, discriminator = abstract(build((28, 28, 1)))
    # 7x7 -> 14x14 -> 28x28; what a batch norm follows has no bias.
    assert size(generator["params"]) == (
        100 * 7 * 7 * 128 + 2 * 128 + 4 * 4 * 128 * 64 + 2 * 64 + 4 * 4 * 64 * 1 + 1
    )
    assert size(generator["batch_stats"]) == 2 * 128 + 2 * 64
    assert size(discriminator["params"]) == (
        4 * 4 * 1 * 64 + 64 + 4 * 4 * 64 * 128 + 2 * 128 + 7 * 7 * 128 + 1
    )
    assert size(discriminator["batch_stats"]) == 2 * 128


def test_parameters_of_the_paper_at_64x64():
    networks = build((64, 64, 3), generator_width=128, discriminator_width=128, kernel_size=5)
    _, _, generator, discriminator = abstract(networks)
    wide = [1024, 512, 256, 128]
    convolutions = sum(25 * a * b for a, b in itertools.pairwise(wide))
    norms = 2 * (1024 + 512 + 256 + 128)
    assert size(generator["params"]) == (
        100 * 4 * 4 * 1024 + convolutions + norms + 25 * 128 * 3 + 3
    )
    assert size(discriminator["params"]) == (
        25 * 3 * 128 + 128 + convolutions + 2 * (256 + 512 + 1024) + 4 * 4 * 1024 + 1
    )


def test_without_batch_norm_every_layer_has_a_bias():
    networks = build((28, 28, 1), generator_batch_norm=False, discriminator_batch_norm=False)
    _, _, generator, discriminator = abstract(networks)
    assert set(generator) == set(discriminator) == {"params"}
    assert size(generator["params"]) == (
        100 * 7 * 7 * 128 + 7 * 7 * 128 + 4 * 4 * 128 * 64 + 64 + 4 * 4 * 64 + 1
    )
    assert size(discriminator["params"]) == (
        4 * 4 * 64 + 64 + 4 * 4 * 64 * 128 + 128 + 7 * 7 * 128 + 1
    )


def test_labels_add_a_table_to_each_network():
    labels = jnp.zeros(2, jnp.int32)
    plain = [size(v["params"]) for v in abstract(build((28, 28, 1)))[2:]]
    projection = [size(v["params"]) for v in abstract(build((28, 28, 1), 10), labels)[2:]]
    beside = build((28, 28, 1), 10, conditioning="concatenation")
    concatenation = [size(v["params"]) for v in abstract(beside, labels)[2:]]
    generator = 10 * 50 + 50 * 7 * 7 * 128
    assert projection == [plain[0] + generator, plain[1] + 10 * 7 * 7 * 128]
    assert concatenation == [plain[0] + generator, plain[1] + 10 * 28 * 28 + 4 * 4 * 64]


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_labels_change_images_and_logits(conditioning, quick_jit):
    networks = build(
        (9, 8, 1), 3, conditioning=conditioning, generator_width=2, discriminator_width=2
    )
    z = jnp.ones((3, 100))
    labels = jnp.arange(3)

    def run(labels):
        images, _ = networks["generator"].init_with_output(KEY, z, labels)
        output, _ = networks["discriminator"].init_with_output(KEY, images[:1].repeat(3, 0), labels)
        return images, output.logits

    images, logits = quick_jit(run)(labels)
    assert images.shape == (3, 9, 8, 1)
    assert np.abs(images).max() <= 1
    for values in (images, logits):
        assert len({values[i].tobytes() for i in range(3)}) == 3


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_conditional_network_asks_for_labels(network):
    module = build((28, 28, 1), 10)[network]
    x = jnp.zeros((2, 100) if network == "generator" else (2, 28, 28, 1))
    with pytest.raises(ValueError, match="a network with 10 classes needs labels, got None"):
        jax.eval_shape(lambda: module.init(KEY, x))


def test_half_precision_ends_in_single():
    networks = build((28, 28, 1), dtype=jnp.bfloat16)
    everything = abstract(networks)
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_the_latents_are_those_of_the_configuration(distribution):
    latents = build((28, 28, 1), latent_dim=7, latent_distribution=distribution)["latents"]
    assert latents.dimension == 7
    assert latents.spherical == (distribution == "normal")


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        ((2,), {}, ValueError, r"shape \(H, W, C\), but the data has shape \(2,\); take the mlp"),
        (
            (8, 8, 1),
            {"conditioning": "concat"},
            InputError,
            "conditioning has to be one of projection, concatenation; got 'concat'",
        ),
        (
            (8, 8, 1),
            {"latent_distribution": "cauchy"},
            InputError,
            "latent_distribution has to be one of normal, uniform; got 'cauchy'",
        ),
    ],
)
def test_sentences(shape, options, error, message):
    with pytest.raises(error, match=message):
        build(shape, **options)


def test_configurations_can_be_compared_and_hashed():
    assert hash(dcgan.DCGAN()) == hash(dcgan.DCGAN())
    assert dcgan.DCGAN(latent_dim=3) != dcgan.DCGAN()
    with pytest.raises(dataclasses.FrozenInstanceError):
        dcgan.DCGAN().latent_dim = 3
