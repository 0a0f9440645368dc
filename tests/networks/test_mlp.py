import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.networks import mlp
from ganjax.types import InputError

KEY = jax.random.key(0)


def build(shape, num_classes=0, dtype=jnp.float32, **options):
    return mlp.MLP(**options).build(shape, num_classes, dtype)


def abstract(networks, labels=None):
    def run():
        z = jnp.zeros((2, networks["latents"].dimension))
        samples, generator = networks["generator"].init_with_output(KEY, z, labels, train=True)
        output, discriminator = networks["discriminator"].init_with_output(
            KEY, samples, labels, train=True
        )
        return samples, output.logits, generator, discriminator

    return jax.eval_shape(run)


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("shape", [(2,), (5, 4), (28, 28, 1), (30, 22, 4)])
def test_samples_of_any_shape(shape):
    samples, logits, *_ = abstract(build(shape))
    assert samples.shape == (2, *shape)
    assert logits.shape == (2,)


def test_parameters_of_the_preset():
    _, _, generator, discriminator = abstract(build((2,)))
    assert size(generator) == 64 * 256 + 256 + 256 * 256 + 256 + 256 * 2 + 2
    assert size(discriminator) == 2 * 256 + 256 + 256 * 256 + 256 + 256 + 1
    networks = build((2,), generator_hidden=(7, 5), generator_batch_norm=True)
    _, _, generator, _ = abstract(networks)
    assert size(generator["params"]) == 64 * 7 + 2 * 7 + 7 * 5 + 2 * 5 + 5 * 2 + 2
    assert size(generator["batch_stats"]) == 2 * 7 + 2 * 5


def test_labels_add_a_table_to_each_network():
    labels = jnp.zeros(2, jnp.int32)
    plain = [size(v) for v in abstract(build((2,)))[2:]]
    projection = [size(v) for v in abstract(build((2,), 10), labels)[2:]]
    beside = abstract(build((2,), 10, conditioning="concatenation"), labels)
    generator = 10 * 50 + 50 * 256
    assert projection == [plain[0] + generator, plain[1] + 10 * 256]
    assert [size(v) for v in beside[2:]] == [plain[0] + generator, plain[1] + 10 * 50 + 50 * 256]


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_labels_change_samples_and_logits(conditioning, quick_jit):
    networks = build(
        (2,),
        3,
        conditioning=conditioning,
        generator_hidden=(6,),
        discriminator_hidden=(6,),
    )

    def run(labels):
        samples, _ = networks["generator"].init_with_output(KEY, jnp.ones((3, 64)), labels)
        output, _ = networks["discriminator"].init_with_output(KEY, jnp.ones((3, 2)), labels)
        return samples, output.logits

    for values in quick_jit(run)(jnp.arange(3)):
        assert len({values[i].tobytes() for i in range(3)}) == 3


def test_images_are_bounded_and_points_are_not(quick_jit):
    def run(shape):
        networks = build(shape, generator_hidden=())
        z = 100 * jax.random.normal(KEY, (8, 64))
        return quick_jit(lambda z: networks["generator"].init_with_output(KEY, z)[0])(z)

    assert np.abs(run((2, 2, 1))).max() <= 1
    assert np.abs(run((4,))).max() > 10


def test_half_precision_ends_in_single():
    everything = abstract(build((2,), dtype=jnp.bfloat16, generator_batch_norm=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning": "acgan"}, "conditioning has to be one of projection, concatenation"),
        ({"latent_distribution": "cauchy"}, "latent_distribution has to be one of normal, unif"),
    ],
)
def test_sentences(options, message):
    with pytest.raises(InputError, match=message):
        build((2,), **options)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_conditional_network_asks_for_labels(network):
    module = build((2,), 10)[network]
    x = jnp.zeros((2, 64 if network == "generator" else 2))
    with pytest.raises(ValueError, match="a network with 10 classes needs labels, got None"):
        jax.eval_shape(lambda: module.init(KEY, x))
