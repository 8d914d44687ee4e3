"""Changes of a nested dataclass by dotted names, in what two differ, and folders whose work is all of one kind."""

from __future__ import annotations

import ast
import dataclasses
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bev_perception.files import write_atomic
from bev_perception.plain import from_plain, to_plain


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


def changes_of(texts: list[str]) -> dict[str, str]:
    """["optim.lr=1e-3", ...] -> {"optim.lr": "1e-3", ...}. Raises ValueError for one without `=`."""
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise ValueError(f"--set {' '.join(wrong)}: expected NAME=VALUE, such as optim.steps=100")
    return dict(text.split("=", 1) for text in texts)


def only_with(path: Path, facts: Mapping[str, Any]) -> None:
    """Write down by what the work in the folder of `path` is made, the first time; afterwards it goes on by the same
    alone, or results would be mixed. facts: plain values.

    Raises ValueError that names what is there and what is asked for.
    """
    now = json.loads(json.dumps(facts))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(now, indent=1) + "\n")
    elif changed := differences(json.loads(path.read_bytes()), now):
        raise ValueError(
            f"{path.parent} was begun otherwise than asked for now; choose another --out, or ask for what is there. "
            "What differs (there -> now):\n  " + "\n  ".join(changed)
        )
