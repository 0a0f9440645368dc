"""Whole runs: every shipped configuration, several phases, divergence, going on, scores."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import assert_same_bits, contents, image_config, ring_config

from ganjax import build, config, judging, loop, measure, pictures, train
from ganjax.config import VAE, OptimizerSettings
from ganjax.data.sources import DATASETS
from ganjax.networks.conv_vae import ConvVAE
from ganjax.record import record_of
from ganjax.run import RunDirectory
from ganjax.trained import load
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

replace = dataclasses.replace
SHIPPED = sorted(config.shipped())
# What makes a network small, whichever it is.
SMALL = {
    "latent_dim": 12,  # hierarchical latents divide it
    "z_dim": 4,
    "w_dim": 4,
    "mapping_layers": 2,
    "channel_base": 64,
    "channel_max": 4,
    "width": 2,
    "hidden": 4,
    "generator_width": 2,
    "discriminator_width": 2,
    "generator_hidden": (4,),
    "discriminator_hidden": (4,),
}


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory):
    """Colour images of two classes and several sizes."""
    folder = tmp_path_factory.mktemp("colour")
    noise = np.random.default_rng(0)
    for index in range(24):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = noise.integers(0, 256, (32 + index % 3, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def small(settings, folder):
    """Return a shipped configuration for a few steps of a narrow network on few examples."""
    if isinstance(settings.model, config.OF_TEXT):
        return small_text(settings, folder)
    network = settings.model.network
    sizes = {f.name for f in dataclasses.fields(network)} & SMALL.keys()
    network = replace(network, **{name: SMALL[name] for name in sizes})
    data = replace(settings.data, held_out=8)
    if settings.data.source not in DATASETS:
        size = settings.data.image_size or (32, 32)
        data = replace(data, source=str(folder), image_size=size)
    return replace(
        settings,
        model=replace(settings.model, network=network),
        data=data,
        train=replace(settings.train, steps=2, batch_size=8, log_every_steps=2),
        evaluation=replace(settings.evaluation, num_samples=8),
    )


def small_text(settings, folder):
    """Return a shipped configuration of text for a step of each phase."""
    model = settings.model
    sizes = {"width": 8, "embedding_dim": 8, "head_dim": 4, "num_layers": 1, "num_blocks": 1}
    sizes |= {"discriminator_width": 4, "representations": 2, "discriminator_embedding_dim": 4}
    sizes |= {"filters": ((2, 4), (3, 4))}
    known = {f.name for f in dataclasses.fields(model.network)} & sizes.keys()
    model = replace(model, network=replace(model.network, **{n: sizes[n] for n in known}))
    fewer = {"pretrain_steps": 1, "discriminator_pretrain_steps": 1, "discriminator_steps": 2}
    fewer |= {"num_rollouts": 1}
    model = replace(model, **{n: 1 for n in fewer if getattr(model, n, 0)})
    data = replace(settings.data, held_out=8)
    if data.source == "sentences.txt":
        path = folder.parent / "sentences.txt"
        path.write_text("".join(f"a {word} b{i} .\n" for i in range(10) for word in ("cat", "dog")))
        data = replace(data, source=str(path))
    return replace(
        settings,
        model=model,
        data=data,
        train=replace(settings.train, steps=4, batch_size=4, log_every_steps=2),
        evaluation=replace(settings.evaluation, num_samples=8),
    )


@pytest.fixture(autouse=True)
def few_sequences(monkeypatch):
    """Let an oracle write a few sequences to train on, instead of 10,000."""
    monkeypatch.setattr("ganjax.data.text.ORACLE_EXAMPLES", 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_run(name, colour_folder, tmp_path):
    settings = small(config.load_file(name), colour_folder)
    # Two logged points make a curve.
    settings = replace(settings, train=replace(settings.train, log_every_steps=1))
    result = train.train(settings, str(tmp_path / "run"))
    before = ("pretrain_steps", "discriminator_pretrain_steps")
    earlier = sum(getattr(settings.model, field, 0) for field in before)
    assert int(result.state.step) == settings.train.steps - earlier
    assert result.figures or name == "sentences_wgan_gp"  # which has no likelihood
    assert all(np.isfinite(figure.value) for figure in result.figures.values())
    assert (tmp_path / "run" / "curves.png").exists()


# What a run leaves behind.


def steps_of(run, name):
    return [line["step"] for line in run.read_metrics() if name in line]


def test_what_a_run_leaves_behind(image_run):
    run = image_run.run
    files = contents(run.path)
    tops = {name.split("/")[0] for name in files}
    events = {name for name in tops if name.startswith("events.out")}
    assert len(events) == 1
    assert tops - events == {
        "checkpoints",
        "config.json",
        "curves.png",
        "evaluation.json",
        "lock",
        "metrics.jsonl",
        "samples",
    }
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {"2", "4"}
    assert steps_of(run, "loss/generator") == [2, 4]
    assert steps_of(run, "evaluation/frechet_distance") == [4]
    assert config.from_json(run.record()["config"]) == image_config()
    (entry,) = run.evaluations()
    assert entry["step"] == 4
    assert entry["figures"]["frechet_distance"]["num_samples"] == 50
    assert image_run.picture.endswith("samples/0000004.png")
    # Ten classes, a column each; 12x12 pixels five times as large, with gaps.
    with Image.open(image_run.picture) as picture:
        assert picture.width > 10 * 5 * 12
        assert picture.height > 8 * 5 * 12
    assert image_run.images_per_second > 0
    assert image_run.seconds > 0


def test_points_are_judged_by_modes(ring_run):
    assert set(ring_run.figures) >= {"modes_covered", "good_share"}
    assert ring_run.figures["modes_covered"].num_samples == 50


@pytest.mark.slow
def test_a_vae_shows_reconstructions(tmp_path):
    adam = OptimizerSettings(learning_rate=1e-3)
    model = VAE(network=ConvVAE(latent_dim=4, width=2, hidden=4), optimizer=adam)
    settings = replace(image_config(steps=2), model=model)
    result = train.train(settings, str(tmp_path / "vae"))
    names = {path.name for path in (result.run.path / "samples").iterdir()}
    assert names == {"0000002.png", "0000002_reconstructions.png"}
    assert "held_out/elbo" in result.run.curves()


def test_pictures_and_scores_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "plot_curves", lambda *_: None)
    settings = ring_config(steps=6, sample_every_steps=4, checkpoint_every_steps=3, keep_last=1)
    settings = replace(settings, evaluation=replace(settings.evaluation, every_steps=2))
    notes = []

    class Report(train.Silent):
        def start(self, first_step, steps, unit):
            notes.append((first_step, steps))

        def progress(self, progress):
            notes.append(progress.step)

        def stop(self):
            notes.append("stop")

    result = train.train(settings, str(tmp_path / "run"), Report())
    assert {path.name for path in (result.run.path / "samples").iterdir()} == {
        "0000004.png",
        "0000006.png",
    }
    assert [entry["step"] for entry in result.run.evaluations()] == [2, 4, 6]
    assert steps_of(result.run, "evaluation/good_share") == [2, 4, 6]
    # Scores are told when they are computed, which may be some steps later.
    assert (notes[0], sorted(notes[1:-1]), notes[-1]) == ((0, 6), [2, 2, 4, 4, 6, 6], "stop")


def test_divergence_names_the_last_good_checkpoint(tmp_path):
    settings = ring_config(steps=60, log_every_steps=2, checkpoint_every_steps=2)
    # A critic without bounds and steps that are far too large: a few steps, then overflow.
    wild = OptimizerSettings(name="sgd", learning_rate=1.0, beta1=0.0)
    model = replace(settings.model, loss="wasserstein", discriminator=wild, generator=wild)
    with pytest.raises(loop.DivergedError, match=r"^training diverged: .* at step \d+; ") as info:
        train.train(replace(settings, model=model), str(tmp_path / "run"))
    good = load(tmp_path / "run")
    assert str(info.value).endswith(f"; the last good checkpoint is step {good.step}")
    bad_step = int(re.search(r"not finite at step (\d+)", str(info.value))[1])
    assert good.step == (bad_step - 1) // 2 * 2 >= 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(good.state.players))
    lines = RunDirectory(tmp_path / "run").read_metrics()
    assert lines[-1]["step"] == good.step


# Several phases.


def two_phases(settings, first_steps):
    """A phase with another loss, then the configured one from its networks."""
    experiment = build.build(settings)
    first = build.build_model(
        replace(settings, model=replace(settings.model, loss="least_squares")), (2,), 0
    )

    def transfer(fresh, previous):
        players = {
            name: player.replace(params=previous.players[name].params)
            for name, player in fresh.players.items()
        }
        return fresh.replace(players=players)

    phases = (
        build.Phase(first.algorithm, first_steps),
        build.Phase(experiment.model.algorithm, settings.train.steps - first_steps, transfer),
    )
    return experiment._replace(phases=phases)


def go(experiment, directory, metadata=None):
    run = RunDirectory(directory)
    if metadata is None:
        run.create(record_of(experiment))
    training = train._Training(experiment, run, train.Silent(), 0.0)
    if metadata == "latest":
        return training.go(None, training.checkpoints.metadata())
    return training.go(train._begin(experiment, 0, None), None)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 6])
def test_two_phases_go_on_where_they_were(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "plot_curves", lambda *_: None)
    monkeypatch.setattr(pictures, "scatter", lambda *_: None)
    settings = ring_config(steps=9, checkpoint_every_steps=3, log_every_steps=1)
    whole = go(two_phases(settings, 4), tmp_path / "whole")
    assert int(whole.state.step) == 5
    assert steps_of(whole.run, "loss/generator") == list(range(1, 10))

    class StopError(Exception):
        pass

    def stop_after(self, step, state):
        original(self, step, state)
        if step == stop:
            self.checkpoints.wait()
            raise StopError

    original = train._Training._save
    with monkeypatch.context() as patch:
        patch.setattr(train._Training, "_save", stop_after)
        with pytest.raises(StopError):
            go(two_phases(settings, 4), tmp_path / "parts")
    resumed = go(two_phases(settings, 4), tmp_path / "parts", "latest")
    assert_same_bits(resumed.state, whole.state)
    assert steps_of(resumed.run, "loss/generator") == list(range(1, 10))


@pytest.mark.slow
def test_going_back_from_damage_may_go_back_a_phase(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "plot_curves", lambda *_: None)
    monkeypatch.setattr(pictures, "scatter", lambda *_: None)
    settings = ring_config(steps=9, checkpoint_every_steps=3, log_every_steps=1, keep_last=3)
    whole = go(two_phases(settings, 4), tmp_path / "run")
    for step in (6, 9):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step) / "record")
    with pytest.warns(UserWarning, match="9 is damaged: .*6 is damaged: .*back to step 4$"):
        again = go(two_phases(settings, 4), tmp_path / "run", "latest")
    assert_same_bits(again.state, whole.state)
    assert steps_of(again.run, "loss/generator") == list(range(1, 10))


# Going on, and scores of what is finished.


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory, quick_compilation):
    return train.train(ring_config(steps=4), str(tmp_path_factory.mktemp("runs") / "short"))


@pytest.fixture
def short_run(four_steps, tmp_path, monkeypatch):
    """A copy of a run of four steps."""
    monkeypatch.setattr(pictures, "plot_curves", lambda *_: None)
    monkeypatch.setattr(pictures, "scatter", lambda *_: None)
    shutil.copytree(str(four_steps.run), tmp_path / "short")
    return four_steps._replace(run=RunDirectory(tmp_path / "short"))


def test_resume_with_more_steps(short_run, ring_run):
    result = train.resume(str(short_run.run), 6)
    assert_same_bits(result.state, ring_run.state)
    assert short_run.run.record()["config"]["train"]["steps"] == 6
    assert steps_of(result.run, "loss/generator") == [2, 4, 6]


def test_resume_of_a_finished_run_changes_no_weights(short_run):
    result = train.resume(str(short_run.run))
    assert_same_bits(result.state, short_run.state)


def test_resume_has_sentences(short_run, tmp_path):
    run = str(short_run.run)
    with pytest.raises(InputError, match="is at step 4 already, beyond 3"):
        train.resume(run, 3)
    record = short_run.run.record()
    short_run.run.rewrite({**record, "data": {**record["data"], "fingerprint": "0"}})
    with pytest.raises(InputError, match=r"the data of .* has changed: ring"):
        train.resume(run)
    with pytest.raises(InputError, match="there is no such directory"):
        train.resume(str(tmp_path / "none"))


def test_evaluate_keeps_its_scores(short_run):
    figures, held_out = measure.evaluate(str(short_run.run), seed=3, truncation=0.5)
    assert figures["good_share"].seed == 3
    assert figures["good_share"].truncation == 0.5
    assert "held_out/logits/real" in held_out
    entries = json.loads((short_run.run.path / "evaluation.json").read_text())
    assert [entry["step"] for entry in entries] == [4, 4]
    assert entries[1]["figures"]["good_share"]["truncation"] == 0.5


def test_large_pictures_are_made_some_at_a_time(monkeypatch):
    settings = image_config()
    experiment = build.build(settings)
    judge = judging.Judge(experiment)
    state = jax.jit(experiment.model.algorithm.init)(jax.random.key(0))
    asked = []
    sample = judge._sample

    def counted(state, key, num, labels=None):
        asked.append(num)
        return sample(state, key, num, labels)

    monkeypatch.setattr(judge, "_sample", counted)
    at_once = judge.samples(state)
    monkeypatch.setattr(judging, "images_per_call", lambda shape, most: 30)
    in_parts = judge.samples(state)
    assert asked == [80, 30, 30, 30]
    assert in_parts.shape == at_once.shape == (80, 12, 12, 1)


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        ({"extractor": "resnet"}, "there is no extractor 'resnet'"),
        ({"extractor": "inception-v3"}, "run `ganjax weights inception-v3`"),
        ({"reference": "no/such/folder"}, "there is no file or folder"),
        ({"metrics": ("classifier_score",)}, "pixels-8x8 knows no classes"),
        ({"metrics": ("stacked_modes",)}, "does not see stacked garments"),
    ],
)
def test_scores_that_cannot_be_had_are_refused_before_training(
    tmp_path, monkeypatch, evaluation, sentence
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = image_config()
    settings = replace(settings, evaluation=replace(settings.evaluation, **evaluation))
    with pytest.raises(InputError, match=sentence):
        train.train(settings, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_score_that_fails_does_not_end_a_training(tmp_path, monkeypatch):
    def broken(self, look):
        raise InputError("class 3 has 1 generated example")

    monkeypatch.setattr(judging.Judge, "score", broken)
    warned = []

    class Report(train.Silent):
        def warn(self, text):
            warned.append(text)

    settings = ring_config()
    settings = replace(settings, evaluation=replace(settings.evaluation, every_steps=2))
    result = train.train(settings, str(tmp_path / "run"), Report())
    assert int(result.state.step) == 6
    assert result.figures == {}
    assert warned == [
        f"step {step} has no score: class 3 has 1 generated example" for step in (2, 4, 6)
    ]


def test_the_best_checkpoint_waits_for_a_late_score(tmp_path, monkeypatch):
    """The score of the first one comes when newer ones have been written, and is the best."""
    import threading

    released, values = threading.Event(), iter([9.0, 1.0, 1.0])
    score = judging.Judge.score

    def late(self, look):
        released.wait(60)
        figures = score(self, look)
        value = next(values)
        return {name: dataclasses.replace(f, value=value) for name, f in figures.items()}

    monkeypatch.setattr(judging.Judge, "score", late)
    settings = ring_config(steps=6, keep_last=1, keep_best=1)
    settings = replace(settings, evaluation=replace(settings.evaluation, every_steps=2))
    fit = loop.fit

    def and_release(*arguments, **options):
        state = fit(*arguments, **options)
        released.set()
        return state

    monkeypatch.setattr(loop, "fit", and_release)
    monkeypatch.setattr(train.Scores, "submit", _without_waiting)
    result = train.train(settings, str(tmp_path / "run"))
    steps = sorted(int(path.name) for path in (result.run.path / "checkpoints").iterdir())
    assert steps == [2, 6]


def _without_waiting(self, step, state):
    look = self._judge.look(state)
    self._pending.append((step, self._pool.submit(self._judge.score, look), {}))
