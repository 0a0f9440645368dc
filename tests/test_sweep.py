"""Sweeps: each member is the training of its own that it stands for, and the table says so."""

import dataclasses
import json
import os
import signal
import statistics

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import contents, ring_config, run_cli, start

from ganjax import cli, judging, report, sweep, train
from ganjax.config import Penalty
from ganjax.run import RunDirectory
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

RATES = ("discriminator_learning_rate", [1e-3, 2e-3])


def lines_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def scores_of(directory):
    return json.loads((directory / "scores.json").read_text())


def lazy_config(**model):
    settings = ring_config()
    model = dataclasses.replace(settings.model, penalties={"r1": Penalty(0.1, 2)}, **model)
    return dataclasses.replace(settings, model=model)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_value_is_what_a_training_with_it_is(tmp_path, strategy):
    settings = lazy_config()
    result = sweep.sweep(settings, str(tmp_path / "sweep"), values=RATES, strategy=strategy)
    assert result.strategy == strategy
    assert [member.value for member in result.members] == RATES[1]
    optimizer = dataclasses.replace(settings.model.discriminator, learning_rate=2e-3)
    alone = train.train(lazy_config(discriminator=optimizer), str(tmp_path / "alone"))
    ours = [line for line in lines_of(tmp_path / "sweep") if line[RATES[0]] == 2e-3]
    theirs = [line for line in alone.run.read_metrics() if "loss/generator" in line]
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [2, 4, 6]
    for our, their in zip(ours, theirs, strict=True):
        assert set(our) == {*their, RATES[0]} - {"images_per_second"}
        for name in set(our) - {RATES[0]}:
            np.testing.assert_allclose(our[name], their[name], rtol=1e-4, err_msg=name)
    for name, figure in alone.figures.items():
        assert result.members[1].scores[name] == pytest.approx(figure.value, abs=0.021)
    others = [line for line in lines_of(tmp_path / "sweep") if line[RATES[0]] == 1e-3]
    assert others[-1]["loss/discriminator"] != ours[-1]["loss/discriminator"]


@pytest.mark.slow
def test_seeds_through_the_command_line(image_file, image_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_cli("sweep", image_file, "--seeds", 2, "--evaluation.num-samples", 20) == 0
    captured = capsys.readouterr()
    assert "run directory: runs/tiny-sweep" in captured.err
    run = tmp_path / "runs" / "tiny-sweep"
    record = json.loads((run / "config.json").read_text())
    assert record["sweep"] == {"swept": "seed", "values": [0, 1], "strategy": "map"}
    assert record["config"]["evaluation"]["num_samples"] == 20
    assert record["data"] == image_run.run.record()["data"]
    # The first member has the seed of the run of its own.
    first = [line for line in lines_of(run) if line["seed"] == 0]
    alone = [line for line in image_run.run.read_metrics() if "loss/generator" in line]
    assert [line["step"] for line in first] == [2, 4]
    for our, their in zip(first, alone, strict=True):
        np.testing.assert_allclose(our["loss/generator"], their["loss/generator"], rtol=1e-4)
    pictures = sorted((run / "samples").iterdir())
    assert [path.name for path in pictures] == ["0_seed_0.png", "1_seed_1.png"]
    with Image.open(pictures[0]) as ours, Image.open(image_run.picture) as theirs:
        assert ours.size == theirs.size
        assert np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).max() <= 1
    # The table has what the file has.
    scores = scores_of(run)
    distances = [member["scores"]["frechet_distance"] for member in scores["members"]]
    assert distances[0] != distances[1]
    for member in scores["members"]:
        assert member["figures"]["frechet_distance"]["num_samples"] == 20
    summary = scores["summary"]["frechet_distance"]
    assert summary["mean"] == pytest.approx(statistics.mean(distances))
    assert summary["standard_deviation"] == pytest.approx(statistics.stdev(distances))
    for number in (*distances, summary["mean"], summary["standard_deviation"]):
        assert f"{number:.4g}" in captured.out
    assert "Fréchet distance" in captured.out
    assert "20 vs held out" in " ".join(captured.out.split())
    # Another one does not touch it.
    assert cli._free_directory("tiny-sweep") == "runs/tiny-sweep-2"


