"""How well do text generators imitate the synthetic oracle? Every model on the same oracles.

The score depends on the oracle that was drawn, so each row stands beside the oracle's own score
(`real`), and beside the likelihood model at several temperatures: sharper is likelier and less
varied, which no GAN may be praised for alone (Caccia et al. 2018, arXiv:1811.02549). NLL-oracle is
how unlikely the oracle finds 10,000 sequences of the model, NLL-generator how unlikely the model
finds 1,000 of the oracle's, both in nats a token; the latter is what a model that has lost variety
pays.

Trains each configuration on each oracle, unless its run is there already. --steps stops a training
early. Of models that play the best checkpoint after their pre-training is scored, chosen by the
very NLL-oracle (`step` in the row), as the papers do; of likelihood the last one. Rows are added to
those of an existing --out; --table prints it in Markdown.

    python benchmarks/oracle.py --cases oracle_mle --oracles 0,1,2 --runs runs/oracle --out FILE
    python benchmarks/oracle.py --table FILE
"""

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import common
import jax

CASES = ("oracle_mle", "oracle_gumbel", "oracle_seqgan", "oracle_relgan")
TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
NUM_SAMPLES = 10_000


def main() -> None:
    args = common.arguments(
        __doc__,
        CASES,
        default=("oracle_mle",),
        oracles={"default": "0,1,2", "help": "seeds of the oracles, such as 0,1,2"},
        length={"type": int, "default": 20, "help": "of the sequences, 20 or 40"},
        steps={"type": int, "help": "stop after so many, pre-training included"},
        set={
            "default": "",
            "help": "fields of model, such as discriminator_steps=60,num_rollouts=8",
        },
        runs={"type": Path, "help": "keep the runs here; by default they are thrown away"},
        table={"type": Path, "help": "print the table of this file and do nothing else"},
    )
    if args.table:
        print_table(args.table)
        return
    results = common.Results("oracle", args.out, add_to=True)
    done = {(row["case"], row["oracle"], row["length"]) for row in results.known}
    trained = [
        [row[key] for key in ("case", "oracle", "length", "settings", "steps")]
        for row in results.known
        if row["case"] != "real"
    ]
    with tempfile.TemporaryDirectory() as folder:
        for seed in map(int, args.oracles.split(",")[: 1 if args.quick else None]):
            if ("real", seed, args.length) not in done:
                real(results, seed, args.length, args.quick)
            for name in args.cases:
                settings, fields = configured(name, seed, args)
                about = [name, seed, args.length, fields, settings.train.steps]
                if about not in trained:
                    score(results, name, settings, fields, args.runs or Path(folder), args.quick)


def real(results: common.Results, seed: int, length: int, quick: bool) -> None:
    """Add the oracle's own score: the entropy of what it writes."""
    from ganjax.data import Oracle

    oracle = Oracle(length, seed=seed)
    tokens = oracle.sample(1000 if quick else NUM_SAMPLES, seed=12_345)
    value = oracle.negative_log_likelihood(tokens)
    results.add_row("real", unit="nats", oracle=seed, length=length, nll_oracle=value)


def configured(name: str, seed: int, args) -> tuple:
    """Return the configuration to train, and which fields of its model were changed."""
    from ganjax import config

    settings = config.load_file(name)
    text = dataclasses.replace(settings.data.text, oracle_seed=seed, length=args.length)
    data = dataclasses.replace(settings.data, text=text)
    fields = common.fields(args.set)
    steps = args.steps
    if args.quick:
        fast = ("pretrain_steps", "discriminator_pretrain_steps")
        fields |= {key: 1 for key in fast if getattr(settings.model, key, 0)}
        fields |= {"discriminator_steps": 2} if hasattr(settings.model, "loss") else {}
        steps = 4
    training = settings.train
    if steps:
        every = min(steps, training.checkpoint_every_steps)
        training = dataclasses.replace(training, steps=steps, checkpoint_every_steps=every)
    model = dataclasses.replace(settings.model, **fields)
    return dataclasses.replace(settings, data=data, train=training, model=model), fields


