"""The command line: what it says, what it writes, and how it ends."""

import dataclasses
import functools
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_runs import contents, image_config, run_cli, start

from ganjax import cli, config, explore, plain, prepare, samples, scores
from ganjax.config import to_json
from ganjax.trained import Trained

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIONS = {
    "resume": ["train.steps"],
    **{
        name: [field.name for field in dataclasses.fields(options)]
        for name, options in {
            "sample": samples.SampleOptions,
            "interpolate": samples.InterpolateOptions,
            "truncation": explore.TruncationOptions,
            "classes": explore.ClassesOptions,
            "mix": explore.MixOptions,
            "project": explore.ProjectOptions,
            "evaluate": scores.EvaluateOptions,
            "neighbors": scores.NeighborsOptions,
            "path-length": scores.PathLengthOptions,
            "weights": scores.WeightsOptions,
            "info": cli.InfoOptions,
            "data prepare": prepare.PrepareOptions,
        }.items()
    },
}


@pytest.fixture(scope="module")
def image_path(image_run):
    return str(image_run.run)


# Manuals.


def test_overview(capsys):
    assert run_cli("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert "ganjax train quickstart" in text
    assert run_cli() == 2
    assert capsys.readouterr().out == text


def test_version(capsys):
    assert run_cli("--version") == 0
    assert re.fullmatch(r"ganjax \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", OPTIONS)
def test_manuals_explain_every_option(command, capsys):
    assert run_cli(*command.split(), "--help") == 0
    text = capsys.readouterr().out
    for name in OPTIONS[command]:
        assert f"--{name.replace('_', '-')}" in text or f"--{name}" in text, name
    docstring = {"data prepare": "Prepare a tensorflow-datasets set"}.get(command)
    start_of_text = docstring or cli.COMMANDS[command].__doc__.split()[0]
    assert start_of_text in text


def test_the_manual_of_data(capsys):
    assert run_cli("data", "--help") == 0
    text = capsys.readouterr().out
    assert "ganjax data prepare NAME [--data-dir DIR] [--downloads DIR]" in text


def test_the_manual_of_train(capsys):
    assert run_cli("train", "--help") == 0
    text = capsys.readouterr().out
    for word in ("--run-directory", "--dry-run", "CONFIG --help", *config.shipped()):
        assert word in text, word
    assert run_cli("train") == 2


def test_train_lists_every_field(capsys):
    assert run_cli("train", "quickstart", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in plain.field_names(config.load_file("quickstart")):
        if name == "model.penalties":  # nothing in it to be set
            continue
        assert f"--{name.replace('_', '-')}" in text or f"-{name.replace('_', '-')}" in text, name
    assert "Steps between two checkpoints." in text


# Train.


def test_dry_run(image_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    arguments = ["--train.steps", 17, "--model.generator.learning-rate=0.5", "--dry-run"]
    assert run_cli("train", image_file, *arguments) == 0
    text = capsys.readouterr().out
    resolved, end = json.JSONDecoder().raw_decode(text)
    expected = to_json(image_config(steps=17))
    expected["model"]["generator"]["learning_rate"] = 0.5
    assert resolved == json.loads(json.dumps(expected))
    facts = text[end:]
    assert re.search(r"parameters of the generator +[\d,]+\n", facts)
    assert re.search(r"parameters of the discriminator +[\d,]+\n", facts)
    assert re.search(r"FLOPs of a step +[\d.]+ [kM] .batch of 8.\n", facts)
    assert re.search(r"memory of a step +[\d.]+ [kM]B at the peak .batch of 8.\n", facts)
    assert re.search(r"data +fashion_mnist .built in., 9,968 of 12x12x1\n", facts)
    assert re.search(r"held out +32\n", facts)
    assert {name for name in contents(tmp_path) if "__pycache__" not in name} == set(before)


def test_end_to_end_from_another_directory(ring_file, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    process = start(["-m", "ganjax.cli", "train", ring_file, "--train.steps", "4"], folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "run directory: runs/tiny" in err
    assert "Traceback" not in err
    assert "modes covered" in out
    assert "ganjax sample runs/tiny" in out
    assert (folder / "runs" / "tiny" / "curves.png").exists()
    assert [line.name for line in (folder / "runs").iterdir()] == ["tiny"]


def test_run_directories_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli._free_directory("a") == "runs/a"
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert cli._free_directory("a") == "runs/a-2"
    (tmp_path / "runs" / "a-2").mkdir()
    assert cli._free_directory("a") == "runs/a-3"


def test_resume_further(ring_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(str(ring_run.run), run)
    assert run_cli("resume", run, "--train.steps", 8) == 0
    captured = capsys.readouterr()
    assert "step 8" in captured.out
    assert (run / "samples" / "0000008.png").exists()
    assert run_cli("info", run) == 0
    assert re.search(r"^step +8 of 8$", capsys.readouterr().out, re.MULTILINE)


# Sample.


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_a_grid_of_samples(image_path, tmp_path, capsys):
    out = tmp_path / "new" / "grid.png"
    assert run_cli("sample", image_path, "--num", 20, "--out", out) == 0
    assert capsys.readouterr().out == f"wrote {out}: 20 samples of {image_path} at step 4\n"
    width, height = size_of(out)
    # Classes beside each other: ten columns and two rows of 12x12 pixels, five times as large.
    assert width > 600
    assert 120 < height < 150
    other = tmp_path / "columns.png"
    assert run_cli("sample", image_path, "--num", 20, "--columns", 4, "--out", other) == 0
    width, height = size_of(other)
    assert 240 < width < 270
    assert height > 300


def sampled(image_path, tmp_path, *arguments):
    out = tmp_path / "samples.npz"
    assert run_cli("sample", image_path, "--num", 6, "--out", out, *arguments) == 0
    with np.load(out) as file:
        return file["samples"]


def test_an_array_of_samples(image_path, tmp_path):
    samples = sampled(image_path, tmp_path)
    assert samples.shape == (6, 12, 12, 1)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1
    np.testing.assert_array_equal(samples, sampled(image_path, tmp_path, "--seed", 0))
    for arguments in (
        ("--seed", 3),
        ("--labels", "0,1"),
        ("--truncation", 0.2),
        ("--no-ema",),
        ("--step", 2),
    ):
        assert not np.array_equal(samples, sampled(image_path, tmp_path, *arguments)), arguments


def test_single_pictures(image_path, tmp_path):
    out = tmp_path / "pictures"
    assert run_cli("sample", image_path, "--num", 3, "--out", out) == 0
    paths = sorted(out.iterdir())
    assert len(paths) == 3
    assert {path.suffix for path in paths} == {".png"}
    assert {size_of(path) for path in paths} == {(12, 12)}


def test_points(ring_run, tmp_path):
    assert run_cli("sample", ring_run.run, "--num", 5, "--out", tmp_path / "p.npz") == 0
    with np.load(tmp_path / "p.npz") as file:
        assert file["samples"].shape == (5, 2)
    assert run_cli("sample", ring_run.run, "--num", 5, "--out", tmp_path / "p.png") == 0
    assert min(size_of(tmp_path / "p.png")) > 100


# Interpolate.


def test_a_grid_of_walks(image_path, tmp_path, capsys):
    out = tmp_path / "walk.png"
    arguments = ["--num-walks", 2, "--num-steps", 5, "--out", out]
    assert run_cli("interpolate", image_path, *arguments) == 0
    assert capsys.readouterr().out == f"wrote {out}: 2 walks of 5 steps\n"
    width, height = size_of(out)
    assert 300 < width < 330
    assert 120 < height < 140


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_moving_walks(image_path, tmp_path, ending, monkeypatch):
    # Four steps of training make frames that an encoder takes for one.
    sample = Trained.sample
    strong = functools.wraps(sample)(lambda *a, **k: np.clip(99 * sample(*a, **k), -1, 1))
    monkeypatch.setattr(Trained, "sample", strong)
    out = tmp_path / f"walk.{ending}"
    arguments = ["--num-walks", 2, "--num-points", 3, "--num-steps", 4, "--labels", "1"]
    assert run_cli("interpolate", image_path, *arguments, "--out", out) == 0
    with Image.open(out) as picture:
        # Three legs of four pictures, the last of each being the first of the next.
        assert picture.n_frames == 9
        assert picture.width > 100


# Evaluate and info.


def test_evaluate(image_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(str(image_run.run), run)
    assert run_cli("evaluate", run, "--num-samples", 20, "--seed", 5, "--no-ema") == 0
    text = capsys.readouterr().out
    assert re.search(
        r"^Fréchet distance \(.*20 vs held out, 12x12x1 \(crop\), without EMA\): [\d.,]+$",
        text,
        re.M,
    )
    assert re.search(r"^held-out logits/fake: -?[\d.]+$", text, re.MULTILINE)
    entries = json.loads((run / "evaluation.json").read_text())
    figure = entries[-1]["figures"]["frechet_distance"]
    assert (len(entries), entries[-1]["step"]) == (2, 4)
    assert (figure["num_samples"], figure["seed"], figure["ema"]) == (20, 5, False)


def test_info(image_path, capsys):
    before = contents(image_path)
    assert run_cli("info", image_path) == 0
    rows = dict(
        re.split(r" {2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )
    assert rows["model"] == "GAN of DCGAN"
    assert rows["step"] == "4 of 4"
    assert rows["images seen"] == "32"
    assert rows["trained on"] == "fashion_mnist (built in) (train), 9,968 examples"
    assert any(name.startswith("Fréchet distance") for name in rows)
    assert {"device", "versions", "FLOPs of a step", "memory of a step", "state"} <= rows.keys()
    assert contents(image_path) == before
