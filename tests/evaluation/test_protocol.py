import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.evaluation import (
    METRICS,
    Figure,
    compare,
    compiled_extractor,
    evaluate_images,
    frechet_distance,
    look_at,
    prepare_reference,
)
from ganjax.types import InputError


def projection(images):
    """Two features and two logits of images (B, 4, 4, 1), without any training."""
    x = images.astype(jnp.float32).reshape(len(images), 16) / 255
    features = jnp.stack([x.mean(axis=1), x[:, 0]], axis=1)
    return {"features": features, "logits": 9 * (features - 0.5)}


EXTRACTOR = compiled_extractor(
    "two numbers",
    "0" * 64,
    projection,
    image_shape=(4, 4, 1),
    batch_size=16,
    logits="logits",
    metrics=("frechet_distance", "classifier_score"),
)
REAL = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)


def sample(key, n):
    return jax.random.uniform(key, (n, 4, 4, 1), minval=-1.0)


def test_figures_say_how_they_were_made():
    figures = evaluate_images(
        sample, REAL, extractor=EXTRACTOR, num_samples=100, seed=3, truncation=0.7, ema=False
    )
    assert list(figures) == ["frechet_distance", "classifier_score"]
    distance, score = figures.values()
    assert str(distance).startswith(
        "Fréchet distance (two numbers, 100 vs held out, truncation 0.7, without EMA): "
    )
    assert str(score).startswith("classifier score (two numbers, 100, truncation 0.7")
    assert "±" in str(score)
    assert (distance.seed, distance.num_reference, distance.extractor_hash) == (3, 50, "0" * 64)
    assert set(distance.versions) >= {"ganjax", "jax", "numpy"}
    assert "FID" not in str(distance)
    assert Figure(**json.loads(json.dumps(dataclasses.asdict(distance)))) == distance


def test_value_is_that_of_the_samples_drawn():
    calls = []

    def recorded(key, n):
        calls.append(n)
        return sample(key, n)

    figure = evaluate_images(recorded, REAL, extractor=EXTRACTOR, num_samples=70, batch_size=32)
    assert calls == [32, 32, 32]
    keys = [jax.random.fold_in(jax.random.key(0), index) for index in range(3)]
    images = np.concatenate([sample(key, 32) for key in keys])[:70]
    features = [EXTRACTOR.apply(x)["features"] for x in (images, REAL)]
    assert figure["frechet_distance"].value == frechet_distance(*features)


def test_seeds_differ_and_repeat():
    def distance(seed):
        figures = evaluate_images(sample, REAL, extractor=EXTRACTOR, num_samples=40, seed=seed)
        return figures["frechet_distance"].value

    assert distance(0) == distance(0) != distance(1)


WITHOUT_LABELS = [
    name
    for name, metric in METRICS.items()
    if "labels" not in metric.needs and name != "stacked_modes"
]


def test_a_prepared_reference_gives_the_same_figures():
    prepared = prepare_reference(REAL, extractor=EXTRACTOR, name="validation")
    options = {"extractor": EXTRACTOR, "num_samples": 40, "metrics": WITHOUT_LABELS}
    direct = evaluate_images(sample, REAL, reference="validation", **options)
    assert direct == evaluate_images(sample, prepared, **options)
    assert {"kernel_distance", "precision", "recall", "density", "coverage"} <= set(direct)
    other = dataclasses.replace(EXTRACTOR, hash="1" * 64)
    with pytest.raises(InputError, match="prepared with another extractor"):
        evaluate_images(sample, prepared, extractor=other)


def test_neither_batches_nor_parts_change_a_figure():
    """One set of samples, drawn and looked at in many ways."""
    images = np.random.default_rng(1).integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    parts = prepare_reference(
        iter(np.split(REAL, [1, 30])), extractor=EXTRACTOR, fingerprint_of="x", name="held out"
    )
    values = []
    for size in (7, 16, 60):
        samples = look_at(
            np.split(images, range(size, 60, size)), extractor=EXTRACTOR, metrics=WITHOUT_LABELS
        )
        figures = compare(samples, parts, extractor=EXTRACTOR, metrics=WITHOUT_LABELS)
        values.append([figure.value for figure in figures.values()])
    np.testing.assert_allclose(values[1:], values[:1] * 2, rtol=1e-12, atol=1e-12)
    whole = prepare_reference(REAL, extractor=EXTRACTOR)
    np.testing.assert_array_equal(parts.features, whole.features)
    with pytest.raises(InputError, match="parts of images need fingerprint_of"):
        prepare_reference(iter([REAL]), extractor=EXTRACTOR)


