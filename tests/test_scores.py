"""The commands around evaluation, on tiny runs and folders."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_runs import contents, run_cli

from ganjax import measure
from ganjax.evaluation import frechet_distance, pixels
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GANJAX_NO_CACHE", "1")


def images(count, seed, size=12):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def folder(path, array, classes=1):
    for index, image in enumerate(array):
        parent = path / f"class{index % classes}" if classes > 1 else path
        parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(parent / f"{index:03d}.png")
    return path


@pytest.fixture
def run(image_run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(str(image_run.run), path)
    return path


def test_two_folders_and_the_same_as_arrays(tmp_path, capsys):
    one, two = images(30, 0), images(40, 1)
    first, second = folder(tmp_path / "one", one), folder(tmp_path / "two", two)
    np.savez(tmp_path / "one.npz", image=one)
    np.save(tmp_path / "two.npy", two)
    pairs = [(first, second), (tmp_path / "one.npz", tmp_path / "two.npy"), (first, "two.npy")]
    expected = frechet_distance(*(pixels((12, 12, 3))(x)["features"] for x in (one, two)))
    for source, reference in pairs[:2]:
        assert run_cli("evaluate", source, "--reference", reference) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Fréchet distance (pixels-8x8, 30 vs {reference}): ")
        assert float(text.split(": ")[-1]) == pytest.approx(expected, rel=0.01)
        (figure,) = measure.compare(str(source), str(reference)).values()
        assert figure.value == pytest.approx(expected, rel=1e-12)
        assert (figure.num_samples, figure.num_reference) == (30, 40)


def test_images_against_published_statistics(tmp_path, capsys):
    one, two = images(30, 0), images(40, 1)
    features = pixels((12, 12, 3))(two)["features"].astype(np.float64)
    path = tmp_path / "two.npz"
    np.savez(path, mu=features.mean(axis=0), sigma=np.cov(features.T))
    source = folder(tmp_path / "one", one)
    (figure,) = measure.compare(str(source), str(path)).values()
    mine = pixels((12, 12, 3))(one)["features"]
    assert figure.value == pytest.approx(frechet_distance(mine, features), rel=1e-9)
    assert figure.num_reference is None
    arguments = ["--reference", path, "--metrics", "precision_recall"]
    assert run_cli("evaluate", source, *arguments) == 2
    assert "precision_recall needs the features of the reference" in capsys.readouterr().err


def test_sizes_are_brought_together(tmp_path, capsys):
    source, reference = tmp_path / "small.npz", tmp_path / "large.npz"
    np.savez(source, image=images(10, 0, size=8))
    np.savez(reference, image=images(10, 1, size=16))
    assert run_cli("evaluate", source, "--reference", reference) == 2
    assert "takes images of shape (N, 8, 8, 3)" in capsys.readouterr().err
    arguments = ["--reference", reference, "--image-size", 8, 8]
    assert run_cli("evaluate", source, *arguments) == 0
    assert "10 vs" in capsys.readouterr().out


def test_distances_within_the_classes_of_folders(tmp_path):
    one = folder(tmp_path / "one", images(20, 0), classes=2)
    two = folder(tmp_path / "two", images(24, 1), classes=2)
    (figure,) = measure.compare(
        str(one), str(two), metrics=("intra_class_frechet_distance",)
    ).values()
    assert figure.settings == {"num_classes": 2}
    assert figure.value > 0


def test_a_run_with_chosen_metrics_and_reference(run, tmp_path, capsys):
    reference = tmp_path / "real.npz"
    np.savez(reference, image=images(40, 2)[..., :1])
    arguments = ["--metrics", "kernel_distance", "density_coverage", "--num-samples", 20]
    assert run_cli("evaluate", run, *arguments, "--reference", reference) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["kernel distance", "density", "coverage"]
    assert all(f"20 vs {reference}, 12x12x1 (crop))" in line for line in lines)
    figures = json.loads((run / "evaluation.json").read_text())[-1]["figures"]
    assert figures["coverage"]["settings"] == {"num_neighbors": 5}
    assert figures["kernel_distance"]["extractor"] == "pixels-8x8"
    assert figures["kernel_distance"]["num_reference"] == 40


def test_a_run_against_its_training_data(run, capsys):
    arguments = ["--reference", "train", "--num-samples", 20]
    arguments += ["--metrics", "intra_class_frechet_distance"]
    assert run_cli("evaluate", run, *arguments) == 2  # some class has one sample
    assert "take more samples" in capsys.readouterr().err
    arguments[3] = 200
    assert run_cli("evaluate", run, *arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("intra-class Fréchet distance (pixels-8x8, 200 vs train,")


def test_options_for_the_other_kind_are_refused(run, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", image=images(4, 0))
    assert run_cli("evaluate", run, "--image-size", 8, 8) == 2
    assert "--image-size is for images; a run has its own" in capsys.readouterr().err
    source = tmp_path / "a.npz"
    assert run_cli("evaluate", source, "--reference", source, "--seed", 3) == 2
    assert "--seed is for a run, and" in capsys.readouterr().err
    assert run_cli("evaluate", tmp_path / "a.npz") == 2
    assert "holds no run" in capsys.readouterr().err


def test_neighbors(run, tmp_path, capsys):
    before = contents(run)
    out = tmp_path / "near.png"
    assert run_cli("neighbors", run, "--num", 3, "--num-neighbors", 2, "--out", out) == 0
    text = capsys.readouterr().out
    pattern = r"a sample and the 2 nearest of fashion_mnist .* ([\d.]+) away .* ([\d.]+) \(pixels"
    nearest, usual = map(float, re.search(pattern, text).groups())
    assert nearest > usual > 0
    with Image.open(out) as picture:
        # Rows of 12x12 at five times their size, between lines of two pixels.
        assert picture.height == 3 * 60 + 4 * 2
        assert picture.width > 3 * 60
    assert contents(run) == before


def test_a_generator_that_copies_is_seen(run, monkeypatch):
    from ganjax.build import build
    from ganjax.trained import Trained, load

    data = build(load(str(run)).config).train
    copies = data.arrays["image"][[5, 77]] / np.float32(127.5) - 1
    monkeypatch.setattr(Trained, "sample", lambda *arguments, **options: copies)
    found = measure.neighbors(str(run), num=2, num_neighbors=1)
    np.testing.assert_allclose(found.distances, 0, atol=1e-5)
    np.testing.assert_array_equal(found.nearest[:, 0], data.arrays["image"][[5, 77]])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["path-length", "run"], "DCGAN has no styles: the path length is for StyleGAN2"),
        (["path-length", "run", "--num-samples", 5], "--num-samples has to be 100 or more, got 5"),
        (["neighbors", "run", "--out", "a.jpg"], "--out a.jpg ends in .jpg"),
        (["neighbors", "run", "--extractor", "resnet"], "there is no extractor 'resnet'"),
        (["evaluate", "run", "--metrics", "fid"], "evaluation.metrics has to be one of"),
        (["evaluate", "run", "--extractor", "inception-v3"], "run `ganjax weights inception-v3`"),
        (["weights", "vgg"], "there are no weights 'vgg': choose from inception-v3"),
        (["weights", "inception-v3", "--file", "no.pth"], "there is no file no.pth"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run, tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    assert run_cli(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_neighbours_of_points(ring_run):
    with pytest.raises(InputError, match="makes points: neighbours are shown of images"):
        measure.neighbors(str(ring_run.run))


def test_what_was_done_to_the_images_is_in_the_figure(tmp_path):
    np.savez(tmp_path / "a.npz", image=images(20, 0, size=16))
    source = str(tmp_path / "a.npz")
    (plain,) = measure.compare(source, source).values()
    (small,) = measure.compare(source, source, image_size=(8, 8)).values()
    assert (plain.images, small.images) == ("16x16x3", "8x8x3 (crop)")
    assert "8x8x3 (crop)" in str(small)
    assert "16x16x3" not in str(plain)
    assert plain.source_fingerprint == plain.reference_fingerprint != small.reference_fingerprint
    assert plain.reference_data == f"{source} (train)"


def test_a_run_is_compared_at_its_own_size(run, tmp_path):
    """Whatever size and channels the reference has."""
    np.savez(tmp_path / "large.npz", image=images(30, 3, size=20))
    figures, _ = measure.evaluate(str(run), reference=str(tmp_path / "large.npz"), num_samples=20)
    assert figures["frechet_distance"].images == "12x12x1 (crop)"


def test_points_take_no_settings_of_images(ring_run, capsys):
    assert run_cli("evaluate", ring_run.run, "--extractor", "pixels") == 2
    assert "--extractor is for images, and" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w", "z"])
@pytest.mark.parametrize("conditional", [True, False])
def test_path_length(tmp_path, capsys, space, conditional):
    from dataclasses import replace

    from tiny_runs import image_config

    from ganjax import train
    from ganjax.config import GAN, Data
    from ganjax.networks.stylegan2 import StyleGAN2

    network = StyleGAN2(z_dim=4, w_dim=4, mapping_layers=1, channel_base=64, channel_max=8)
    settings = image_config(steps=1, checkpoint_every_steps=1)
    model = GAN(network=network, conditional=conditional)
    settings = replace(settings, model=model, data=Data(image_size=(8, 8), held_out=0))
    train.train(settings, str(tmp_path / "run"))
    arguments = ["--num-samples", 100, "--space", space]
    assert run_cli("path-length", tmp_path / "run", *arguments) == 0
    pattern = (
        rf"perceptual path length in {space.upper()} \(pixels-8x8, 100\): [\d.,e+-]+ ± [\d.,e+-]+"
    )
    assert re.fullmatch(pattern, capsys.readouterr().out.strip().splitlines()[-1])
