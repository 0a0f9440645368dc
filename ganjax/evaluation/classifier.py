"""The two classifiers that come with the package: for grey 28x28 and for colour 32x32 images.

The first was trained on Fashion-MNIST's 60,000 training images alone, so that all 10,000 test
images (the built-in data among them) are new to it; the second on 40,000 images of CIFAR-10.
"""

import functools
import importlib.resources
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ganjax.evaluation.extractor import Extractor, compiled_extractor, weights_sha256
from ganjax.files import read_arrays, reading
from ganjax.types import Array, InputError, as_float_images

# Of the tensors shipped; the files' own metadata has it too, with accuracy and training command.
WEIGHTS_SHA256 = {
    "fashion_mnist": "4cb34e17df5f6f6757ec86af6615addc258d79baecf9abb1e50d91d995c057c9",
    "cifar10": "3420164d474a8d3ce163fc4fec01dedadfc716422b41b82a194aac128214f28f",
}

_SCALE = ":scale"

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _folded(images: Array) -> Array:
    """Return images (B, H, W, C) as float32 (B, H/2, W/2, 4C): four pixels become channels."""
    x = as_float_images(images)
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


class Classifier(nn.Module):
    """Four convolutions and a dense layer of features, each with batch norm, then the logits.

    Images are folded to four channels at half the size first: at full size most of the time would
    go into the first layer.

    Attributes:
      widths: channels of the convolutions; the third one halves the size.
      summary_width: channels that each of the 7x7 places keeps for the dense layer.
      num_features: width of the dense layer.
      num_classes: number of logits.
    """

    widths: tuple[int, int, int, int] = (32, 32, 64, 64)
    summary_width: int = 16
    num_features: int = 64
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> dict[str, Array]:
        """Return `{"features": (B, D), "logits": (B, num_classes)}` of images (B, 28, 28, 1)."""

        def norm(x: Array, name: str) -> Array:
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)(x)

        x = _folded(images)
        for index, channels in enumerate(self.widths):
            strides = 2 if index == 2 else 1
            x = nn.Conv(channels, (3, 3), strides, use_bias=False, name=f"conv{index}")(x)
            x = nn.relu(norm(x, f"norm{index}"))
        x = nn.Conv(self.summary_width, (1, 1), use_bias=False, name="summary")(x)
        x = nn.Dense(self.num_features, use_bias=False, name="features")(x.reshape(len(x), -1))
        features = nn.relu(norm(x, "features_norm"))
        logits = nn.Dense(self.num_classes, name="logits")(features)
        return {"features": features, "logits": logits}


class ColorClassifier(nn.Module):
    """Six convolutions at 16, 8 and 4 places a side, a dense layer of features, then the logits.

    As in `Classifier`, images are folded to half the size first, and everything has batch norm.

    Attributes:
      widths: channels of the three sizes, two convolutions each; the first of a pair halves.
      num_features: width of the dense layer.
      num_classes: number of logits.
    """

    widths: tuple[int, int, int] = (64, 128, 192)
    num_features: int = 128
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> dict[str, Array]:
        """Return `{"features": (B, D), "logits": (B, num_classes)}` of images (B, 32, 32, 3)."""

        def norm(x: Array, name: str) -> Array:
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)(x)

        x = _folded(images)
        for stage, channels in enumerate(self.widths):
            for index in range(2):
                strides = 2 if stage and not index else 1
                name = f"conv{stage}_{index}"
                x = nn.Conv(channels, (3, 3), strides, use_bias=False, name=name)(x)
                x = nn.relu(norm(x, f"norm{stage}_{index}"))
        x = nn.Conv(32, (1, 1), use_bias=False, name="summary")(x)
        x = nn.Dense(self.num_features, use_bias=False, name="features")(x.reshape(len(x), -1))
        features = nn.relu(norm(x, "features_norm"))
        logits = nn.Dense(self.num_classes, name="logits")(features)
        return {"features": features, "logits": logits}


