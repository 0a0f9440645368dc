"""Every benchmark script runs its first case and writes rows that can be read."""

import ast
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = {"common.py", "plot.py"}
SCRIPTS = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.name not in SHARED and not path.name.startswith("torch_")
)


def run(script, *arguments):
    process = subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def needs_torch(script):
    """Whether it imports PyTorch at once, and not only for some rows."""
    body = ast.parse((FOLDER / f"{script}.py").read_text()).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in body if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] == "torch" for name in names)


def test_the_scripts_are_found():
    assert {"input_pipeline", "loop", "sampling", "startup"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_first_case(script, tmp_path):
    if needs_torch(script) and importlib.util.find_spec("torch") is None:
        pytest.skip(f"benchmarks/{script}.py compares with PyTorch: torch is not installed")
    manual = " ".join(run(script, "--help").split())
    case = re.search(r"--cases CASES of ([^ ,;]+).*; by default ", manual)[1]
    out = tmp_path / "rows.jsonl"
    shown = run(script, "--quick", "--cases", case, "--out", out)
    lines = out.read_text().splitlines()
    assert lines
    assert [line for line in shown.splitlines() if line.startswith("{")] == lines
    for row in map(json.loads, lines):
        assert row["benchmark"] == script
        assert row["device"]
        assert row["case"]
        assert row["unit"]
        if row.get("peer") is not None:
            assert math.isfinite(row["ratio"])
            assert row["ratio"] > 0


def test_both_libraries_train_the_same_networks(monkeypatch):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import jax

    from ganjax.build import num_parameters

    monkeypatch.syspath_prepend(FOLDER)
    import train_step

    for name, case in {**train_step.CASES, **train_step.LARGE}.items():
        state = jax.eval_shape(train_step.algorithm_of(case).init, jax.random.key(0))
        ours = [num_parameters(state.players[p].params) for p in ("generator", "discriminator")]
        theirs = [
            sum(parameter.numel() for parameter in network.parameters())
            for network in train_step.PEERS[case.peer](case)
        ]
        assert ours == theirs, name
