"""A pickle as inert data: nothing in it is imported, called or given attributes.

A pickle is a program for a small stack machine that can import and call anything. This machine
knows the same instructions, but a name in it is looked up in one list, `ARRAY_TYPES`, of functions
of ours that build arrays and dicts; instances of network classes become a `Record` of their state;
any other name is refused. Memory stays in proportion to the file.
"""

import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

# Classes of layers and settings, whose state is read and whose code is not.
_INERT_MODULES = ("torch.nn.", "torch_utils.", "training.", "dnnlib.", "R3GAN.")
# Whatever a program made of arbitrary bytes may run into.
_BROKEN = (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, Warning)
_DTYPE = re.compile(r"[<>|=]?[biuf][1248]")


class DamagedError(Exception):
    """Why a file is not read, in words that follow a colon."""


class Name(NamedTuple):
    """An importable name that a pickle asks for."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """An instance of some class: its name, what it was made from, and its state."""

    def __init__(self, name: str, arguments: tuple = (), state: Any = None):
        self.name, self.arguments, self.state = name, arguments, state


class Storage:
    """A flat array that tensors are views of.

    Attributes:
      dtype: of its elements.
      size: how many there are.
      read: returns the array; it is called once, and checks the size against the file.
    """

    def __init__(self, dtype: np.dtype, size: int, read: Callable[[], np.ndarray] | None = None):
        self.dtype, self.size, self.read = dtype, size, read
        self._data: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        if self._data is None:
            if self.read is None:
                raise DamagedError("a tensor's values are missing")
            self._data = self.read()
        return self._data


class Tensor(NamedTuple):
    """A strided view of a storage, or of a part of one that is taken later."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Return the values; checked to lie within the storage, and no more than it has."""
        data = self.storage.data
        last = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        count = np.prod(self.shape, dtype=object) if self.shape else 1
        if count and (last >= data.size or count > data.size):
            raise DamagedError(f"a tensor of shape {self.shape} reaches beyond its storage")
        if not count:
            return np.zeros([min(size, 1) for size in self.shape], data.dtype)
        # The stride of an axis of length one is never taken, and can be any number.
        steps = zip(self.shape, self.strides, strict=True)
        strides = [stride * data.itemsize if size > 1 else 0 for size, stride in steps]
        start = data[self.offset :]
        return np.lib.stride_tricks.as_strided(start, self.shape, strides, writeable=False)


