"""What a disk does to a run: it falls back and says so, or refuses with a sentence.

A run of six steps was interrupted at its fourth, with checkpoints of steps 2 and 4. Going on from
either gives the bits of the run that nothing happened to.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import jax
import pytest
from tiny_runs import assert_same_bits, contents, final_state, ring_config, start

from ganjax import build, pictures, train
from ganjax.checkpoint import Checkpointer
from ganjax.digest import sealed
from ganjax.run import RunDirectory
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory, quick_compilation):
    run = tmp_path_factory.mktemp("runs") / "short"
    train.train(ring_config(steps=4), str(run))
    record = RunDirectory(run).record()
    record["config"]["train"]["steps"] = 6
    RunDirectory(run).rewrite(record)
    return run


@pytest.fixture
def run(four_steps, tmp_path, monkeypatch):
    """A copy of the interrupted run."""
    monkeypatch.setattr(pictures, "plot_curves", lambda *_: None)
    monkeypatch.setattr(pictures, "scatter", lambda *_: None)
    shutil.copytree(four_steps, tmp_path / "run")
    return tmp_path / "run"


class Said(train.Silent):
    """A report that is written down."""

    def __init__(self):
        self.warnings, self.notes = [], []

    def warn(self, text):
        self.warnings.append(text)

    def note(self, text):
        self.notes.append(text)


def steps_logged(run):
    lines = RunDirectory(run).read_metrics()
    return [line["step"] for line in lines if "loss/generator" in line]


def assert_as_undisturbed(result, ring_run):
    assert_same_bits(result.state, ring_run.state)
    assert_same_bits(final_state(result.run.path, 6), ring_run.state)
    assert steps_logged(result.run.path) == [2, 4, 6]


# Checkpoints. Each fault is given the checkpoint that it strikes.


def data_files(checkpoint):
    found = (checkpoint / "state").rglob("*")
    files = [path for path in found if path.is_file() and path.name[0].isdigit()]
    assert files
    return files


def truncated(checkpoint):
    for path in data_files(checkpoint):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bits_flipped_in_files(checkpoint):
    for path in data_files(checkpoint):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 8
        path.write_bytes(data)


def bit_flipped_in_an_array(checkpoint):
    """As where the file system notices nothing: sound files, one wrong bit in one array."""
    with Checkpointer(checkpoint.parent) as checkpoints:
        like = jax.eval_shape(build.build(ring_config()).model.algorithm.init, jax.random.key(0))
        state, metadata = checkpoints.restore(like, int(checkpoint.name))
    words = jax.random.key_data(state.key).at[0].add(1)
    other = checkpoint.parent.parent / "other"
    with Checkpointer(other) as checkpoints:
        wrong = state.replace(key=jax.random.wrap_key_data(words))
        checkpoints.save(int(checkpoint.name), wrong, metadata=metadata)
    shutil.rmtree(checkpoint / "state")
    (other / checkpoint.name / "state").rename(checkpoint / "state")
    shutil.rmtree(other)


def bit_flipped_in_the_record(checkpoint):
    path = checkpoint / "record" / "metadata"
    data = bytearray(path.read_bytes())
    data[data.index(b"loss")] ^= 1  # somewhere in its configuration
    path.write_bytes(data)


def record_emptied(checkpoint):
    (checkpoint / "record" / "metadata").write_text("")


def record_missing(checkpoint):
    shutil.rmtree(checkpoint / "record")


def arrays_missing(checkpoint):
    shutil.rmtree(checkpoint / "state")


def data_file_missing(checkpoint):
    # The largest: what holds nothing but zeros is read as zeros where its file is missing.
    max(data_files(checkpoint), key=lambda path: path.stat().st_size).unlink()


def record_unreadable(checkpoint):
    """A directory in its place: root may read what nobody may."""
    (checkpoint / "record" / "metadata").unlink()
    (checkpoint / "record" / "metadata").mkdir()


def data_unreadable(checkpoint):
    for path in data_files(checkpoint):
        path.unlink()
        path.mkdir()


def of_a_foreign_library(checkpoint):
    (checkpoint / "record" / "metadata").write_text(json.dumps(sealed({"format": 7})))


def all_files_missing(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


RECORD = "its record is missing or has changed"
UNREADABLE = "its arrays cannot be read"
FAULTS = {
    truncated: "4 is damaged: ",
    bits_flipped_in_files: "4 is damaged: ",
    bit_flipped_in_an_array: "4 is damaged: key does not have the bits that were saved",
    bit_flipped_in_the_record: f"4 is damaged: {RECORD}",
    record_emptied: f"4 is damaged: {RECORD}",
    record_missing: f"4 is damaged: {RECORD}",
    arrays_missing: f"4 is damaged: {UNREADABLE}",
    data_file_missing: "4 is damaged: ",
    record_unreadable: f"4 is damaged: {RECORD}",
    data_unreadable: "4 is damaged: ",
    of_a_foreign_library: f"4 is damaged: {RECORD}",
    all_files_missing: "4 is empty",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_damaged_checkpoint_is_skipped(fault, run, ring_run):
    fault(run / "checkpoints" / "4")
    struck = contents(run / "checkpoints" / "4")
    with pytest.warns(UserWarning, match=f"{FAULTS[fault]}.*; went back to step 2$") as warned:
        result = train.resume(str(run))
    assert len(warned) == 1
    assert_as_undisturbed(result, ring_run)
    assert contents(run / "checkpoints" / "4") == struck, "what is damaged is left as it is"


AS_ANYBODY = """
import os, sys
command = [sys.executable, "-m", "ganjax.cli", "resume", "run"]
if os.geteuid() == 0:  # who reads everything, unless that is taken away
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
os.execvp(command[0], command)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", [".", "record/metadata", "state"])
def test_what_must_not_be_read_is_skipped(what, run, ring_run, tmp_path):
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root reads whatever the permissions are: setpriv, which ends that, is missing")
    path = run / "checkpoints" / "4" / what
    mode = path.stat().st_mode
    path.chmod(0)
    process = start(["-c", AS_ANYBODY], tmp_path)
    _, err = process.communicate(timeout=120)
    path.chmod(mode)
    assert process.returncode == 0, err
    (warning,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "checkpoints/4 is damaged: " in warning
    assert warning.endswith("; went back to step 2")
    assert "Traceback" not in err
    assert_as_undisturbed(ring_run._replace(run=RunDirectory(run)), ring_run)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_damage_behind_the_latest_does_no_harm(fault, run, ring_run):
    fault(run / "checkpoints" / "2")
    assert_as_undisturbed(train.resume(str(run)), ring_run)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_damage_everywhere_is_refused(fault, run):
    for step in ("4", "2"):
        fault(run / "checkpoints" / step)
    before = contents(run / "checkpoints")
    said = "no checkpoint, but empty directories for 2, 4: bring back what was there"
    if fault is not all_files_missing:
        said = "4 is damaged"
    with pytest.raises(InputError, match=said) as info:
        train.resume(str(run))
    assert "\n" not in str(info.value)
    assert contents(run / "checkpoints") == before


def rewritten(run, step, change):
    path = run / "checkpoints" / step / "record" / "metadata"
    record = json.loads(path.read_text())["record"]
    change(record)
    path.write_text(json.dumps(sealed(record)))


def test_a_checkpoint_of_a_later_format(run):
    rewritten(run, "4", lambda record: record.update(format=2))
    with pytest.raises(InputError, match=r"4 has format 2 and this ganjax reads format 1: use"):
        train.resume(str(run))


def test_a_checkpoint_with_other_names(run):
    def change(record):
        record["leaves"]["stage"] = record["leaves"].pop("rollbacks")

    rewritten(run, "4", change)
    with pytest.raises(InputError, match=r"4: expected a leaf rollbacks and there is none"):
        train.resume(str(run))


@pytest.mark.slow
def test_a_checkpoint_of_other_versions(run, ring_run):
    rewritten(run, "4", lambda record: record["metadata"]["versions"].update(jax="0.0.1"))
    said = Said()
    result = train.resume(str(run), report=said)
    (note,) = said.notes
    assert note.startswith(f"jax was 0.0.1 and is {jax.__version__} since step 4")
    assert_as_undisturbed(result, ring_run)


def test_another_architecture(run):
    path = run / "config.json"
    record = json.loads(path.read_text())
    record["config"]["model"]["network"]["generator_hidden"] = [9]
    path.write_text(json.dumps(record))
    said = Said()
    with pytest.raises(InputError, match=r"4: .* was expected; restore it with the configuration"):
        train.resume(str(run), report=said)
    (warning,) = said.warnings
    assert warning == (
        "config.json is not what step 4 was trained with: model.network.generator_hidden was [8] "
        "and is [9]"
    )


# A run without a checkpoint.


def test_a_run_that_was_killed_before_its_first_checkpoint(run, ring_run):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
    said = Said()
    result = train.resume(str(run), report=said)
    assert said.notes[0].endswith("run has no checkpoint yet: it starts from step 0")
    assert_as_undisturbed(result, ring_run)


# Files beside the checkpoints.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda text: "", "config.json is broken"),
        (lambda text: text[: len(text) // 2], "config.json is broken"),
        (lambda text: text[:200] + "\0" + text[201:], "config.json is broken"),
        (lambda text: "null", "config.json is not what a run writes there"),
        (lambda text: '{"config": 3, "data": {}}', "config.json is not what a run writes there"),
        (lambda text: text.replace('"fingerprint"', '"fingerprnt"'), "the data of .* has changed"),
        (lambda text: text.replace('"batch_size"', '"batch_sixe"'), "mean 'train.batch_size'"),
        (None, "config.json is a folder, expected a file"),
    ],
)
def test_a_damaged_configuration_is_refused(run, text, said):
    path = run / "config.json"
    whole = path.read_text()
    if text is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_text(text(whole))
    before = contents(run)
    with pytest.raises(InputError, match=said) as info:
        train.resume(str(run))
    assert "\n" not in str(info.value)
    after = contents(run)
    after.pop("lock"), before.pop("lock")
    assert after == before


LINE = '{"step": 2, "loss/generator": 0.5}\n'
STRANGE = "metrics.jsonl: left out {} lines that are no metrics"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda data: data + b'{"step": 5, "lo', None),
        (lambda data: data + b"\xff\xfe\x00garbage\n", STRANGE.format(1)),
        (lambda data: b'7\n[]\n{}\n{"step": "x"}\n' + data, STRANGE.format(4)),
        (lambda data: b'{"step": 1, "loss/generator": "much"}\n' + data, STRANGE.format(1)),
    ],
)
def test_damaged_metrics_are_left_out(run, ring_run, change, warning):
    path = run / "metrics.jsonl"
    path.write_bytes(change(path.read_bytes()))
    if warning:
        with pytest.warns(UserWarning, match=warning):
            result = train.resume(str(run))
    else:
        result = train.resume(str(run))
    assert_as_undisturbed(result, ring_run)


