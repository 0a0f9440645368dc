"""How well do the shipped configurations train, and how much does the seed matter?

Trains each configuration with each seed, unless its run is there already, and scores it. Rows are
added to those of an existing --out, so that seeds can come in several sittings; --table prints what
the file holds, as mean and standard deviation over seeds, in Markdown.

    python benchmarks/scores.py --cases quickstart --seeds 0,1,2 --runs runs/scores --out FILE
    python benchmarks/scores.py --table FILE
"""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import common

CASES = (
    "mlp_ring",
    "mlp_grid",
    "quickstart",
    "wgan_gp_small",
    "sngan_small",
    "sagan_small",
    "biggan_small",
    "stylegan2_small",
    "r3gan_small",
    "stacked",
)
METRICS = ("precision_recall", "density_coverage")
MANIFOLDS = ("precision", "recall", "density", "coverage")


def main() -> None:
    args = common.arguments(
        __doc__,
        CASES,
        seeds={"default": "0,1,2", "help": "of the trainings, such as 0,1,2"},
        runs={"type": Path, "help": "keep the runs here; by default they are thrown away"},
        table={"type": Path, "help": "print the table of this file and do nothing else"},
    )
    if args.table:
        print_table(args.table)
        return
    results = common.Results("scores", args.out, add_to=True)
    done = {(row["case"], row["seed"]) for row in results.known}
    with tempfile.TemporaryDirectory() as folder:
        for seed in map(int, args.seeds.split(",")[: 1 if args.quick else None]):
            for name in args.cases:
                if (name, seed) not in done:
                    score(results, name, seed, args.runs or Path(folder), args.quick)


def score(results: common.Results, name: str, seed: int, runs: Path, quick: bool) -> None:
    """Train one configuration with one seed, and add a row of its scores."""
    from ganjax import config, measure, train

    settings = config.load_file(name)
    training = dataclasses.replace(settings.train, seed=seed)
    if quick:
        training = dataclasses.replace(training, steps=50)
    settings = dataclasses.replace(settings, train=training)
    directory = runs / f"{name}-{seed}"
    seconds = None
    if not (directory / "evaluation.json").exists():
        start = time.perf_counter()
        train.train(settings, str(directory))
        seconds = time.perf_counter() - start
    figures, _ = measure.evaluate(str(directory))
    if next(iter(figures.values())).extractor == "fashion-mnist-classifier":
        figures |= measure.evaluate(str(directory), metrics=METRICS)[0]
    first = next(iter(figures.values()))
    results.add_row(
        name,
        unit="scores",
        seed=seed,
        steps=settings.train.steps,
        batch_size=settings.train.batch_size,
        seconds=seconds,
        extractor=first.extractor,
        num_samples=first.num_samples,
        reference=first.reference,
        **{f"score/{key}": figure.value for key, figure in figures.items()},
    )


def print_table(path: Path) -> None:
    """Print a Markdown table of the scores in a file: mean ± standard deviation over seeds."""
    groups: dict[str, list[dict]] = {}
    for row in map(json.loads, path.read_text().splitlines()):
        groups.setdefault(row["case"], []).append(row)
    columns = {
        "frechet_distance": "Fréchet distance",
        "classifier_score": "classifier score",
        "precision": "precision",
        "recall": "recall",
        "density": "density",
        "coverage": "coverage",
        "modes_covered": "modes",
        "mode_divergence": "KL of modes",
        "good_share": "good samples",
    }
    shown = [key for key in columns if any(f"score/{key}" in row for row in _all(groups))]
    print("| configuration | steps x batch | seeds | minutes | ", end="")
    print(" | ".join(columns[key] for key in shown) + " |")
    print("|" + "---|" * (4 + len(shown)))
    for name, rows in groups.items():
        minutes = [row["seconds"] / 60 for row in rows if row.get("seconds")]
        cells = [
            f"`{name}`",
            f"{rows[0]['steps']:,} x {rows[0]['batch_size']}",
            str(len(rows)),
            f"{statistics.median(minutes):.1f}" if minutes else "",
        ]
        for key in shown:
            values = [row[f"score/{key}"] for row in rows if f"score/{key}" in row]
            if key in MANIFOLDS and rows[0]["num_samples"] > 5000:
                values = []  # of 26,000 against 1,000 the balls tell nothing
            cells.append(_spread(values))
        print("| " + " | ".join(cells) + " |")


def _all(groups: dict[str, list[dict]]) -> list[dict]:
    return [row for rows in groups.values() for row in rows]


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    text = (
        f"{statistics.mean(values):,.4g}" if values[0] >= 100 else f"{statistics.mean(values):.3g}"
    )
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.2g}"


if __name__ == "__main__":
    main()
