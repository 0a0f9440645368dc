"""Files as official code writes them, made without PyTorch.

A pickle names the functions and classes that are to rebuild it. Stand-ins with those names are put
into `sys.modules` while a file is written, and are gone when it is read.
"""

import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

_STORAGES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@contextlib.contextmanager
def pretended(**functions):
    """Let `module__name=function` be importable as `module.name`; dots are written as two bars."""
    saved = {}
    for full_name, function in functions.items():
        *path, name = full_name.split("__")
        for depth in range(1, len(path) + 1):
            module = ".".join(path[:depth])
            if module not in saved:
                saved[module] = sys.modules.get(module)
                sys.modules[module] = types.ModuleType(module)
        function.__module__, function.__name__ = ".".join(path), name
        function.__qualname__ = name
        setattr(sys.modules[".".join(path)], name, function)
    try:
        yield
    finally:
        for module, before in saved.items():
            if before is None:
                del sys.modules[module]
            else:
                sys.modules[module] = before


def function(*_):
    raise AssertionError("this is written, never called")


def stand_in():
    return types.FunctionType(function.__code__, globals())


REBUILD, FROM_BYTES, PERSISTENT = stand_in(), stand_in(), stand_in()
STORAGE_TYPES = {name: type(name, (), {}) for name in _STORAGES.values()}
NAMES = {
    "torch___utils___rebuild_tensor_v2": REBUILD,
    "torch__storage___load_from_bytes": FROM_BYTES,
    "torch_utils__persistence___reconstruct_persistent_obj": PERSISTENT,
}


class Storage:
    """What a tensor of PyTorch is a view of; pickled by reference."""

    def __init__(self, array):
        self.array = np.ascontiguousarray(array).reshape(-1)


class InlineStorage(Storage):
    """The same, pickled with its bytes, as `pickle.dump` does."""

    def __reduce__(self):
        return FROM_BYTES, (row_of_pickles(Storage(self.array)),)


class Tensor:
    def __init__(self, array, storage=Storage):
        self.array, self.storage = np.asarray(array), storage(array)

    def __reduce__(self):
        strides = tuple(s // self.array.itemsize for s in np.empty_like(self.array).strides)
        arguments = (self.storage, 0, self.array.shape, strides, False, OrderedDict())
        return REBUILD, arguments


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = {}

    def persistent_id(self, value):
        if type(value) is not Storage:
            return None
        key = str(self.storages.setdefault(id(value), (len(self.storages), value))[0])
        kind = STORAGE_TYPES[_STORAGES[value.array.dtype.name]]
        return "storage", kind, key, "cpu", value.array.size


def dumps(value, protocol=4):
    """Return what `pickle.dump` writes."""
    with torch_names():
        return pickle.dumps(value, protocol)


def torch_names():
    storages = {f"torch__{name}": kind for name, kind in STORAGE_TYPES.items()}
    return pretended(**NAMES, **storages)


def row_of_pickles(value):
    """Return what `torch.save` wrote before zip archives."""
    file = io.BytesIO()
    with torch_names():
        for head in (MAGIC, PROTOCOL, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        pickler = _Pickler(file)
        pickler.dump(value)
    storages = {str(key): storage for key, storage in pickler.storages.values()}
    pickle.dump(list(storages), file, protocol=2)
    for storage in storages.values():
        file.write(storage.array.size.to_bytes(8, "little") + storage.array.tobytes())
    return file.getvalue()


def zip_archive(value, compression=zipfile.ZIP_STORED):
    """Return what `torch.save` writes."""
    text, file = io.BytesIO(), io.BytesIO()
    with torch_names():
        pickler = _Pickler(text)
        pickler.dump(value)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", text.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, storage in pickler.storages.values():
            archive.writestr(f"archive/data/{key}", storage.array.tobytes())
    return file.getvalue()


class Persistent:
    """A module of NVIDIA's: its class's source code and its state."""

    def __init__(self, class_name, state, source="raise SystemExit('this was run')"):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self):
        return PERSISTENT, (self.meta,), None


def module_state(tensors, attributes=None, make=None, storage=InlineStorage):
    """Return the state of a module that holds tensors by dotted names, submodules as well."""
    make = make or (lambda name, state: Persistent(name, state))
    state = {
        "training": False,
        "_parameters": OrderedDict(),
        "_buffers": OrderedDict(),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(),
        "_init_kwargs": {"num_fp16_res": 4},
        "weight_gain": np.float64(0.5),
    }
    children = {}
    for name, array in tensors.items():
        child, _, rest = name.partition(".")
        if rest:
            children.setdefault(child, {})[rest] = array
        else:
            group = "_buffers" if name in ("resample_filter", "w_avg") else "_parameters"
            state[group][name] = Tensor(array, storage)
    for name, value in (attributes or {}).items():
        child, _, rest = name.partition(".")
        if rest:
            children.setdefault(child, {})  # a module without tensors
        else:
            state[name] = value
    for child, inside in children.items():
        prefix = f"{child}."
        given = {
            name.removeprefix(prefix): value
            for name, value in (attributes or {}).items()
            if name.startswith(prefix)
        }
        below = module_state(inside, given, make, storage)
        state["_modules"][child] = make("Layer", below)
    return state
