"""Dataclasses as plain data: what JSON files and checkpoints hold of them, and the one reader of it.

A file states every field. A key that this version does not know and a key that is missing are errors; what older files
lack stands in a table, written once when a field is added: class -> field -> what files without it meant.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

# Class -> its fields that older files lack -> what those files meant, whatever the default has become since.
AddedLater = Mapping[type, Mapping[str, Any]]


def parse_json(text: str) -> Any:
    """JSON whose meaning is certain. Raises ValueError for repeated keys, NaN, infinity, numbers that neither float64
    nor int64 holds, and for what is no JSON or nested beyond measure."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_int=_whole,
            parse_constant=lambda word: _refuse(f"{word} is no number"),
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if repeated:
        _refuse(f"keys {repeated} stand twice in one object; which value holds?")
    return dict(pairs)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(f"{text[:20]} is beyond what a float holds")


def _whole(text: str) -> int:
    return int(text) if len(text) < 19 else _refuse(f"{text[:20]}... has {len(text)} digits")


def _refuse(what: str) -> Any:
    raise ValueError(what)


def to_plain(value: Any) -> Any:
    """Nested dataclasses and tuples -> dicts and lists that JSON takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    return value


def from_plain(kind: Any, data: Any, where: str, added_later: AddedLater | None = None) -> Any:
    """The reverse of `to_plain` for a value annotated `kind`; a field annotated Any is taken as it is.

    where: what errors begin with, the name of a value or, with a colon at its end, of a file. Raises ValueError naming
    unknown and missing keys, values of a wrong type, and what a dataclass itself refuses.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from(kind, data, where, added_later or {})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        (kind,) = (a for a in arguments if a is not type(None))
        return from_plain(kind, data, where, added_later)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{where} must be a list, found {data!r}")
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(data):
            raise ValueError(f"{where} must have {len(kinds)} entries, found {data!r}")
        return tuple(from_plain(k, v, f"{where}[{i}]", added_later) for i, (k, v) in enumerate(zip(kinds, data)))
    if origin is dict:
        if not isinstance(data, Mapping):
            raise ValueError(f"{where} must be an object, found {data!r}")
        return {k: from_plain(arguments[1], v, f"{where}.{k}", added_later) for k, v in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is not Any and (not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool)):
        raise ValueError(f"{where} must be {kind.__name__}, found {data!r}")
    return data


def _dataclass_from(kind: type, data: Any, where: str, added_later: AddedLater) -> Any:
    fields = [f.name for f in dataclasses.fields(kind) if f.init]
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be an object with {fields}, found {data!r}")
    older = {name: value for c in reversed(kind.__mro__) for name, value in added_later.get(c, {}).items()}
    unknown = sorted(set(data) - set(fields))
    missing = sorted(set(fields) - set(data) - set(older))
    name = where.rstrip(":")
    if unknown or missing:
        raise ValueError(f"{name}: unknown keys {unknown}, missing keys {missing}; this version has {fields}")
    kinds = typing.get_type_hints(kind)
    inside = f"{where} " if where.endswith(":") else f"{where}."
    values = {n: from_plain(kinds[n], data[n], f"{inside}{n}", added_later) for n in fields if n in data}
    try:
        return kind(**{**older, **values})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
