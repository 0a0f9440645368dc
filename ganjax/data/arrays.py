"""Arrays in files: .npz, .npy and idx (the format of MNIST)."""

import dataclasses
import math
import struct
from pathlib import Path

import numpy as np

from ganjax import files
from ganjax.data.dataset import Dataset, check_labels, fingerprint, in_memory
from ganjax.data.images import ImageRule, fit_arrays
from ganjax.types import InputError

_IMAGE_KEYS = ("image", "images", "x")
_LABEL_KEYS = ("label", "labels", "y")
_MOST_CLASSES = 100_000
_MOST_AXES = 8


def npz(path: Path, rule: ImageRule, *, split: str, labels: bool) -> Dataset:
    """Read a .npz file: images under image, images or x, labels under label, labels or y.

    Failing these names, the only array of three or four axes holds the images. An array
    `class_names` of strings names the classes.
    """
    name = str(path)
    contents = files.read_arrays(path)
    keys = [key for key in _IMAGE_KEYS if key in contents]
    keys = keys or [key for key, array in contents.items() if array.ndim in (3, 4)]
    if len(keys) != 1:
        found = ", ".join(map(files.shown, sorted(contents))) or "nothing"
        raise InputError(
            f"{name} holds {found}, expected one array of "
            "images (number, height, width, channels) under the name 'image'."
        )
    arrays = {"image": fit_arrays(_as_uint8(contents[keys[0]], name), name, rule)}
    label_key = next((key for key in _LABEL_KEYS if key in contents), None)
    if labels and label_key:
        arrays["label"] = contents[label_key]
    names = contents.get("class_names", np.zeros(0, str))
    # Texts of no length take no place in a file: it can claim to hold any number of them.
    if names.dtype.kind != "U" or names.ndim != 1 or names.size > _MOST_CLASSES:
        raise InputError(
            f"class_names of {name} are {names.dtype} of shape {names.shape}, expected up to "
            f"{_MOST_CLASSES:,} texts in a row."
        )
    class_names = tuple(str(class_name) for class_name in names)
    return in_memory(name, split, arrays, class_names=class_names)


def npy(path: Path, rule: ImageRule, *, split: str, labels: bool, max_bytes: int) -> Dataset:
    """Read images from a .npy file, and labels from the one beside it.

    Where the file's name has "images" in it, the labels are in the same name with "labels". A
    file larger than `max_bytes` stays on disk and is read through a memory map.
    """
    name = str(path)
    images = files.map_array(path)
    beside = path.with_name(path.name.replace("images", "labels"))
    label = None
    if labels and beside != path and beside.exists():
        label = np.array(files.map_array(beside))
    _check_axes(images, name)
    streamed = images.nbytes > max_bytes
    if not streamed:
        arrays = {"image": fit_arrays(_as_uint8(np.array(images), name), name, rule)}
        if label is not None:
            arrays["label"] = label
        return in_memory(name, split, arrays)
    if images.dtype != np.uint8:
        raise InputError(
            f"the images of {name} are {images.dtype} and too many to be kept in memory, expected "
            "uint8: convert them with .astype(numpy.uint8)."
        )
    num_classes = 0
    if label is not None:
        label, num_classes = check_labels(name, label, len(images))
    read = _MappedArray(path, rule, label)
    features = {k: (v.shape[1:], v.dtype) for k, v in read(np.arange(1)).items()}
    return Dataset(
        name=name,
        split=split,
        features=features,
        num_classes=num_classes,
        class_names=(),
        arrays=None,
        num_examples=len(images),
        fingerprint=fingerprint(f"{path.name} {images.shape} {images.dtype} {rule}"),
        read=read,
    )


@dataclasses.dataclass(frozen=True)
class _MappedArray:
    path: Path
    rule: ImageRule
    labels: np.ndarray | None

    def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        # Opened for each batch: a memory map would be pickled with all that it maps.
        images = files.map_array(self.path)[indices]
        name = str(self.path)
        batch = {"image": fit_arrays(_as_uint8(images, name), name, self.rule)}
        if self.labels is not None:
            batch["label"] = self.labels[indices]
        return batch


def idx(path: Path, rule: ImageRule, *, split: str, labels: bool) -> Dataset:
    """Read an idx3 file of images, and the idx1 file of labels beside it under its usual name.

    The usual name of the labels has "labels" for "images" and "idx1" for "idx3"; it may end in
    .gz where the other does not.
    """
    name = str(path)
    arrays = {"image": fit_arrays(_as_uint8(read_idx(path), name), name, rule)}
    if labels:
        plain = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        for beside in (path.with_name(plain + ".gz"), path.with_name(plain)):
            if beside != path and beside.exists():
                arrays["label"] = read_idx(beside)
    return in_memory(name, split, arrays)


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array of an idx file, which may be compressed with gzip.

    Raises:
      InputError: if it is no idx file of bytes, or longer or shorter than its header says.
    """
    name = str(path)
    with files.opened(path) as (file, packed):
        # Two zero bytes, the type (8: unsigned bytes), the number of axes, their lengths.
        head = file.read(4)
        axes = head[3] if len(head) == 4 and head[:3] == b"\x00\x00\x08" else _MOST_AXES + 1
        lengths = file.read(4 * axes) if axes <= _MOST_AXES else b""
        if axes > _MOST_AXES or len(lengths) < 4 * axes:
            raise InputError(f"{name} is no idx file of unsigned bytes: download it again.")
        shape = struct.unpack(f">{axes}I", lengths)
        expected = math.prod(shape)
        content = files.read_at_most(file, expected + 1, name, packed)
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content)}"
        raise InputError(
            f"{name} holds {found} bytes of data, expected {expected} from its header: download "
            "it again."
        )
    if not expected:
        raise InputError(f"{name} holds nothing (shape {shape}): choose another file.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _check_axes(images: np.ndarray, name: str) -> None:
    if images.ndim not in (3, 4):
        raise InputError(
            f"the images of {name} have shape {images.shape}, expected (number, height, width, "
            "channels) or (number, height, width)."
        )
    if 0 in images.shape:
        raise InputError(f"{name} holds no images (shape {images.shape}): choose another file.")


def _as_uint8(images: np.ndarray, name: str) -> np.ndarray:
    """Return images as uint8 (N, H, W, C); (N, H, W) gets one channel."""
    _check_axes(images, name)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise InputError(
            f"the images of {name} are {images.dtype}, expected uint8 in [0, 255] or float32 in "
            "[-1, 1]: convert them with .astype(numpy.uint8)."
        )
    low, high = float(images.min()), float(images.max())
    # In a batch or a whole set, floats without a negative one are most likely in [0, 1].
    if not -1.0 <= low < 0.0 <= high <= 1.0:
        raise InputError(
            f"the images of {name} are floats in [{low:g}, {high:g}], expected uint8 in [0, 255] "
            "or floats in [-1, 1] with negative ones among them: store them as uint8."
        )
    return np.round((images.astype(np.float32) + 1) * 127.5).astype(np.uint8)
