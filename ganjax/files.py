"""Files that come from elsewhere: what they may unpack to is bounded, and a sentence names them."""

import collections
import contextlib
import gzip
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ganjax.types import InputError

# A small compressed file can claim to unpack to anything. What takes less than this is read;
# beyond it, only what unpacks to so many times its size, as images and texts do.
FREELY_UNPACKED = 256 << 20
LARGEST_RATIO = 20
_PIECE = 1 << 24
_DEEPEST_JSON = 100
_LARGEST_ARRAY = 1 << 40


def reason(error: BaseException) -> str:
    """Return what an error says, as a part of one sentence."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def shown(name: str) -> str:
    """Return a name that a file brings along, for a message: quoted where it is not printable."""
    return name if name.isprintable() else repr(name)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever a reader of arbitrary bytes may raise into a sentence that names the file."""
    try:
        yield
    except InputError:
        raise
    # zipfile, gzip and NumPy raise OSError, ValueError, struct.error, RuntimeError, ...
    except Exception as error:
        raise InputError(
            f"{name} cannot be read ({reason(error)}): see whether it is whole and of the kind "
            "that its name says."
        ) from error


@contextlib.contextmanager
def of_file(name: str) -> Iterator[None]:
    """Name the file whose content a sentence is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def check_regular(path: str | os.PathLike) -> None:
    """Refuse what is no file, such as a pipe, which would be waited for without end.

    Raises:
      InputError: it is none, or cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read: {reason(error)}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{os.fspath(path)} is {kind}, expected a file")


def check_unpacked(name: str, packed: int, unpacked: int) -> None:
    """Refuse a file of `packed` bytes that unpacks to too many.

    Raises:
      InputError: it does.
    """
    if unpacked > max(FREELY_UNPACKED, LARGEST_RATIO * packed):
        raise InputError(
            f"{name} unpacks to more than {FREELY_UNPACKED >> 20} MiB and {LARGEST_RATIO} times "
            "its size: if that is meant, store it uncompressed."
        )


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, unpacked where it is compressed with gzip; yield it and its size on the disk.

    Raises:
      InputError: it is no file, or what is done with it fails.
    """
    name = os.fspath(path)
    check_regular(path)
    with reading(name), open(path, "rb") as file:
        # By the first bytes, not by the name: both kinds are found under both.
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        with gzip.GzipFile(fileobj=file) if compressed else contextlib.nullcontext(file) as inner:
            yield inner, size


def read_at_most(file: BinaryIO, limit: int, name: str, packed: int) -> bytes:
    """Return up to `limit` bytes of a file that is unpacked, of `packed` bytes, as they come.

    Raises:
      InputError: it unpacks to too many.
    """
    pieces, size = [], 0
    # In pieces: read(n) may set n bytes aside at once.
    while size < limit and (piece := file.read(min(_PIECE, limit - size))):
        pieces.append(piece)
        size += len(piece)
        check_unpacked(name, packed, size)
    return b"".join(pieces)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz by name; objects, which would have to be unpickled, are refused.

    Raises:
      InputError: it is not there, broken, no .npz, or unpacks to too many bytes.
    """
    name = str(path)
    check_regular(path)
    # Opened here: NumPy leaves a file open that turns out to be broken.
    with reading(name), path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        check_unpacked(name, os.fstat(file.fileno()).st_size, unpacked)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
    for key, array in found.items():
        check_array(array, f"{key!r} in {name}")
    return found


def map_array(path: Path) -> np.ndarray:
    """Return the array of a .npy as a memory map.

    Raises:
      InputError: it is not there, or broken.
    """
    check_regular(path)
    with reading(str(path)):
        array = np.lib.format.open_memmap(path, mode="r")
    check_array(array, str(path))
    return array


def check_array(array: Any, name: str) -> None:
    """Refuse what is no array, or one that can claim any number of elements, as they take no place.

    Raises:
      InputError: it is one.
    """
    sound = isinstance(array, np.ndarray) and array.dtype.itemsize > 0
    # Where one axis is empty the others can be of any length.
    if not sound or math.prod(n for n in array.shape if n) >= _LARGEST_ARRAY:
        raise InputError(f"{name} is no array of numbers or texts: make it with numpy.")


def parse_json(text: str | bytes, name: str) -> Any:
    """Return what a JSON text holds.

    Args:
      text: of the file, UTF-8 where it is bytes.
      name: of the file, for the message.

    Raises:
      InputError: it is no JSON, an entry is in it twice, or it is nested without end.

    >>> parse_json('{"a": [1, null]}', "a.json")
    {'a': [1, None]}
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is broken: {reason(error)}") from error
    return value


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
      InputError: as for `parse_json`, or it cannot be read.
    """
    check_regular(path)
    with reading(str(path)):
        content = path.read_bytes()
    return parse_json(content, str(path))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"the entry {twice[:100]!r} is in it twice")
    return found


def _check_depth(value: Any) -> None:
    # Level by level: what is nested too deep would end a function that calls itself.
    level = [value]
    for _ in range(_DEEPEST_JSON):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST_JSON} deep")
