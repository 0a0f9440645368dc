"""What a person sees in a terminal: the progress bar, the closing table, the page of facts."""

import contextlib
import math
import sys
from collections.abc import Mapping
from typing import Any

import jax

from ganjax import cost, loop
from ganjax.build import num_parameters
from ganjax.evaluation import Figure
from ganjax.experiment import Experiment, Model
from ganjax.sharding import state_bytes
from ganjax.train import Result
from ganjax.trained import Trained
from ganjax.trained_text import TrainedText


class Console:
    """A progress bar on a terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole

        self._console = RichConsole(stderr=True, highlight=False)
        self._bar = None
        self._last_line = 0.0
        self._steps, self._unit = 0, "images"
        self._mark = ""

    def start(self, first_step: int, steps: int, unit: str = "images") -> None:
        self._steps, self._unit = steps, unit
        if not self._console.is_terminal:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[speed]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self._console,
        )
        self._task = self._bar.add_task(
            "", total=steps, completed=first_step, speed="compiling", losses=""
        )
        self._bar.start()

    def progress(self, progress: loop.Progress) -> None:
        metrics, speed = progress.metrics, progress.images_per_second
        losses = " ".join(
            f"{name.removeprefix('loss/')} {value:.3f}"
            for name, value in sorted(metrics.items())
            if name.startswith("loss/")
        )
        scores = [
            f"{name.removeprefix('evaluation/').replace('_', ' ')} {value:.4g}"
            for name, value in metrics.items()
            if name.startswith("evaluation/")
        ]
        if scores:
            self.note(f"step {progress.step}: {', '.join(scores)}")
        if not losses:
            return
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=progress.step,
                speed=f"{speed:,.0f} {self._unit}/s" if speed else "compiling",
                losses=losses + self._mark,
            )
            return
        import time

        if time.monotonic() - self._last_line >= 10 or progress.step == self._steps:
            self._last_line = time.monotonic()
            self.note(f"step {progress.step}/{self._steps}  {speed:,.0f} {self._unit}/s  {losses}")

    def note(self, text: str) -> None:
        # A terminal that is closed, or a `| head` that has seen enough, must not end a training;
        # rich ends the process where a pipe is broken.
        with contextlib.suppress(OSError, ValueError, SystemExit):
            self._console.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, and keep a mark of it in the progress bar."""
        self.note(f"warning: {text}")
        self._mark = "  (warned, see above)"

    def stop(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError, SystemExit):
                self._bar.stop()
            self._bar = None


def print_result(result: Result, experiment_name: str) -> None:
    """Print the short table that closes a run."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(title=f"{experiment_name}: step {result.step}", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if result.images_per_second:
        rate = f"{result.images_per_second:,.0f} {result.unit}/s while training"
        table.add_row("speed", rate)
    table.add_row("time", f"{result.seconds:.0f} s in all")
    for figure in result.figures.values():
        label, value = _split(figure)
        table.add_row(label, value)
    shown = result.run.shown
    table.add_row("samples", f"{shown}/samples/{result.picture.rsplit('/', 1)[-1]}")
    table.add_row("curves", f"{shown}/curves.png")
    table.add_row("more samples", f"ganjax sample {shown}")
    RichConsole(highlight=False, width=None if sys.stdout.isatty() else 100).print(table)


def print_figures(figures: Mapping[str, Figure], held_out: Mapping[str, float]) -> None:
    """Print scores, each with how it was made, and what the model says of held-out data."""
    for figure in figures.values():
        print(figure)
    for name, value in sorted(held_out.items()):
        print(f"{name.replace('held_out/', 'held-out ')}: {value:.4f}")


def _split(figure: Figure) -> tuple[str, str]:
    label, _, value = str(figure).rpartition(": ")
    return label, value


def facts(model: Model, batch_size: int) -> list[tuple[str, str]]:
    """Return what there is to say of a model before it is trained: (name, value) pairs."""
    state = jax.eval_shape(model.algorithm.init, jax.random.key(0))
    rows = [
        (f"parameters of the {name}", f"{num_parameters(player.params):,}")
        for name, player in state.players.items()
    ]
    example = model.example_shape, batch_size, model.num_classes
    step = cost.step_cost(model.algorithm, *example, tokens=model.text is not None)
    of_a_batch = f"batch of {batch_size}"
    once = "" if step.complete else ", repeated updates counted once"
    rows.append(("FLOPs of a step", f"{_with_prefix(step.flops)} ({of_a_batch}{once})"))
    rows.append(
        ("memory of a step", f"{_with_prefix(step.memory.peak)}B at the peak ({of_a_batch})")
    )
    keyless = state.replace(key=jax.eval_shape(jax.random.key_data, state.key))
    rows.append(("state", f"{_with_prefix(state_bytes(keyless))}B with optimizers and averages"))
    return rows


def print_plan(experiment: Experiment) -> None:
    """Print a resolved configuration and what it would train, as `--dry-run` does."""
    import json

    from ganjax import config

    print(json.dumps(config.to_json(experiment.config), indent=2))
    held_out = experiment.held_out.num_examples if experiment.held_out else 0
    shape = "x".join(map(str, experiment.model.shape))
    if experiment.model.text is not None:
        shape = "{} tokens, {:,} different ones".format(*experiment.model.shape)
    names = experiment.train.class_names
    classes = f"{experiment.model.num_classes}"
    if names:
        classes += f": {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
    rows = [
        ("data", f"{experiment.train.name}, {experiment.train.num_examples:,} of {shape}"),
        ("held out", f"{held_out:,}"),
        *([("classes", classes)] if experiment.model.num_classes else []),
        *facts(experiment.model, experiment.config.train.batch_size),
    ]
    _print_rows(rows)


def print_info(
    trained: Trained | TrainedText, record: Mapping[str, Any], evaluations: list
) -> None:
    """Print what a run is: networks, sizes, data, device, and its latest scores."""
    data, settings = record["data"], trained.config
    batch_size = settings.train.batch_size * trained.model.algorithm.batches_per_step
    rows = [
        ("name", settings.name),
        ("model", f"{type(settings.model).__name__} of {type(settings.model.network).__name__}"),
        *facts(trained.model, settings.train.batch_size),
        ("trained on", f"{data['name']} ({data['split']}), {data['num_examples']:,} examples"),
        ("device", str(record.get("device", "unknown"))),
        ("step", f"{trained.step:,} of {settings.train.steps:,}"),
        (
            "images seen" if trained.model.text is None else "sequences seen",
            f"{trained.step * batch_size:,}",
        ),
        ("versions", ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())),
    ]
    if evaluations:
        latest = evaluations[-1]
        for figure in latest["figures"].values():
            label, value = _split(Figure(**figure))
            rows.append((f"{label} at step {latest['step']}", value))
    _print_rows(rows)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _with_prefix(number: float) -> str:
    power = min(5, max(0, int(math.log10(max(number, 1)) // 3)))
    return f"{number / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P'][power]}"
