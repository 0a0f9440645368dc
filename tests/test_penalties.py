import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import penalties

SLOPE = np.array([[0.6, -1.2], [0.3, 2.0]], np.float32)  # of a linear critic on 2x2 images
KEY = jax.random.key(0)


def linear(images):
    return jnp.sum(images * SLOPE, axis=(1, 2))


def quadratic(images):
    return 0.5 * jnp.sum(images**2 * SLOPE, axis=(1, 2))


def image_batch(seed, batch=3):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, 2, 2)), jnp.float32)


def test_every_penalty_on_a_linear_critic():
    norm = np.linalg.norm(SLOPE)
    expected = {"r1": norm**2 / 2, "r2": norm**2 / 2, "gradient_penalty": (norm - 1) ** 2}
    assert set(expected) == set(penalties.PENALTIES)
    for name, penalty in penalties.PENALTIES.items():
        values = penalty(linear, image_batch(0), image_batch(1), KEY)
        np.testing.assert_allclose(values, np.full(3, expected[name]), rtol=1e-5, err_msg=name)


def test_every_penalty_on_a_quadratic_critic():
    real, fake = image_batch(0), image_batch(1)

    def norm(images):
        return np.linalg.norm((images * SLOPE).reshape(3, -1), axis=1)

    np.testing.assert_allclose(
        penalties.r1(quadratic, real, fake, KEY), norm(real) ** 2 / 2, rtol=1e-5
    )
    np.testing.assert_allclose(
        penalties.r2(quadratic, real, fake, KEY), norm(fake) ** 2 / 2, rtol=1e-5
    )
    # Between an image and itself there is nothing but the image.
    np.testing.assert_allclose(
        penalties.gradient_penalty(quadratic, real, real, KEY), (norm(real) - 1) ** 2, rtol=1e-5
    )


def test_gradient_penalty_mixes_each_pair_uniformly_with_a_number_of_its_own():
    batch = 2000
    real = jnp.zeros((batch, 2, 2))
    fake = jnp.zeros((batch, 2, 2)).at[:, 0, 0].set(1.0)
    # The gradient of half the square at mix * fake is mix, so the penalty is (mix - 1)².
    values = penalties.gradient_penalty(
        lambda images: 0.5 * jnp.sum(images**2, axis=(1, 2)), real, fake, KEY
    )
    mix = np.sort(1 - np.sqrt(values))
    assert len(np.unique(mix)) > 0.99 * batch
    np.testing.assert_allclose(mix, (np.arange(batch) + 0.5) / batch, atol=0.04)


@pytest.mark.parametrize("name", penalties.PENALTIES)
def test_derivative_by_parameters_is_that_of_finite_differences(name):
    penalty = penalties.PENALTIES[name]
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        real, fake = random.normal(size=(2, 3, 2, 2))
        key = jax.random.key(1)
        params, direction = random.normal(size=(2, 4, 6))

        @jax.jit
        def value(params):
            def discriminate(images):
                return jnp.sum(jnp.tanh(images.reshape(3, 4) @ params), axis=-1) ** 2

            return jnp.mean(penalty(discriminate, real, fake, key))

        assert value(params).dtype == jnp.float64
        slope = jnp.vdot(jax.grad(value)(params), direction)
        h = 1e-6
        difference = (value(params + h * direction) - value(params - h * direction)) / (2 * h)
        assert abs(slope) > 0.1
        np.testing.assert_allclose(slope, difference, rtol=1e-7)


def test_penalties_are_float32_for_a_critic_in_bfloat16():
    slope = jnp.asarray(SLOPE, jnp.bfloat16)

    def half_precision(images):
        return jnp.sum(images.astype(jnp.bfloat16) * slope, axis=(1, 2))

    for penalty in penalties.PENALTIES.values():
        values = penalty(half_precision, image_batch(0), image_batch(1), KEY)
        assert values.dtype == jnp.float32


def test_gradient_penalty_can_be_differentiated_where_the_gradient_vanishes():
    def value(scale):
        return penalties.gradient_penalty(
            lambda images: scale * linear(images), image_batch(0), image_batch(1), KEY
        ).sum()

    assert np.isfinite(jax.grad(value)(0.0))


def test_clip_weights_projects_every_leaf():
    params = {"kernel": jnp.array([[-3.0, 0.05], [0.2, -0.1]]), "bias": jnp.array([0.09])}
    clipped = penalties.clip_weights(0.1)(params)
    np.testing.assert_allclose(clipped["kernel"], [[-0.1, 0.05], [0.1, -0.1]])
    np.testing.assert_allclose(clipped["bias"], [0.09])
    with pytest.raises(ValueError, match="has to be positive, got 0"):
        penalties.clip_weights(0)
