import importlib.resources
import os
import pathlib

import numpy as np
import pytest

from ganjax.evaluation import (
    cifar10_classifier,
    evaluate_images,
    fashion_mnist_classifier,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from ganjax.evaluation.classifier import (
    WEIGHTS_SHA256,
    in_eight_bits,
    load_weights,
    save_weights,
)
from ganjax.evaluation.train_classifier import augment, read_idx, read_split, train
from ganjax.types import InputError

WEIGHTS = importlib.resources.files("ganjax.evaluation") / "weights"
SHIPPED = {"fashion_mnist": fashion_mnist_classifier, "cifar10": cifar10_classifier}


@pytest.fixture(scope="module")
def test_split():
    default = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
    directory = os.environ.get("GANJAX_DATA", default)
    if not os.path.isdir(directory):
        pytest.skip(f"no data: set GANJAX_DATA to a folder with Fashion-MNIST ({directory})")
    return read_split(directory, "t10k")


@pytest.mark.parametrize(
    ("name", "kilobytes", "accuracy"), [("fashion_mnist", 300, 0.9), ("cifar10", 950, 0.85)]
)
def test_shipped_weights_are_small_and_those_they_claim_to_be(name, kilobytes, accuracy):
    path = WEIGHTS / f"{name}.npz"
    assert os.path.getsize(path) < kilobytes * 1024
    variables, metadata = load_weights(path)
    assert set(variables) == {"params", "batch_stats"}
    assert metadata["sha256"] == WEIGHTS_SHA256[name] == SHIPPED[name]().hash
    assert metadata["test_accuracy"] > accuracy
    assert f"ganjax.evaluation.train_classifier {name}" in metadata["command"]


def test_shipped_weights_recognise_clothes(test_split):
    images, labels = test_split
    outputs = fashion_mnist_classifier().apply(images)
    assert outputs["features"].shape == (10_000, 64)
    assert outputs["logits"].shape == (10_000, 10)
    accuracy = np.mean(outputs["logits"].argmax(axis=1) == labels)
    _, metadata = load_weights(WEIGHTS / "fashion_mnist.npz")
    assert accuracy > 0.9
    assert accuracy == pytest.approx(metadata["test_accuracy"], abs=5e-4)


def test_real_images_get_the_documented_baselines(test_split):
    """The numbers in the docstring of `fashion_mnist_classifier`, there from 20 splits."""
    outputs = fashion_mnist_classifier().apply(test_split[0])
    features, logits = outputs["features"], outputs["logits"]
    random = np.random.default_rng(0)
    measured = []
    for _ in range(8):
        one, two, *_ = parts = np.split(random.permutation(10_000), 10)
        others = np.concatenate(parts[1:])
        measured.append(
            (
                frechet_distance(features[one], features[others]),
                frechet_distance(features[one], features[two]),
                inception_score(logits[one])[0],
                kernel_distance(features[one], features[two]),
                *precision_recall(features[one], features[two]),
            )
        )
    mean = np.mean(measured, axis=0)
    documented = [0.48, 0.85, 8.07, 0.0, 0.87, 0.87]
    np.testing.assert_allclose(mean, documented, rtol=0.15, atol=0.01)


def test_damage_to_real_images_is_seen(test_split):
    images = test_split[0][:3000]
    outputs = fashion_mnist_classifier().apply(images)
    real, rest = outputs["features"][:1000], outputs["features"][1000:]
    floats = images[:1000] / np.float32(127.5) - 1
    noise = np.random.default_rng(0).standard_normal(floats.shape)
    distances, scores = [frechet_distance(real, rest)], [inception_score(outputs["logits"][:1000])]
    for amount in (0.1, 0.2, 0.4):
        noisy = fashion_mnist_classifier().apply((floats + amount * noise).clip(-1, 1))
        distances.append(frechet_distance(noisy["features"], rest))
        scores.append(inception_score(noisy["logits"]))
    assert distances == sorted(distances)
    assert scores == sorted(scores, reverse=True)
    assert distances[1] > 2 * distances[0]


def test_figures_of_real_images(test_split):
    images, _ = test_split
    figures = evaluate_images(
        lambda key, n: images[:n],
        images[1000:],
        extractor=fashion_mnist_classifier(),
        num_samples=1000,
        batch_size=1000,
        reference="9k others",
    )
    distance = figures["frechet_distance"]
    assert str(distance).startswith("Fréchet distance (fashion-mnist-classifier, 1k vs 9k others):")
    assert distance.value < 1.0
    assert figures["classifier_score"].value > 7.5


def test_other_sizes_are_refused():
    with pytest.raises(InputError, match=r"takes images of shape \(N, 28, 28, 1\)"):
        fashion_mnist_classifier().apply(np.zeros((2, 32, 32, 3), np.uint8))


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    save_weights(path, {"params": {"a": np.ones(3, np.float16)}}, {"note": "x"})
    variables, metadata = load_weights(path)
    assert variables["params"]["a"].dtype == np.float32
    assert metadata["note"] == "x"
    with np.load(path) as file:
        tensors = dict(file)
    np.savez(path, **tensors | {"params/a": np.zeros(3, np.float16)})
    with pytest.raises(InputError, match=r"weights\.npz is damaged"):
        load_weights(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"weights\.npz cannot be read"):
        load_weights(path)


@pytest.mark.slow
def test_training_learns():
    """Light and dark images are told apart after a few steps."""
    labels = np.arange(64, dtype=np.uint8) % 2
    dark = np.random.default_rng(0).integers(0, 100, (64, 28, 28, 1), dtype=np.uint8)
    losses = []
    train(
        dark + 100 * labels[:, None, None, None],
        labels,
        epochs=4,
        batch_size=32,
        say=lambda line: losses.append(float(line.split("loss ")[1].split(",")[0])),
    )
    assert len(losses) == 4
    assert losses[-1] < 0.5 * losses[0]


def test_augmentation_moves_by_one_pixel_and_flips():
    image = np.zeros((200, 28, 28, 1), np.uint8)
    image[:, 10, 5] = 9
    moved = augment(image, np.random.default_rng(0))
    assert moved.shape == image.shape
    rows, columns = np.nonzero(moved[..., 0])[1:]
    assert set(rows) == {9, 10, 11}
    assert set(columns) == {4, 5, 6, 21, 22, 23}


def test_broken_archives_are_one_sentence(tmp_path):
    path = tmp_path / "labels.gz"
    with pytest.raises(InputError, match=r"labels\.gz cannot be read"):
        read_idx(path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"labels\.gz cannot be read"):
        read_idx(path)


def test_eight_bits_are_read_back(tmp_path):
    random = np.random.default_rng(1)
    kernel = random.standard_normal((3, 3, 8, 5)).astype(np.float32) * np.arange(1, 6)
    kernel[..., 4] = 0
    shipped = in_eight_bits({"params": {"kernel": kernel, "bias": np.ones(5, np.float32)}})
    assert {name: x.dtype for name, x in shipped["params"].items()} == {
        "kernel": np.int8,
        "kernel:scale": np.float16,
        "bias": np.float16,
    }
    save_weights(tmp_path / "w.npz", shipped, {})
    read = np.asarray(load_weights(tmp_path / "w.npz")[0]["params"]["kernel"])
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    assert (np.abs(read - kernel) <= largest / 127 * 0.51 + 1e-6).all()