class Array:
    """A NumPy array that a pickle builds in two steps."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


def as_array(value: Any) -> np.ndarray | None:
    """Return the array that a value of a pickle stands for, or None where it is none."""
    if isinstance(value, Tensor):
        return value.array()
    if isinstance(value, Array):
        return value.value
    return value if isinstance(value, np.ndarray) else None


def load(
    file: Any,
    *,
    persistent: Callable[[Any], Any] | None = None,
    storage_from_bytes: Callable[[bytes], Any] | None = None,
) -> Any:
    """Read one pickle from where a file stands.

    Args:
      file: binary, with `read` and `readline`, over data that is in memory or mapped: a length in
        the pickle can then ask for no more than there is.
      persistent: returns what a persistent id stands for.
      storage_from_bytes: reads a storage that was saved as bytes within the pickle.

    Raises:
      DamagedError: the pickle asks for a name that is not allowed, is broken, or is none.
    """
    start = file.tell()
    file.seek(0, 2)
    length = file.tell() - start
    file.seek(start)
    machine = _Machine(persistent, storage_from_bytes, length)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except DamagedError:
        raise
    except (*_BROKEN, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"no sound pickle ({reason[:120]})") from error


class _Machine:
    """The stack, the marks and the memo of a pickle that is being read."""

    def __init__(self, persistent, storage_from_bytes, length):
        # What calls and items may copy, in elements and bytes: a value can be used many times.
        self.left = 4 * length + (1 << 20)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.persistent = persistent
        self.storage_from_bytes = storage_from_bytes

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _NOTHING:
            return
        if opcode in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif opcode in _PUSH_NEW:
            self.stack.append(_PUSH_NEW[opcode]())
        elif opcode in _MEMO_PUT:
            index = len(self.memo) if argument is None else argument
            self.memo[index] = self.stack[-1]
        elif opcode in _MEMO_GET:
            self.stack.append(self.memo[argument])
        elif opcode in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode](self, argument)
        else:
            raise DamagedError(f"no sound pickle (the instruction {opcode})")

    def mark(self, _):
        self.marks.append(len(self.stack))

    def pop_to_mark(self, _=None):
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self, _=None):
        # A mark lies on the stack in Python's own machine.
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
            return None
        return self.stack.pop()

    def tuple_of(self, count):
        items = self.stack[len(self.stack) - count :]
        if len(items) != count:
            raise DamagedError("no sound pickle (its stack is empty)")
        del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(items))

    def append(self, items):
        _extend(self.stack[-1], items)

    def spend(self, value):
        self.left -= 1 + (len(value) if hasattr(value, "__len__") else 0)
        if self.left < 0:
            raise DamagedError("no sound pickle (it copies the same values again and again)")

    def set_items(self, items):
        target = self.stack[-1]
        _check_keys(items[::2])
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Record):  # a subclass of dict
            self.spend(target.state)
            target.state = {**(target.state or {}), **dict(pairs)}
        elif isinstance(target, dict):
            target.update(pairs)
        else:
            raise DamagedError(f"no sound pickle (items of a {type(target).__name__})")

    def global_name(self, name):
        _check(name)
        self.stack.append(name)

    def from_argument(self, argument):
        self.global_name(Name(*argument.split(" ", 1)))

    def from_stack(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedError("no sound pickle (a name that is no text)")
        self.global_name(Name(module, name))

    def call(self, function, arguments):
        """Push what a name makes of arguments."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise DamagedError(f"it calls a {type(function).__name__}, which is no name")
        for argument in arguments:
            self.spend(argument)
        if function == _FROM_BYTES and self.storage_from_bytes is not None:
            result = self.storage_from_bytes(*arguments)
        elif str(function) in ARRAY_TYPES:
            result = ARRAY_TYPES[str(function)](*arguments)
        else:
            result = Record(str(function), arguments)
        self.stack.append(result)

    def reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def new_object_with_keywords(self, _):
        self.stack.pop()
        self.reduce(None)

    def instance(self, argument):
        name = Name(*argument.split(" ", 1))
        _check(name)
        self.call(name, tuple(self.pop_to_mark()))

    def object_from_mark(self, _):
        kind, *arguments = self.pop_to_mark()
        self.call(kind, tuple(arguments))

    def build(self, _):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Array):
            target.value = _array_of(state)
        elif isinstance(target, Record):
            target.state = state
        elif isinstance(target, np.dtype) and state[1] == ">":
            raise DamagedError("its arrays have the byte order of another machine")
        # The state of a dict is what PyTorch notes of versions: not needed.

    def persistent_id(self, argument):
        identity = argument if argument is not None else self.stack.pop()
        if self.persistent is None:
            raise DamagedError("it refers to tensors that are not in the file")
        self.stack.append(self.persistent(identity))


def shown(value: Any) -> str:
    """Return a value for a message: a list whose elements are one list can be of any length."""
    return repr(value[:100]) if isinstance(value, str | bytes) else type(value).__name__


