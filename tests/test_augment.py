import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import augment

IMAGES = jnp.arange(2.0 * 3 * 4).reshape(1, 2, 3, 4)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_augmentations_keep_shape_dtype_and_state(name):
    piece = augment.AUGMENTATIONS[name]()
    state = piece.init()
    images = jnp.linspace(-1, 1, 4 * 6 * 5 * 3).reshape(4, 6, 5, 3)
    out = piece.apply(state, images, jax.random.key(0))
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    after = piece.update(state, {"logits/real": jnp.float32(0)}, 4)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize(("probability", "flips"), [(0.0, False), (1.0, True)])
def test_flip_mirrors_left_and_right(probability, flips):
    piece = augment.horizontal_flip(probability)
    out = piece.apply((), IMAGES, jax.random.key(0))
    np.testing.assert_array_equal(out, np.flip(IMAGES, axis=2) if flips else IMAGES)


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_flip_draws_for_each_image(probability):
    images = jnp.broadcast_to(IMAGES, (2000, 2, 3, 4))
    out = augment.horizontal_flip(probability).apply((), images, jax.random.key(0))
    flipped = np.asarray(out[:, 0, 0, 0] != IMAGES[0, 0, 0, 0])
    assert flipped.mean() == pytest.approx(probability, abs=0.04)
    np.testing.assert_array_equal(out[flipped], np.flip(images[flipped], axis=2))
    np.testing.assert_array_equal(out[~flipped], images[~flipped])


def test_flip_probability_is_one():
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        augment.horizontal_flip(1.5)
