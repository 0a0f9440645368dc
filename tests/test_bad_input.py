"""Bad input through the command line: one sentence, exit code 2, and nothing is overwritten."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_runs import contents, run_cli, start

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command and returns its one sentence."""
    monkeypatch.chdir(tmp_path)

    def refused(*arguments, prelude=()):
        capsys.readouterr()
        before = contents(tmp_path)
        assert run_cli(*arguments) == 2
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        for line in prelude:
            assert line in lines, captured.err
            lines.remove(line)
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("ganjax: ")
        assert "Traceback" not in captured.err + captured.out
        after = contents(tmp_path)
        ours = {name for name in after if "__pycache__" not in name}
        assert {name: after[name] for name in ours} == {name: before.get(name) for name in ours}
        return lines[0].removeprefix("ganjax: ")

    return refused


@pytest.fixture
def refused_training(refused, image_file):
    """The same for a training, which names its run directory first."""

    def refused_training(*arguments, file=image_file):
        arguments = ["train", file, "--run-directory", "run", *arguments]
        return refused(*arguments, prelude=["run directory: run"])

    return refused_training


@pytest.fixture
def run(image_run, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(str(image_run.run), tmp_path / "run")
    return "run"


def write_images(folder, count=12, size=(12, 12), classes=2):
    noise = np.random.default_rng(0)
    for index in range(count):
        path = folder / str(index % classes) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)).save(path)
    return folder


# Data.


def test_no_folder(refused_training):
    sentence = refused_training("--data.source", "there/are/none")
    assert sentence.startswith("there is no file or folder there/are/none")


def test_empty_folder(refused_training, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty holds no images (.png, .jpg, " in refused_training("--data.source", "empty")


@pytest.mark.parametrize("damage", ["cut short", "no picture at all"])
def test_a_broken_image_among_good_ones(refused_training, tmp_path, damage):
    folder = write_images(tmp_path / "images")
    broken = folder / "1" / "05.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2] if damage == "cut short" else b"not a picture")
    sentence = refused_training("--data.source", "images", "--data.held-out", 2)
    assert "05.png" in sentence


def test_images_of_several_sizes(refused_training, image_file, tmp_path):
    folder = write_images(tmp_path / "images")
    Image.new("L", (20, 16)).save(folder / "0" / "large.png")
    sentence = refused_training(
        "--data.source", "images", "--data.held-out", 2, "--data.image-size", "None"
    )
    assert "16x20" in sentence
    assert "large.png" in sentence
    assert "set data.image_size" in sentence


def test_sizes_that_do_not_fit_the_network(refused_training):
    sentence = refused_training("--data.source", "ring", "--data.image-size", "None")
    assert sentence.startswith("dcgan makes images of shape (H, W, C), but the data has shape (2,)")


def test_points_have_no_size(refused_training):
    sentence = refused_training("--data.source", "ring")
    assert sentence.startswith("ring holds points in the plane: leave out data.image_size")


@pytest.mark.parametrize("label", [-1, 40])
def test_a_label_out_of_range(refused_training, tmp_path, label):
    labels = np.arange(40) % 4
    labels[7] = label
    np.savez(tmp_path / "set.npz", image=np.zeros((40, 12, 12, 1), np.uint8), label=labels)
    sentence = refused_training("--data.source", "set.npz", "--data.held-out", 2)
    assert f"label {label} of example 7 in set.npz is out of range, expected 0 to 39" in sentence


def test_no_labels(refused_training, tmp_path):
    np.savez(tmp_path / "set.npz", image=np.zeros((40, 12, 12, 1), np.uint8))
    sentence = refused_training("--data.source", "set.npz", "--data.held-out", 2)
    assert "needs labels" in sentence


def test_fewer_images_than_a_batch(refused_training, tmp_path):
    write_images(tmp_path / "images")
    sentence = refused_training("--data.source", "images", "--data.held-out", 6)
    assert "images has 6 examples to train on, fewer than one batch of 8" in sentence


def test_more_held_out_than_there_is(refused_training, tmp_path):
    write_images(tmp_path / "images")
    sentence = refused_training("--data.source", "images", "--data.held-out", 12)
    assert "images has 12 examples and data.held_out is 12" in sentence


def test_an_unknown_data_set(refused_training):
    sentence = refused_training("--data.source", "fashion_mnits")
    assert "no data set and no folder 'fashion_mnits' (did you mean " in sentence
    assert "fashion_mnist" in sentence


def test_an_absent_data_set_without_a_network(refused_training, tmp_path):
    sentence = refused_training("--data.source", "tfds:cifar10", "--data.data-dir", tmp_path / "no")
    assert "cifar10" in sentence
    assert "ganjax data prepare cifar10" in sentence


def test_preparing_without_a_network(refused, tmp_path):
    (tmp_path / "downloads").mkdir()
    sentence = refused(
        "data", "prepare", "cifar10", "--data-dir", tmp_path, "--downloads", "downloads"
    )
    assert "downloads" in sentence


# Configuration.


def test_an_unknown_field(refused, image_file):
    sentence = refused("train", image_file, "--train.setps", 3)
    assert sentence == "there is no field 'train.setps'; did you mean 'train.steps'?"


def test_a_field_that_lost_its_group(refused, image_file):
    assert "did you mean 'train.batch-size'?" in refused("train", image_file, "--batch_size", 3)


@pytest.mark.parametrize("command", ["sample", "evaluate", "interpolate", "info", "resume"])
def test_an_unknown_option(refused, command):
    assert "there is no field 'nmu'" in refused(command, "run", "--nmu", 3)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--train.steps", "many"], ["--train.steps", "'many'"]),
        (["--train.steps"], ["--train.steps"]),
        (["--data.image-size", "3"], ["--data.image-size", "3"]),
        (["stray"], ["stray"]),
    ],
)
def test_a_value_of_another_type(refused, image_file, arguments, parts):
    sentence = refused("train", image_file, *arguments)
    assert all(part in sentence for part in parts)
    assert not set("─│╭╰") & set(sentence)


