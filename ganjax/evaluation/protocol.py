"""From samples and real images to figures that say how they were made."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ganjax.evaluation.extractor import Extractor
from ganjax.evaluation.figure import Figure, fingerprint
from ganjax.evaluation.moments import Moments
from ganjax.evaluation.plane import modes_covered
from ganjax.evaluation.table import METRICS, Reference, Samples, check_metrics
from ganjax.types import Array, InputError, Key


def prepare_reference(
    images: Array | np.ndarray | Iterable[np.ndarray],
    *,
    extractor: Extractor,
    name: str = "held out",
    labels: np.ndarray | None = None,
    fingerprint_of: str | None = None,
    keep_features: bool = True,
) -> Reference:
    """Return what `evaluate_images` needs to know of real images.

    Args:
      images: (N, H, W, C), uint8 or float in [-1, 1]; or parts of them, one after the other, for
        which memory need not suffice at once.
      extractor: the network that judges.
      name: what figures call them.
      labels: (N,) integers, for distances within classes.
      fingerprint_of: what identifies the images; by default their `fingerprint`, which parts do not
        have.
      keep_features: whether to keep more than the moments: 400 MB for 50,000 images and 2,048
        features.
    """
    if isinstance(images, np.ndarray | jax.Array):
        fingerprint_of = fingerprint_of or fingerprint(images)
        images = [images]
    elif fingerprint_of is None:
        raise InputError("parts of images need fingerprint_of: say what identifies them.")
    seen = _gather(extractor, images, None, keep_features=keep_features, keep_logits=False)
    labels = None if labels is None else np.asarray(labels)
    return Reference(
        name, fingerprint_of, extractor.hash, seen.moments, seen.count, seen.features, labels
    )


def evaluate_images(
    sample: Callable[[Key, int], Any],
    reference_images: Array | np.ndarray | Reference,
    *,
    extractor: Extractor,
    num_samples: int = 1000,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str] | None = None,
    reference: str = "held out",
    truncation: float | None = None,
    ema: bool | None = None,
    standing_batches: int | None = None,
) -> dict[str, Figure]:
    """Generate images and compare them with real ones.

    The Fréchet distance and the classifier score of a Fashion-MNIST classifier are neither FID nor
    IS, which are made with the Inception network, and compare with no number of the literature.
    `fashion_mnist_classifier` says what real images get: that is the best to hope for.

    Args:
      sample: `(key, n) -> images` (n, H, W, C), float in [-1, 1] or uint8; or `(images, labels)`.
        It is always called with n = `batch_size`, so that one compiled program serves; compile it
        yourself.
      reference_images: (M, H, W, C) real images that training did not see, or what
        `prepare_reference` made of them, which saves time when evaluating again and again.
      extractor: the network that judges.
      num_samples: how many to generate; surplus ones of the last batch are dropped.
      seed: of `jax.random.key`; batch i gets `fold_in(key, i)`.
      batch_size: samples drawn at a time.
      metrics: keys of `METRICS`; by default those of the extractor.
      reference: what figures call the reference images.
      truncation: recorded in the figures; `sample` applies it.
      ema: recorded in the figures.
      standing_batches: recorded in the figures.

    Returns:
      Figures by key, such as `frechet_distance` and `classifier_score`.

    Raises:
      InputError: images of a wrong shape or with values that are not finite, an unknown metric, or
        a reference prepared with another extractor.
    """
    metrics = extractor.metrics if metrics is None else tuple(metrics)
    if not isinstance(reference_images, Reference):
        check_metrics(metrics, extractor)
        reference_images = prepare_reference(reference_images, extractor=extractor, name=reference)
    samples = draw_samples(
        sample,
        extractor=extractor,
        num_samples=num_samples,
        seed=seed,
        batch_size=batch_size,
        metrics=metrics,
    )
    return compare(
        samples,
        reference_images,
        extractor=extractor,
        metrics=metrics,
        truncation=truncation,
        ema=ema,
        standing_batches=standing_batches,
        seed=seed,
        batch_size=batch_size,
    )


def draw_samples(
    sample: Callable[[Key, int], Any],
    *,
    extractor: Extractor,
    num_samples: int,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str],
) -> Samples:
    """Generate images and look at them: the part of an evaluation that keeps a device busy.

    Arguments are those of `evaluate_images`; `metrics` say what to keep.
    """
    if num_samples < 2 or batch_size < 1:
        raise InputError(
            f"num_samples must be at least 2 and batch_size at least 1, they are {num_samples} "
            f"and {batch_size}."
        )
    sample_key = jax.random.key(seed)

    def parts() -> Iterator[tuple[Any, Any]]:
        for index, start in enumerate(range(0, num_samples, batch_size)):
            drawn = sample(jax.random.fold_in(sample_key, index), batch_size)
            images, labels = drawn if isinstance(drawn, tuple) else (drawn, None)
            if len(images) != batch_size:
                raise InputError(
                    f"sample was asked for {batch_size} images and gave {len(images)}."
                )
            left = num_samples - start
            yield images[:left], None if labels is None else labels[:left]

    labels = []

    def images() -> Iterator[Any]:
        for part, part_labels in parts():
            if part_labels is not None:
                labels.append(part_labels)
            yield part

    needs = {need for name in metrics for need in METRICS[name].needs}
    seen = _gather(
        extractor, images(), None, keep_features="features" in needs, keep_logits="logits" in needs
    )
    return seen._replace(labels=np.concatenate(labels) if labels else None)


def look_at(
    images: Iterable[np.ndarray],
    *,
    extractor: Extractor,
    metrics: Sequence[str],
    labels: np.ndarray | None = None,
) -> Samples:
    """Return what the metrics need to know of images that are there already, in parts."""
    needs = {need for name in metrics for need in METRICS[name].needs}
    return _gather(
        extractor, images, labels, keep_features="features" in needs, keep_logits="logits" in needs
    )


def _gather(
    extractor: Extractor,
    images: Iterable[Any],
    labels: np.ndarray | None,
    *,
    keep_features: bool,
    keep_logits: bool,
) -> Samples:
    count, moments, waiting = 0, [], []
    features, logits = [], []
    for outputs in extractor.stream(images):
        values = outputs[extractor.features]
        count += len(values)
        waiting.append(values)
        # The fewer the merges, the less the work; the parts need not stay.
        if sum(map(len, waiting)) >= 2048:
            moments = [Moments.of_parts([*moments, Moments.of(np.concatenate(waiting))])]
            waiting = []
        if keep_features:
            features.append(values)
        if keep_logits and extractor.logits:
            logits.append(outputs[extractor.logits])
    if waiting:
        moments.append(Moments.of(np.concatenate(waiting)))
    if not moments:
        raise InputError("there are no images to look at.")
    return Samples(
        count=count,
        moments=Moments.of_parts(moments),
        features=np.concatenate(features) if features else None,
        logits=np.concatenate(logits) if logits else None,
        labels=labels,
    )


def compare(
    samples: Samples,
    reference: Reference,
    *,
    extractor: Extractor,
    metrics: Sequence[str],
    **about: Any,
) -> dict[str, Figure]:
    """Return the figures of samples: the part of an evaluation that the host computes.

    Args:
      samples: from `draw_samples` or `look_at`.
      reference: what they are compared with.
      extractor: the network that judged both.
      metrics: keys of `METRICS`.
      about: what figures record of the samples: images, source_fingerprint, truncation, ema,
        standing_batches, seed and batch_size.
    """
    check_metrics(metrics, extractor, reference)
    if reference.extractor_hash != extractor.hash:
        raise InputError(
            f"the reference {reference.name!r} was prepared with another extractor than "
            f"{extractor.name}: prepare it again."
        )
    if samples.labels is None and any("labels" in METRICS[name].needs for name in metrics):
        raise InputError("distances within classes need samples with labels, these have none.")
    made = {
        "num_samples": samples.count,
        "extractor": extractor.name,
        "extractor_hash": extractor.hash,
        "resize": extractor.resize,
        **about,
    }
    compared = {
        "reference": reference.name,
        "reference_fingerprint": reference.fingerprint,
        "num_reference": reference.num_images,
        "reference_data": reference.data,
    }
    figures = {}
    for metric in (METRICS[name] for name in metrics):
        values, settings = metric.compute(samples, reference)
        for (key, name), (value, spread) in zip(metric.names.items(), values, strict=True):
            figures[key] = Figure(
                name=extractor.published.get(key, name),
                value=value,
                spread=spread,
                settings=settings,
                features=extractor.logits if "logits" in metric.needs else extractor.features,
                **made,
                **(compared if metric.compares else {}),
            )
    return figures


def evaluate_points(
    sample: Callable[[Key, int], Array],
    centers: Array | np.ndarray,
    std: float | np.ndarray,
    *,
    num_samples: int = 2500,
    seed: int = 0,
    truncation: float | None = None,
    ema: bool | None = None,
) -> dict[str, Figure]:
    """Generate points and say which modes of a mixture they cover, as `modes_covered` counts.

    Args:
      sample: `(key, n) -> points` (n, D), called once with n = `num_samples`.
      centers: (K, D) means of the modes.
      std: standard deviation of the modes.
      num_samples: VEEGAN's and PacGAN's 2,500; more samples find more modes.
      seed: of `jax.random.key`.
      truncation: recorded in the figures.
      ema: recorded in the figures.

    Returns:
      Figures `modes_covered` and `good_share`.

    >>> figures = evaluate_points(lambda key, n: np.zeros((n, 2)), [[0, 0], [9, 9]], 0.1)
    >>> print(figures["modes_covered"])
    modes covered (2.5k vs 2 modes): 1
    """
    centers = np.asarray(centers)
    points = np.asarray(sample(jax.random.key(seed), num_samples))
    measured = modes_covered(points, centers, std)
    return {
        name: Figure(
            name={"good_share": "good samples"}.get(name, name.replace("_", " ")),
            value=value,
            num_samples=len(points),
            reference=f"{len(centers)} modes",
            reference_fingerprint=fingerprint(centers),
            num_reference=len(centers),
            truncation=truncation,
            ema=ema,
            seed=seed,
            batch_size=num_samples,
        )
        for name, value in measured.items()
    }
