"""What `torch.save` and `pickle.dump` write, opened without PyTorch.

Three containers hold the same kind of pickle: a zip archive with one member a storage (PyTorch 1.6
and later), a row of pickles followed by the storages (before), and a plain pickle whose tensors
carry a container of the second kind each (NVIDIA's networks). Sizes are checked against the file
before memory is asked for.
"""

import io
import mmap
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ganjax.files import reason
from ganjax.interop.unpickle import STORAGES, DamagedError, Name, Storage, load, shown
from ganjax.types import InputError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def open_file(path: str | os.PathLike) -> Any:
    """Return what a `.pkl`, `.pth` or `.pt` file holds, as inert data.

    Returns:
      Dicts, lists, numbers and texts; tensors and arrays as in `ganjax.interop.unpickle`.

    Raises:
      InputError: there is no such file, it asks for a name that is not allowed, or it is damaged.
    """
    name = os.fspath(path)
    try:
        if os.path.getsize(name) == 0:
            raise DamagedError("it is empty")
        with open(name, "rb") as file:
            # The storages of a result are views of the mapping, which lives as long as they do.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _opened(data)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise InputError(f"{name} cannot be read: {error}") from error


def _opened(data: Any) -> Any:
    if data[:4] == b"PK\x03\x04":
        return _read_zip(data)
    if _is_row_of_pickles(data):
        return _read_row(data)
    data.seek(0)
    return load(data, storage_from_bytes=_storage_from_bytes)


def _is_row_of_pickles(data: Any) -> bool:
    """Return whether a file begins as `torch.save` did before zip archives."""
    number = _MAGIC.to_bytes(10, "little")
    return number in data[:32]


def _read_row(data: Any) -> Any:
    """Read magic number, version, machine, object, the storages' names, and the storages."""
    data.seek(0)
    if load(data) != _MAGIC or load(data) != _PROTOCOL:
        raise DamagedError("another version of PyTorch's format")
    machine = load(data)
    if not isinstance(machine, dict) or not machine.get("little_endian", True):
        raise DamagedError("its arrays have the byte order of another machine")
    storages: dict[str, Storage] = {}

    def persistent(identity):
        kind, key, size, *view = _storage_identity(identity)
        if view and view[0] is not None:
            raise DamagedError("a storage that is part of another one (PyTorch before 0.4)")
        return storages.setdefault(key, Storage(kind, size))

    result = load(data, persistent=persistent)
    keys = load(data)
    if not isinstance(keys, list):
        raise DamagedError("it has no list of storages")
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        count = data.read(8)
        if storage is None or count != storage.size.to_bytes(8, "little"):
            raise DamagedError(f"the storage {shown(key)} is not of the size its tensors have")
        start = data.tell()
        storage.read = _reader(data, start, storage)
        data.seek(start + storage.size * storage.dtype.itemsize)
    return result


def _reader(data: Any, start: int, storage: Storage) -> Callable[[], np.ndarray]:
    if start + storage.size * storage.dtype.itemsize > len(memoryview(_buffer(data))):
        raise DamagedError("it ends before its tensors do")
    return lambda: np.frombuffer(_buffer(data), storage.dtype, storage.size, start)


def _buffer(data: Any) -> Any:
    return data.getbuffer() if isinstance(data, io.BytesIO) else data


def _storage_from_bytes(data: Any) -> Storage:
    """Read the container within a pickle that holds one storage."""
    if not isinstance(data, bytes) or not _is_row_of_pickles(data):
        raise DamagedError("a tensor whose values are in no known format")
    storage = _read_row(io.BytesIO(data))
    if not isinstance(storage, Storage):
        raise DamagedError("a tensor whose values are not there")
    return storage


def _read_zip(data: Any) -> Any:
    try:
        with zipfile.ZipFile(data) as archive:
            members = {info.filename: info for info in archive.infolist()}
    # Of an arbitrary file also NotImplementedError, UnicodeDecodeError, struct.error, ...
    except Exception as error:
        raise DamagedError(f"a broken zip archive ({reason(error)})") from error
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise DamagedError("it is a zip archive, but none that PyTorch writes")
    root = pickles[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in members and bytes(_member(data, members, order)) != b"little":
        raise DamagedError("its arrays have the byte order of another machine")
    storages: dict[str, Storage] = {}

    def persistent(identity):
        kind, key, size, *_ = _storage_identity(identity)

        def read():
            values = _member(data, members, f"{root}data/{key}")
            if len(values) != size * kind.itemsize:
                raise DamagedError(f"the storage {shown(key)} is not of the size its tensors have")
            return np.frombuffer(values, kind)

        return storages.setdefault(key, Storage(kind, size, read))

    text = bytes(_member(data, members, pickles[0]))
    return load(io.BytesIO(text), persistent=persistent)


def _member(data: Any, members: Mapping[str, zipfile.ZipInfo], name: str) -> memoryview:
    """Return a member's bytes where they lie; only what is stored as it is, as PyTorch does."""
    info = members.get(name)
    if info is None:
        raise DamagedError(f"a broken zip archive ({shown(name)} is missing)")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise DamagedError(f"a zip archive not of PyTorch's ({shown(name)} is compressed)")
    header = data[info.header_offset : info.header_offset + 30]
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + 30 + lengths
    if header[:4] != b"PK\x03\x04" or start + info.file_size > len(data):
        raise DamagedError(f"a broken zip archive ({shown(name)} is cut short)")
    return memoryview(data)[start : start + info.file_size]


def _storage_identity(identity: Any) -> tuple:
    """Return (dtype, key, size, view of another storage if any) of a persistent id."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise DamagedError("it refers to something that is no tensor")
    _, kind, key, _, size, *view = identity
    name = kind.name if isinstance(kind, Name) else None
    if name not in STORAGES:
        kind = shown(kind if name is None else name)
        raise DamagedError(f"tensors of the type {kind}, which holds no plain numbers")
    if not isinstance(key, str) or type(size) is not int or not 0 <= size < 1 << 48:
        raise DamagedError("a storage whose size is no number")
    return STORAGES[name], key, size, *view
