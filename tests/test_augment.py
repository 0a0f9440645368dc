import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import augment
from ganjax.types import InputError

KEY = jax.random.key(0)
IMAGES = jnp.arange(2.0 * 3 * 4).reshape(1, 2, 3, 4)
METRICS = {"logits/real": jnp.float32(0), "logits/real_sign": jnp.float32(0.9)}


def signature(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(a.shape, a.dtype, jnp.asarray(a).weak_type) for a in leaves]


def ramp(*shape):
    return jnp.linspace(-1, 1, int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_augmentations_keep_shape_dtype_and_state(name):
    piece = augment.AUGMENTATIONS[name]()
    state = piece.init()
    for dtype in (jnp.float32, jnp.bfloat16):
        images = ramp(4, 6, 5, 3).astype(dtype)
        out = jax.eval_shape(piece.apply, state, images, KEY)
        assert out.shape == images.shape
        assert out.dtype == images.dtype
    after = piece.update(state, METRICS, 4)
    assert signature(after) == signature(state)
    reported = piece.metrics(after)
    assert signature(piece.metrics(state)) == signature(reported)
    assert all(value.dtype == jnp.float32 and value.shape == () for value in reported.values())


@pytest.mark.parametrize(("probability", "flips"), [(0.0, False), (1.0, True)])
def test_flip_mirrors_left_and_right(probability, flips):
    piece = augment.horizontal_flip(probability)
    out = piece.apply((), IMAGES, KEY)
    np.testing.assert_array_equal(out, np.flip(IMAGES, axis=2) if flips else IMAGES)


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_flip_draws_for_each_image(probability):
    images = jnp.broadcast_to(IMAGES, (2000, 2, 3, 4))
    out = augment.horizontal_flip(probability).apply((), images, KEY)
    flipped = np.asarray(out[:, 0, 0, 0] != IMAGES[0, 0, 0, 0])
    assert flipped.mean() == pytest.approx(probability, abs=0.04)
    np.testing.assert_array_equal(out[flipped], np.flip(images[flipped], axis=2))
    np.testing.assert_array_equal(out[~flipped], images[~flipped])


def test_flip_probability_is_one():
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        augment.horizontal_flip(1.5)


# Several at once.


def adding(number):
    return augment.Augment(
        lambda: jnp.float32(number),
        lambda state, images, key: 2 * images + state,
        lambda state, metrics, images: state + images,
        lambda state: {f"state/{number}": state},
    )


def test_composed_augmentations_follow_one_another_and_keep_their_states():
    both = augment.compose(adding(1), augment.horizontal_flip(1.0), adding(5))
    states = both.init()
    assert states == (1, (), 5)
    np.testing.assert_array_equal(
        both.apply(states, IMAGES, KEY), 2 * (2 * IMAGES[:, :, ::-1] + 1) + 5
    )
    assert both.update(states, {}, 3) == (4, (), 8)
    assert both.metrics(states) == {"state/1": 1, "state/5": 5}


def test_composed_augmentations_draw_apart():
    images = jnp.broadcast_to(IMAGES, (100, 2, 3, 4))
    twice = augment.compose(augment.horizontal_flip(), augment.horizontal_flip())
    flipped = np.asarray(twice.apply(twice.init(), images, KEY)[:, 0, 0, 0] != 0)
    assert 0.3 < flipped.mean() < 0.7


def test_names_are_read():
    assert augment.from_names("flip").init() == ()
    both = augment.from_names("ada + diff_augment")
    assert both.init()[1] == ()
    assert set(both.metrics(both.init())) == {"augment/probability"}
    sentence = r"one of flip, diff_augment, ada, r3gan, or several joined by \+; got 'aba' in"
    with pytest.raises(InputError, match=sentence):
        augment.from_names("flip+aba")
    with pytest.raises(InputError, match="got ''"):
        augment.from_names("")


# DiffAugment.


def test_color_changes_brightness_saturation_and_contrast_as_far_as_the_paper_says():
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 4, 6, 3)).astype(np.float32)
    images = np.broadcast_to(pixels, (500, 4, 6, 3))
    out = np.asarray(augment.diff_augment("color").apply((), jnp.asarray(images), KEY))
    brightness = out.mean((1, 2, 3)) - pixels.mean()
    grey, new_grey = pixels.mean(-1), out.mean(-1)
    contrast = new_grey.std((1, 2)) / grey.std()
    chroma, new_chroma = pixels - grey[..., None], out - new_grey[..., None]
    both = np.linalg.norm(new_chroma.reshape(500, -1), axis=1) / np.linalg.norm(chroma)
    saturation = both / contrast
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0, 2)):
        assert low - 1e-5 <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high + 1e-5
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.1)
    correlations = np.corrcoef([brightness, contrast, saturation]) - np.eye(3)
    assert np.abs(correlations).max() < 0.15
    # Nothing else happens.
    expected = new_grey.mean((1, 2))[:, None, None, None] + contrast[:, None, None, None] * (
        (grey - grey.mean())[..., None] + saturation[:, None, None, None] * chroma
    )
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_saturation_leaves_one_channel_alone():
    images = ramp(1, 4, 4, 1)
    one = augment.diff_augment("color").apply((), images, KEY)
    three = augment.diff_augment("color").apply((), jnp.repeat(images, 3, -1), KEY)
    np.testing.assert_allclose(one, three[..., :1], atol=1e-6)


def test_translation_moves_by_up_to_an_eighth_and_fills_with_grey():
    image = np.arange(1.0, 1 + 16 * 8).reshape(16, 8, 1).astype(np.float32)
    images = jnp.broadcast_to(image, (400, 16, 8, 1))
    out = np.asarray(augment.diff_augment("translation").apply((), images, KEY))
    padded = np.pad(image, ((2, 2), (1, 1), (0, 0)))
    shifts = {padded[i : i + 16, j : j + 8].tobytes(): (i, j) for i in range(5) for j in range(3)}
    seen = [shifts[one.tobytes()] for one in out]
    assert set(seen) == set(shifts.values())
    assert np.bincount([i for i, _ in seen]).min() > 50


def test_cutout_is_half_the_size_and_anywhere():
    out = np.asarray(augment.diff_augment("cutout").apply((), jnp.ones((500, 8, 12, 3)), KEY))
    rows, columns = out.min((2, 3)) == 0, out.min((1, 3)) == 0
    expected = 1 - rows[:, :, None, None] * columns[:, None, :, None] * np.ones(3)
    np.testing.assert_array_equal(out, expected)
    # A rectangle of 4 x 6, cut off where it leaves the image.
    assert set(rows.sum(1)) == {2, 3, 4}
    assert set(columns.sum(1)) == {3, 4, 5, 6}
    assert rows.mean(0).min() > 0.2
    assert (np.diff(rows.astype(int), axis=1) == 1).sum(1).max() == 1


def test_policies_are_named():
    with pytest.raises(InputError, match="color, translation, cutout, joined by commas; got 'hue'"):
        augment.diff_augment("color,hue")


def test_gradients_pass_through(quick_jit):
    images = ramp(3, 8, 8, 3)
    piece = augment.diff_augment()

    def loss(images):
        return jnp.sum(piece.apply((), images, KEY) ** 3)

    direction = jax.random.normal(KEY, images.shape)
    run = quick_jit(jax.value_and_grad(loss))
    slope = jnp.vdot(run(images)[1], direction)
    difference = (run(images + 1e-2 * direction)[0] - run(images - 1e-2 * direction)[0]) / 2e-2
    np.testing.assert_allclose(slope, difference, rtol=1e-2)
    assert slope != 0
