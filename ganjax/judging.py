"""Samples and scores of the states of a run: `Judge`."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ganjax import data, evaluation, pictures
from ganjax.build import images_per_call, with_standing_statistics
from ganjax.config import Config
from ganjax.data import GRID_CENTERS, GRID_STD, RING_CENTERS, RING_STD, Dataset
from ganjax.experiment import Experiment
from ganjax.judging_text import TextJudge
from ganjax.types import InputError, TrainState

# Pictures show the same latents all through a run.
_SAMPLE_SEED = 0
_MIXTURES = {"ring": (RING_CENTERS, RING_STD), "grid": (GRID_CENTERS, GRID_STD)}
# Images decoded at a time where they are not in memory.
_PART = 250


class Look(NamedTuple):
    """What an evaluation has seen of a state: all that needs the device.

    Attributes:
      samples: what the extractor sees; None where figures are ready.
      figures: ready figures, of points in the plane.
      about: what figures record of the samples.
    """

    samples: evaluation.Samples | None
    figures: dict[str, evaluation.Figure]
    about: dict[str, Any]


def judge_of(experiment: Experiment) -> "Judge | TextJudge":
    """Return what draws samples of an experiment's states and scores them."""
    return Judge(experiment) if experiment.model.text is None else TextJudge(experiment)


