"""A run from its configuration to its closing figures: `train`, `resume`, `evaluate`."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from ganjax import config, evaluation, loop, pictures, sharding
from ganjax.build import (
    Experiment,
    build,
    describe_data,
    images_per_call,
    with_standing_statistics,
)
from ganjax.checkpoint import Checkpointer
from ganjax.config import Config
from ganjax.data import GRID_CENTERS, GRID_STD, RING_CENTERS, RING_STD, Dataset
from ganjax.run import MetricsLog, RunDirectory, device_name, versions, wandb_callback
from ganjax.trained import load
from ganjax.types import InputError, TrainState

# Pictures show the same latents all through a run.
_SAMPLE_SEED = 0
_MIXTURES = {"ring": (RING_CENTERS, RING_STD), "grid": (GRID_CENTERS, GRID_STD)}
# The metric by which checkpoints are compared, by what the data is.
_BEST = {True: ("evaluation/frechet_distance", "min"), False: ("evaluation/good_share", "max")}


class Report(Protocol):
    """What a run tells while it goes on; `ganjax.report` shows it in a terminal."""

    def start(self, first_step: int, steps: int) -> None: ...

    def progress(self, progress: loop.Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """A report that nobody reads."""

    def start(self, first_step: int, steps: int) -> None: ...

    def progress(self, progress: loop.Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def stop(self) -> None: ...


class Result(NamedTuple):
    """How a run ended.

    Attributes:
      run: its directory.
      state: the final state.
      images_per_second: while training, without compilation, pictures and scores.
      seconds: in all, from the start of the command's work.
      figures: the final scores.
      picture: path of the last picture.
    """

    run: RunDirectory
    state: TrainState
    images_per_second: float
    seconds: float
    figures: Mapping[str, evaluation.Figure]
    picture: str


def train(settings: Config, directory: str, report: Report | None = None) -> Result:
    """Train from scratch in a new run directory.

    Args:
      settings: the configuration.
      directory: new or empty.
      report: told what happens.

    Raises:
      InputError: bad configuration, data or directory; nothing has been overwritten.
      ganjax.loop.DivergedError: a metric is not finite.
      ganjax.loop.StoppedError: SIGINT or SIGTERM came; the state has been saved.
    """
    started = time.perf_counter()
    experiment = build(settings)
    sharding.check_batch_size(settings.train.batch_size, sharding.make_mesh())
    # Whatever the first phase starts from is read before anything is written.
    state = _begin(experiment, 0, None)
    run = RunDirectory(directory)
    run.create(_record(experiment))
    with run.locked():
        return _Training(experiment, run, report or Silent(), started).go(state, None)


def resume(directory: str, steps: int | None = None, report: Report | None = None) -> Result:
    """Go on with a run from its latest sound checkpoint.

    Args:
      directory: of the run.
      steps: train until this step; by default what the run was started with.
      report: told what happens.

    Raises:
      InputError: there is no run, it is in use, its data has changed, or there is no checkpoint.
    """
    started = time.perf_counter()
    run = RunDirectory(directory)
    record = run.record()
    settings = config.from_json(record["config"])
    if steps is not None:
        settings = dataclasses.replace(
            settings, train=dataclasses.replace(settings.train, steps=steps)
        )
    with run.locked():
        experiment = build(settings)
        if experiment.train.fingerprint != record["data"]["fingerprint"]:
            raise InputError(
                f"the data of {run.shown} has changed: {experiment.train.name} is not what the run "
                "was trained on; bring it back, or start a new run with --train.init-from "
                f"{run.shown}"
            )
        training = _Training(experiment, run, report or Silent(), started)
        metadata = training.checkpoints.metadata()
        done = int(metadata["step"])
        if steps is not None:
            if steps < done:
                raise InputError(f"{run.shown} is at step {done} already, beyond {steps}")
            run.rewrite({**record, "config": config.to_json(settings)})
        return training.go(None, metadata)


def evaluate(
    directory: str,
    *,
    step: int | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    truncation: float | None = None,
    ema: bool = True,
    standing_batches: int | None = None,
) -> tuple[dict[str, evaluation.Figure], dict[str, float]]:
    """Score a run against its held-out data, and keep the scores in the run directory.

    Args:
      directory: of the run.
      step: of the checkpoint; by default the latest sound one.
      num_samples: how many to generate; by default what the configuration says.
      seed: of the samples.
      truncation: see `ganjax.latents`.
      ema: whether to use the running average where there is one.
      standing_batches: over which batch norm's statistics are gathered anew; by default what the
        configuration says.

    Returns:
      The figures, and the means of what the model says of the held-out data.
    """
    trained = load(directory, step)
    protocol = dataclasses.replace(trained.config.evaluation, ema=ema)
    if standing_batches is not None:
        protocol = dataclasses.replace(protocol, standing_batches=standing_batches)
    settings = dataclasses.replace(trained.config, evaluation=protocol)
    experiment = build(settings)
    judge = Judge(experiment, truncation=truncation)
    figures = judge.figures(trained.state, num_samples=num_samples, seed=seed)
    RunDirectory(directory).add_evaluation(
        trained.step, {name: dataclasses.asdict(figure) for name, figure in figures.items()}
    )
    return figures, judge.held_out(trained.state)


def _record(experiment: Experiment) -> dict[str, Any]:
    return {
        "config": config.to_json(experiment.config),
        "data": describe_data(experiment.train, experiment.model.num_classes),
        "versions": versions(),
        "device": device_name(),
    }


def _begin(experiment: Experiment, index: int, previous: TrainState | None) -> TrainState:
    """Return the state that a phase starts from, after the state that the one before ended in."""
    phase = experiment.phases[index]
    key = jax.random.key(experiment.config.train.seed)
    if index:
        key = jax.random.fold_in(key, index)
    # The compiler's last optimisations take a CPU seconds, for a program that runs once.
    quickly = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    state = jax.jit(phase.algorithm.init, compiler_options=quickly)(key)
    return phase.transfer(state, previous) if phase.transfer else state


class _Training:
    """One process's work on one run."""

    def __init__(self, experiment: Experiment, run: RunDirectory, report: Report, started: float):
        self.experiment, self.run, self.report, self.started = experiment, run, report, started
        self.settings = settings = experiment.config
        metric, mode = _BEST[len(experiment.model.shape) == 3]
        self.checkpoints = Checkpointer(
            run.checkpoints,
            keep_last=settings.train.keep_last,
            keep_best=settings.train.keep_best if settings.evaluation.every_steps else 0,
            best_metric=metric,
            best_mode=mode,
        )
        self.judge = Judge(experiment)
        self.wandb = None
        if settings.train.wandb_project is not None:
            self.wandb = wandb_callback(settings.train.wandb_project, run, config.to_json(settings))
        self.latest: dict[str, float] = {}
        self.latest_step = -1
        self.figures: Mapping[str, evaluation.Figure] = {}
        self.images_per_second = 0.0
        self.phase = 0

    def go(self, state: TrainState | None, metadata: Mapping[str, Any] | None) -> Result:
        """Train from a fresh state of the first phase, or from the checkpoint of `metadata`."""
        settings, experiment = self.settings, self.experiment
        total = sum(phase.steps for phase in experiment.phases)
        first = int(metadata["phase"]) if metadata else 0
        with self.checkpoints:
            step = 0
            if metadata:
                state = self._restore(experiment.phases[first])
                step = sum(p.steps for p in experiment.phases[:first]) + int(state.step)
            self.log = MetricsLog(self.run, step)
            self.report.start(step, total)
            try:
                for self.phase in range(first, len(experiment.phases)):
                    phase = experiment.phases[self.phase]
                    offset = sum(p.steps for p in experiment.phases[: self.phase])
                    if self.phase > first:
                        state = _begin(experiment, self.phase, state)
                    state = loop.fit(
                        phase.algorithm,
                        state,
                        experiment.train,
                        steps=offset + phase.steps,
                        batch_size=settings.train.batch_size,
                        seed=settings.train.seed,
                        log_every_steps=settings.train.log_every_steps,
                        callbacks=self._callbacks(phase.algorithm, total),
                        save=self._save,
                        save_every_steps=settings.train.checkpoint_every_steps,
                        layout=settings.train.layout,
                        memory=settings.data.memory,
                        num_workers=settings.data.num_workers,
                        first_step=offset,
                    )
                self.checkpoints.wait()
                if not self.figures:
                    self.log.write(total, self._evaluate(state, total))
                picture = self._picture(state, total)
                self._plot()
            except loop.DivergedError as error:
                self.checkpoints.wait()
                good = self.checkpoints.latest_step()
                kept = f"the last good checkpoint is step {good}" if good else "nothing was saved"
                raise loop.DivergedError(f"training diverged: {error}; {kept}") from error
            finally:
                self.report.stop()
                self.log.close()
        return Result(
            self.run,
            state,
            self.images_per_second,
            time.perf_counter() - self.started,
            self.figures,
            picture,
        )

    def _restore(self, phase):
        like = jax.eval_shape(phase.algorithm.init, jax.random.key(0))
        state, metadata = self.checkpoints.restore(like)
        if int(metadata["phase"]) != self.experiment.phases.index(phase):
            raise InputError(f"the latest sound checkpoint of {self.run.shown} is of another phase")
        return state

    def _callbacks(self, algorithm, total):
        def log(progress):
            self.images_per_second = progress.images_per_second or self.images_per_second
            values = dict(progress.metrics)
            if not any(name.startswith("evaluation/") for name in values):
                values["images_per_second"] = progress.images_per_second
            self.log.write(progress.step, values)
            self.report.progress(progress)

        def show(progress):
            if progress.step < total:  # the last one is made at the end, with the curves
                self._picture(progress.state, progress.step)

        def score(progress):
            return self._evaluate(progress.state, progress.step)

        callbacks = [
            loop.Callback(log),
            loop.Callback(show, self.settings.train.sample_every_steps),
        ]
        if self.wandb is not None:
            callbacks.append(self.wandb)
        if self.settings.evaluation.every_steps:
            callbacks.append(loop.Callback(score, self.settings.evaluation.every_steps))
        return callbacks

    def _save(self, step, state):
        metadata = {
            "step": step,
            "phase": self.phase,
            "config": config.to_json(self.settings),
            "versions": versions(),
        }
        # A score belongs to the state it was made of.
        metrics = self.latest if self.latest_step == step else None
        self.checkpoints.save(step, state, metadata=metadata, metrics=metrics)

    def _evaluate(self, state, step):
        self.figures = self.judge.figures(state)
        self.run.add_evaluation(
            step, {name: dataclasses.asdict(figure) for name, figure in self.figures.items()}
        )
        values = {f"evaluation/{name}": figure.value for name, figure in self.figures.items()}
        values |= self.judge.held_out(state)
        self.latest, self.latest_step = values, step
        return values

    def _picture(self, state, step):
        samples = self.judge.samples(state)
        path = self.run.path / "samples" / f"{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = draw(samples, self.experiment.model.num_classes, path, self.experiment.train)
        if picture is not None:
            self.log.picture("samples", picture, step)
            warning = self.judge.collapse(samples) if step else None
            if warning:
                self.report.note(f"step {step}: {warning}")
        self._reconstruct(state, step)
        return str(path)

    def _reconstruct(self, state, step):
        model, held_out = self.experiment.model, self.experiment.held_out
        if model.reconstruct is None or held_out is None:
            return
        batch = held_out.batch(np.arange(min(32, held_out.num_examples)))
        labels = batch.get("label") if model.num_classes else None
        images = np.asarray(model.reconstruct(state, batch["image"], labels))
        picture = pictures.reconstructions(batch["image"], images, upscale=2)
        pictures.save_png(self.run.path / "samples" / f"{step:07d}_reconstructions.png", picture)

    def _plot(self):
        # A curve has more than one point.
        curves = {name: curve for name, curve in self.run.curves().items() if len(curve[0]) > 1}
        if curves:
            pictures.plot_curves(self.run.path / "curves.png", curves)