@pytest.mark.slow
def test_a_lost_member_is_named_and_stops_nobody(ring_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--values", "generator_learning_rate", "1e-3,1e39", "--run-directory", "run"]
    assert run_cli("sweep", ring_file, *arguments) == 2
    assert "numbers such as" in capsys.readouterr().err
    arguments[2] = "1e-3,1e38,2e-3"
    assert run_cli("sweep", ring_file, *arguments) == 0
    captured = capsys.readouterr()
    assert "generator_learning_rate 1e+38 is lost" in captured.err
    assert captured.err.count("is lost") == 1
    assert "not finite" in captured.out
    members = scores_of(tmp_path / "run")["members"]
    assert [member["finite"] for member in members] == [True, False, True]
    assert members[1]["scores"] == {}
    good = [members[i]["scores"]["good_share"] for i in (0, 2)]
    summary = scores_of(tmp_path / "run")["summary"]["good_share"]
    assert summary["mean"] == pytest.approx(statistics.mean(good))
    assert summary["members"] == 2
    last = [line for line in lines_of(tmp_path / "run") if line["step"] == 6]
    assert last[1]["loss/generator"] is None
    assert last[2]["loss/generator"] is not None
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 3


@pytest.mark.slow
def test_one_member_has_no_spread(ring_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_cli("sweep", ring_file, "--seeds=1", "--train.seed=7") == 0
    assert "standard deviation │" in capsys.readouterr().out
    scores = scores_of(tmp_path / "runs" / "tiny-sweep")
    assert scores["members"][0]["seed"] == 7
    assert scores["summary"]["good_share"]["standard_deviation"] is None


@pytest.mark.slow
def test_nobody_is_left(ring_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--values", "generator_learning_rate", "1e38,2e38"]
    assert run_cli("sweep", ring_file, *arguments) == 1
    assert "not finite at step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "flags", "devices"),
    [
        (8, "", [4]),
        (6, "", [3]),
        (5, "", [1]),
        (3, "", [3]),
        (8, "--xla_force_host_platform_device_count=2", []),
    ],
)
def test_the_cores_of_a_cpu_share_the_members(monkeypatch, members, flags, devices):
    asked = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: asked.append(value))
    monkeypatch.setenv("XLA_FLAGS", flags)
    cli._use_cores(members)
    assert asked == devices


# Interruption.


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_stopped_while_training(ring_file, tmp_path, monkeypatch, capsys, number):
    monkeypatch.chdir(tmp_path)
    progress = report.Console.progress

    def and_stop(self, told):
        progress(self, told)
        if told.step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(report.Console, "progress", and_stop)
    assert run_cli("sweep", ring_file, "--seeds", 2, "--train.steps", 1000) == 128 + number
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"ganjax: {number.name}: stopped at step ")
    assert lines[-1].endswith(
        "the metrics so far are in runs/tiny-sweep, but a sweep cannot be continued"
    )
    steps = [line["step"] for line in lines_of(tmp_path / "runs" / "tiny-sweep")]
    assert 2 <= steps[-1] < 1000
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_stopped_while_scoring(ring_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    figures = judging.Judge.figures

    def and_stop(self, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return figures(self, state)

    monkeypatch.setattr(judging.Judge, "figures", and_stop)
    assert run_cli("sweep", ring_file, "--seeds", 2) == 143
    assert "SIGTERM: stopped at step 6" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "tiny-sweep" / "scores.json").exists()


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected --seeds NUMBER, or --values NAME 0.01,0.1,1, and not both"),
        (["--seeds", 2, "--values", "r1", "1,2"], "expected --seeds NUMBER, or --values NAME"),
        (["--seeds", 0], "--seeds has to be 1 or more, got 0"),
        (["--seeds", "many"], "seeds"),
        (
            ["--values", "generator_lerning_rate", "1"],
            "no hyper-parameter 'generator_lerning_rate'; did you mean 'generator_learning_rate'",
        ),
        (["--values", "beta", "1,x"], "beta are numbers such as 0.01,0.1,1, each 0 or more; got"),
        (["--values", "beta", "1,nan"], "got '1,nan'"),
        (["--values", "beta", "-1"], "got '-1'"),
        (["--values", "beta", ""], "got ''"),
        (["--values", "beta"], "values"),
        (["--seeds", 2, "--strategy", "vmpa"], "strategy is 'vmpa', expected auto or vmap"),
        (["--seeds", 2, "--stratgy", "vmap"], "no field 'stratgy'; did you mean 'strategy'"),
        (["--seeds", 2, "--train.stps", 4], "did you mean 'train.steps'"),
        (["--seeds", 2, "--train.init-from", "x"], "members start afresh"),
    ],
)
def test_bad_input_is_one_sentence(ring_file, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert run_cli("sweep", ring_file, *arguments) == 2
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if not line.startswith("run directory")
    ]
    assert len(lines) == 1
    assert lines[0].startswith("ganjax: ")
    assert sentence in lines[0]
    assert {name for name in contents(tmp_path) if "__pycache__" not in name} == set(before)


@pytest.mark.slow
def test_members_on_devices_of_their_own(ring_file, tmp_path):
    arguments = ["-m", "ganjax.cli", "sweep", ring_file, "--seeds", 2, "--strategy", "devices"]
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "64"}
    process = start([*arguments, "--run-directory", "swept"], tmp_path, **devices)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    run = RunDirectory(tmp_path / "swept")
    assert {line["seed"] for line in run.read_metrics()} == {0, 1}
    with pytest.raises(InputError, match="swept is a sweep, which cannot be continued"):
        train.resume(str(tmp_path / "swept"))


def test_a_sweep_cannot_roll_back(tmp_path):
    settings = ring_config(on_divergence="roll_back")
    with pytest.raises(InputError, match="a sweep has no checkpoints to roll back to"):
        sweep.sweep(settings, str(tmp_path / "run"), seeds=2)


def test_a_run_is_not_swept_into(ring_run, ring_file, capsys):
    before = contents(ring_run.run.path)
    assert run_cli("sweep", ring_file, "--seeds", 1, "--run-directory", ring_run.run.path) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert contents(ring_run.run.path) == before


def test_the_configuration_comes_first(capsys):
    assert run_cli("sweep", "--seeds", 2) == 2
    assert "comes first: ganjax sweep CONFIG --seeds" in capsys.readouterr().err


def test_from_python_one_thing_is_swept(tmp_path):
    with pytest.raises(InputError, match="and its values, not both"):
        sweep.sweep(ring_config(), str(tmp_path / "run"))
    assert not RunDirectory(tmp_path / "run").path.exists()


def test_the_manual(ring_file, capsys):
    assert run_cli("sweep", "--help") == 0
    text = capsys.readouterr().out
    for word in ("--seeds", "--values", "--strategy", "--run-directory", "scores.json", "CONFIG"):
        assert word in text, word
    assert run_cli("sweep") == 2
    assert capsys.readouterr().out == text
    assert run_cli("sweep", ring_file, "--help") == 0
    text = capsys.readouterr().out
    for word in ("--seeds", "--values", "--strategy", "--run-directory", "--train.steps"):
        assert word in text, word
    assert "Train a member for each value of a hyper-parameter" in " ".join(text.split())
