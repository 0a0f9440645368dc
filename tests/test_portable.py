"""The commands that bring models in and out."""

import json

import jax
import numpy as np
import pytest
from tiny_runs import run_cli

import ganjax
from ganjax import interop

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def image_path(image_run):
    return str(image_run.run)


def latents_and_labels(count=3):
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32), [1, 5, 9][:count]


def test_exported_weights_are_those_of_the_run(image_path, tmp_path, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    out = tmp_path / "generator"
    assert run_cli("export", image_path, "--out", out) == 0
    assert "the generator of" in capsys.readouterr().out
    config, variables = interop.load_weights(out)
    trained = ganjax.load(image_path)
    assert config["shape"] == [12, 12, 1]
    assert config["num_classes"] == 10
    assert config["model"]["network"]["type"] == "dcgan"
    expected = trained.variables["generator"]
    assert jax.tree.structure(variables) == jax.tree.structure(dict(expected))
    for ours, theirs in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert json.loads((out / "config.json").read_text()) == config


def test_an_exported_program_makes_the_same_images(image_path, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    out = tmp_path / "generator.stablehlo"
    assert run_cli("export", image_path, "--out", out) == 0
    generate = interop.load_program(out)
    trained = ganjax.load(image_path)
    for count in (3, 2):
        latents, labels = latents_and_labels(count)
        expected = trained.sample(jax.random.key(0), count, labels, latents=latents)
        np.testing.assert_allclose(generate(latents, labels), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export"], "expected `ganjax export RUN ...`"),
        (["export", "RUN", "--out", "x.onnx"], "endings it knows: .stablehlo, none (a folder)"),
        (["convert"], "expected `ganjax convert FILE OUT`"),
        (["convert", "a.pkl"], "expected `ganjax convert FILE OUT`"),
        (["convert", "nowhere.pkl", "out"], "nowhere.pkl"),
    ],
)
def test_bad_input_has_its_sentence(arguments, sentence, image_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [image_path if a == "RUN" else a for a in arguments]
    assert run_cli(*arguments) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["convert", "export"])
def test_manuals(command, capsys):
    assert run_cli(command, "--help") == 0
    assert f"ganjax {command}" in capsys.readouterr().out