class Judge:
    """Samples and scores of the states of one experiment, compiled once."""

    def __init__(self, experiment: Experiment, *, truncation: float | None = None):
        self._experiment = experiment
        self._model = model = experiment.model
        self._settings = experiment.config.evaluation
        self._truncation = truncation
        ema = self._settings.ema
        algorithm = model.algorithm
        self._num_shown = _num_shown(model.num_classes) if len(model.shape) == 3 else 2500

        def sample(state, key, num, labels=None):
            return algorithm.sample(state, key, num, labels, truncation=truncation, ema=ema)

        self._sample = jax.jit(sample, static_argnums=2)
        self._held_out_sums = jax.jit(algorithm.evaluate)
        self._reference = self._extractor = None

    def samples(self, state: TrainState) -> np.ndarray:
        """Return samples of the fixed latents."""
        return np.asarray(self._sample(state, jax.random.key(_SAMPLE_SEED), self._num_shown))

    def collapse(self, samples: np.ndarray) -> str | None:
        """Return a warning where samples are far more alike than real images."""
        real = self._experiment.train
        images = real.batch(np.arange(min(len(samples), real.num_examples)))["image"]
        return evaluation.is_collapsed(samples, images)

    def figures(
        self, state: TrainState, *, num_samples: int | None = None, seed: int = 0
    ) -> dict[str, evaluation.Figure]:
        """Return the scores of a state against the held-out data."""
        num_samples = num_samples or self._settings.num_samples
        about = {"seed": seed, "truncation": self._truncation}
        about["ema"] = self._settings.ema if state.ema else None
        standing_batches = self._settings.standing_batches or None
        if standing_batches:
            state = with_standing_statistics(self._model, state, standing_batches)
        if len(self._model.shape) != 3:
            return self._point_figures(state, {**about, "num_samples": num_samples})
        held_out = self._experiment.held_out
        if held_out is None or held_out.num_examples < 2:
            return {}
        metrics = ["frechet_distance"]
        if self._extractor is None:
            if self._model.shape == (28, 28, 1):
                self._extractor = evaluation.fashion_mnist_classifier()
            else:
                self._extractor = evaluation.pixels(self._model.shape)
            images = held_out.batch(np.arange(held_out.num_examples))["image"]
            self._reference = evaluation.prepare_reference(images, extractor=self._extractor)
        if self._model.shape == (28, 28, 1):
            metrics.append("classifier_score")
        return evaluation.evaluate_images(
            lambda key, num: self._sample(state, key, num, self._labels(key, num)),
            self._reference,
            extractor=self._extractor,
            num_samples=num_samples,
            metrics=metrics,
            batch_size=images_per_call(self._model.shape, 250),
            standing_batches=standing_batches,
            **about,
        )

    def _labels(self, key, num):
        """Draw labels as often as the held-out data has them."""
        if not self._model.num_classes:
            return None
        labels = self._experiment.held_out.batch(np.arange(self._experiment.held_out.num_examples))[
            "label"
        ]
        return jax.random.choice(jax.random.fold_in(key, 1), labels, (num,))

    def _point_figures(self, state, about):
        source = self._experiment.config.data.source
        if source not in _MIXTURES:
            return {}
        centers, std = _MIXTURES[source]
        return evaluation.evaluate_points(
            lambda key, num: self._sample(state, key, num), centers, std, **about
        )

    def held_out(self, state: TrainState) -> dict[str, float]:
        """Return the means over the held-out data of what the algorithm can say of it."""
        held_out = self._experiment.held_out
        if held_out is None:
            return {}
        size = min(self._experiment.config.train.batch_size, held_out.num_examples)
        sums: dict[str, float] = {}
        for start in range(0, held_out.num_examples - size + 1, size):
            batch = held_out.batch(np.arange(start, start + size))
            part = self._held_out_sums(state, batch, jax.random.key(start))
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        count = sums.pop("count")
        return {f"held_out/{name}": value / count for name, value in sums.items()}


def _num_shown(num_classes: int) -> int:
    return 64 if not num_classes else num_classes * max(1, min(8, 100 // num_classes))


def draw(
    samples: np.ndarray, num_classes: int, path: Any, real: Dataset | None = None
) -> np.ndarray | None:
    """Write samples as a picture: images as a grid, a class a column; points as a scatter plot.

    Returns:
      The grid (H, W, C) uint8, or None for points.
    """
    if samples.ndim == 4:
        columns = num_classes if 1 < num_classes <= 20 else None
        upscale = max(1, 64 // samples.shape[1])
        picture = pictures.grid(samples, columns=columns, upscale=upscale)
        pictures.save_png(path, picture)
        return picture
    reals = None if real is None else real.batch(np.arange(min(2500, real.num_examples)))["image"]
    pictures.scatter(path, samples, reals)
    return None