class Judge:
    """Samples and scores of the states of one experiment, compiled once.

    Attributes:
      suffix: of the files that `show` writes.
      unit: what a step trains on.
    """

    suffix, unit = ".png", "images"

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
        self._extractor: evaluation.Extractor | None = None
        self._source: Dataset | evaluation.Reference | None = None
        self._reference: evaluation.Reference | None = None
        self._metrics: tuple[str, ...] = ()
        self._label_pool: np.ndarray | None = None

    def samples(self, state: TrainState) -> np.ndarray:
        """Return samples of the fixed latents, large images some at a time."""
        key, most = jax.random.key(_SAMPLE_SEED), images_per_call(self._model.shape, 250)
        if self._num_shown <= most:
            return np.asarray(self._sample(state, key, self._num_shown))
        parts, left = [], self._num_shown
        labels = np.arange(left) % self._model.num_classes if self._model.num_classes else None
        while left > 0:
            start = self._num_shown - left
            # Labels in turn, as a single call gives them.
            chosen = None if labels is None else np.resize(labels[start : start + most], most)
            part = self._sample(state, jax.random.fold_in(key, start), most, chosen)
            parts.append(np.asarray(part)[:left])
            left -= most
        return np.concatenate(parts)

    def show(self, samples: np.ndarray, path: Any) -> np.ndarray | None:
        """Write samples as a picture; see `draw`."""
        return draw(samples, self._model.num_classes, path, self._experiment.train)

    def diversity(self, samples: np.ndarray) -> tuple[dict[str, float], str | None]:
        """Return how samples differ among themselves, and a warning where that is far too little.

        Returns:
          `samples/diversity`, as a share of that of real images, and `samples/duplicates`, the
          share of samples with a near copy; and a sentence or None. Nothing of points.
        """
        if samples.ndim != 4:
            return {}, None
        images = spread_over(self._experiment.train, len(samples))
        values = {}
        if np.isfinite(samples).all():
            expected = evaluation.diversity(images)
            values["samples/duplicates"] = evaluation.duplicates(samples)
            if expected:
                values["samples/diversity"] = evaluation.diversity(samples) / expected
        warning = evaluation.is_collapsed(samples, images)
        if warning is None and values.get("samples/duplicates", 0.0) > 0.2:
            # Real data may hold copies, too.
            copies, usual = values["samples/duplicates"], evaluation.duplicates(images)
            if copies > 0.2 + usual:
                warning = (
                    f"the generator repeats itself: {copies:.0%} of the samples have a near copy "
                    f"among {len(samples)}, of real images {usual:.0%}."
                )
        return values, warning

    def figures(
        self, state: TrainState, *, num_samples: int | None = None, seed: int = 0
    ) -> dict[str, evaluation.Figure]:
        """Return the scores of a state against the reference."""
        return self.score(self.look(state, num_samples=num_samples, seed=seed))

    def look(self, state: TrainState, *, num_samples: int | None = None, seed: int = 0) -> Look:
        """Draw samples and look at them: the part of `figures` that the device computes."""
        num_samples = num_samples or self._settings.num_samples
        about = {"seed": seed, "truncation": self._truncation}
        about["ema"] = self._settings.ema if state.ema else None
        standing_batches = self._settings.standing_batches or None
        if standing_batches:
            state = with_standing_statistics(self._model, state, standing_batches)
        if len(self._model.shape) != 3:
            return Look(None, self._point_figures(state, {**about, "num_samples": num_samples}), {})
        if not self._prepare():
            return Look(None, {}, {})
        size = images_per_call(self._model.shape, 250)
        about |= {"batch_size": size, "standing_batches": standing_batches}
        about["images"] = shape_of_images(self._model.shape, self._experiment.config)

        def sample(key, num):
            labels = self._labels(key, num)
            images = self._sample(state, key, num, labels)
            return images if labels is None else (images, labels)

        samples = evaluation.draw_samples(
            sample,
            extractor=self._extractor,
            num_samples=num_samples,
            seed=seed,
            batch_size=size,
            metrics=self._metrics,
        )
        return Look(samples, {}, about)

    def score(self, look: Look) -> dict[str, evaluation.Figure]:
        """Return the figures of what `look` saw: the part that the host computes."""
        if look.samples is None:
            return look.figures
        return evaluation.compare(
            look.samples,
            self._reference,
            extractor=self._extractor,
            metrics=self._metrics,
            **look.about,
        )

    def check(self) -> None:
        """Refuse settings that no score can be had with, before anything is trained.

        Raises:
          InputError: extractor, metrics or reference are not there or do not fit the model.
        """
        if len(self._model.shape) != 3 or self._extractor is not None:
            return
        settings, experiment = self._settings, self._experiment
        extractor = extractor_of(None, experiment.config, self._model.shape)
        metrics = settings.metrics or extractor.metrics
        evaluation.check_metrics(metrics, extractor)
        if "labels" in needs_of(metrics) and not self._model.num_classes:
            raise InputError("distances within classes are of conditional models, and this is none")
        if settings.reference not in ("held out", "train"):
            source = settings.reference
            self._source = open_reference(
                source, settings.reference_split, extractor, experiment.config, self._model.shape
            )
            if isinstance(self._source, evaluation.Reference):
                evaluation.check_reference(self._source, extractor, self._model.shape)
                evaluation.check_metrics(metrics, extractor, self._source)
        else:
            held_out = settings.reference == "held out"
            self._source = experiment.held_out if held_out else experiment.train
        self._extractor, self._metrics = extractor, metrics

    def _prepare(self) -> bool:
        """Look at the reference, once; False where there is none."""
        self.check()
        if self._reference is None and isinstance(self._source, evaluation.Reference):
            self._reference = self._source
        if self._reference is None:
            if self._source is None or self._source.num_examples < 2:
                return False
            settings, name = self._settings, self._settings.reference
            if name not in ("held out", "train") and settings.reference_split != "train":
                name = f"{name} ({settings.reference_split})"
            needs = needs_of(self._metrics)
            self._reference = prepared(self._source, self._extractor, needs, name)
            evaluation.check_metrics(self._metrics, self._extractor, self._reference)
        return True

    def _labels(self, key, num):
        """Draw labels as often as the run's data has them, without it all alike.

        It is the training part where that is the reference, else the held-out part.
        """
        if not self._model.num_classes:
            return None
        if self._label_pool is None:
            known = self._experiment.held_out
            if known is None or self._settings.reference == "train":
                known = self._experiment.train
            self._label_pool = (
                np.arange(self._model.num_classes) if known is None else labels_of(known)
            )
        return jax.random.choice(jax.random.fold_in(key, 1), self._label_pool, (num,))

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