def test_a_value_out_of_range(refused_training):
    assert refused_training("--train.steps", 0) == "train.steps has to be 1 or more, got 0"


def test_an_unknown_configuration(refused):
    sentence = refused("train", "quickstrat")
    assert sentence == "there is no configuration 'quickstrat'; did you mean quickstart?"


def test_the_configuration_comes_first(refused):
    assert "the configuration comes first" in refused("train", "--train.steps", 3)


def test_an_unknown_command(refused):
    assert refused("trian") == "there is no command 'trian'; did you mean `ganjax train`?"


def test_a_command_without_its_run(refused):
    assert refused("sample") == "expected `ganjax sample RUN ...`; see --help"


# Devices.


def start_training(arguments, tmp_path, **environment):
    """Start a training in a fresh process and return its exit code and sentences."""
    process = start(["-m", "ganjax.cli", "train", *arguments], tmp_path, **environment)
    _, err = process.communicate(timeout=120)
    return process.returncode, [line for line in err.splitlines() if "run directory:" not in line]


def test_a_platform_that_is_absent(ring_file, tmp_path):
    # Only a fresh process has not chosen its platform yet.
    arguments = [ring_file, "--train.platform", "tpu"]
    code, lines = start_training(arguments, tmp_path)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("ganjax: the platform 'tpu' is not there: this JAX sees none")
    assert not (tmp_path / "runs").exists()


def test_a_platform_that_does_not_exist(refused, ring_file):
    sentence = refused("train", ring_file, "--train.platform", "cdua")
    assert sentence == "train.platform is 'cdua', expected cpu, gpu or tpu"


