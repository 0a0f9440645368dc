"""Arrays in files: .npz, .npy and idx (the format of MNIST)."""

import contextlib
import dataclasses
import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ganjax.data.dataset import Dataset, check_labels, fingerprint, in_memory
from ganjax.data.images import ImageRule, fit_arrays
from ganjax.types import InputError

_IMAGE_KEYS = ("image", "images", "x")
_LABEL_KEYS = ("label", "labels", "y")


def npz(path: Path, rule: ImageRule, *, split: str, labels: bool) -> Dataset:
    """Read a .npz file: images under image, images or x, labels under label, labels or y.

    Failing these names, the only array of three or four axes holds the images. An array
    `class_names` of strings names the classes.
    """
    name = str(path)
    # Opened here: NumPy leaves a file open that turns out to be broken.
    with _readable(name), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        keys = [key for key in _IMAGE_KEYS if key in archive.files]
        contents = {key: archive[key] for key in archive.files}
    keys = keys or [key for key, array in contents.items() if array.ndim in (3, 4)]
    if len(keys) != 1:
        raise InputError(
            f"{name} holds {', '.join(sorted(contents)) or 'nothing'}, expected one array of "
            "images (number, height, width, channels) under the name 'image'."
        )
    arrays = {"image": fit_arrays(_as_uint8(contents[keys[0]], name), name, rule)}
    label_key = next((key for key in _LABEL_KEYS if key in contents), None)
    if labels and label_key:
        arrays["label"] = contents[label_key]
    class_names = tuple(str(c) for c in np.ravel(contents.get("class_names", ())))
    return in_memory(name, split, arrays, class_names=class_names)


def npy(path: Path, rule: ImageRule, *, split: str, labels: bool, max_bytes: int) -> Dataset:
    """Read images from a .npy file, and labels from the one beside it.

    Where the file's name has "images" in it, the labels are in the same name with "labels". A
    file larger than `max_bytes` stays on disk and is read through a memory map.
    """
    name = str(path)
    with _readable(name):
        images = np.lib.format.open_memmap(path, mode="r")
    beside = path.with_name(path.name.replace("images", "labels"))
    label = None
    if labels and beside != path and beside.exists():
        with _readable(str(beside)):
            label = np.array(np.lib.format.open_memmap(beside, mode="r"))
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
        images = np.lib.format.open_memmap(self.path, mode="r")[indices]
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
    with _readable(name):
        content = Path(path).read_bytes()
        # By the first bytes, not by the name: both kinds are found under both.
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    # Two zero bytes, the type (8: unsigned bytes), the number of axes, their lengths.
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise InputError(f"{name} is no idx file of unsigned bytes: download it again.")
    axes = content[3]
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    size = len(content) - 4 - 4 * axes
    if size != math.prod(shape):
        raise InputError(
            f"{name} holds {size} bytes of data, expected {math.prod(shape)} from its header: "
            "download it again."
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _as_uint8(images: np.ndarray, name: str) -> np.ndarray:
    """Return images as uint8 (N, H, W, C); (N, H, W) gets one channel."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise InputError(
            f"the images of {name} have shape {images.shape}, expected (number, height, width, "
            "channels) or (number, height, width)."
        )
    if 0 in images.shape:
        raise InputError(f"{name} holds no images (shape {images.shape}): choose another file.")
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


@contextlib.contextmanager
def _readable(name: str):
    try:
        yield
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{name} cannot be read ({reason}): see whether it is whole and of the kind that its "
            "name says."
        ) from error