def open_reference(
    source: str,
    split: str,
    extractor: evaluation.Extractor,
    settings: Config,
    shape: Sequence[int | None],
) -> Dataset | evaluation.Reference:
    """Return the images of a source, or the statistics where it is an .npz of them.

    Images are brought to a shape (H, W, C), None where it does not matter, by the rule
    `settings.data.resize`.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npz" and path.is_file():
        found = evaluation.read_statistics(path, extractor)
        if found is not None:
            return found
    size = None if shape[0] is None else tuple(shape[:2])
    rule = dataclasses.replace(settings.data, image_size=size, channels=shape[2])
    return load_images(source, split, dataclasses.replace(settings, data=rule))


def load_images(source: str, split: str, settings: Config) -> Dataset:
    """Return all images of a source, brought to the size and channels of `settings.data`."""
    rule = settings.data
    images, _ = data.load(
        source,
        split=split,
        held_out=0,
        image_size=rule.image_size,
        channels=rule.channels,
        resize=rule.resize,
        labels=settings.model.conditional,
        data_dir=rule.data_dir,
    )
    return images


def shape_of_images(shape: tuple[int, ...], settings: Config) -> str:
    """Return what figures say of the images: their shape and, where they were resized, how."""
    text = "x".join(map(str, shape))
    return text if settings.data.image_size is None else f"{text} ({settings.data.resize})"


def spread_over(dataset: Dataset, count: int) -> np.ndarray:
    """Return `count` images from all over a data set, which may be in the order of its classes."""
    count = min(count, dataset.num_examples)
    return dataset.batch(np.linspace(0, dataset.num_examples - 1, count).astype(int))["image"]


def extractor_of(
    name: str | None, settings: Config, shape: tuple[int, ...]
) -> evaluation.Extractor:
    name = name or settings.evaluation.extractor
    if name == "auto" and settings.data.source == "stacked_fashion_mnist":
        name = "stacked-fashion-mnist"
    return evaluation.choose_extractor(name, shape)


def needs_of(metrics: tuple[str, ...]) -> set[str]:
    return {need for metric in metrics for need in evaluation.METRICS[metric].needs}


def prepared(
    dataset: Dataset, extractor: evaluation.Extractor, needs: set[str], name: str
) -> evaluation.Reference:
    labels = labels_of(dataset) if "labels" in needs and dataset.num_classes else None
    return evaluation.cached_reference(
        lambda: parts_of(dataset),
        extractor=extractor,
        fingerprint=dataset.fingerprint,
        stamp=_stamp(dataset),
        name=name,
        labels=labels,
        needs_features="features" in needs,
    )._replace(data=f"{dataset.name} ({dataset.split})")


def _stamp(dataset: Dataset) -> str:
    """Return what changes with files that are read on demand: their fingerprint has no content."""
    path = Path(dataset.name)
    if dataset.arrays is not None or not path.exists():
        return ""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    facts = [f"{file} {file.stat().st_mtime_ns}" for file in files if file.is_file()]
    return hashlib.sha256("\n".join([str(path.resolve()), *facts]).encode()).hexdigest()


def parts_of(dataset: Dataset) -> Iterator[np.ndarray]:
    """Yield the images of a data set, (up to 250, H, W, C) uint8 at a time."""
    return (batch["image"] for batch in _batches(dataset))


def labels_of(dataset: Dataset) -> np.ndarray:
    """Return the labels (N,) of a data set; those of a streamed one come with its images."""
    if dataset.arrays is not None:
        return dataset.arrays["label"]
    return np.concatenate([batch["label"] for batch in _batches(dataset)])


def _batches(dataset: Dataset) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, dataset.num_examples, _PART):
        yield dataset.batch(np.arange(start, min(start + _PART, dataset.num_examples)))


def _num_shown(num_classes: int) -> int:
    return 64 if not num_classes else num_classes * max(1, min(8, 100 // num_classes))


def as_json(figures: Mapping[str, evaluation.Figure]) -> dict[str, Any]:
    """Return figures as what `json.dumps` takes."""
    return {name: dataclasses.asdict(figure) for name, figure in figures.items()}


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