def test_a_batch_that_does_not_divide_over_the_devices(ring_file, tmp_path):
    flags = "--xla_force_host_platform_device_count=4"
    arguments = [ring_file, "--train.batch-size", 6]
    code, lines = start_training(arguments, tmp_path, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("ganjax: a batch of 6 does not divide over 4 devices; take a mult")
    assert not (tmp_path / "runs").exists()


# Run directories.


def test_a_run_directory_that_holds_a_run(refused_training, run):
    sentence = refused_training()
    assert sentence.startswith("run already holds a run; continue it with `ganjax resume run`")


def test_a_run_directory_with_other_things(refused_training, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert refused_training().startswith("run exists and is no run; choose an empty or a new")


def test_a_run_directory_in_use(refused, run, tmp_path):
    hold = "import fcntl, sys; f = open('run/lock', 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
    hold += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        sentence = refused("resume", run, prelude=["run directory: run"])
        process.communicate("")
    assert sentence.startswith("run is in use by process ")


def test_a_run_of_other_data(refused, run, tmp_path):
    path = tmp_path / "run" / "config.json"
    fingerprint = '"fingerprint": "'
    path.write_text(path.read_text().replace(fingerprint, fingerprint + "x"))
    sentence = refused("resume", run, prelude=["run directory: run"])
    assert sentence.startswith("the data of run has changed: fashion_mnist (built in) is not what")


def test_a_run_of_another_configuration(refused, run, tmp_path):
    path = tmp_path / "run" / "config.json"
    text = path.read_text()
    assert '"generator_width": 2' in text
    path.write_text(text.replace('"generator_width": 2', '"generator_width": 3'))
    for command in ("resume", "sample"):
        prelude = []
        if command == "resume":
            what = "model.network.generator_width was 2 and is 3"
            warning = f"warning: config.json is not what step 4 was trained with: {what}"
            prelude = ["run directory: run", warning]
        sentence = refused(command, run, prelude=prelude)
        assert "was expected; restore it with the configuration in its metadata" in sentence


def test_a_run_with_an_unknown_field(refused, run, tmp_path):
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"batch_size"', '"bacth_size"'))
    assert "did you mean 'train.batch_size'?" in refused("info", run)


@pytest.mark.parametrize("command", ["resume", "sample", "interpolate", "evaluate", "info"])
def test_no_run(refused, command):
    assert "holds no run: config.json is missing; there is no such directory" in refused(
        command, "nowhere"
    )


def test_fewer_steps_than_there_are(refused, run):
    sentence = refused("resume", run, "--train.steps", 3, prelude=["run directory: run"])
    assert sentence == "run is at step 4 already, beyond 3"


def test_a_run_without_checkpoints(refused, run, tmp_path):
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "expected a checkpoint, and there is none" in refused("sample", run)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "loss/generator": 1.0}\n')
    sentence = refused("resume", run, prelude=["run directory: run"])
    assert "checkpoints has no checkpoint although step 100 is logged: bring them back" in sentence


def cut_short(step, run):
    found = (run / "checkpoints" / step / "state").rglob("*")
    data = [path for path in found if path.is_file() and path.name[0].isdigit()]
    assert data
    for path in data:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_checkpoints_cut_short(refused, run, tmp_path):
    for step in ("2", "4"):
        cut_short(step, tmp_path / "run")
    sentence = refused("sample", run)
    assert "is damaged" in sentence
    assert "no other one is there" in sentence
    assert "is damaged" in refused("resume", run, prelude=["run directory: run"])


def test_one_checkpoint_cut_short(run, tmp_path, capsys):
    cut_short("4", tmp_path / "run")
    process = start(["-m", "ganjax.cli", "sample", "run", "--num", "2", "--out", "a.npz"], tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "2 samples of run at step 2" in out
    assert "went back to step 2" in err
    assert "Traceback" not in err


def test_fine_tuning_from_what_is_no_run(refused_training):
    assert "nothing holds no run" in refused_training("--train.init-from", "nothing")


@pytest.mark.slow
def test_fine_tuning_from_other_networks(refused, ring_run, ring_file, tmp_path):
    arguments = ["--model.network.generator-hidden", 9, "--train.init-from", ring_run.run]
    assert run_cli("train", ring_file, "--run-directory", tmp_path / "run", *arguments) == 2


# Samples.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["sample", "run", "--labels", "10"],
            "0 and 9, or be a name: T-shirt/top, Trouser, Pullover, Dress, Coat, ...; got '10'",
        ),
        (
            ["interpolate", "run", "--labels", "-1"],
            "0 and 9, or be a name: T-shirt/top, Trouser, Pullover, Dress, Coat, ...; got '-1'",
        ),
        (["sample", "run", "--labels", "a,b"], "Dress, Coat, ...; got 'a'"),
        (["sample", "run", "--num", "0"], "--num has to be 1 or more, got 0"),
        (["sample", "run", "--columns", "0"], "--columns has to be 1 or more, got 0"),
        (["sample", "run", "--truncation", "0"], "truncation has to be positive, got 0.0"),
        (["interpolate", "run", "--truncation", "-2"], "truncation has to be positive, got -2.0"),
        (["evaluate", "run", "--truncation", "-2"], "truncation has to be positive, got -2.0"),
        (["evaluate", "run", "--num-samples", "1"], "--num-samples has to be 2 or more, got 1"),
        (["sample", "run", "--seed", "-1", "--step", "3"], "a checkpoint of step 3, and there is"),
        (["sample", "run", "--out", "a.jpg"], "--out a.jpg ends in .jpg; endings it knows: .png"),
        (["interpolate", "run", "--out", "walk"], "--out walk ends in nothing; endings it knows"),
        (["interpolate", "run", "--num-steps", "1"], "--num-steps has to be 2 or more, got 1"),
        (["interpolate", "run", "--num-walks", "0"], "--num-walks has to be 1 or more, got 0"),
        (
            ["interpolate", "run", "--frames-per-second", "0", "--out", "a.gif"],
            "--frames-per-second has to be 1 or more, got 0",
        ),
        (["sample", "run", "--out", "file/a.png"], "file/a.png could not be written: "),
    ],
)
def test_samples_that_cannot_be_made(refused, run, tmp_path, arguments, sentence):
    (tmp_path / "file").write_text("in the way")
    assert sentence in refused(*arguments)


