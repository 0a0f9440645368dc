import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.evaluation import compiled_extractor, perceptual_path_length
from ganjax.types import InputError

EXTRACTOR = compiled_extractor(
    "pixels", "", lambda images: images.reshape(len(images), -1), image_shape=(2, 1, 1)
)


def draw(key, num):
    return jax.random.normal(key, (num, 2))


def linear(points, labels):
    """Images whose pixels are three times the points."""
    del labels
    return (3.0 * points).reshape(-1, 2, 1, 1)


def length(generate=linear, **changes):
    options = {"extractor": EXTRACTOR, "key": jax.random.key(0), "num_samples": 4000}
    return perceptual_path_length(draw, generate, **{**options, "batch_size": 500, **changes})


def test_of_a_linear_generator_it_is_known():
    """Nine times the expected squared distance of two points, 4; less what is left out."""
    value, error = length(epsilon=1e-2)
    assert 0.2 < error < 0.8
    assert value == pytest.approx(36.0, rel=0.06)


def test_the_step_does_not_matter_and_roughness_does():
    def rough(points, labels):
        del labels
        return jnp.sin(20.0 * points).reshape(-1, 2, 1, 1)

    smooth = length(epsilon=1e-3)[0]
    assert smooth == pytest.approx(length(epsilon=1e-4)[0], rel=0.02)
    assert length(rough)[0] > 10 * smooth


def test_on_the_sphere_paths_have_one_speed():
    """Great circles between random directions in the plane: the mean squared angle is π²/3."""
    value, _ = length(spherical=True, epsilon=1e-3)
    assert value == pytest.approx(9.0 * np.pi**2 / 3, rel=0.06)


def test_ends_and_labels_reach_the_generator():
    seen = []

    def labelled(points, labels):
        seen.append(labels.shape)
        return (labels[:, None] * points).reshape(-1, 2, 1, 1)

    twos = np.full(4000, 2.0, np.float32)
    assert length(labelled, labels=twos, ends=True, epsilon=1e-2)[0] == pytest.approx(16, rel=0.06)
    assert seen[0] == (500,)


def test_noise_that_differs_from_example_to_example_does_not_count():
    def noisy(points, labels):
        noise = jax.random.normal(jax.random.key(7), (len(points), 2, 1, 1))
        return linear(points, labels) + noise

    assert length(noisy, epsilon=1e-2)[0] == pytest.approx(length(epsilon=1e-2)[0], rel=1e-2)


def test_wrong_input_is_one_sentence():
    with pytest.raises(InputError, match="num_samples must be at least 100"):
        length(num_samples=99)
    with pytest.raises(InputError, match="the generator has diverged"):
        length(lambda points, labels: jnp.nan * linear(points, labels))
