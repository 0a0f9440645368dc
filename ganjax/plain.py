"""Dataclasses as what JSON takes, and back; and what to say of a field that does not exist."""

import contextlib
import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ganjax.types import InputError


def encode(value: Any, tags: Mapping[str, type]) -> Any:
    """Return dataclasses, mappings and tuples as what `json.dumps` takes.

    Args:
      value: a dataclass, or what one holds.
      tags: classes that are marked with an entry `type`, by what it says.
    """
    if dataclasses.is_dataclass(value):
        fields = {f.name: encode(getattr(value, f.name), tags) for f in dataclasses.fields(value)}
        tag = [name for name, kind in tags.items() if kind is type(value)]
        return {"type": tag[0], **fields} if tag else fields
    if isinstance(value, Mapping):
        return {name: encode(item, tags) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, tags) for item in value]
    return value


def decode(
    value: Any, kind: Any, tagged: Callable[[str], Mapping[str, type]], where: str = ""
) -> Any:
    """Return what `encode` wrote as an instance of the annotation `kind`.

    Args:
      value: what `json.loads` gave.
      kind: a dataclass, or the annotation of one of its fields.
      tagged: dotted name of a field annotated `Any` -> the classes that its entry `type` may name.
      where: dotted name of the field.

    Raises:
      InputError: a field is unknown, missing or of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        kind = _tagged(value, tagged(where), where)
        value = {name: item for name, item in value.items() if name != "type"}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(value, kind, tagged, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return decode(value, next(a for a in arguments if a is not type(None)), tagged, where)
    if origin is Mapping and isinstance(value, dict):
        return {k: decode(v, arguments[1], tagged, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple and isinstance(value, list):
        many = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = [arguments[0]] * len(value) if many else arguments
        if len(kinds) == len(value):
            return tuple(decode(v, k, tagged, where) for v, k in zip(value, kinds, strict=True))
    if kind is float and type(value) in (int, float):
        # Not of an integer beyond the largest float, and not of what is no number.
        with contextlib.suppress(OverflowError):
            if not math.isnan(value):
                return float(value)
    # bool is an int in Python, but not in a configuration.
    if isinstance(kind, type) and type(value) is kind and kind is not float:
        return value
    wanted = "a mapping" if origin is Mapping else getattr(kind, "__name__", str(kind))
    if origin is tuple:
        names = ("..." if kind is Ellipsis else kind.__name__ for kind in arguments)
        wanted = f"({', '.join(names)})"
    raise InputError(f"{where.strip('.')} is {_shown(value)}, expected {wanted}")


def _shown(value):
    return reprlib.repr(value) if isinstance(value, dict | list | int) else repr(value)[:200]


def _tagged(value, kinds, where):
    """Return the class of a model or a network, which its entry `type` names."""
    where, names = where.strip("."), list(kinds)
    if not isinstance(value, dict) or "type" not in value:
        raise InputError(
            f"{where} is {_shown(value)}, expected a mapping with a type: {', '.join(names)}"
        )
    if value["type"] not in names:
        near = difflib.get_close_matches(str(value["type"]), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        expected = " or ".join(names)
        raise InputError(f"{where} has the type {_shown(value['type'])}, expected {expected}{hint}")
    return kinds[value["type"]]


def _decode_dataclass(value, kind, tagged, where):
    if not isinstance(value, dict):
        name = where.strip(".") or "the configuration"
        raise InputError(f"{name} is {_shown(value)}, expected a mapping")
    hints = typing.get_type_hints(kind)
    for field_ in dataclasses.fields(kind):
        missing = dataclasses.MISSING
        needed = field_.default is missing and field_.default_factory is missing
        if needed and field_.name not in value:
            raise InputError(f"the field {f'{where}.{field_.name}'.strip('.')!r} is missing")
    for name in value:
        if name not in hints:
            raise InputError(unknown_field(f"{where}.{name}".strip("."), _names(hints, where)))
    return kind(**{n: decode(v, hints[n], tagged, f"{where}.{n}") for n, v in value.items()})


def _names(hints, where):
    return [f"{where}.{name}".strip(".") for name in hints]


def field_names(config: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of every field that the command line can set.

    >>> from ganjax.config import GAN, Config
    >>> "train.steps" in field_names(Config(model=GAN()))
    True
    """
    if dataclasses.is_dataclass(config):
        items = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
    elif isinstance(config, Mapping):
        items = list(config.items())
    else:
        return [prefix]
    return [
        full for name, value in items for full in field_names(value, f"{prefix}.{name}".strip("."))
    ]


def unknown_field(name: str, known: list[str]) -> str:
    """Return the sentence for a field that does not exist, with the nearest one that does."""
    name = name[:200]
    leaf = {full.rsplit(".", 1)[-1]: full for full in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:
        near = [
            leaf[match]
            for match in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(leaf), n=1)
        ]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no field {name!r}{hint or ', see --help for those there are'}"
