"""Images in a folder or a zip file, of mixed sizes and kinds; class subfolders become labels."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ganjax.data.dataset import Dataset, fingerprint, in_memory
from ganjax.data.images import SUFFIXES, ImageRule, decode, header
from ganjax.files import check_unpacked, reason, shown
from ganjax.types import InputError

_SPLIT_FOLDERS = {"train", "training", "test", "testing", "val", "valid", "validation"}
# No image is larger than this; a zip file can claim to unpack to anything.
_MAX_FILE_BYTES = 512 << 20
# Some decoders read a file at once: one at a time where it is larger.
_LARGE_FILE_BYTES = 16 << 20
_large = threading.Lock()
# Links to one folder can make a few folders many: ten with two links each, a thousand.
_MOST_LINKS = 100


def images_in(path: Path, rule: ImageRule, *, split: str, labels: bool, max_bytes: int) -> Dataset:
    """Read the images of a folder or a zip file, nested at will.

    A folder around everything is ignored. Where all that is left lies in `train`, `test`, ...,
    the folder `split` is read. Where all images then lie in subfolders, the first level of them
    are the classes, in alphabetical order. Hidden files and files that are no images by their
    suffix are skipped.

    Where the decoded images take more than `max_bytes`, they are decoded batch by batch.

    Raises:
      InputError: if there are no images, one is broken, or they have several sizes and the rule
        has none; the message names the file. A broken image of a streamed set shows when it is
        read.
    """
    name = str(path)
    files = _Zip(path) if path.is_file() else _Folder(path)
    sizes = {
        file: size
        for file, size in sorted(files.sizes().items())
        if Path(file).suffix.lower() in SUFFIXES and not _hidden(file)
    }
    if not sizes:
        raise InputError(
            f"{name} holds no images (.png, .jpg, .webp, ...): point data.source to the folder "
            "that does."
        )
    tails = _choose_split(name, _without_wrapper({file: file for file in sizes}), split)
    paths = list(tails)
    arrays, class_names = {}, ()
    if labels:
        label, class_names = _classes(name, list(tails.values()))
        if class_names:
            arrays["label"] = label
    example_bytes, rule = _one_shape(files, paths, rule)
    read = _Decoder(files, paths, rule, arrays.get("label"))
    if len(paths) * example_bytes <= max_bytes:
        arrays["image"] = read.images(np.arange(len(paths)), num_threads=os.cpu_count() or 1)
        return in_memory(name, split, arrays, class_names=class_names)
    return Dataset(
        name=name,
        split=split,
        features={key: (leaf.shape[1:], leaf.dtype) for key, leaf in read(np.arange(1)).items()},
        num_classes=len(class_names),
        class_names=class_names,
        arrays=None,
        num_examples=len(paths),
        fingerprint=fingerprint(str(rule), *(f"{tails[path]}:{sizes[path]}" for path in paths)),
        read=read,
    )


@dataclasses.dataclass(frozen=True)
class _Folder:
    root: Path

    def sizes(self) -> dict[str, int]:
        found = {}
        # Of each folder on the way: the real folders that it lies in, with its own.
        above = {os.fspath(self.root): frozenset((os.path.realpath(self.root),))}
        visits = collections.Counter()
        for folder, subfolders, files in os.walk(self.root, followlinks=True, onerror=_unreadable):
            around = above.pop(folder)
            kept = []
            for subfolder in filter(_visible, subfolders):
                path = os.path.join(folder, subfolder)
                real = os.path.realpath(path)
                # A link to a folder that it lies in, or to one above, would never end.
                if not any((a + os.sep).startswith(os.path.join(real, "")) for a in around):
                    kept.append(subfolder)
                    above[path] = around | {real}
                    visits[real] += 1
                    if visits[real] > _MOST_LINKS:
                        raise InputError(
                            f"{real} is linked to more than {_MOST_LINKS} times in {self.root}: "
                            "take the links away."
                        )
            subfolders[:] = kept
            for file in files:
                path = os.path.join(folder, file)
                # Links that lead nowhere are skipped, and pipes, which would be waited for.
                if os.path.isfile(path):
                    found[Path(path).relative_to(self.root).as_posix()] = os.path.getsize(path)
        return found

    def is_large(self, file: str) -> bool:
        return os.path.getsize(self.root / file) > _LARGE_FILE_BYTES

    def open(self, file: str) -> BinaryIO:
        return open(self.root / file, "rb")

    def label(self, file: str) -> str:
        return shown(str(self.root / file))


@dataclasses.dataclass(eq=False)
class _Zip:
    path: Path

    def __post_init__(self):
        self._archive = None

    def __getstate__(self):
        # Each process opens the file for itself.
        return {"path": self.path, "_archive": None}

    def sizes(self) -> dict[str, int]:
        found = {}
        for entry in self._open().infolist():
            file = entry.filename
            link = (entry.external_attr >> 16) & 0o170000 == 0o120000
            if file.startswith(("/", "\\")) or re.match("[A-Za-z]:", file) or link:
                raise self._refused(file, "leads out of it")
            if not file:
                raise self._refused(file, "has no name")
            if ".." in re.split(r"[/\\]", file):
                raise self._refused(file, "leads out of it")
            if file in found:
                raise self._refused(file, "is in it twice")
            if entry.file_size > _MAX_FILE_BYTES:
                raise self._refused(file, f"claims to unpack to {entry.file_size >> 20} MiB")
            check_unpacked(self.label(file), entry.compress_size, entry.file_size)
            if entry.flag_bits & 1:
                raise self._refused(file, "is encrypted")
            if not entry.is_dir():
                found[file] = entry.file_size
        return found

    def open(self, file: str) -> BinaryIO:
        return self._open().open(file)

    def is_large(self, file: str) -> bool:
        return self._open().getinfo(file).file_size > _LARGE_FILE_BYTES

    def label(self, file: str) -> str:
        return f"{file!r} in {self.path}"

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None:
            try:
                self._archive = zipfile.ZipFile(self.path)
            # Of an arbitrary file also UnicodeDecodeError, NotImplementedError, struct.error, ...
            except Exception as error:
                raise InputError(
                    f"{self.path} cannot be read as a zip file ({reason(error)}): make it again."
                ) from error
        return self._archive

    def _refused(self, file: str, reason: str) -> InputError:
        return InputError(
            f"the zip file {self.path} is refused, its entry {file!r} {reason}: make it again "
            "from a folder of images."
        )


@dataclasses.dataclass(frozen=True)
class _Decoder:
    files: _Folder | _Zip
    paths: list[str]
    rule: ImageRule
    labels: np.ndarray | None

    def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = {"image": self.images(indices)}
        if self.labels is not None:
            batch["label"] = self.labels[indices]
        return batch

    def images(self, indices: np.ndarray, num_threads: int = 0) -> np.ndarray:
        result = None
        for i, image in enumerate(_map(self._image, indices, num_threads)):
            if result is None:
                result = np.empty((len(indices), *image.shape), np.uint8)
            if image.shape != result.shape[1:]:
                raise InputError(
                    f"{self.files.label(self.paths[indices[i]])} has shape {image.shape}, others "
                    f"have {result.shape[1:]}: set data.image_size."
                )
            result[i] = image
        return result

    def _image(self, index: int) -> np.ndarray:
        path = self.paths[index]
        file = _opened(self.files, path)
        with file, _large if self.files.is_large(path) else contextlib.nullcontext():
            return decode(file, self.files.label(path), self.rule)


def _opened(files: _Folder | _Zip, path: str) -> BinaryIO:
    try:
        return files.open(path)
    # Of an entry of an arbitrary zip file also RuntimeError, struct.error, ...
    except Exception as error:
        raise InputError(
            f"{files.label(path)} cannot be opened ({reason(error)}): repair it or take it away."
        ) from error


def _map(function: Callable, items, num_threads: int):
    if num_threads < 1:
        yield from map(function, items)
        return
    with concurrent.futures.ThreadPoolExecutor(num_threads) as executor:
        # In pieces: a future for each of a million files takes a gigabyte.
        for start in range(0, len(items), 1024):
            yield from executor.map(function, items[start : start + 1024])


def _one_shape(files: _Folder | _Zip, paths: list[str], rule: ImageRule) -> tuple[int, ImageRule]:
    """Return the bytes of an image and the rule with its channels filled in.

    The headers of all files are read where the rule leaves size or channels open.
    """
    if rule.size and rule.channels:
        return rule.size[0] * rule.size[1] * rule.channels, rule

    def read_header(path: str) -> tuple[int, int, int]:
        with _opened(files, path) as file:
            return header(file, files.label(path))

    headers = list(_map(read_header, paths, os.cpu_count() or 1))
    size = rule.size or headers[0][:2]
    for path, (height, width, _) in zip(paths, headers, strict=True):
        if rule.size is None and (height, width) != size:
            raise InputError(
                f"{files.label(paths[0])} is {size[0]}x{size[1]} (height x width) and "
                f"{files.label(path)} is {height}x{width}: set data.image_size to one size for "
                "all."
            )
    counts = collections.Counter(channels for _, _, channels in headers)
    # The most frequent; of equally frequent ones the larger.
    channels = rule.channels or max(counts, key=lambda c: (counts[c], c))
    return size[0] * size[1] * channels, dataclasses.replace(rule, channels=channels)


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _hidden(file: str) -> bool:
    return not all(map(_visible, file.split("/")))


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({reason(error)}).") from error


def _without_wrapper(tails: dict[str, str]) -> dict[str, str]:
    """Drop the leading folders that all paths share."""
    while all("/" in tail for tail in tails.values()):
        if len({tail.partition("/")[0] for tail in tails.values()}) > 1:
            break
        tails = {path: tail.partition("/")[2] for path, tail in tails.items()}
    return tails


def _choose_split(name: str, tails: dict[str, str], split: str) -> dict[str, str]:
    folders = {tail.rpartition("/")[0].partition("/")[0] for tail in tails.values()}
    if not folders <= _SPLIT_FOLDERS:
        if split != "train":
            raise InputError(
                f"{name} has no folders train, test, ...: data.split {split!r} needs them, leave "
                "it out to read everything."
            )
        return tails
    chosen = {path: tail for path, tail in tails.items() if tail.startswith(split + "/")}
    if not chosen:
        known = ", ".join(map(shown, sorted(folders)))
        raise InputError(f"{name} has no split {split!r}: choose data.split from {known}.")
    return _without_wrapper(chosen)


def _classes(name: str, tails: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return (N,) labels and the names of the classes; None and () without class folders."""
    folders = [tail.partition("/")[0] if "/" in tail else "" for tail in tails]
    if not any(folders):
        return None, ()
    if not all(folders):
        loose = tails[folders.index("")]
        some = ", ".join(map(shown, sorted(set(folders) - {""})[:3]))
        raise InputError(
            f"{name} has class folders ({some}, ...) and images beside them ({shown(loose)}): move "
            "these into a class, or set model.conditional to False."
        )
    class_names, label = np.unique(folders, return_inverse=True)
    return label.astype(np.int32), tuple(str(class_name) for class_name in class_names)
