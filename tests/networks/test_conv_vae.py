import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ganjax.networks import conv_vae
from ganjax.networks.layers import as_network

SMALL = {"latent_dim": 6, "width": 4, "hidden": 8}


def built(shape, num_classes=0, dtype=jnp.float32):
    pieces = conv_vae.ConvVAE(**SMALL).build(shape, num_classes, dtype)
    return as_network(pieces["encoder"]), as_network(pieces["decoder"]), pieces["latents"]


def shapes_of(shape):
    """Return the shapes of what `applied` returns, without computing it."""
    return jax.eval_shape(lambda: applied(shape))


def applied(shape, num_classes=0, dtype=jnp.float32, labels=None, batch=3):
    """Return (variables, outputs) of both networks, by name."""
    encoder, decoder, latents = built(shape, num_classes, dtype)
    images = jax.random.uniform(jax.random.key(0), (batch, *shape), minval=-1, maxval=1)
    z = latents.sample(jax.random.key(1), batch)
    results = {}
    for name, network, x in (("encoder", encoder, images), ("decoder", decoder, z)):
        variables = network.init(jax.random.key(2), x, labels)
        outputs, others = network.apply(variables, x, labels, train=True, key=jax.random.key(3))
        assert others == {}
        results[name] = variables, outputs
    return results


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (12, 20, 3), (9, 15, 2), (5, 6, 1), (32, 8, 4), (1, 1, 1)]
)
def test_any_image_shape_goes_in_and_comes_out(shape):
    results = shapes_of(shape)
    mean, log_variance = results["encoder"][1]
    assert mean.shape == log_variance.shape == (3, 6)
    assert results["decoder"][1].shape == (3, *shape)


def test_a_large_side_is_halved_until_the_smaller_one_is_at_most_7():
    params = shapes_of((28, 40, 1))["encoder"][0]["params"]
    assert sorted(name for name in params if name.startswith("Conv")) == ["Conv_0", "Conv_1"]
    # 28x40 -> 14x20 -> 7x10, with 4 and 8 channels
    assert params["Dense_0"]["kernel"].shape == (7 * 10 * 8, 8)


@pytest.mark.slow
def test_bfloat16_computes_in_it_and_keeps_parameters_and_results_in_float32(quick_jit):
    full = quick_jit(lambda: applied((8, 8, 3)))()
    half = quick_jit(lambda: applied((8, 8, 3), dtype=jnp.bfloat16))()
    for name, (variables, outputs) in half.items():
        assert {a.dtype for a in jax.tree.leaves((variables, outputs))} == {jnp.dtype("float32")}
        for a, b in zip(jax.tree.leaves(outputs), jax.tree.leaves(full[name][1]), strict=True):
            error = float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
            assert 1e-6 < error < 5e-2  # it was rounded, and only that


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_labels_change_what_both_networks_return(name, quick_jit):
    results = quick_jit(lambda labels: applied((8, 8, 1), num_classes=3, labels=labels)[name][1])
    a, b = results(jnp.array([0, 1, 2])), results(jnp.array([0, 2, 2]))
    changed = [
        [bool(jnp.any(x[i] != y[i])) for i in range(3)]
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    assert all(c == [False, True, False] for c in changed)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_an_image_does_not_depend_on_the_others_of_its_batch(name, quick_jit):
    encoder, decoder, latents = built((8, 8, 1))
    network = {"encoder": encoder, "decoder": decoder}[name]
    x = latents.sample(jax.random.key(0), 4)
    if name == "encoder":
        x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    variables = quick_jit(network.init)(jax.random.key(1), x, None)
    apply = quick_jit(lambda x: network.apply(variables, x, None, train=True, key=None)[0])
    together, alone = apply(x), apply(x[1:2])
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        assert jnp.allclose(a[1:2], b, atol=1e-6)


def test_networks_with_classes_ask_for_labels():
    with pytest.raises(ValueError, match="a network with 3 classes needs labels, got None"):
        applied((8, 8, 1), num_classes=3)


def test_build_refuses_what_is_not_an_image():
    with pytest.raises(ValueError, match=r"images of shape \(H, W, C\), .* has shape \(2,\)"):
        conv_vae.ConvVAE().build((2,), 0, jnp.float32)


def test_every_field_reaches_the_networks():
    config = conv_vae.ConvVAE(latent_dim=5, width=3, hidden=7, kernel_size=6)
    pieces = config.build((8, 8, 1), 4, jnp.bfloat16)
    for network in (pieces["encoder"], pieces["decoder"]):
        assert (network.width, network.hidden, network.kernel_size) == (3, 7, 6)
        assert (network.num_classes, network.dtype) == (4, jnp.bfloat16)
    assert pieces["latents"].dimension == pieces["encoder"].latent_dim == 5
    assert {field.name for field in dataclasses.fields(config)} == {
        "latent_dim",
        "width",
        "hidden",
        "kernel_size",
    }