def fashion_mnist_classifier() -> Extractor:
    """Return the shipped classifier, compiled once per process.

    It recognises 92.7 percent of the test images. Its features are the 64 of the penultimate layer,
    few enough that 1,000 images give a covariance of full rank. What real images get, mean and
    standard deviation over 20 random splits of the test images, is what a perfect generator would
    get, and what no figure should be far below:

    - Fréchet distance of 1,000 to 9,000 others 0.48 ± 0.09, of 1,000 to 1,000 others 0.85 ± 0.13
      (the fewer, the larger; uniform noise 62, a single class 39 to 75);
    - classifier score of 1,000 in ten splits 8.07 ± 0.09 (of 10 at most; noise 1.4);
    - kernel distance of 1,000 to 1,000 others 0.000 ± 0.007, precision and recall 0.87 ± 0.01.

    Returns:
      An `Extractor` for images (N, 28, 28, 1).

    Raises:
      InputError: the shipped file is damaged.
    """
    return _shipped("fashion_mnist", Classifier(), (28, 28, 1))


def cifar10_classifier() -> Extractor:
    """Return the shipped classifier of CIFAR-10's classes, compiled once per process.

    It recognises 85.2 percent of 2,500 test images that it has not seen. Real ones get, mean and
    standard deviation over 20 random splits of these:

    - Fréchet distance of 1,000 to 1,500 others 0.49 ± 0.07, to 1,000 others 0.60 ± 0.08 (uniform
      noise 50, a single class 24 to 48);
    - classifier score of 1,000 in ten splits 4.52 ± 0.06 (its probabilities are soft: it was
      trained with smoothed labels);
    - kernel distance of 1,000 to 1,000 others 0.0001 ± 0.0007, precision 0.85 ± 0.02, recall
      0.84 ± 0.02, density 1.00 ± 0.04, coverage 0.97 ± 0.01.

    The images were stored as JPEG: the figures are those of such images.

    Returns:
      An `Extractor` for images (N, 32, 32, 3).

    Raises:
      InputError: the shipped file is damaged.
    """
    return _shipped("cifar10", ColorClassifier(), (32, 32, 3))


@functools.cache
def _shipped(name: str, network: nn.Module, image_shape: tuple[int, int, int]) -> Extractor:
    resource = importlib.resources.files("ganjax.evaluation") / "weights" / f"{name}.npz"
    with importlib.resources.as_file(resource) as path:
        variables, metadata = load_weights(path)
    return compiled_extractor(
        f"{name.replace('_', '-')}-classifier",
        metadata["sha256"],
        lambda images: network.apply(variables, images),
        image_shape=image_shape,
        logits="logits",
        metrics=("frechet_distance", "classifier_score"),
    )


def save_weights(path: Any, variables: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write variables as a plain .npz, with `metadata` and the sha256 of the tensors as JSON."""
    tensors = {
        name: np.asarray(value)
        for name, value in traverse_util.flatten_dict(variables, sep="/").items()
    }
    text = json.dumps({**metadata, "sha256": weights_sha256(tensors)}, indent=1, sort_keys=True)
    with open(path, "wb") as file:
        np.savez(file, __metadata__=np.frombuffer(text.encode(), np.uint8), **tensors)


def load_weights(path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the float32 variables and the metadata of a file from `save_weights`.

    Raises:
      InputError: the file cannot be read, or its tensors differ from the sha256 in it.
    """
    try:
        tensors = read_arrays(pathlib.Path(path))
        metadata = json.loads(tensors.pop("__metadata__").tobytes())
        intact = metadata["sha256"] == weights_sha256(tensors)
    except Exception as error:
        raise InputError(f"{path} cannot be read as weights: {error}.") from error
    if not intact:
        raise InputError(
            f"{path} is damaged: its tensors do not have the sha256 it was saved with."
        )
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith(_SCALE)}
    with reading(str(path)):
        flat = {name: jnp.asarray(value, jnp.float32) for name, value in tensors.items()}
        for name, scale in scales.items():
            flat[name.removesuffix(_SCALE)] *= jnp.asarray(scale, jnp.float32)
        return traverse_util.unflatten_dict(flat, sep="/"), metadata


def in_eight_bits(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables as they are shipped: kernels as int8 with a float16 scale an output.

    Vectors become float16. `load_weights` puts the scales back in.
    """
    flat = {}
    for name, value in traverse_util.flatten_dict(variables, sep="/").items():
        value = np.asarray(value, np.float32)
        if value.ndim < 2:
            flat[name] = value.astype(np.float16)
            continue
        largest = np.abs(value).max(axis=tuple(range(value.ndim - 1)))
        scale = np.maximum(largest / 127, 1e-6).astype(np.float16)
        flat[name] = np.rint(value / scale.astype(np.float32)).clip(-127, 127).astype(np.int8)
        flat[name + _SCALE] = scale
    return traverse_util.unflatten_dict(flat, sep="/")
