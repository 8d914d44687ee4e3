"""Configuration as plain data: dataclasses to JSON and back, and changes by dotted names."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any


def to_plain(value: Any) -> Any:
    """Nested dataclasses and tuples -> dicts and lists that JSON takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    return value


def from_plain(kind: Any, data: Any, where: str = "config") -> Any:
    """The reverse of `to_plain` for a value annotated `kind`.

    Raises ValueError naming unknown or missing keys and values of a wrong type.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from(kind, data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        (kind,) = (a for a in arguments if a is not type(None))
        return from_plain(kind, data, where)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{where} must be a list, found {data!r}")
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(data):
            raise ValueError(f"{where} must have {len(kinds)} entries, found {data!r}")
        return tuple(from_plain(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, data)))
    if origin is dict:
        return {k: from_plain(arguments[1], v, f"{where}.{k}") for k, v in dict(data).items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is not Any and (not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool)):
        raise ValueError(f"{where} must be {kind.__name__}, found {data!r}")
    return data


def _dataclass_from(kind: type, data: Any, where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be an object with {sorted(fields)}, found {data!r}")
    required = {
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    unknown, missing = sorted(set(data) - set(fields)), sorted(required - set(data))
    if unknown or missing:
        raise ValueError(f"{where}: unknown keys {unknown}, missing keys {missing}; known are {sorted(fields)}")
    kinds = typing.get_type_hints(kind)
    return kind(**{name: from_plain(kinds[name], value, f"{where}.{name}") for name, value in data.items()})


def override(value: Any, changes: Mapping[str, str]) -> Any:
    """A copy of a nested dataclass with `optim.lr=1e-3` and the like applied; texts are Python literals or words.

    Raises ValueError naming the key that does not exist and those that do, or a value of the wrong type.
    """
    for dotted, text in changes.items():
        try:
            new = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            new = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        value = _replace(value, dotted.split("."), new, dotted)
    return value


def _replace(value: Any, path: list[str], new: Any, dotted: str) -> Any:
    names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    if path[0] not in names:
        raise ValueError(f"{dotted}: there is no `{path[0]}`; there are {names}")
    assert dataclasses.is_dataclass(value) and not isinstance(value, type)
    if len(path) > 1:
        return dataclasses.replace(value, **{path[0]: _replace(getattr(value, path[0]), path[1:], new, dotted)})
    kind = typing.get_type_hints(type(value))[path[0]]
    return dataclasses.replace(value, **{path[0]: from_plain(kind, to_plain(new), dotted)})
