"""Spectral normalisation: against the SVD, its gradient, its memory and the layers with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.networks import layers
from ganjax.networks.spectral import SpectralNorm, power_iteration

KEY = jax.random.key(0)
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 4, 6)), jnp.float32)


def trained(module, passes, *args):
    """Return the variables after some training passes, and the last result."""
    variables = module.init(KEY, *args, train=True)

    def train_pass(variables, _):
        result, updated = module.apply(variables, *args, train=True, mutable="spectral")
        return {**variables, **updated}, result

    variables, results = jax.lax.scan(train_pass, variables, length=passes)
    return variables, results[-1]


def test_many_iterations_give_the_largest_singular_value():
    variables, normalised = trained(SpectralNorm(), 200, WEIGHTS)
    matrix = np.asarray(WEIGHTS).reshape(-1, 6)
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    np.testing.assert_allclose(variables["spectral"]["sigma"], [expected], rtol=1e-5)
    np.testing.assert_allclose(normalised, WEIGHTS / expected, rtol=1e-5)
    _, _, right = np.linalg.svd(matrix)
    alignment = np.abs(variables["spectral"]["u"][0] @ right[0])
    np.testing.assert_allclose(alignment, 1, rtol=1e-5)


def test_one_iteration_is_the_official_one():
    u = np.random.default_rng(1).normal(size=(1, 6)).astype(np.float32)
    matrix = np.asarray(WEIGHTS).reshape(-1, 6)
    v = u @ matrix.T / np.linalg.norm(u @ matrix.T)
    new_u = v @ matrix / np.linalg.norm(v @ matrix)
    variables = {"spectral": {"u": u, "sigma": np.ones(1, np.float32)}}
    result, updated = SpectralNorm().apply(variables, WEIGHTS, train=True, mutable="spectral")
    sigma = (v @ matrix @ new_u.T)[0]
    np.testing.assert_allclose(updated["spectral"]["u"], new_u, rtol=1e-5)
    np.testing.assert_allclose(updated["spectral"]["sigma"], sigma, rtol=1e-5)
    np.testing.assert_allclose(result, WEIGHTS / sigma, rtol=1e-5)


def test_several_iterations_are_as_many_passes():
    once, _ = trained(SpectralNorm(), 3, WEIGHTS)
    thrice, _ = trained(SpectralNorm(3), 1, WEIGHTS)
    np.testing.assert_allclose(once["spectral"]["u"], thrice["spectral"]["u"], rtol=1e-5)


def test_evaluation_iterates_and_forgets():
    module = SpectralNorm()
    variables = module.init(KEY, WEIGHTS, train=True)
    evaluated, untouched = module.apply(variables, WEIGHTS, mutable="spectral")
    trained_once, updated = module.apply(variables, WEIGHTS, train=True, mutable="spectral")
    np.testing.assert_array_equal(evaluated, trained_once)
    np.testing.assert_array_equal(untouched["spectral"]["u"], variables["spectral"]["u"])
    assert np.abs(updated["spectral"]["u"] - variables["spectral"]["u"]).max() > 1e-2


@pytest.mark.slow
def test_gradient_is_the_closed_form():
    # d/dW <C, W / sigma> = C / sigma - <C, W> / sigma^2 * v^T u, with v and u held.
    module = SpectralNorm()
    variables = module.init(KEY, WEIGHTS, train=True)
    cotangent = jax.random.normal(jax.random.key(1), WEIGHTS.shape)
    gradient = jax.grad(lambda w: jnp.sum(cotangent * module.apply(variables, w)))(WEIGHTS)
    matrix = WEIGHTS.reshape(-1, 6)
    v, u = power_iteration(matrix, variables["spectral"]["u"], 1)
    sigma = (v @ matrix @ u.T)[0, 0]
    product = jnp.sum(cotangent * WEIGHTS)
    expected = cotangent / sigma - product / sigma**2 * (v.T @ u).reshape(WEIGHTS.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_initialisation_does_not_iterate():
    variables = SpectralNorm().init(KEY, WEIGHTS, train=True)
    np.testing.assert_array_equal(variables["spectral"]["sigma"], [1])
    assert np.linalg.norm(variables["spectral"]["u"]) > 1.2  # not normalised yet


@pytest.mark.parametrize(
    ("layer", "inputs", "kernel"),
    [
        (layers.Conv(5, (3, 3), power_iterations=1), jnp.ones((2, 4, 4, 3)), "kernel"),
        (
            layers.Conv(5, (3, 3), power_iterations=1, resample="down"),
            jnp.ones((2, 4, 4, 3)),
            "kernel",
        ),
        (layers.Dense(5, power_iterations=1), jnp.ones((2, 3)), "kernel"),
        (layers.LabelEmbedding(5, 3, power_iterations=1), jnp.array([1, 2]), "embedding"),
    ],
    ids=["conv", "resampled", "dense", "embedding"],
)
def test_a_layer_behaves_as_one_with_normalised_weights(layer, inputs, kernel):
    variables, result = trained(layer, 60, inputs)
    assert variables["spectral"]["SpectralNorm_0"]["u"].shape == (1, 5)
    weights = np.asarray(variables["params"][kernel])
    largest = np.linalg.svd(weights.reshape(-1, weights.shape[-1]), compute_uv=False)[0]
    plain = layer.clone(power_iterations=0)
    params = {**variables["params"], kernel: weights / largest}
    assert set(plain.init(KEY, inputs)) == {"params"}
    expected = plain.apply({"params": params}, inputs)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    half = layer.clone(dtype=jnp.bfloat16) if hasattr(layer, "dtype") else layer
    assert half.apply(variables, inputs).dtype == (jnp.bfloat16 if half != layer else jnp.float32)
