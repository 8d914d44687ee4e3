"""YAML files of people, read the same way everywhere: what is ambiguous is an error, not a surprise.

The language is that of ROS parameter files (rcl_yaml_param_parser), which knows no aliases, tags or sexagesimal numbers
either; numbers are those of YAML 1.2, so that 1e3 is one and 010 is none.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from bev_perception.files import read_text

SIZE_LIMIT = 256 * 1024  # bytes; a parameter file of thirty sensors has ten thousand
DEPTH_LIMIT = 32
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{f"{sign}{word}": float(f"{sign}inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
}
# What one reader of YAML takes for a number, a truth or a date, and another for a text or another number.
AMBIGUOUS = re.compile(
    r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"  # 1:30 is 90 in YAML 1.1
    r"|[-+]?0[xob]?[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*_[0-9_.]*|[-+]?0[0-9]+\.[0-9]*"  # 010, 0x10, 1_000
    r"|[-+]?[0-9]{19,}"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*"
    r"|y|Y|n|N|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|="
)


class YamlError(ValueError):
    """A file that is no YAML, or one whose meaning is not certain; the message says where and how to mend it."""


def read_yaml(path: str | Path) -> Any:
    """The file's one document: dicts with keys of text, lists, texts, int, float, bool and None.

    Raises YamlError for repeated keys, aliases, merge keys, tags, numbers that readers of YAML disagree about, files
    that are too large or too deep; OSError where it cannot be read.
    """
    try:
        return parse_yaml_text(read_text(path, SIZE_LIMIT))
    except YamlError as error:
        raise YamlError(f"{path}: {error}") from error
    except ValueError as error:
        raise YamlError(f"{path}: cannot be read as YAML ({error})") from error


def parse_yaml_text(text: str) -> Any:
    """As `read_yaml`, of a text. Raises YamlError."""
    try:
        return _Reader(text).document()
    except yaml.YAMLError as error:
        raise YamlError(f"cannot be read as YAML ({' '.join(str(error).split())})") from error


class _Reader:
    """Events of PyYAML's parser -> values; nothing is kept of an anchor, so nothing can be multiplied."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> Any:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _refused(event, "a second document begins; a file holds one")
        return value

    def _value(self, event: yaml.Event, depth: int) -> Any:
        self._check(event, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, depth + 1))
            return items
        assert isinstance(event, yaml.ScalarEvent)
        return event.value if event.style else _scalar(event)

    @staticmethod
    def _check(event: yaml.Event, depth: int) -> None:
        """Raise YamlError for what no file needs."""
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, f"alias `*{event.anchor}`; write the value out, ROS reads no aliases either")
        if getattr(event, "tag", None) is not None:
            raise _refused(event, f"tag `{event.tag}`; write the value without it")
        if depth > DEPTH_LIMIT:
            raise _refused(event, f"more than {DEPTH_LIMIT} levels below each other")

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._check(event, depth)
            key = event.value if isinstance(event, yaml.ScalarEvent) else ""
            if not key or key == "<<":
                raise _refused(event, "a key that is no name; write every key out, merge keys are not read")
            if key in values:
                raise _refused(event, f"key `{key}` a second time; which value holds? Leave one")
            values[key] = self._value(next(self._events), depth + 1)
        return values


def _scalar(event: yaml.ScalarEvent) -> Any:
    """The value of a word without quotes."""
    text = event.value
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if AMBIGUOUS.fullmatch(text):
        raise _refused(
            event, f"`{text}` means different things to different readers; quote a text, write a number plainly"
        )
    if FLOAT.fullmatch(text):
        if math.isinf(value := float(text)):
            raise _refused(event, f"`{text}` is beyond what a number holds")
        return value
    return text


def _refused(event: yaml.Event, what: str) -> YamlError:
    return YamlError(f"line {event.start_mark.line + 1}: {what}")
