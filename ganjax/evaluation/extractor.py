"""What turns images into features and logits: `Extractor`."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ganjax.types import Array, InputError


class Extractor(NamedTuple):
    """A frozen network by which images are judged.

    Attributes:
      name: what figures made with it say, such as `fashion-mnist-classifier`.
      hash: sha256 of its weights: two figures are comparable only where it is equal.
      apply: images (N, H, W, C), uint8 or float in [-1, 1] -> `{"features": (N, D), "logits":
        (N, num_classes)}`, NumPy float32, for any N. Floats are rounded to the 256 levels of a
        picture first: a figure judges what one would see in the saved files.
    """

    name: str
    hash: str
    apply: Callable[[Array | np.ndarray], dict[str, np.ndarray]]


def compiled_extractor(
    name: str,
    weights_hash: str,
    network: Callable[[Array], dict[str, Array]],
    *,
    image_shape: tuple[int, int, int],
    batch_size: int = 250,
) -> Extractor:
    """Return an extractor that runs `network` in compiled batches of one size.

    Args:
      name: what figures say.
      weights_hash: identity of the weights.
      network: uint8 images (batch_size, *image_shape) -> a dict of arrays with that leading axis.
      image_shape: height, width and channels that the network knows.
      batch_size: images per call; the last batch is filled up with black ones.

    Returns:
      The extractor. Its `apply` raises `InputError` for other shapes, dtypes and for values that
      are not finite.
    """
    run = jax.jit(network)

    def apply(images: Array | np.ndarray) -> dict[str, np.ndarray]:
        images = np.asarray(images)
        _check(images, name, image_shape)
        outputs = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            if batch.dtype != np.uint8:
                levels = np.rint(batch.astype(np.float32) * 127.5 + 127.5)
                batch = np.clip(levels, 0, 255).astype(np.uint8)
            missing = batch_size - len(batch)
            filled = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
            # In full float32: TPUs and GPUs would round convolutions, and figures with them.
            with jax.default_matmul_precision("highest"):
                result = run(filled)
            outputs.append({key: np.asarray(x)[: len(batch)] for key, x in result.items()})
        return {key: np.concatenate([output[key] for output in outputs]) for key in outputs[0]}

    return Extractor(name, weights_hash, apply)


def pixels(image_shape: tuple[int, int, int], *, size: int = 8) -> Extractor:
    """Return an extractor without a network: the image shrunk to `size` x `size`.

    It compares colours and coarse layout only, for images that no network here knows. Figures made
    with it are called `pixels-8x8`.

    Args:
      image_shape: (H, W, C) of the images.
      size: height and width of what remains; smaller images keep their size.
    """
    height, width = min(size, image_shape[0]), min(size, image_shape[1])

    def shrink(images: Array) -> dict[str, Array]:
        images = images.astype(jnp.float32) / 127.5 - 1.0
        shape = (images.shape[0], height, width, images.shape[3])
        return {"features": jax.image.resize(images, shape, "linear").reshape(shape[0], -1)}

    name = f"pixels-{height}x{width}"
    identity = hashlib.sha256(f"{name} linear antialiased".encode()).hexdigest()
    return compiled_extractor(name, identity, shrink, image_shape=tuple(image_shape))


def _check(images: np.ndarray, name: str, image_shape: tuple[int, int, int]) -> None:
    if images.ndim != 4 or images.shape[1:] != image_shape or not len(images):
        expected = ", ".join(map(str, image_shape))
        raise InputError(
            f"{name} takes images of shape (N, {expected}), these have the shape {images.shape}: "
            "use an extractor for this size, or bring the images to it first."
        )
    if images.dtype == np.uint8:
        return
    if not np.issubdtype(images.dtype, np.floating) and images.dtype != jnp.bfloat16:
        raise InputError(
            f"{name} takes uint8 images or floats in [-1, 1], these are {images.dtype}."
        )
    finite = np.isfinite(images)
    if not finite.all():
        broken = int((~finite.all(axis=(1, 2, 3))).sum())
        raise InputError(
            f"{broken} of {len(images)} images hold values that are not finite: "
            "the generator has diverged."
        )
    # A generator without tanh leaves [-1, 1] and is clipped; it does not stay above zero.
    if images.min() >= 0 and images.max() > 2:
        raise InputError(
            f"float images lie in [-1, 1], these go from {images.min():.4g} to "
            f"{images.max():.4g}: pass uint8 for the range 0 to 255."
        )