@pytest.mark.slow
def test_missing_metrics_are_begun_again(run, ring_run):
    (run / "metrics.jsonl").unlink()
    result = train.resume(str(run))
    assert_same_bits(result.state, ring_run.state)
    assert steps_logged(run) == [6]


def test_metrics_that_cannot_be_read(run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"metrics.jsonl is a folder, expected a file"):
        train.resume(str(run))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "evaluation.json is broken: "),
        ('[{"step"', "evaluation.json is broken: "),
        ("{}", "evaluation.json is not what a run writes there"),
        (None, "evaluation.json is a folder, expected a file"),
    ],
)
def test_broken_scores_do_not_stop_a_training(run, ring_run, text, why):
    path = run / "evaluation.json"
    path.unlink()
    path.mkdir() if text is None else path.write_text(text)
    said = Said()
    result = train.resume(str(run), report=said)
    (warning,) = said.warnings
    assert why in warning
    assert warning.endswith("; move it away")
    assert_as_undisturbed(result, ring_run)
    assert text is None or path.read_text() == text


# The disk and the directory, while training.


def before_the_save_of(step, monkeypatch, function):
    """Call a function in the middle of a training, while no save is in flight."""
    save = train._Training._save

    def and_then(self, at, state):
        if at == step:
            self.checkpoints.wait()
            function()
        save(self, at, state)

    monkeypatch.setattr(train._Training, "_save", and_then)


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 20_000])
def test_a_disk_that_fills_up(four_steps, small_disk, ring_run, monkeypatch, left):
    run = small_disk / "run"
    shutil.copytree(four_steps, run)
    filler = small_disk / "filler"

    def fill():
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
        filler.write_bytes(bytes(max(free - left, 0)))

    with monkeypatch.context() as patch:
        before_the_save_of(6, patch, fill)
        with pytest.raises(InputError, match=r"([Nn]o space left)") as info:
            train.resume(str(run))
    assert "\n" not in str(info.value)
    assert Checkpointer(run / "checkpoints").steps() == [2, 4]
    filler.unlink()
    assert_as_undisturbed(train.resume(str(run)), ring_run)


