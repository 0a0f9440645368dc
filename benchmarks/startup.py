"""How long is it from `ganjax train quickstart` to the first finished step, and what takes it?

Whole processes, each round one with an empty cache of compiled programs and one that finds what the
first left there; a process ends after its first step. The parts are: interpreter (until Python
runs the program), imports (and reading the command line), building (data and networks), init (of
the state), files (run directory, logs), compiling (of the step: tracing, lowering, and compiling or
reading from the cache) and step (its first execution). Where tyro is not installed
`ganjax.train.train` takes the place of the command. `import ganjax` is measured against importing
what it is made of.

    python benchmarks/startup.py --rounds 5
"""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

CASES = ("import", "train_cold", "train_warm")
PARTS = ("interpreter", "imports", "building", "init", "files", "compiling", "step")

IMPORTS = {
    "ganjax": "import ganjax",
    "peer": "import jax, flax.linen, optax, orbax.checkpoint, numpy",
}
# Seconds are of the clock that all processes of a machine share.
TRAIN = """
import json, os, sys, time
marks = [time.monotonic()]

import jax
from ganjax import cli, config, loop, train
from ganjax.data import batch_indices
if sys.argv[2] == "command":
    import tyro, ganjax.report

build, begin, compile_chunk = train.build, train._begin, loop.compile_chunk

def timed_build(settings):
    marks.append(time.monotonic())
    experiment = build(settings)
    marks.append(time.monotonic())
    return experiment

def timed_begin(*arguments):
    state = jax.block_until_ready(begin(*arguments))
    marks.append(time.monotonic())
    return state

def timed_compile_chunk(*arguments):
    run_chunk = compile_chunk(*arguments)
    def first(*arguments):
        marks.append(time.monotonic())
        chunk = run_chunk(*arguments)
        marks.append(time.monotonic())
        jax.block_until_ready(chunk)
        marks.append(time.monotonic())
        print(json.dumps(marks), flush=True)
        os._exit(0)
    return first

train.build, train._begin, loop.compile_chunk = timed_build, timed_begin, timed_compile_chunk
if sys.argv[2] == "command":
    cli.main(["train", "quickstart", "--run-directory", sys.argv[1]])
cli._set_up_jax()
train.train(config.load_file("quickstart"), sys.argv[1])
"""


def main() -> None:
    rounds = {"type": int, "default": 5, "help": "how often each is measured"}
    args = common.arguments(__doc__, CASES, rounds=rounds)
    num_rounds = 2 if args.quick else args.rounds
    results = common.Results("startup", args.out)
    if "import" in args.cases:
        add_imports(results, num_rounds)
    if {"train_cold", "train_warm"} & set(args.cases):
        add_trainings(results, num_rounds, args.cases)


def add_imports(results: common.Results, num_rounds: int) -> None:
    seconds = {name: [] for name in IMPORTS}
    for round_ in range(num_rounds + 1):
        for name, program in IMPORTS.items():
            start = time.monotonic()
            subprocess.run([sys.executable, "-c", program], check=True)
            if round_:  # the first finds files that are not yet in memory
                seconds[name].append(time.monotonic() - start)
    ratios = [b / a for a, b in zip(seconds["ganjax"], seconds["peer"], strict=True)]
    results.add_row(
        "import",
        ganjax=statistics.median(seconds["ganjax"]),
        peer=statistics.median(seconds["peer"]),
        peer_name="importing jax, flax, optax, orbax-checkpoint and numpy",
        unit="s",
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
    )


def add_trainings(results: common.Results, num_rounds: int, cases: list[str]) -> None:
    if importlib.util.find_spec("tensorboardX") is None:
        print("no training: a run writes its logs with tensorboardX, not here", file=sys.stderr)
        return
    way = "command" if importlib.util.find_spec("tyro") else "train"
    if way == "train":
        print("no tyro here: ganjax.train.train instead of the command", file=sys.stderr)
    parts = {"train_cold": [], "train_warm": []}
    for _ in range(num_rounds):
        with tempfile.TemporaryDirectory() as cache:
            for case in parts:
                parts[case].append(first_step(Path(cache), way))
    for case in cases:
        if case in parts:
            medians = {
                part: statistics.median(each[part] for each in parts[case]) for part in PARTS
            }
            totals = [sum(each.values()) for each in parts[case]]
            shown = ", ".join(f"{part} {seconds:.2f}" for part, seconds in medians.items())
            print(f"{case}: {shown}")
            results.add_row(
                case,
                ganjax=statistics.median(totals),
                unit="s",
                low=min(totals),
                high=max(totals),
                way=way,
                **{f"{part}_seconds": seconds for part, seconds in medians.items()},
            )


def first_step(cache: Path, way: str) -> dict[str, float]:
    """Start a training and return the seconds of its parts, up to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-c", TRAIN, str(Path(folder) / "run"), way],
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.PIPE,
            check=True,
        )
    marks = [start, *json.loads(process.stdout.splitlines()[-1])]
    return dict(zip(PARTS, (b - a for a, b in itertools.pairwise(marks)), strict=True))


if __name__ == "__main__":
    main()
