"""Commands that explore a latent space, and projection."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_runs import image_config, run_cli

import ganjax
from ganjax import explore, pictures, train
from ganjax.networks.stylegan2 import StyleGAN2
from ganjax.projection import project
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

replace = dataclasses.replace


@pytest.fixture(scope="module")
def image_path(image_run):
    return str(image_run.run)


@pytest.fixture(scope="module")
def style_path(tmp_path_factory, quick_compilation):
    """A run of a generator with styles, unconditional, after one step."""
    network = StyleGAN2(
        z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, mbstd_group_size=2
    )
    settings = image_config(steps=1)
    model = replace(settings.model, network=network, conditional=False, share_fakes=False)
    data = replace(settings.data, image_size=(8, 8))
    run = tmp_path_factory.mktemp("runs") / "styles"
    train.train(replace(settings, model=model, data=data), str(run))
    return str(run)


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


def cell(picture, row, column, size, scale, padding=2):
    pitch = size * scale + padding
    top, left = padding + row * pitch, padding + column * pitch
    return picture[top : top + size * scale, left : left + size * scale]


# Projection.


def test_a_projection_finds_what_can_be_found():
    weights = 0.4 * jax.random.normal(jax.random.key(0), (4, 12))

    def generate(z):
        return jnp.tanh(z @ weights).reshape(-1, 2, 2, 3)

    hidden = jax.random.normal(jax.random.key(1), (5, 4))
    found = project(generate, generate(hidden), jnp.zeros((5, 4)), num_steps=400)
    assert found.distances.shape == (401, 5)
    assert np.all(found.distances[-1] < 1e-3 * found.distances[0])
    np.testing.assert_allclose(found.points, hidden, atol=0.1)
    np.testing.assert_allclose(found.images, generate(found.points), rtol=1e-5)


def test_a_projection_compares_features():
    # Only the mean of an image is looked at: the nearest point to a mean of 0.5 is not unique,
    # but its mean is.
    target = jnp.full((2, 2, 2, 1), 0.5).at[:, 0].set(1.0).at[:, 1].set(0.0)
    found = project(
        lambda z: z.reshape(-1, 2, 2, 1),
        target,
        jnp.zeros((2, 4)),
        features=lambda images: images.mean((1, 2, 3))[:, None],
        num_steps=300,
    )
    np.testing.assert_allclose(found.images.mean((1, 2, 3)), 0.5, atol=1e-2)
    assert not np.allclose(found.images, target, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "takes 1 step or more"),
        ({"learning_rate": 0.0}, "a positive learning rate"),
        ({"images": np.zeros((2, 3, 3, 1))}, "the images to project have the shape"),
    ],
)
def test_a_projection_is_checked(options, message):
    arguments = {"images": np.zeros((2, 2, 2, 1)), **options}
    images = arguments.pop("images")
    with pytest.raises(ValueError, match=message):
        project(lambda z: z.reshape(-1, 2, 2, 1), images, jnp.zeros((2, 4)), **arguments)


def test_a_projection_that_diverges_says_so():
    with pytest.raises(InputError, match="diverged; lower the learning rate"):
        project(
            lambda z: jnp.exp(z * 100).reshape(-1, 2, 2, 1),
            np.ones((1, 2, 2, 1)),
            jnp.ones((1, 4)),
            num_steps=3,
            learning_rate=100.0,
        )


# Commands.


def test_classes_share_their_latents(image_path, tmp_path, capsys):
    out = tmp_path / "classes.png"
    assert run_cli("classes", image_path, "--num", 3, "--labels", "1,4,1", "--out", out) == 0
    assert "rows are Trouser, Coat, Trouser" in capsys.readouterr().out
    picture = opened(out)
    rows = [[cell(picture, row, column, 12, 5) for column in range(3)] for row in range(3)]
    np.testing.assert_array_equal(rows[0], rows[2])
    assert np.any(rows[0][0] != rows[1][0])
    assert np.any(rows[0][0] != rows[0][1])


def test_truncation_of_latents_is_a_row(image_path, tmp_path):
    out = tmp_path / "truncation.png"
    arguments = ("--values", "0.1,1", "--num", 2, "--out", out)
    assert run_cli("truncation", image_path, *arguments) == 0
    assert opened(out).shape[:2] == (2 + 2 * 62, 2 + 2 * 62)


def test_a_projection_is_shown_below_its_picture(image_path, tmp_path, capsys):
    trained = ganjax.load(image_path)
    sample = trained.sample(jax.random.key(3), 1, [2])
    pictures.save_png(tmp_path / "one.png", pictures.as_uint8_images(sample)[0])
    common = (tmp_path / "one.png", "--labels", "2", "--steps", 30)
    out = tmp_path / "projection.png"
    assert run_cli("project", image_path, *common, "--out", out) == 0
    assert "after 30 steps" in capsys.readouterr().out
    assert opened(out).shape[:2] == (2 + 2 * 62, 2 + 62)
    assert run_cli("project", image_path, *common, "--out", tmp_path / "found.npz") == 0
    with np.load(tmp_path / "found.npz") as found:
        assert found["points"].shape == (1, 6)
        assert found["distances"][-1] < found["distances"][0]
        again = trained.sample(jax.random.key(0), 1, [2], latents=found["points"])
        np.testing.assert_allclose(again, found["images"], atol=1e-4)


@pytest.mark.slow
def test_styles_are_mixed(style_path, tmp_path, capsys):
    out = tmp_path / "mix.png"
    arguments = ("--rows", 2, "--columns", 3, "--out", out)
    assert run_cli("mix", style_path, *arguments, "--layers", "0-3") == 0
    assert "layers 0 to 3 of 4" in capsys.readouterr().out
    picture = opened(out)
    assert np.all(cell(picture, 0, 0, 8, 8) == 255)
    for column in (1, 2, 3):  # all layers: every row is the upper picture
        for row in (1, 2):
            np.testing.assert_array_equal(
                cell(picture, row, column, 8, 8), cell(picture, 0, column, 8, 8)
            )
    assert run_cli("mix", style_path, *arguments, "--layers", "3") == 0
    picture = opened(out)
    assert np.any(cell(picture, 1, 1, 8, 8) != cell(picture, 0, 1, 8, 8))


@pytest.mark.slow
def test_truncation_of_styles_begins_at_the_mean(style_path, tmp_path):
    out = tmp_path / "truncation.png"
    assert run_cli("truncation", style_path, "--values", "0,1", "--num", 3, "--out", out) == 0
    picture = opened(out)
    trained = ganjax.load(style_path)
    styles = trained.map(np.random.default_rng(0).normal(size=(3, 8)), truncation=0.0)
    np.testing.assert_allclose(styles, np.broadcast_to(styles[:1, :1], styles.shape), atol=1e-6)
    full = [cell(picture, row, 1, 8, 8) for row in range(3)]
    assert np.any(full[0] != full[1])


@pytest.mark.slow
def test_styles_are_projected(style_path):
    trained = ganjax.load(style_path)
    target = trained.sample(jax.random.key(9), 2)
    found = trained.project(target, num_steps=40)
    assert found.points.shape == (2, 1, 8)
    assert np.all(found.distances[-1] < found.distances[0])
    each = trained.project(target, num_steps=40, each_layer=True)
    assert each.points.shape == (2, 4, 8)


# What cannot be done.


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["truncation", "--values", "a"], "are numbers such as"),
        (["truncation", "--out", "x.jpg"], "endings it knows: .png"),
        (["classes", "--labels", "99"], "labels have to lie between 0 and 9"),
        (["mix"], "DCGAN has no styles; StyleGAN2 has"),
        (["project"], "expected `ganjax project RUN PICTURE ...`"),
        (["project", "nowhere.png"], "nowhere.png could not be read: No such file"),
        (["project", "nowhere.png", "--steps", "0"], "--steps has to be 1 or more"),
        (["interpolate", "--path", "curved"], "--path has to be one of auto, spherical, linear"),
    ],
)
def test_bad_input_has_its_sentence(command, sentence, image_path, capsys):
    name, *rest = command
    assert run_cli(name, image_path, *rest) == 2
    assert sentence in capsys.readouterr().err


def test_points_have_no_pictures(ring_run, capsys):
    for name in ("truncation", "classes", "mix"):
        assert run_cli(name, ring_run.run) == 2
        assert "makes points in the plane" in capsys.readouterr().err


def test_layers_are_counted():
    assert explore._parse_layers(None, 8) == (0, 3)
    assert explore._parse_layers("2-5", 8) == (2, 5)
    assert explore._parse_layers("7", 8) == (7, 7)
    for wrong in ("8", "5-2", "1-2-3", "a", "-1", ""):
        with pytest.raises(InputError, match="--layers are numbers such as"):
            explore._parse_layers(wrong, 8)
