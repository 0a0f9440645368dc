"""What turns images into features and logits: `Extractor`."""

import dataclasses
import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ganjax.types import Array, InputError, as_float_images

Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Extractor:
    """A frozen network by which images are judged.

    Call it with images (N, H, W, C), uint8 or float in [-1, 1], for a dict of NumPy float32 arrays
    (N, ...). Floats are rounded to the 256 levels of a picture first: a figure judges what one
    would see in the saved files.

    Attributes:
      name: what figures made with it say, such as `fashion-mnist-classifier`.
      hash: sha256 of its weights: two figures are comparable only where it is equal.
      apply: `images -> outputs`, for any N.
      stream: `parts of images -> outputs in batches`, in the order of the images, so that a device
        computes the next batches while the host reads this one.
      network: `images (B, H, W, C), uint8 or float in [-1, 1] -> outputs`, traceable, without the
        rounding; what differences of nearly equal images are taken of.
      features: which output distances are taken on.
      logits: which output classes are read from, None where there are no classes.
      traceable: whether `network` is a JAX function; False of functions for the host.
      resize: how images reach the size that the network knows.
      metrics: keys of `METRICS` that are computed unless others are asked for.
      published: what the literature calls figures made with it, by metric, such as
        `{"frechet_distance": "FID"}`.
    """

    name: str
    hash: str
    apply: Callable[[Array | np.ndarray], Outputs]
    stream: Callable[[Iterable[Array | np.ndarray]], Iterator[Outputs]]
    network: Callable[[Array], dict[str, Array]]
    features: str = "features"
    logits: str | None = None
    traceable: bool = True
    resize: str = "none"
    metrics: tuple[str, ...] = ("frechet_distance",)
    published: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, images: Array | np.ndarray) -> Outputs:
        return self.apply(images)


def compiled_extractor(
    name: str,
    weights_hash: str,
    network: Callable[[Array], dict[str, Array]],
    *,
    image_shape: tuple[int | None, int | None, int],
    batch_size: int = 250,
    variables: Any = None,
    **about: Any,
) -> Extractor:
    """Return an extractor that runs `network` in compiled batches of one size, on all devices.

    Args:
      name: what figures say.
      weights_hash: identity of the weights.
      network: images (batch_size, *image_shape), uint8 or float in [-1, 1] -> features
        (batch_size, D), or a dict of arrays with that leading axis; `(variables, images)` where
        there are variables: `lambda v, x: module.apply(v, x)` makes an extractor of a Flax module.
      image_shape: height, width and channels that the network knows; None where it takes any.
      batch_size: images per call, rounded up to a multiple of the devices of this process, over
        which batches are split; the last one is filled up with black images.
      variables: arrays that the program takes as arguments: large constants slow compilation.
      about: `features`, `logits`, `resize`, `metrics` and `published` of the `Extractor`.

    Returns:
      The extractor. It raises `InputError` for other shapes, dtypes and for values that are not
      finite.

    >>> mean = lambda images: {"features": images.astype(jnp.float32).mean((1, 2))}
    >>> extractor = compiled_extractor("colour", "", mean, image_shape=(None, None, 3))
    >>> extractor(np.full((2, 4, 4, 3), 9, np.uint8))["features"].shape
    (2, 3)
    """

    def named(variables: Any, images: Array) -> dict[str, Array]:
        outputs = network(images) if variables is None else network(variables, images)
        return outputs if isinstance(outputs, dict) else {"features": outputs}

    run = jax.jit(named)
    devices = jax.local_devices()
    spread = None
    if len(devices) > 1:
        batch_size = -(-batch_size // len(devices)) * len(devices)
        mesh = Mesh(np.array(devices), "batch")
        spread = NamedSharding(mesh, PartitionSpec("batch"))
        if variables is not None:
            variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))

    def dispatch(batch: Array | np.ndarray) -> tuple[int, Any]:
        """Start the work on at most a batch; return its size and what is being computed."""
        count = len(batch)
        if count < batch_size:
            pad = jnp.pad if isinstance(batch, jax.Array) else np.pad
            batch = pad(batch, ((0, batch_size - count), (0, 0), (0, 0), (0, 0)))
        if spread is not None:
            batch = jax.device_put(batch, spread)
        limits = None
        if batch.dtype != np.uint8:
            batch, limits = _as_levels(batch)
        # In full float32: TPUs and GPUs would round convolutions, and figures with them.
        with jax.default_matmul_precision("highest"):
            return count, (run(variables, batch), limits)

    def collect(running: tuple[int, Any]) -> Outputs:
        count, results = running
        outputs, limits = jax.device_get(results)
        if limits is not None:
            _check_values(limits[:count], name)
        return {key: x[:count] for key, x in outputs.items()}

    def batches(parts: Iterable[Array | np.ndarray]) -> Iterator[Array | np.ndarray]:
        """Cut and join parts to the size of a batch."""
        held: list[Array | np.ndarray] = []
        for images in parts:
            images = images if isinstance(images, jax.Array) else np.asarray(images)
            _check(images, name, image_shape)
            held.append(images)
            if sum(map(len, held)) < batch_size:
                continue
            joined = _joined(held)
            whole = len(joined) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                yield joined[start : start + batch_size]
            held = [joined[whole:]] if whole < len(joined) else []
        if held:
            yield _joined(held)

    def stream(parts: Iterable[Array | np.ndarray]) -> Iterator[Outputs]:
        waiting: deque = deque()
        for batch in batches(parts):
            waiting.append(dispatch(batch))
            # Some in advance: the host has other work between two of them.
            if len(waiting) > 3:
                yield collect(waiting.popleft())
        while waiting:
            yield collect(waiting.popleft())

    def apply(images: Array | np.ndarray) -> Outputs:
        outputs = list(stream([images]))
        return {key: np.concatenate([part[key] for part in outputs]) for key in outputs[0]}

    return Extractor(
        name=name,
        hash=weights_hash,
        apply=apply,
        stream=stream,
        network=functools.partial(named, variables),
        **about,
    )


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
        images = as_float_images(images)
        shape = (images.shape[0], height, width, images.shape[3])
        return {"features": jax.image.resize(images, shape, "linear").reshape(shape[0], -1)}

    name = f"pixels-{height}x{width}"
    return compiled_extractor(
        name,
        hashlib.sha256(f"{name} linear antialiased".encode()).hexdigest(),
        shrink,
        image_shape=tuple(image_shape),
        resize="bilinear, antialiased",
    )


