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

    All changes of one dataclass are made at once. Raises ValueError naming the key that does not exist and those that
    do, or a value of the wrong type.
    """
    tree: dict[str, Any] = {}
    for dotted, text in changes.items():
        *path, last = dotted.split(".")
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{dotted}: `{name}` is set as a whole too; change one or the other")
        if last in branch:
            raise ValueError(f"{dotted} is changed twice")
        branch[last] = _literal(text)
    return _replace(value, tree, "")


@dataclasses.dataclass(frozen=True)
class _Leaf:
    value: Any


def _literal(text: str) -> _Leaf:
    try:
        return _Leaf(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return _Leaf({"true": True, "false": False, "none": None}.get(text.lower(), text))


def _replace(value: Any, tree: Mapping[str, Any], where: str) -> Any:
    names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    assert not isinstance(value, type)
    changed = {}
    for name, new in tree.items():
        dotted = f"{where}{name}"
        if not names:
            raise ValueError(f"{dotted}: {where.rstrip('.')} is {value!r}, which has no parts")
        if name not in names:
            raise ValueError(f"{dotted}: there is no `{name}`; there are {names}")
        if isinstance(new, _Leaf):
            kind = typing.get_type_hints(type(value))[name]
            if kind is Any:
                raise ValueError(f"{dotted} is changed by its parts, such as {dotted}.{_first_part(value, name)}=...")
            changed[name] = from_plain(kind, to_plain(new.value), dotted)
        else:
            changed[name] = _replace(getattr(value, name), new, f"{dotted}.")
    return dataclasses.replace(value, **changed)


def _first_part(value: Any, name: str) -> str:
    return dataclasses.fields(getattr(value, name))[0].name


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """`name: value in a -> value in b` for each leaf in which two plain values differ, by dotted names."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        names = sorted(set(a) | set(b))
        return [d for n in names for d in differences(a.get(n), b.get(n), f"{where}.{n}".lstrip("."))]
    return [] if a == b else [f"{where}: {a!r} -> {b!r}"]
