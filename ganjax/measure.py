"""Scores of what is on disk: `evaluate` and `compare`, `neighbors`, `path_length`."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from ganjax import evaluation
from ganjax.build import build, images_per_call
from ganjax.config import GAN, Config, Data
from ganjax.experiment import Experiment
from ganjax.generation import Sampling
from ganjax.judging import (
    Judge,
    as_json,
    extractor_of,
    labels_of,
    load_images,
    needs_of,
    open_reference,
    parts_of,
    prepared,
    shape_of_images,
)
from ganjax.judging_text import TextJudge, require_of_text
from ganjax.run import RunDirectory
from ganjax.trained import load, load_image_run
from ganjax.trained_text import TrainedText
from ganjax.types import InputError


def evaluate(
    directory: str,
    *,
    step: int | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    truncation: float | None = None,
    ema: bool = True,
    standing_batches: int | None = None,
    metrics: tuple[str, ...] | None = None,
    extractor: str | None = None,
    reference: str | None = None,
    reference_split: str | None = None,
    sampling: Sampling | None = None,
) -> tuple[dict[str, evaluation.Figure], dict[str, float]]:
    """Score a run against real data, and keep the scores in the run directory.

    Args:
      directory: of the run.
      step: of the checkpoint; by default the latest sound one.
      num_samples: how many to generate; by default what the configuration says.
      seed: of the samples.
      truncation: see `ganjax.latents`.
      ema: whether to use the running average where there is one.
      standing_batches: over which batch norm's statistics are gathered anew; by default what the
        configuration says.
      metrics: see `ganjax.config.Evaluation`; by default what the configuration says.
      extractor: as `metrics`.
      reference: as `metrics`.
      reference_split: as `metrics`.
      sampling: how a model of text chooses tokens.

    Returns:
      The figures, and the means of what the model says of the held-out data.
    """
    trained = load(directory, step)
    if isinstance(trained, TrainedText):
        require_of_text(
            {
                "truncation": truncation,
                "standing_batches": standing_batches,
                "extractor": extractor,
            },
            directory,
        )
    elif sampling is not None:
        raise InputError(f"--temperature is for models of text, and {directory} makes images")
    asked = {
        "standing_batches": standing_batches,
        "metrics": metrics,
        "extractor": extractor,
        "reference": reference,
        "reference_split": reference_split,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    unused = [name for name in asked if name != "standing_batches"]
    if len(trained.model.shape) == 1 and unused:
        flag = unused[0].replace("_", "-")
        raise InputError(f"--{flag} is for images, and {directory} makes points: leave it out")
    protocol = dataclasses.replace(trained.config.evaluation, ema=ema, **asked)
    settings = dataclasses.replace(trained.config, evaluation=protocol)
    if trained.model.text is not None or protocol.reference in ("held out", "train"):
        experiment = build(settings)
    else:  # the run's own data need not be here
        experiment = Experiment(settings, trained.model, (), None, None)
    if isinstance(trained, TrainedText):
        class_names = experiment.train.class_names if experiment.model.num_classes else ()
        for what, own, now in (
            ("vocabulary", trained.form.to_json(), experiment.model.text.to_json()),
            ("number of classes", trained.model.num_classes, experiment.model.num_classes),
            ("names of classes", trained.class_names, class_names),
        ):
            if own != now:
                raise InputError(
                    f"the text of {directory} has changed: its {what} is not that of the run; "
                    "bring it back"
                )
        if sampling is not None and trained.model.language is None:
            raise InputError(f"--temperature is for language models, and {directory} holds none")
        judge = TextJudge(experiment, sampling=sampling or Sampling())
    else:
        judge = Judge(experiment, truncation=truncation)
    figures = judge.figures(trained.state, num_samples=num_samples, seed=seed)
    held_out = judge.held_out(trained.state)
    if not figures and not held_out and sampling is not None and sampling.temperature == 0:
        raise InputError(
            f"{directory} has only scores of likelihood, and at temperature 0 all but one text "
            "have none: raise --temperature, or choose --metrics"
        )
    if not figures and not held_out:
        raise InputError(
            f"{directory} kept nothing away from its training (data.held_out 0): compare with "
            "--reference train, or with another source; of text choose --metrics that need nothing"
        )
    RunDirectory(directory).add_evaluation(trained.step, as_json(figures))
    return figures, held_out


def compare(
    source: str,
    reference: str,
    *,
    metrics: tuple[str, ...] | None = None,
    extractor: str = "auto",
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    reference_split: str = "train",
) -> dict[str, evaluation.Figure]:
    """Score images that are there already: a folder, zip or file of them, against another.

    Args:
      source: the images to score, as `data.source` takes them.
      reference: real images, or an .npz of statistics (mu, sigma).
      metrics: keys of `ganjax.evaluation.METRICS`; by default those of the extractor.
      extractor: see `ganjax.config.Evaluation`.
      image_size: height and width to bring both to; needed where images differ in size.
      channels: 1, 3 or 4; by default what the images have.
      reference_split: of the reference, where it has parts.

    Returns:
      The figures by key.
    """
    rule = Data(source=source, held_out=0, image_size=image_size, channels=channels)
    classes = "intra_class_frechet_distance" in (metrics or ())
    settings = Config(model=GAN(conditional=classes), data=rule)
    images = load_images(source, "train", settings)
    if len(images.features["image"][0]) != 3:
        raise InputError(f"{source} holds points: only images are compared so.")
    shape = images.features["image"][0]
    chosen = evaluation.choose_extractor(extractor, shape)
    metrics = metrics or chosen.metrics
    evaluation.check_metrics(metrics, chosen)
    # Without a size that was asked for, both are taken as they are.
    like = shape if image_size is not None else (None, None, channels)
    found = open_reference(reference, reference_split, chosen, settings, like)
    if isinstance(found, evaluation.Reference):
        real = found
        evaluation.check_reference(real, chosen, shape)
    else:
        name = reference if reference_split == "train" else f"{reference} ({reference_split})"
        real = prepared(found, chosen, needs_of(metrics), name)
    evaluation.check_metrics(metrics, chosen, real)
    labels = labels_of(images) if images.num_classes else None
    samples = evaluation.look_at(parts_of(images), extractor=chosen, metrics=metrics, labels=labels)
    return evaluation.compare(
        samples,
        real,
        extractor=chosen,
        metrics=metrics,
        images=shape_of_images(shape, settings),
        source_fingerprint=images.fingerprint,
    )


class Neighbors(NamedTuple):
    """Samples and the real images that are nearest to them.

    Attributes:
      samples: (N, H, W, C), float in [-1, 1].
      nearest: (N, K, H, W, C) uint8, the nearest first.
      distances: (N, K), between features.
      between_real: how far real images are from their nearest other one, on average.
      name: of the real images.
      extractor: name of what made the features.
    """

    samples: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray
    between_real: float
    name: str
    extractor: str


def neighbors(
    directory: str,
    *,
    num: int = 8,
    num_neighbors: int = 7,
    extractor: str | None = None,
    reference: str = "train",
    seed: int = 0,
    truncation: float | None = None,
    ema: bool = True,
    step: int | None = None,
) -> Neighbors:
    """Return samples of a run and their nearest real images.

    Args:
      directory: of the run.
      num: samples.
      num_neighbors: real images for each.
      extractor: see `ganjax.config.Evaluation`; by default what the configuration says.
      reference: train, held out, or a source of images.
      seed: of the samples.
      truncation: see `ganjax.latents`.
      ema: whether to use the running average where there is one.
      step: of the checkpoint; by default the latest sound one.
    """
    trained = load_image_run(directory, step)
    if len(trained.model.shape) != 3:
        raise InputError(f"{directory} makes points: neighbours are shown of images")
    if reference in ("train", "held out"):
        experiment = build(trained.config)
        dataset = experiment.train if reference == "train" else experiment.held_out
        if dataset is None:
            raise InputError(f"{directory} holds no data out: choose --reference train")
    else:
        dataset = load_images(reference, "train", trained.config)
    chosen = extractor_of(extractor, trained.config, trained.model.shape)
    samples = trained.sample(jax.random.key(seed), num, truncation=truncation, ema=ema)
    real = prepared(dataset, chosen, {"features"}, reference).features
    seen = chosen(samples)[chosen.features]
    indices, distances = evaluation.nearest_neighbors(seen, real, num_neighbors)
    some = real[np.linspace(0, len(real) - 1, min(500, len(real))).astype(int)]
    _, among = evaluation.nearest_neighbors(some, real, 2)
    nearest = dataset.batch(indices)["image"]
    between_real = float(among[:, 1].mean())
    return Neighbors(samples, nearest, distances, between_real, dataset.name, chosen.name)


def path_length(
    directory: str,
    *,
    num_samples: int = 1000,
    space: str = "w",
    ends: bool = False,
    extractor: str | None = None,
    labels: list[int] | None = None,
    seed: int = 0,
    ema: bool = True,
    step: int | None = None,
) -> evaluation.Figure:
    """Return the perceptual path length of a run with styles, with `extractor` as the distance.

    Args:
      directory: of the run.
      num_samples: pairs of images.
      space: `w` (styles) or `z` (latents).
      ends: measure at the ends of paths only.
      extractor: see `ganjax.config.Evaluation`; by default what the configuration says.
      labels: classes; by default all in turn.
      seed: of the latents.
      ema: whether to use the running average where there is one.
      step: of the checkpoint; by default the latest sound one.
    """
    trained = load_image_run(directory, step)
    if not trained.has_styles:
        raise InputError(
            f"{type(trained.config.model.network).__name__} has no styles: the path length is for "
            "StyleGAN2"
        )
    if space not in ("w", "z"):
        raise InputError(f"the space is w (styles) or z (latents), got {space!r}")
    chosen = extractor_of(extractor, trained.config, trained.model.shape)
    classes = trained.check_labels(labels, num_samples)

    def generate(points, classes):
        if space == "z":
            points = trained.map(points, classes, ema=ema)
        return trained.synthesize(points, ema=ema)

    batch_size = images_per_call(trained.model.shape, 50) // 2 or 1
    value, spread = evaluation.perceptual_path_length(
        trained.model.latents.sample,
        generate,
        ends_of=(lambda latents, classes: trained.map(latents, classes, ema=ema))
        if space == "w"
        else None,
        extractor=chosen,
        key=jax.random.key(seed),
        num_samples=num_samples,
        batch_size=batch_size,
        ends=ends,
        spherical=space == "z",
        labels=classes,
    )
    return evaluation.Figure(
        name=f"perceptual path length in {space.upper()}{', ends' if ends else ''}",
        value=value,
        spread=spread,
        num_samples=num_samples,
        settings={"inverse_epsilon": 10_000},
        extractor=chosen.name,
        extractor_hash=chosen.hash,
        features=chosen.features,
        resize=chosen.resize,
        ema=ema if trained.state.ema else None,
        seed=seed,
        batch_size=batch_size,
    )
