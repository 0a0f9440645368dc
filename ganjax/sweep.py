"""Train the members of a population on the data of a configuration, score each, and compare.

A sweep leaves in its directory:

config.json    the resolved configuration, the data it met, versions, and what was swept
metrics.jsonl  one line per member and logged chunk of steps
samples/       a picture of each member, on the same latents
scores.json    the final scores of each member, mean and standard deviation
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ganjax import axes, config, loop, sharding
from ganjax.arguments import write_output
from ganjax.build import build, describe_data, lazy_correction
from ganjax.config import Config
from ganjax.evaluation import Figure
from ganjax.judging import Judge, judge_of
from ganjax.judging_text import TextJudge
from ganjax.population import Population, population
from ganjax.run import METRICS, RunDirectory, device_name, versions
from ganjax.safeguard import SKIPPED
from ganjax.train import Report, Silent
from ganjax.types import InputError, TrainState

SCORES = "scores.json"
# Of what a model says of held-out data, this compares models; the rest is for curves.
_HELD_OUT = ("held_out/elbo",)


class Member(NamedTuple):
    """How one member ended.

    Attributes:
      value: its seed, or its value of what was swept.
      scores: by name; empty where something of it is not finite.
      figures: those scores with how they were made.
    """

    value: float
    scores: Mapping[str, float]
    figures: Mapping[str, Figure]


class Result(NamedTuple):
    """How a sweep ended.

    Attributes:
      run: its directory.
      swept: "seed", or the name of the hyper-parameter.
      members: in the order of their values.
      strategy: how they were computed, see `ganjax.population`.
      images_per_second: of all members together, while training.
      seconds: in all.
    """

    run: RunDirectory
    swept: str
    members: Sequence[Member]
    strategy: str
    images_per_second: float
    seconds: float

    def summary(self) -> dict[str, tuple[float, float, int]]:
        """Return mean, standard deviation (of one member: nan) and number of each score."""
        summary = {}
        for name in dict.fromkeys(name for member in self.members for name in member.scores):
            scores = [member.scores[name] for member in self.members if name in member.scores]
            spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
            summary[name] = (statistics.mean(scores), spread, len(scores))
        return summary


def sweep(
    settings: Config,
    directory: str,
    *,
    seeds: int | None = None,
    values: tuple[str, Sequence[float]] | None = None,
    strategy: str = "auto",
    report: Report | None = None,
) -> Result:
    """Train several seeds, or several values of one hyper-parameter, in one program.

    All members see the same batches, in the order that `train.seed` makes. A member with a value is
    therefore what a training of its own with this value would be, up to rounding; seeds differ in
    weights and latents.

    Args:
      settings: the configuration of all.
      directory: new or empty.
      seeds: the number of members; their seeds are `train.seed` and those that follow.
      values: instead of seeds, an entry of `state.hyperparameters` and its values, as they would
        be in the configuration; all members start from `train.seed`.
      strategy: see `ganjax.population`.
      report: told what happens.

    Raises:
      InputError: bad configuration, data or directory; nothing has been overwritten.
      ganjax.loop.DivergedError: no member is finite any more.
      ganjax.loop.StoppedError: SIGINT or SIGTERM came.
    """
    started = time.perf_counter()
    if (seeds is None) == (values is None):
        raise InputError(
            "expected a number of seeds, or a hyper-parameter and its values, not both"
        )
    if settings.train.init_from is not None:
        raise InputError("members start afresh: leave out train.init_from")
    if settings.train.on_divergence == "roll_back":
        raise InputError(
            "a sweep has no checkpoints to roll back to: set train.on_divergence to stop or skip"
        )
    experiment = build(settings)
    if len(experiment.phases) > 1:
        raise InputError("a sweep trains in one phase: set the steps of the pre-training to 0")
    (phase,) = experiment.phases
    first = settings.train.seed
    if values is None:
        swept, shown = "seed", list(range(first, first + seeds))
        members = population(phase.algorithm, seeds, strategy=strategy)
        key = jnp.stack([jax.random.key(seed) for seed in shown])
    else:
        swept, shown = values[0], list(values[1])
        factor = _correction(settings, swept)
        trained = {swept: [factor * value for value in shown]}
        members = population(phase.algorithm, values=trained, strategy=strategy)
        key = jax.random.key(first)
    mesh = members.mesh or sharding.make_mesh()
    sharding.check_batch_size(settings.train.batch_size, mesh)
    run = RunDirectory(directory)
    about = {"swept": swept, "values": shown, "strategy": members.strategy}
    run.create(
        {
            "config": config.to_json(settings),
            "data": describe_data(experiment.train, experiment.model.num_classes),
            "sweep": about,
            "versions": versions(),
            "device": device_name(),
        }
    )
    report = report or Silent()
    with run.locked():
        report.start(0, phase.steps)
        try:
            with _Log(run, swept, shown, report) as log:
                state = loop.fit(
                    members,
                    jax.jit(members.init)(key),
                    experiment.train,
                    steps=phase.steps,
                    batch_size=settings.train.batch_size,
                    seed=first,
                    log_every_steps=settings.train.log_every_steps,
                    callbacks=[loop.Callback(log)],
                    mesh=mesh,
                    layout=settings.train.layout if members.mesh is None else "jit",
                    memory=settings.data.memory,
                    num_workers=settings.data.num_workers,
                )
        finally:
            report.stop()
        with loop.caught_signals() as signals:
            judge, ended = judge_of(experiment), []
            for index, value in enumerate(shown):
                report.note(f"scoring {swept} {value:g}")
                one = _alone(members, state, index)
                lost = index in log.lost or not bool(axes.all_finite((one.players, one.ema)))
                ended.append(Member(value, {}, {}) if lost else _score(judge, one, value))
                samples = judge.samples(one)
                path = run.path / "samples" / f"{index}_{swept}_{value:g}{judge.suffix}"
                path.parent.mkdir(exist_ok=True)
                judge.show(samples, path)
                if signals:
                    raise loop.StoppedError(phase.steps, signals[0])
        seconds = time.perf_counter() - started
        result = Result(run, swept, ended, members.strategy, log.images_per_second, seconds)
        _write(result)
    return result


def _correction(settings: Config, name: str) -> float:
    """Return what building a model multiplies a value of its configuration by."""
    intervals = {p.interval for p in getattr(settings.model, "penalties", {}).values()} - {1}
    if name != "discriminator_learning_rate" or not intervals:
        return 1.0
    optimizer = settings.model.discriminator
    return lazy_correction(optimizer, max(intervals)).learning_rate / optimizer.learning_rate


def _alone(members: Population, state: TrainState, index: int) -> TrainState:
    """Return one member's state, on one device."""
    return jax.device_put(members.member(state, index), jax.devices()[0])


