import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ganjax import pictures
from ganjax.types import InputError


def images(count, height=5, width=7, channels=3, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def opened(path):
    """Return the pixels of a file without leaving it open."""
    with open(path, "rb") as file:
        return np.asarray(Image.open(io.BytesIO(file.read())))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_holds_every_image_at_its_place(channels):
    x = images(7, channels=channels)
    picture = pictures.grid(x, columns=3, padding=2, upscale=2)
    assert picture.shape == (3 * 12 + 2, 3 * 16 + 2, channels)
    assert picture.dtype == np.uint8
    for index in range(7):
        top, left = 2 + index // 3 * 12, 2 + index % 3 * 16
        cell = picture[top : top + 10, left : left + 14]
        np.testing.assert_array_equal(cell[::2, ::2], x[index])
        np.testing.assert_array_equal(cell[1::2, 1::2], x[index])
    assert (picture[:2, :, :3] == 255).all()
    assert (picture[-11:, 20:, :3] == 255).all()
    if channels == 4:
        assert (picture[-11:, 20:, 3] == 0).all()


def test_grid_without_padding_is_the_images():
    x = images(4, channels=1)
    picture = pictures.grid(x, padding=0)
    assert picture.shape == (10, 14, 1)
    np.testing.assert_array_equal(picture[5:, :7], x[2])
    # No more columns than images.
    np.testing.assert_array_equal(pictures.grid(x[:1], columns=8, padding=0), x[0])


def test_floats_are_scaled_from_minus_one_to_one():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        pictures.as_uint8_images(levels.astype(np.float32) / 127.5 - 1), levels
    )
    x = images(4)
    np.testing.assert_array_equal(pictures.grid(x.astype(np.float32) / 127.5 - 1), pictures.grid(x))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: pictures.grid(np.zeros((2, 4, 4, 2))), r"1, 3 or 4 channels, these have \(2, 4"),
        (lambda: pictures.grid(np.zeros((4, 4, 3))), r"\(N, H, W, C\)"),
        (lambda: pictures.grid(np.zeros((0, 4, 4, 3))), r"\(0, 4, 4, 3\)"),
        (lambda: pictures.grid(np.zeros((1, 4, 4, 3)), columns=0), "columns and upscale must"),
        (lambda: pictures.grid(np.zeros((1, 4, 4, 3), np.int64)), "these are int64"),
        (lambda: pictures.reconstructions(images(2), images(3)), "every real image needs"),
        (lambda: pictures.save_png("x.png", np.zeros((2, 4, 4, 3))), "an image is"),
        (lambda: pictures.save_animation("x.mp4", images(2)), r"a \.gif or a \.webp, not x\.mp4"),
        (lambda: pictures.save_animation("x.gif", images(0)), "these 0 frames"),
        (
            lambda: pictures.save_animation("x.gif", images(2), frames_per_second=0),
            "between 1 and 50",
        ),
        (lambda: pictures.plot_curves("x.png", {}), "no metrics"),
        (
            lambda: pictures.plot_curves("x.png", {"loss/generator": ([1, 2], [1.0])}),
            "the curve loss/generator",
        ),
        (lambda: pictures.scatter("x.png", np.zeros((3, 3))), "generated points in the plane"),
        (lambda: pictures.scatter("x.png", np.zeros((3, 2)), np.zeros((0, 2))), "real points"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(call, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        call()
    assert not list(tmp_path.iterdir())


def test_reconstructions_lie_below_their_originals():
    real, made = images(5), images(5, seed=1)
    picture = pictures.reconstructions(real, made, columns=3, padding=0)
    assert picture.shape == (4 * 5, 3 * 7, 3)
    for index in range(5):
        top, left = 10 * (index // 3), 7 * (index % 3)
        np.testing.assert_array_equal(picture[top : top + 5, left : left + 7], real[index])
        np.testing.assert_array_equal(picture[top + 5 : top + 10, left : left + 7], made[index])
    assert (picture[10:, 14:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_round_trip(tmp_path, channels):
    x = images(1, channels=channels)[0]
    path = tmp_path / "new" / "x.png"
    pictures.save_png(path, x)
    np.testing.assert_array_equal(opened(path), x[..., 0] if channels == 1 else x)
    assert os.listdir(path.parent) == ["x.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    from etils import epath

    path = tmp_path / "x.png"
    pictures.save_png(path, images(1)[0])
    before = path.read_bytes()

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError("No space left on device")

    monkeypatch.setattr(type(epath.Path(path)), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        pictures.save_png(path, images(1, seed=1)[0])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.png"]


def test_save_images_goes_on_where_it_ended(tmp_path):
    x = images(5)
    paths = pictures.save_images(tmp_path, x[:3]) + pictures.save_images(tmp_path, x[3:], start=3)
    assert [os.path.basename(path) for path in paths] == [f"{i:06d}.png" for i in range(5)]
    for path, image in zip(paths, x, strict=True):
        np.testing.assert_array_equal(opened(path), image)


@pytest.mark.parametrize("ending", ["gif", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_animation_has_its_frames_and_speed(tmp_path, ending, channels):
    path = tmp_path / f"walk.{ending}"
    frames = images(6, 16, 24, channels)
    pictures.save_animation(path, frames, frames_per_second=10)
    with Image.open(path) as animation:
        assert animation.n_frames == 6
        assert animation.size == (24, 16)
        assert animation.info["loop"] == 0
        animation.seek(1)
        animation.load()
        assert animation.info["duration"] == 100


def test_curves_are_drawn_whatever_they_hold(tmp_path):
    steps = np.arange(500)
    noise = np.random.default_rng(0).standard_normal(500)
    broken = noise.copy()
    broken[100:] = np.nan
    metrics = {
        "loss/generator": (steps, noise),
        "loss/discriminator": (steps, broken),
        "penalty/r1": ([3], [0.5]),
        "evaluation/frechet_distance": (steps[::100], [9.0, 8.0, np.inf, 6.0, 5.0]),
        "evaluation/classifier_score": ([], []),
        "images_per_second": (steps, np.full(500, np.nan)),
    }
    pictures.plot_curves(tmp_path / "curves.png", metrics)
    height, width, _ = opened(tmp_path / "curves.png").shape
    # Five panels, three in a row.
    assert (height, width) == (660, 1518)


def test_plots_leave_no_figure_behind(tmp_path):
    import matplotlib.pyplot

    pictures.plot_curves(tmp_path / "curves.png", {"loss/generator": ([0, 1], [1.0, 2.0])})
    pictures.scatter(tmp_path / "points.png", np.zeros((3, 2)))
    assert matplotlib.pyplot.get_fignums() == []


def test_scatter_counts_what_lies_outside(tmp_path, monkeypatch):
    titles = []
    save = pictures._save_figure
    monkeypatch.setattr(
        pictures,
        "_save_figure",
        lambda path, figure: (titles.append(figure.axes[0].get_title("left")), save(path, figure)),
    )
    real = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    generated = np.concatenate([real, [[9.0, 0.0], [np.nan, 0.0]]])
    pictures.scatter(tmp_path / "points.png", generated, real, title="step 3")
    assert titles == ["step 3\n2 of 1,002 generated points lie outside"]
    assert opened(tmp_path / "points.png").shape == (572, 550, 4)
    pictures.scatter(tmp_path / "points.png", np.full((2, 2), np.nan))
    assert titles[1] == "2 of 2 generated points lie outside"


def test_import_is_light():
    code = "import sys, ganjax.pictures, ganjax.evaluation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"PIL", "matplotlib", "tensorflow", "tensorflow_datasets", "scipy"}
    assert not heavy & set(done.stdout.split())
