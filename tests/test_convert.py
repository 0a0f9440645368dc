"""A run directory from official weights samples as they do, and can be trained from."""

import dataclasses

import jax
import numpy as np
import pytest
import reference_vectors
from official_files import Persistent, Tensor, dumps, module_state, zip_archive
from reference_vectors import nhwc, relative_error
from test_reader import nvidia

from ganjax import interop, measure, train
from ganjax.config import Config, Data, Train, from_json
from ganjax.convert import convert
from ganjax.run import RunDirectory
from ganjax.trained import load
from ganjax.types import InputError

NAMES = {
    "r3gan": "r3gan_cond16",
    "stylegan2": "stylegan2_cond32",
    "biggan": "biggan_cifar32",
}


def official_file(architecture, path):
    _, state_dict = reference_vectors.weights(NAMES[architecture])
    attributes = {"D": {"b4.mbstd.group_size": 4}} if architecture == "stylegan2" else None
    path.write_bytes(dumps(nvidia(state_dict, attributes)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("architecture", NAMES)
def test_a_converted_run_is_the_official_model(architecture, tmp_path):
    run = convert(official_file(architecture, tmp_path / "official.pkl"), tmp_path / "run")
    trained = load(run.path)
    assert trained.step == 0
    vectors = reference_vectors.arrays(NAMES[architecture])
    labels = vectors["label"] if vectors["label"].ndim == 1 else vectors["label"].argmax(1)
    imported = interop.import_state_dict(
        architecture, *reference_vectors.weights(NAMES[architecture])
    )
    logits = imported.discriminate(nhwc(vectors["x"]), labels)
    ours = trained.networks["discriminator"].apply(
        trained.variables["discriminator"], nhwc(vectors["x"]), labels
    )
    assert relative_error(ours.logits, logits) < 1e-5
    if architecture == "stylegan2":
        styles = trained.map(vectors["z"], labels, truncation=0.7)
        assert relative_error(styles, vectors["ws_psi07"]) < 1e-5
        return
    images = trained.sample(jax.random.key(0), len(labels), labels, latents=vectors["z"])
    assert relative_error(images, imported.generate(vectors["z"], labels)) < 1e-5
    record = RunDirectory(run.path).record()
    assert record["official"]["architecture"] == architecture
    assert from_json(record["config"]).model.conditional
    with pytest.raises(InputError, match=r"none was given to convert"):
        measure.evaluate(str(run.path))


@pytest.mark.slow
def test_the_average_and_the_raw_generator_each_have_their_place(tmp_path):
    _, state_dict = reference_vectors.weights(NAMES["r3gan"])
    networks = nvidia(state_dict)
    name = "AggregationLayer.Layer.weight"
    other = {n[2:]: a for n, a in state_dict.items() if n[:2] == "G."} | {
        name: state_dict[f"G.{name}"] * 2
    }
    networks["G_ema"] = Persistent("Generator", module_state(other))
    path = tmp_path / "official.pkl"
    path.write_bytes(dumps(networks))
    state = load(convert(path, tmp_path / "run").path).state
    raw = state.players["generator"].params["to_image"]
    np.testing.assert_array_equal(state.ema["generator"]["params"]["to_image"], 2 * raw)


@pytest.mark.slow
def test_fine_tuning_starts_from_it(tmp_path):
    run = convert(official_file("r3gan", tmp_path / "official.pkl"), tmp_path / "run")
    trained = load(run.path)
    data = tmp_path / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
    np.savez(data, image=images, label=np.arange(24) % 10)
    settings = Config(
        model=dataclasses.replace(trained.config.model, penalties={}),
        data=Data(str(data), held_out=4),
        train=Train(steps=1, batch_size=8, init_from=str(run.path)),
        evaluation=dataclasses.replace(trained.config.evaluation, num_samples=4),
    )
    result = train.train(settings, str(tmp_path / "tuned"))
    before = trained.state.players["generator"].params["basis"]
    after = result.state.players["generator"].params["basis"]
    data_settings = Data(str(data), held_out=4)
    again = convert(tmp_path / "official.pkl", tmp_path / "scored", data_settings=data_settings)
    figures, _ = measure.evaluate(str(again.path), num_samples=4)
    assert all(np.isfinite(figure.value) for figure in figures.values())
    # One step of Adam from there, with moments of its own.
    assert 0 < np.abs(after - before).max() < 1e-3


@pytest.mark.slow
def test_a_generator_alone(tmp_path):
    _, state_dict = reference_vectors.weights(NAMES["r3gan"])
    parts = {
        prefix: {n[2:]: Tensor(a) for n, a in state_dict.items() if n[:2] == prefix}
        for prefix in ("G.", "D.")
    }
    generator, discriminator = tmp_path / "G.pth", tmp_path / "D.pth"
    generator.write_bytes(zip_archive(parts["G."]))
    discriminator.write_bytes(zip_archive(parts["D."]))
    both = convert(generator, tmp_path / "both", discriminator=discriminator)
    params = load(both.path).state.players["discriminator"].params
    weight = state_dict["D.ExtractionLayer.Layer.weight"]
    np.testing.assert_array_equal(params["from_image"][0, 0], weight[:, :, 0, 0].T)
    assert load(convert(generator, tmp_path / "alone").path).step == 0
    with pytest.raises(InputError, match="holds a discriminator alone"):
        convert(discriminator, tmp_path / "none")
    with pytest.raises(InputError, match="already holds a run"):
        convert(generator, both.path)


def test_data_with_other_classes_is_refused(tmp_path):
    path = official_file("r3gan", tmp_path / "official.pkl")
    data = tmp_path / "images.npz"
    images = np.zeros((8, 16, 16, 3), np.uint8)
    np.savez(data, image=images, label=np.arange(8) % 3)
    with pytest.raises(InputError, match=r"10 classes, but .* has 3"):
        convert(path, tmp_path / "run", data_settings=Data(str(data), held_out=2))
    assert not (tmp_path / "run").exists()