def score(results, name, settings, fields, runs, quick) -> None:
    """Train one configuration on one oracle, and add a row for each temperature that counts."""
    from ganjax import train
    from ganjax.run import RunDirectory

    seed, length = settings.data.text.oracle_seed, settings.data.text.length
    directory = runs / f"{name}-{length}-{seed}"
    seconds = None
    if not (directory / "evaluation.json").exists():
        seconds = train.train(settings, str(directory)).seconds
    run = RunDirectory(directory)
    curve = [
        [entry["step"], round(entry["figures"]["nll_oracle"]["value"], 4)]
        for entry in run.evaluations()
        if "nll_oracle" in entry["figures"]
    ]
    about = {"unit": "nats", "oracle": seed, "length": length, "seconds": seconds}
    about |= {"settings": fields, "steps": settings.train.steps}
    before = getattr(settings.model, "pretrain_steps", None)
    if before is not None:
        start = [value for step, value in curve if step <= before]
        about["nll_oracle_before"] = start[-1] if start else None
    plays = before is not None
    for temperature in TEMPERATURES[: 1 if plays or quick else None]:
        case = name if temperature == 1.0 else f"{name} at {temperature:g}"
        step = _best_step(directory, curve, before) if plays else None
        row = _measured(str(directory), step, temperature, quick)
        more = {"curve": curve} if temperature == 1.0 else {}
        results.add_row(case, **about, temperature=temperature, **row, **more)


def _best_step(directory: Path, curve: list, before: int) -> int | None:
    """Return the kept checkpoint of the game with the lowest NLL-oracle, or None for the last."""
    from ganjax.checkpoint import Checkpointer

    with Checkpointer(directory / "checkpoints") as checkpoints:
        kept = set(checkpoints.steps())
    played = [(value, step) for step, value in curve if step > before and step in kept]
    return min(played)[1] if played else None


def _measured(directory: str, step: int | None, temperature: float, quick: bool) -> dict:
    from ganjax import load
    from ganjax.build import build
    from ganjax.generation import Sampling
    from ganjax.judging_text import TextJudge

    trained = load(directory, step)
    judge = TextJudge(build(trained.config), sampling=Sampling(temperature))
    figures = judge.figures(trained.state, num_samples=500 if quick else NUM_SAMPLES, seed=7)
    return {
        "step": trained.step,
        "nll_oracle": figures["nll_oracle"].value,
        "nll_generator": figures["nll_generator"].value,
        "jax_device": jax.devices()[0].device_kind,
    }


def print_table(path: Path) -> None:
    """Print a Markdown table: a row a model, a column an oracle, and the mean over oracles."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for length in sorted({row["length"] for row in rows}):
        chosen = [row for row in rows if row["length"] == length]
        oracles = sorted({row["oracle"] for row in chosen})
        print(f"| length {length} | " + " | ".join(f"oracle {o}" for o in oracles), end="")
        print(" | mean NLL-oracle | mean NLL-generator | before it played |")
        print("|" + "---|" * (len(oracles) + 4))
        for title in dict.fromkeys(map(_title, chosen)):
            of = {row["oracle"]: row for row in chosen if _title(row) == title}
            cells = [f"{of[o]['nll_oracle']:.3f}" if o in of else "" for o in oracles]
            cells.append(_mean(of.values(), "nll_oracle"))
            cells.append(_mean(of.values(), "nll_generator"))
            cells.append(_mean(of.values(), "nll_oracle_before"))
            print(f"| {title} | " + " | ".join(cells) + " |")


def _title(row: dict) -> str:
    from ganjax import config

    changed = dict(row.get("settings", {}))
    name = row["case"].partition(" at ")[0]
    if name in CASES and config.load_file(name).train.steps != row["steps"]:
        changed["steps"] = row["steps"]
    return row["case"] + "".join(f", {key} {value}" for key, value in changed.items())


def _mean(rows, key: str) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return f"{statistics.mean(values):.3f}" if values else ""


if __name__ == "__main__":
    main()