def test_a_folder_of_other_pictures(refused, run, tmp_path):
    assert run_cli("sample", run, "--num", 3, "--out", tmp_path / "d") == 0
    assert run_cli("sample", run, "--num", 3, "--out", tmp_path / "d") == 0  # the same again
    sentence = refused("sample", run, "--num", 2, "--out", tmp_path / "d")
    assert "holds 1 other pictures, such as 000002.png: choose another folder" in sentence


def test_labels_without_classes(refused, ring_run):
    sentence = refused("sample", ring_run.run, "--labels", "1")
    assert sentence == "labels were given, but this model was trained without classes"


def test_a_walk_of_points(refused, ring_run):
    sentence = refused("interpolate", ring_run.run)
    assert sentence == "a walk shows images, but this model makes points in the plane"


# A full disk.


@pytest.fixture
def after_a_full_disk(ring_file, ring_run, small_disk, tmp_path):
    """What a training on a disk for one or two checkpoints wrote to stderr."""
    shutil.copytree(str(ring_run.run), small_disk / "other")
    before = contents(small_disk / "other")
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(b"x" * (free - 250_000))
    wide = ["--model.network.generator-hidden", 500]
    # A process of its own: what background threads print does not pass through capsys.
    arguments = [ring_file, "--run-directory", small_disk / "run", *wide]
    code, lines = start_training(arguments, tmp_path)
    assert code == 2
    assert contents(small_disk / "other") == before
    return [line for line in lines if not line.startswith("step ")]


@pytest.mark.slow
def test_a_full_disk(after_a_full_disk):
    (sentence,) = (line for line in after_a_full_disk if line.startswith("ganjax: "))
    assert re.search(r"could not be written|writing to .* failed", sentence)
    assert "o space left on" in sentence


@pytest.mark.slow
def test_a_full_disk_says_nothing_else(after_a_full_disk):
    assert len(after_a_full_disk) == 1, after_a_full_disk


def test_a_full_disk_for_samples(refused, run, small_disk):
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
        file.write(b"x" * 4_000_000)
    sentence = refused("sample", run, "--num", 100, "--out", small_disk / "grid.png")
    assert "grid.png could not be written: No space left on device" in sentence