def as_levels(images: Array | np.ndarray, name: str) -> np.ndarray:
    """Return images (N, H, W, C) of any size as uint8, floats in [-1, 1] rounded.

    Raises:
      InputError: as an extractor of this name does.
    """
    images = np.asarray(images)
    _check(images, name, (None, None, None))
    if images.dtype == np.uint8:
        return images
    levels, limits = jax.device_get(_as_levels(images))
    _check_values(limits, name)
    return levels


def weights_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of names, dtypes, shapes and values of arrays, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _joined(parts: list[Array | np.ndarray]) -> Array | np.ndarray:
    if len(parts) == 1:
        return parts[0]
    on_device = all(isinstance(part, jax.Array) for part in parts)
    return (jnp if on_device else np).concatenate(parts)


@jax.jit
def _as_levels(images: Array) -> tuple[Array, Array]:
    """Return float images as uint8, and least and largest value of each (B, 2).

    A program of its own, so that what comes after is the same one, to the last bit, for both kinds.
    """
    images = images.astype(jnp.float32)
    values = images.reshape(len(images), -1)
    limits = jnp.stack([values.min(axis=1), values.max(axis=1)], axis=1)
    return jnp.clip(jnp.rint(images * 127.5 + 127.5), 0, 255).astype(jnp.uint8), limits


def _check(images: Any, name: str, image_shape: tuple[int | None, ...]) -> None:
    fits = images.ndim == 4 and all(
        wanted in (None, size) for wanted, size in zip(image_shape, images.shape[1:], strict=True)
    )
    if not fits or not len(images):
        expected = ", ".join("any" if size is None else str(size) for size in image_shape)
        raise InputError(
            f"{name} takes images of shape (N, {expected}), these have the shape {images.shape}: "
            "use an extractor for this size, or bring the images to it first."
        )
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"{name} takes uint8 images or floats in [-1, 1], these are {images.dtype}."
        )


def _check_values(limits: np.ndarray, name: str) -> None:
    """Refuse images by their least and largest values (N, 2)."""
    finite = np.isfinite(limits)
    if not finite.all():
        broken = int((~finite.all(axis=1)).sum())
        raise InputError(
            f"{broken} of {len(limits)} images hold values that are not finite: "
            "the generator has diverged."
        )
    # A generator without tanh leaves [-1, 1] and is clipped; it does not stay above zero.
    if limits.min() >= 0 and limits.max() > 2:
        raise InputError(
            f"float images lie in [-1, 1], these go from {limits.min():.4g} to "
            f"{limits.max():.4g}: pass uint8 for the range 0 to 255."
        )
