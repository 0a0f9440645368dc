"""What the benchmark scripts share: arguments, timing in turns, one JSON line a row.

A number on its own says little: machines differ and drift. Each row is a ratio between ganjax and a
peer (or a ceiling) that ran in turns with it in the same process; above 1 ganjax is better.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("ganjax", "jax", "jaxlib", "flax", "optax", "numpy", "torch")


def arguments(
    description: str,
    cases: Sequence[str],
    default: Sequence[str] | None = None,
    **extra: Mapping,
) -> argparse.Namespace:
    """Read the command line that every script has.

    Args:
      description: the script's docstring.
      cases: their names; `--cases a,b` chooses some, `args.cases` is a list.
      default: those without `--cases`; None for all.
      extra: keywords of `add_argument` for further options, by name.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = list(default or cases)
    which = "all" if len(chosen) == len(cases) else ", ".join(chosen)
    parser.add_argument("--cases", help=f"of {', '.join(cases)}; by default {which}")
    parser.add_argument("--quick", action="store_true", help="few rounds: under a minute a case")
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    for name, options in extra.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    args = parser.parse_args()
    args.cases = args.cases.split(",") if args.cases else chosen
    unknown = sorted(set(args.cases) - set(cases))
    if unknown:
        parser.error(f"there is no case {', '.join(unknown)}; cases: {', '.join(cases)}")
    return args


def fields(text: str) -> dict[str, int]:
    """Return the whole numbers of `name=3,other=4` by name."""
    return {key: int(value) for key, value in (part.split("=") for part in text.split(",") if part)}


def in_turns(
    functions: Mapping[str, Callable[[], float]], *, quick: bool, rounds: int = 5
) -> dict[str, list[float]]:
    """Measure rates in turns, so that a drift of the machine meets all alike.

    Args:
      functions: each does a block of work, waits for its end and returns how much it was.
      quick: fewer rounds, shorter turns.
      rounds: how many turns each has.

    Returns:
      Work per second of each round, by name.
    """
    rounds, seconds = (3, 0.5) if quick else (rounds, 1.5)
    for function in functions.values():  # compiles, and warms caches
        function()
        function()
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            # Once uncounted: threads of the one before may still be spinning.
            function()
            work, start = 0.0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds:
                work += function()
            rates[name].append(work / elapsed)
    return rates


class Results:
    """Collects rows, prints a table line and a JSON line for each, and writes the file.

    Attributes:
      known: rows that the file held already, where `add_to` kept them.
    """

    def __init__(self, benchmark: str, out: Path | None, *, add_to: bool = False):
        self._about = {"benchmark": benchmark, "device": device(), **environment()}
        self._out, self._rows = out, []
        self.known: list[dict[str, Any]] = []
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            if add_to and out.exists():
                self.known = [json.loads(line) for line in out.read_text().splitlines()]
            else:
                out.write_text("")

    def add(
        self,
        case: str,
        ours: Sequence[float],
        peers: Sequence[float],
        *,
        unit: str = "images/s",
        peer: str = "PyTorch",
        **more: Any,
    ) -> None:
        """Add a row of rates of the same rounds, where more is better.

        Args:
          case: what was measured.
          ours: one figure a round.
          peers: the same for the peer.
          unit: of both.
          peer: who that is.
          more: further entries.
        """
        ratios = [a / b for a, b in zip(ours, peers, strict=True)]
        self.add_row(
            case,
            ganjax=statistics.median(ours),
            peer=statistics.median(peers),
            peer_name=peer,
            unit=unit,
            ratio=statistics.median(ratios),
            ratio_low=min(ratios),
            ratio_high=max(ratios),
            **more,
        )

    def add_row(self, case: str, **entries: Any) -> None:
        """Add a row of any entries."""
        row = {"case": case, **entries}
        line = {**self._about, **row}
        ratio = ""
        if entries.get("ratio") is not None:
            low, high = entries.get("ratio_low"), entries.get("ratio_high")
            spread = "" if low is None else f" ({low:.2f} to {high:.2f})"
            ratio = f"  ratio {entries['ratio']:.2f}{spread}"
        figures = "  ".join(
            f"{name} {_short(entries[name])}" for name in ("ganjax", "peer") if name in entries
        )
        about = f" {entries['unit']}" if "unit" in entries else ""
        against = f" against {entries['peer_name']}" if "peer_name" in entries else ""
        print(f"{case:<32} {figures}{about}{against}{ratio}", flush=True)
        text = json.dumps({k: _rounded(v) for k, v in line.items()})
        print(text, flush=True)
        if self._out is not None:
            with self._out.open("a") as file:
                file.write(text + "\n")


def device() -> str:
    """Return what is computed on, such as `NVIDIA H200` or `cpu, 2 cores, AMD EPYC`."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{len(jax.devices())} x {first.device_kind}"
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {cores} cores, {model}"


def environment() -> dict[str, Any]:
    """Return versions and commit."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {"versions": versions}
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
        found["commit"] = commit + ("+changes" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    return found


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _short(value: Any) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