def test_distances_within_classes_follow_the_labels_asked_for():
    labels = np.arange(50) % 2
    reference = prepare_reference(REAL, extractor=EXTRACTOR, labels=labels)

    def labelled(key, n):
        return sample(key, n), np.arange(n) % 2

    options = {"extractor": EXTRACTOR, "num_samples": 40}
    options["metrics"] = ("intra_class_frechet_distance",)
    figure = evaluate_images(labelled, reference, **options)["intra_class_frechet_distance"]
    images = sample(jax.random.fold_in(jax.random.key(0), 0), 250)[:40]
    features = EXTRACTOR(images)["features"]
    real = EXTRACTOR(REAL)["features"]
    each = [frechet_distance(features[c::2], real[c::2]) for c in range(2)]
    assert figure.value == pytest.approx(np.mean(each), rel=1e-9)
    assert figure.settings == {"num_classes": 2}
    with pytest.raises(InputError, match="need samples with labels"):
        evaluate_images(sample, reference, **options)
    with pytest.raises(InputError, match="needs the labels of the reference, and 'held out' has"):
        evaluate_images(labelled, REAL, **options)


def test_memory_is_for_what_the_metrics_need():
    parts = [REAL[:20], REAL[20:]]
    lean = look_at(parts, extractor=EXTRACTOR, metrics=("frechet_distance",))
    assert lean.features is None
    assert lean.logits is None
    assert lean.count == 50
    full = look_at(parts, extractor=EXTRACTOR, metrics=("precision_recall", "classifier_score"))
    assert full.features.shape == full.logits.shape == (50, 2)


def test_an_extractor_without_classes_has_no_classifier_score():
    plain = compiled_extractor("mean", "", lambda x: x.mean((1, 2)) / 255.0, image_shape=(4, 4, 1))
    assert list(evaluate_images(sample, REAL, extractor=plain)) == ["frechet_distance"]
    with pytest.raises(InputError, match="mean knows no classes: leave classifier_score out"):
        evaluate_images(sample, REAL, extractor=plain, metrics=("classifier_score",))
    with pytest.raises(InputError, match="does not see stacked garments"):
        evaluate_images(sample, REAL, extractor=EXTRACTOR, metrics=("stacked_modes",))


@pytest.mark.slow
def test_devices_share_the_batches_and_change_nothing():
    program = """if True:
        import jax, numpy as np
        jax.config.update("jax_num_cpu_devices", int(__import__("sys").argv[1]))
        from ganjax.evaluation import fashion_mnist_classifier
        images = np.random.default_rng(0).integers(0, 256, (300, 28, 28, 1), dtype=np.uint8)
        extractor = fashion_mnist_classifier()
        outputs = extractor(images)
        print(len(jax.devices()), float(np.abs(outputs["features"]).sum(dtype=np.float64)))
    """
    found = []
    for count in ("1", "5"):
        process = subprocess.run(
            [sys.executable, "-c", program, count], capture_output=True, text=True, timeout=300
        )
        assert process.returncode == 0, process.stderr[-2000:]
        devices, total = process.stdout.split()
        assert devices == count
        found.append(float(total))
    assert found[1] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metrics": ("fid",)}, "no metric 'fid': choose from frechet_distance"),
        ({"num_samples": 1}, "num_samples must be at least 2"),
    ],
)
def test_wrong_options_are_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluate_images(sample, REAL, extractor=EXTRACTOR, **options)


def test_a_sampler_that_gives_another_number_is_refused():
    with pytest.raises(InputError, match="asked for 250 images and gave 50"):
        evaluate_images(lambda key, n: REAL, REAL, extractor=EXTRACTOR)


def test_extractor_batches_any_number_and_both_types():
    whole = EXTRACTOR.apply(REAL)
    for count in (1, 16, 17, 50):
        part = EXTRACTOR.apply(REAL[:count])
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][:count])
    floats = EXTRACTOR.apply(REAL.astype(np.float32) / 127.5 - 1)
    np.testing.assert_array_equal(floats["features"], whole["features"])
    # What lies between two levels is judged as the picture that would be saved.
    near = EXTRACTOR.apply(jnp.asarray(REAL, jnp.float32) / 127.5 - 1 + 1e-3)
    np.testing.assert_array_equal(near["features"], whole["features"])


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((2, 4, 4, 3)), r"shape \(N, 4, 4, 1\), these have the shape \(2, 4, 4, 3\)"),
        (np.zeros((4, 4, 1)), r"these have the shape \(4, 4, 1\)"),
        (np.zeros((0, 4, 4, 1)), r"\(0, 4, 4, 1\)"),
        (np.zeros((2, 4, 4, 1), np.int32), "these are int32"),
        (np.full((2, 4, 4, 1), 200.0), "pass uint8 for the range 0 to 255"),
        (np.full((2, 4, 4, 1), np.nan), "2 of 2 images hold values that are not finite"),
    ],
)
def test_extractor_refuses_other_images(images, sentence):
    with pytest.raises(InputError, match=sentence):
        EXTRACTOR.apply(images)
