"""A run from its configuration to its closing figures: `train` and `resume`."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ganjax import config, evaluation, loop, pictures, sharding
from ganjax.build import build
from ganjax.checkpoint import Checkpointer
from ganjax.checkpoint_files import all_agree, emptied, of_first
from ganjax.config import Config
from ganjax.experiment import Experiment
from ganjax.files import of_file
from ganjax.judging import as_json, judge_of
from ganjax.pending_scores import Scores
from ganjax.record import check_alike, differences, record_of
from ganjax.run import (
    CONFIG,
    MetricsLog,
    NoLog,
    RunDirectory,
    check_wandb,
    versions,
    wandb_callback,
)
from ganjax.types import InputError, TrainState


class Report(Protocol):
    """What a run tells while it goes on; `ganjax.report` shows it in a terminal."""

    def start(self, first_step: int, steps: int, unit: str = "images") -> None: ...

    def progress(self, progress: loop.Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """A report that nobody reads."""

    def start(self, first_step: int, steps: int, unit: str = "images") -> None: ...

    def progress(self, progress: loop.Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def stop(self) -> None: ...


class Result(NamedTuple):
    """How a run ended.

    Attributes:
      run: its directory.
      state: the final state.
      step: of the run; `state.step` is that of its last phase.
      images_per_second: while training, without compilation, pictures and scores.
      seconds: in all, from the start of the command's work.
      figures: the final scores.
      picture: path of the last picture, or of the last texts.
      unit: what `images_per_second` counts.
    """

    run: RunDirectory
    state: TrainState
    step: int
    images_per_second: float
    seconds: float
    figures: Mapping[str, evaluation.Figure]
    picture: str
    unit: str = "images"


def train(settings: Config, directory: str, report: Report | None = None) -> Result:
    """Train from scratch in a new run directory.

    Args:
      settings: the configuration.
      directory: new or empty.
      report: told what happens.

    Raises:
      InputError: bad configuration, data or directory; nothing has been overwritten.
      ganjax.loop.DivergedError: metrics or weights are not finite, beyond what
        `train.on_divergence` allows.
      ganjax.loop.StoppedError: SIGINT, SIGTERM or SIGHUP came; the state has been saved.
    """
    started = time.perf_counter()
    experiment = build(settings)
    sharding.check_batch_size(settings.train.batch_size, sharding.make_mesh())
    judge_of(experiment).check()
    check_alike(experiment, "train")
    check_wandb(settings.train.wandb_project)
    # Whatever the first phase starts from is read before anything is written.
    state = _begin(experiment, 0, None)
    run = RunDirectory(directory)
    run.create(record_of(experiment))
    with run.locked():
        return _Training(experiment, run, report or Silent(), started).go(state, None)


def resume(directory: str, steps: int | None = None, report: Report | None = None) -> Result:
    """Go on with a run from its latest sound checkpoint.

    One that was killed before its first checkpoint starts again, so that whoever restarts what was
    killed needs no other command.

    Args:
      directory: of the run.
      steps: train until this step; by default what the run was started with.
      report: told what happens.

    Raises:
      InputError: there is no run, it is in use, its data has changed, or no checkpoint is sound.
      ganjax.loop.DivergedError, ganjax.loop.StoppedError: as `train`.
    """
    started = time.perf_counter()
    run = RunDirectory(directory)
    record = run.record()
    if "sweep" in record:
        raise InputError(
            f"{run.shown} is a sweep, which cannot be continued: train the member to keep again"
        )
    with of_file(f"{run.shown}/{CONFIG}"):
        settings = config.from_json(record["config"])
    if steps is not None:
        settings = dataclasses.replace(
            settings, train=dataclasses.replace(settings.train, steps=steps)
        )
    with run.locked():
        experiment = build(settings)
        check_alike(experiment, "resume")
        if experiment.train.fingerprint != record["data"].get("fingerprint"):
            raise InputError(
                f"the data of {run.shown} has changed: {experiment.train.name} is not what the run "
                "was trained on; bring it back, or start a new run with --train.init-from "
                f"{run.shown}"
            )
        training = _Training(experiment, run, report or Silent(), started)
        metadata = training.latest_metadata(record)
        done = int(metadata["step"]) if metadata else 0
        if not all_agree(of_first(done) == done):
            raise InputError(
                f"the processes see different checkpoints in {run.shown}; it has to be on a disk "
                "that all of them see"
            )
        if steps is not None:
            if steps < done:
                raise InputError(f"{run.shown} is at step {done} already, beyond {steps}")
            run.rewrite({**record, "config": config.to_json(settings)})
        return training.go(None if metadata else _begin(experiment, 0, None), metadata)


def _begin(experiment: Experiment, index: int, previous: TrainState | None) -> TrainState:
    """Return the state that a phase starts from, after the state that the one before ended in."""
    phase = experiment.phases[index]
    key = jax.random.key(experiment.config.train.seed)
    if index:
        key = jax.random.fold_in(key, index)
    # The compiler's last optimisations take a CPU seconds, for a program that runs once.
    quickly = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    state = jax.jit(phase.algorithm.init, compiler_options=quickly)(key)
    if previous is not None:
        previous = sharding.own_copy(previous)
        state = state.replace(rollbacks=jnp.array(previous.rollbacks))
    return phase.transfer(state, previous) if phase.transfer else state


class _Training:
    """One process's work on one run."""

    def __init__(self, experiment: Experiment, run: RunDirectory, report: Report, started: float):
        self.experiment, self.run, self.report, self.started = experiment, run, report, started
        self.settings = settings = experiment.config
        metric = settings.evaluation.best_metric or _usual_metric(experiment)
        higher = evaluation.HIGHER_IS_BETTER | evaluation.TEXT_HIGHER_IS_BETTER
        self.checkpoints = Checkpointer(
            run.checkpoints,
            keep_last=settings.train.keep_last,
            keep_best=settings.train.keep_best if settings.evaluation.every_steps else 0,
            best_metric=f"evaluation/{metric}",
            best_mode="max" if metric in higher else "min",
        )
        self.judge = judge_of(experiment)
        self.wandb = None
        if settings.train.wandb_project is not None and jax.process_index() == 0:
            self.wandb = wandb_callback(settings.train.wandb_project, run, config.to_json(settings))
        self.scores = Scores(self.judge)
        self.figures: Mapping[str, evaluation.Figure] = {}
        self.images_per_second = 0.0
        self.phase = 0
        # Of several processes the first one logs, shows and scores.
        self.tells = jax.process_index() == 0

    def latest_metadata(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the metadata of where to go on, None at the start; tell what has changed since.

        Raises:
          InputError: all checkpoints are damaged, or gone.
        """
        if not self.checkpoints.steps():
            logged = max((line["step"] for line in self.run.read_metrics()), default=0)
            # The first is complete before the second begins: then this many steps are logged.
            if logged > 2 * self.settings.train.checkpoint_every_steps:
                raise InputError(
                    f"{self.run.checkpoints} has no checkpoint although step {logged} is logged: "
                    "bring them back, or start again in a new --run-directory"
                )
            if empty := [str(step) for step, _ in emptied(self.checkpoints.directory)]:
                raise InputError(
                    f"{self.run.checkpoints} has no checkpoint, but empty directories for "
                    f"{', '.join(empty)}: bring back what was there, or remove them"
                )
            self.report.note(f"{self.run.shown} has no checkpoint yet: it starts from step 0")
            return None
        metadata = self.checkpoints.metadata()
        changed = sorted(differences(metadata.get("config"), record["config"]))
        changed = [what for what in changed if not what.startswith("train.steps ")]
        if changed:
            self.report.warn(
                f"config.json is not what step {metadata['step']} was trained with: "
                + "; ".join(changed)
            )
        for what in sorted(differences(metadata.get("versions"), versions())):
            self.report.note(f"{what} since step {metadata['step']}: bits may come out otherwise")
        return metadata

    def go(self, state: TrainState | None, metadata: Mapping[str, Any] | None) -> Result:
        """Train from a fresh state of the first phase, or from the checkpoint of `metadata`."""
        total = sum(phase.steps for phase in self.experiment.phases)
        with self.checkpoints, self.scores:
            state = self._as_rolled_back(self._restore() if metadata else state)
            self._open_log(state)
            self.report.start(self._step(state), total, self.judge.unit)
            try:
                state = self._train(state, total)
                self.checkpoints.wait()  # proven, and nobody waits for the scores of the first
                self._deliver(wait=True)
                if self.tells and not self.figures and not self.settings.evaluation.every_steps:
                    self._score(total, state)
                    self._deliver(wait=True, quietly=True)
                picture = self._picture(state, total)
                self._plot()
            except loop.StoppedError:
                self.checkpoints.wait()  # before anything that may take longer than there is time
                self._deliver(wait=True)
                raise
            finally:
                self.report.stop()
                self.log.close()
        return Result(
            self.run,
            state,
            self._step(state),
            self.images_per_second,
            time.perf_counter() - self.started,
            self.figures,
            picture,
            self.judge.unit,
        )

    def _train(self, state: TrainState, total: int) -> TrainState:
        """Train all phases from a state of the current one, rolling back as the settings allow."""
        roll_backs = int(state.rollbacks)
        while True:
            try:
                return self._train_phases(state, total)
            except loop.DivergedError as error:
                self.checkpoints.wait()
                self._deliver(wait=True)
                good = self.checkpoints.latest_step()
                kept = f"the last good checkpoint is step {good}" if good else "nothing was saved"
                most = self.settings.train.max_roll_backs
                rolls = self.settings.train.on_divergence == "roll_back"
                if not rolls or roll_backs == most:
                    kept += f"; rolled back {roll_backs} times" if rolls else ""
                    raise loop.DivergedError(f"training diverged: {error}; {kept}") from error
                roll_backs += 1
                why = str(error)
            state = self._rolled_back(roll_backs)
            self.report.warn(
                f"{why}; going on from step {self._step(state)} with other batches and random "
                f"numbers (roll-back {roll_backs} of {most})"
            )

    def _open_log(self, state: TrainState) -> None:
        self.log = MetricsLog(self.run, self._step(state)) if self.tells else NoLog()

    def _rolled_back(self, roll_backs: int) -> TrainState:
        """Return the last sound state, or the first one, with another stream of random numbers."""
        if self.checkpoints.steps():
            state = self._restore()
        else:
            self.phase = 0
            state = _begin(self.experiment, 0, None)
        self.log.close()
        self._open_log(state)
        # Logged on its own: the state that the next checkpoint holds counts it.
        self._tell(loop.Progress(self._step(state), None, {"roll_backs": roll_backs}, 0.0), True)
        return state.replace(rollbacks=jnp.full_like(state.rollbacks, roll_backs))

    def _as_rolled_back(self, state: TrainState) -> TrainState:
        """Return a state that was read, with the roll-backs to it that no checkpoint counts yet."""
        at, lines = self._step(state), self.run.read_metrics()
        logged = (
            line["roll_backs"] for line in lines if line["step"] == at and "roll_backs" in line
        )
        roll_backs = max(of_first(int(max(logged, default=0))), int(state.rollbacks))
        return state.replace(rollbacks=jnp.full_like(state.rollbacks, roll_backs))

    def _train_phases(self, state: TrainState, total: int) -> TrainState:
        settings, experiment = self.settings, self.experiment
        first = self.phase
        for self.phase in range(first, len(experiment.phases)):
            phase = experiment.phases[self.phase]
            if self.phase > first:
                state = _begin(experiment, self.phase, state)
            state = loop.fit(
                phase.algorithm,
                state,
                experiment.train,
                steps=self._offset() + phase.steps,
                batch_size=settings.train.batch_size,
                seed=settings.train.seed,
                log_every_steps=settings.train.log_every_steps,
                callbacks=self._callbacks(total),
                save=self._save,
                save_every_steps=settings.train.checkpoint_every_steps,
                layout=settings.train.layout,
                memory=settings.data.memory,
                num_workers=settings.data.num_workers,
                first_step=self._offset(),
            )
        return state

    def _offset(self) -> int:
        """Return the steps of the phases before the current one."""
        return sum(phase.steps for phase in self.experiment.phases[: self.phase])

    def _step(self, state: TrainState) -> int:
        return self._offset() + int(state.step)

    def _restore(self) -> TrainState:
        """Return the state of the latest sound checkpoint, and make its phase the current one."""

        def like(metadata):
            # Going back may be going back to an earlier phase.
            phases, index = self.experiment.phases, int(metadata["phase"])
            if index >= len(phases):
                raise InputError(
                    f"step {metadata['step']} is of phase {index + 1}; {self.run.shown}/{CONFIG} "
                    f"has {len(phases)}: bring back what it was trained with"
                )
            phase = phases[index]
            shapes = jax.eval_shape(phase.algorithm.init, jax.random.key(0))
            return sharding.shapes_on(shapes, sharding.make_mesh())

        state, metadata = self.checkpoints.restore(like)
        self.phase = int(metadata["phase"])
        return state

    def _callbacks(self, total):
        def log(progress):
            self.images_per_second = progress.images_per_second or self.images_per_second
            values = {**progress.metrics, "images_per_second": progress.images_per_second}
            self._tell(progress._replace(metrics=values))
            self._deliver()

        def show(progress):
            if progress.step < total:  # the last one is made at the end, with the curves
                self._picture(progress.state, progress.step)

        def score(progress):
            if self.tells:
                self._deliver()
                self.checkpoints.hold(progress.step)
                self._score(progress.step, progress.state)

        callbacks = [
            loop.Callback(log),
            loop.Callback(show, self.settings.train.sample_every_steps),
        ]
        if self.settings.evaluation.every_steps:
            callbacks.append(loop.Callback(score, self.settings.evaluation.every_steps))
        return callbacks

    def _score(self, step, state):
        try:
            self.scores.submit(step, sharding.own_copy(state))
        except InputError as error:  # a training is worth more than a score of it
            self.report.warn(f"step {step} has no score: {error}")
            self.checkpoints.add_metrics(step, {})

    def _tell(self, progress, quietly=False):
        self.log.write(progress.step, progress.metrics)
        if self.wandb is not None:
            self.wandb.function(progress)
        if not quietly:
            self.report.progress(progress)

    def _save(self, step, state):
        self.run.check_held()
        metadata = {
            "step": step,
            "phase": self.phase,
            "config": config.to_json(self.settings),
            "versions": versions(),
        }
        self.checkpoints.save(step, state, metadata=metadata)

    def _deliver(self, *, wait=False, quietly=False):
        """Take the scores that are ready, or all of them, to where they belong."""
        for step, score, held_out in self.scores.ready(wait=wait):
            try:
                figures = score()
            except (InputError, ArithmeticError, np.linalg.LinAlgError) as error:
                # A training is worth more than a score of it.
                self.report.warn(f"step {step} has no score: {error}")
                figures = {}
            self.figures = figures or self.figures
            if figures:
                try:
                    self.run.add_evaluation(step, as_json(figures))
                except InputError as error:  # of the file; the figures are in the metrics as well
                    self.report.warn(f"step {step}: {error}")
            values = {f"evaluation/{name}": figure.value for name, figure in figures.items()}
            self.checkpoints.add_metrics(step, values)
            self._tell(loop.Progress(step, None, values | held_out, 0.0), quietly)

    def _picture(self, state, step):
        if not self.tells:
            return ""
        state = sharding.own_copy(state)
        self.run.check_held()
        samples = self.judge.samples(state)
        path = self.run.path / "samples" / f"{step:07d}{self.judge.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = self.judge.show(samples, path)
        if picture is not None:
            self.log.picture("samples", picture, step)
        values, warning = self.judge.diversity(samples)
        if values:
            self._tell(loop.Progress(step, None, values, 0.0))
        if warning and step:
            self.report.warn(f"step {step}: {warning}")
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


def _usual_metric(experiment: Experiment) -> str:
    """Return the figure that the best checkpoint is the best by, where nobody has said it."""
    metrics = experiment.config.evaluation.metrics
    if experiment.model.text is not None:
        chosen = "nll_oracle"
        if experiment.config.data.source != "oracle":
            # What plays gets less likely from the start: that is not what it plays for.
            plays = isinstance(experiment.config.model, config.TextGAN)
            chosen = "bleu" if plays else "perplexity"
        chosen = metrics[0] if metrics else chosen
        return next(iter(evaluation.TEXT_METRICS[chosen].names))
    if len(experiment.model.shape) != 3:
        return "good_share"
    return next(iter(evaluation.METRICS[metrics[0] if metrics else "frechet_distance"].names))
