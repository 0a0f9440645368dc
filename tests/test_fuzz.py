"""Whatever bytes a file holds, a reader reads it or says one sentence that names it."""

import contextlib
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fuzz_readers import READERS
from fuzzing import BYTES, SECONDS, run_case
from hypothesis import given, settings
from hypothesis import strategies as st

from ganjax import config
from ganjax.files import parse_json
from ganjax.interop.torch_files import open_file
from ganjax.types import InputError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu-2-cores" / "fuzz.jsonl"
# Tracing an initialisation takes a tenth of a second.
EVERYDAY = {"gpt2": 100, "folder": 60, "zip": 60, "picture": 150}
EXHAUSTIVE = 10_000
quickly = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def evil(files):
    return any(b"this_was_run" in content for content in files.values())


@pytest.mark.parametrize("reader", READERS)
def test_the_good_files_are_read(reader, tmp_path):
    """Most of them, by whatever settings; or a spoiled one would say nothing."""
    seeds, call = READERS[reader]
    read = set()
    for number, files in enumerate(seeds()):
        folder = tmp_path / f"{number}"
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        for trial in range(8):
            with contextlib.suppress(InputError):
                call(folder, random.Random(trial))
                read.add(number)
                break
    refused = {number for number, files in enumerate(seeds()) if number not in read}
    assert all(evil(seeds()[number]) or "floats.tif" in seeds()[number] for number in refused)
    assert not (Path.cwd() / "this_was_run").exists()


@pytest.mark.parametrize("reader", READERS)
def test_spoiled_files(reader, tmp_path):
    outcomes = [run_case(reader, 0, n, tmp_path) for n in range(EVERYDAY.get(reader, 200))]
    wrong = [outcome for outcome in outcomes if outcome.what not in ("valid", "sentence")]
    assert not wrong
    assert max(outcome.seconds for outcome in outcomes) < SECONDS
    # Both kinds of end are met.
    assert {outcome.what for outcome in outcomes} == {"valid", "sentence"}
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


@quickly
@given(st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]), st.binary(max_size=200))
def test_any_bytes_as_a_pickle(head, content):
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        Path(file.name).write_bytes(head + content)
        with_sentence(lambda: open_file(file.name), Path(file.name).name)


@quickly
@given(st.text() | st.binary())
def test_any_text_as_json(text):
    with_sentence(lambda: parse_json(text, "a.json"), "a.json")


numbers = st.integers() | st.floats() | st.booleans() | st.none()
anything = st.recursive(
    numbers | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside),
    max_leaves=10,
)


@quickly
@given(st.data())
def test_any_value_in_a_configuration(data):
    kinds = st.sampled_from([*config.MODELS, *config.NETWORKS])
    model = data.draw(st.fixed_dictionaries({"type": kinds}) | anything)
    if isinstance(model, dict):
        model["network"] = data.draw(st.fixed_dictionaries({"type": kinds}) | anything)
    tree = {"model": model, data.draw(st.sampled_from(["data", "train"])): data.draw(anything)}
    with_sentence(lambda: config.from_json(tree), "")


def with_sentence(call, name):
    try:
        call()
    except InputError as error:
        sentence = str(error)
    else:
        return
    assert name in sentence
    assert "\n" not in sentence


@pytest.mark.exhaustive
@pytest.mark.parametrize("reader", READERS)
def test_many_spoiled_files_in_a_process_of_their_own(reader, tmp_path):
    """Nothing crashes, hangs, takes too much memory, writes, connects or runs anything."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import common
    finally:
        sys.path.pop(0)
    seed = 1
    arguments = [str(Path(__file__).with_name("fuzzing.py")), reader, seed, 0, EXHAUSTIVE]
    process = subprocess.run(
        [sys.executable, "-B", *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    summary = json.loads(process.stdout)
    assert summary["faults"] == []
    assert summary["valid"] + summary["sentences"] == EXHAUSTIVE
    assert summary["slowest_seconds"] < SECONDS
    assert summary["peak_mib"] < BYTES >> 20
    results = common.Results("fuzz", RESULTS, add_to=True)
    row = {key: value for key, value in summary.items() if key != "faults"}
    results.add_row(reader, unit="cases", cases=EXHAUSTIVE, seed=seed, **row)