@pytest.mark.slow
def test_a_run_that_is_removed_while_it_trains(run, monkeypatch):
    before_the_save_of(6, monkeypatch, lambda: shutil.rmtree(run))
    with pytest.raises(InputError, match=r"run was removed while it trained \(config.json is gone"):
        train.resume(str(run))
    assert not run.exists()


@pytest.mark.slow
def test_a_run_that_another_one_has_taken_the_place_of(run, four_steps, monkeypatch):
    def replace():
        shutil.rmtree(run)
        shutil.copytree(four_steps, run)
        (run / "lock").write_text("12345")

    before_the_save_of(6, monkeypatch, replace)
    with pytest.raises(InputError, match="process 12345 has begun anew there"):
        train.resume(str(run))
    assert Checkpointer(run / "checkpoints").steps() == [2, 4]


@pytest.mark.slow
def test_checkpoints_that_are_removed_while_it_trains(run, ring_run, monkeypatch):
    shutil.rmtree(run / "checkpoints" / "4")
    before_the_save_of(6, monkeypatch, lambda: shutil.rmtree(run / "checkpoints"))
    with pytest.warns(UserWarning, match="checkpoints was removed, and is made again"):
        result = train.resume(str(run))
    assert_as_undisturbed(result, ring_run)


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_removed_ends_with_one_sentence(tmp_path):
    (tmp_path / "long.py").write_text(
        "from tiny_runs import ring_config\n"
        "def get_config():\n"
        "    return ring_config(steps=10**6, log_every_steps=50, checkpoint_every_steps=50)\n"
    )
    run = tmp_path / "run"
    process = start(["-m", "ganjax.cli", "train", "long.py", "--run-directory", "run"], tmp_path)
    wait_for(run / "checkpoints" / "50", process)
    # Two trainings in one directory.
    command = ["-m", "ganjax.cli", "train", "long.py", "--run-directory", "run"]
    for arguments, said in (
        (command, "ganjax: run already holds a run; continue it with `ganjax resume run`"),
        (["-m", "ganjax.cli", "resume", "run"], f"ganjax: run is in use by process {process.pid};"),
    ):
        second = start(arguments, tmp_path)
        _, err = second.communicate(timeout=120)
        assert second.returncode == 2, err
        assert err.splitlines()[-1].startswith(said)
        assert "Traceback" not in err
    assert process.poll() is None
    while run.exists():
        shutil.rmtree(run, ignore_errors=True)  # it writes meanwhile
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    sentences = [line for line in err.splitlines() if line.startswith("ganjax: ")]
    assert len(sentences) == 1, err
    assert "run was removed while it trained" in err or "could not be written" in err
    assert "Traceback" not in err


def test_a_lock_of_a_dead_process(run):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    (run / "lock").write_text(str(dead.pid))
    with RunDirectory(run).locked():
        assert (run / "lock").read_text() == str(os.getpid())
