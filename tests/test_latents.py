import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import latents


@pytest.mark.parametrize("name", latents.LATENTS)
def test_samples_depend_on_the_key_alone(name):
    distribution = latents.LATENTS[name](5)
    z = distribution.sample(jax.random.key(0), 7)
    assert distribution.dimension == 5
    assert z.shape == (7, 5)
    assert z.dtype == jnp.float32
    np.testing.assert_array_equal(z, distribution.sample(jax.random.key(0), 7))
    assert not np.allclose(z, distribution.sample(jax.random.key(1), 7))


@pytest.mark.parametrize(("name", "stddev"), [("normal", 1.0), ("uniform", 1 / np.sqrt(3))])
def test_moments(name, stddev):
    z = np.asarray(latents.LATENTS[name](10).sample(jax.random.key(0), 4000))
    assert abs(z.mean()) < 0.02
    assert z.std() == pytest.approx(stddev, abs=0.02)
    if name == "uniform":
        assert np.abs(z).max() <= 1
    else:
        assert np.abs(z).max() > 3


@pytest.mark.parametrize("name", latents.LATENTS)
def test_truncation_bounds_every_coordinate_and_uses_the_whole_range(name):
    sample = latents.LATENTS[name](10).sample
    for truncation in (0.5, 0.1):
        z = np.abs(sample(jax.random.key(0), 1000, truncation))
        assert z.max() <= truncation
        # Drawn again, not clipped: nothing piles up at the bounds.
        assert z.max() > 0.99 * truncation
        assert (z == z.max()).sum() < 5
        assert np.median(z) == pytest.approx(truncation / 2, rel=0.1)


def test_truncation_never_widens():
    z = latents.uniform(10).sample(jax.random.key(0), 1000, 3.0)
    assert np.abs(z).max() <= 1


@pytest.mark.parametrize("truncation", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", latents.LATENTS)
def test_truncation_is_positive(name, truncation):
    with pytest.raises(ValueError, match="truncation has to be positive, got"):
        latents.LATENTS[name](3).sample(jax.random.key(0), 2, truncation)


@pytest.mark.parametrize("spherical", [True, False])
def test_paths_end_at_their_ends(spherical):
    start, end = jax.random.normal(jax.random.key(0), (2, 3, 8))
    path = latents.interpolate(start, end, 5, spherical=spherical)
    assert path.shape == (5, 3, 8)
    np.testing.assert_allclose(path[0], start, atol=1e-5)
    np.testing.assert_allclose(path[-1], end, atol=1e-5)


def test_a_spherical_path_keeps_the_norm_and_turns_evenly():
    start, end = jax.random.normal(jax.random.key(0), (2, 3, 8))
    path = np.asarray(latents.interpolate(start, end, 9, spherical=True), np.float64)
    norms = np.linalg.norm(path, axis=-1)
    np.testing.assert_allclose(norms, np.linspace(norms[0], norms[-1], 9), rtol=1e-5)
    directions = path / norms[..., None]
    turns = np.arccos(np.sum(directions[1:] * directions[:-1], axis=-1))
    np.testing.assert_allclose(turns, np.broadcast_to(turns[:1], turns.shape), atol=1e-3)
    # The line goes through the inside of the sphere.
    line = latents.interpolate(start, end, 9, spherical=False)
    assert (np.linalg.norm(line[4], axis=-1) < 0.9 * norms[4]).all()


def test_a_straight_path_is_even():
    path = latents.interpolate(jnp.zeros(2), jnp.array([4.0, -8.0]), 5, spherical=False)
    np.testing.assert_allclose(path, [[0, 0], [1, -2], [2, -4], [3, -6], [4, -8]])


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_parallel_latents_are_joined_by_the_line(factor):
    start = jnp.array([3.0, -4.0, 1.0])
    path = latents.interpolate(start, factor * start, 4, spherical=True)
    expected = latents.interpolate(start, factor * start, 4, spherical=False)
    np.testing.assert_allclose(path, expected, atol=1e-4)


def test_a_path_has_two_ends():
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        latents.interpolate(jnp.ones(2), jnp.zeros(2), 1, spherical=False)