def _score(judge: Judge | TextJudge, state: TrainState, value: float) -> Member:
    figures = judge.figures(state)
    scores = {name: float(figure.value) for name, figure in figures.items()}
    return Member(value, scores | judge.held_out(state), figures)


def _write(result: Result) -> None:
    """Keep the scores."""
    members = [
        {
            result.swept: member.value,
            "finite": bool(member.scores),
            "scores": member.scores,
            "figures": {name: dataclasses.asdict(f) for name, f in member.figures.items()},
        }
        for member in result.members
    ]
    summary = {
        name: {
            "mean": mean,
            "standard_deviation": spread if number > 1 else None,
            "members": number,
        }
        for name, (mean, spread, number) in result.summary().items()
    }
    text = json.dumps({"members": members, "summary": summary}, indent=2) + "\n"
    write_output(str(result.run.path / SCORES), lambda path: epath.Path(path).write_text(text))


class _Log:
    """Writes the metrics of each member, and notes who is lost."""

    def __init__(self, run: RunDirectory, swept: str, values: Sequence[float], report: Report):
        self._swept, self._values, self._report = swept, values, report
        self._lines = (run.path / METRICS).open("a")
        self.lost: set[int] = set()
        self.images_per_second = 0.0

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *error) -> None:
        self._lines.close()

    def __call__(self, progress: loop.Progress) -> None:
        metrics = {name: np.asarray(values) for name, values in progress.metrics.items()}
        for index, value in enumerate(self._values):
            line = {"step": progress.step, self._swept: value}
            own = {name: float(values[index]) for name, values in metrics.items()}
            finite = {name: v if np.isfinite(v) else None for name, v in own.items()}
            self._lines.write(json.dumps(line | finite) + "\n")
            # Of an interval in which every step was skipped there is nothing to be told.
            bad = sorted(name for name, v in finite.items() if v is None)
            bad = [] if own.get(SKIPPED) else bad
            if bad and index not in self.lost:
                self.lost.add(index)
                self._report.note(
                    f"step {progress.step}: {self._swept} {value:g} is lost, "
                    f"{bad[0]} is not finite; the others go on"
                )
        self._lines.flush()
        self.images_per_second = progress.images_per_second * len(self._values)
        alive = [index for index in range(len(self._values)) if index not in self.lost]
        means = {name: float(np.nanmean(v[alive])) for name, v in metrics.items()} if alive else {}
        self._report.progress(
            progress._replace(metrics=means, images_per_second=self.images_per_second)
        )


def print_result(result: Result, experiment_name: str) -> None:
    """Print each member's scores, and their mean and spread."""
    from rich.console import Console
    from rich.table import Table

    labels = {
        name: str(figure).rpartition(": ")[0]
        for member in result.members
        for name, figure in member.figures.items()
    }
    labels |= {name: "held-out ELBO" for name in _HELD_OUT if name in result.summary()}
    table = Table(title=f"{experiment_name}: {len(result.members)} members by {result.strategy}")
    table.add_column(result.swept)
    for label in labels.values():
        table.add_column(label, justify="right")
    for member in result.members:
        scores = [_number(member.scores.get(name)) for name in labels]
        table.add_row(f"{member.value:g}", *(scores if member.scores else ["not finite"]))
    summary = result.summary()
    table.add_section()
    table.add_row("mean", *(_number(summary[name][0]) for name in labels))
    table.add_row("standard deviation", *(_number(summary[name][1]) for name in labels))
    Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(table)
    shown = result.run.shown
    speed = f"{result.images_per_second:,.0f} images/s of all members together while training"
    print(f"{result.seconds:.0f} s in all, {speed}")
    print(f"pictures in {shown}/samples, scores in {shown}/{SCORES}, curves in {shown}/{METRICS}")


def _number(value: float | None) -> str:
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.4g}"