def _extend(target: Any, items: Iterable[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(_check_keys(items))
    elif not isinstance(target, Record):  # a record may be a subclass of list
        raise DamagedError(f"no sound pickle (elements of a {type(target).__name__})")


def _check(name: Name) -> None:
    """Refuse a name that is neither on the list nor a class of layers or settings."""
    if str(name) not in ARRAY_TYPES and not str(name).startswith(_INERT_MODULES):
        asked = " ".join(str(name)[:100].split())
        raise DamagedError(
            f"it asks for {asked}, which is none of the array types that this reader knows; "
            "nothing in it was run, and nothing should be unless you trust where it comes from"
        )


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise DamagedError("a tensor without a storage")
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise DamagedError("a tensor whose shape is no row of numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _check_keys(keys: Iterable[Any]) -> list[Any]:
    """Return keys of a dict or elements of a set, if they can be hashed.

    Python's own hash of tuples within tuples, without end, overflows the stack of the process.
    """
    keys = list(keys)
    for key in keys:
        if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
            raise DamagedError("no sound pickle (a key that is a tuple of tuples)")
    return keys


def _dict(items: Any = ()) -> dict:
    pairs = list(items.items() if isinstance(items, dict) else items)
    _check_keys(key for key, _ in pairs)
    return dict(pairs)


def _set(items: Any = ()) -> set:
    return set(_check_keys(items))


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(_check_keys(items))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise DamagedError(f"bytes in the encoding {shown(encoding)}")
    return text.encode("latin1")


def _dtype(code: Any, *_: Any) -> np.dtype:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise DamagedError(f"an array of the type {shown(code)}, which holds no plain numbers")
    return np.dtype(code)


def _new_array(*_: Any) -> Array:
    return Array()


def _array_of(state: Any) -> np.ndarray:
    """Return an array from what NumPy stores of one: version, shape, dtype, order and bytes."""
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        raise DamagedError("an array that holds no plain numbers")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return _array_of((1, shape, dtype, order == "F", data))


def _bytes(data: Any) -> bytes:
    # Not bytes(): that makes as many zeros as a number says.
    if not isinstance(data, bytes):
        raise DamagedError("bytes that are none")
    return data


def _scalar(dtype: Any, data: bytes) -> Any:
    return _array_of((1, (), dtype, False, data)).item()


def _as_name(*_: Any) -> str:
    return "set aside"


_FROM_BYTES = Name("torch.storage", "_load_from_bytes")
# The element types of tensors, by the class of their storage.
STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# Every name that a pickle may call, and what is done in its place.
ARRAY_TYPES: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "builtins.dict": _dict,
    "__builtin__.dict": _dict,
    "dnnlib.util.EasyDict": _dict,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.frozenset": _frozenset,
    "__builtin__.frozenset": _frozenset,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    str(_FROM_BYTES): _as_name,
    "torch.Size": tuple,
    "torch.device": _as_name,
    **{
        f"torch.{name}": _as_name
        for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
    },
    **{f"{room}.{name}": _as_name for room in ("torch", "torch.cuda") for name in STORAGES},
    "numpy.ndarray": _new_array,
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _new_array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _frombuffer),
        )
    },
    "copyreg._reconstructor": lambda kind, *_: Record(str(kind)),
    "copy_reg._reconstructor": lambda kind, *_: Record(str(kind)),
    "builtins.object": lambda: Record("object"),
    "__builtin__.object": lambda: Record("object"),
}

_NOTHING = {"PROTO", "FRAME", "STOP"}
_PUSH_ARGUMENT = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_PUSH_NEW: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_MEMO_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MEMO_GET = {"GET", "BINGET", "LONG_BINGET"}
_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_to_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "FROZENSET": lambda machine, _: machine.stack.append(_frozenset(machine.pop_to_mark())),
    "DICT": lambda machine, _: machine.stack.append(_pairs(machine.pop_to_mark())),
    "SETITEM": lambda machine, _: machine.set_items(
        [machine.stack.pop(), machine.stack.pop()][::-1]
    ),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": _Machine.from_argument,
    "STACK_GLOBAL": _Machine.from_stack,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_from_mark,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_object_with_keywords,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent_id,
    "BINPERSID": _Machine.persistent_id,
}


def _pairs(items: list) -> dict:
    return _dict(zip(items[::2], items[1::2], strict=True))
