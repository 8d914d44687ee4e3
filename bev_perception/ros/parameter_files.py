"""The parameter files of a command line, read as the replay reads them; rcl never sees them.

rcl's own reader lets the last of repeated keys win, reads 010 as 8 and `yes` as true, knows neither `null` nor an empty
list, and ends the process over an alias. So a file's values reach rcl one by one, at the place where the file stood:
what comes later on the command line still wins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bev_perception.parameters import NODE_NAME, ParameterError, parse_yaml

ROS_ARGUMENTS, END_OF_ROS_ARGUMENTS = "--ros-args", "--"
PARAMETER_FILE, PARAMETER = "--params-file", "-p"
RENAMED = re.compile(r"(?:[^:]+:)?__(ns|node|name):=(.*)")
# Names that rcl's grammar of a command line takes.
TOKEN = r"[A-Za-z_][A-Za-z0-9_]*"
PLAIN_NAME = re.compile(rf"/?{TOKEN}([./]/?{TOKEN})*")


@dataclass(frozen=True)
class CommandLine:
    """arguments: for rclpy.init, without parameter files. errors: why a file was refused, in words of `parse_yaml`.

    beside: values of the files that rcl has no form for, such as an empty list, or names that it has none for.
    """

    arguments: list[str]
    errors: list[str] = field(default_factory=list)
    beside: dict[str, Any] = field(default_factory=dict)


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """arguments: as sys.argv, with the program's name or without."""
    found = CommandLine([])
    node = full_name(arguments)
    of_ros, rest = False, iter(arguments)
    for argument in rest:
        of_ros = (of_ros or argument == ROS_ARGUMENTS) and argument != END_OF_ROS_ARGUMENTS
        path = next(rest, None) if of_ros and argument == PARAMETER_FILE else None
        if path is None:
            found.arguments.append(argument)
            continue
        try:
            _hand_on(parse_yaml(path, node), found)
        except ParameterError as error:
            found.errors.append(str(error))
    return found


def full_name(arguments: Sequence[str]) -> str:
    """The node's name with its namespace, as the remappings of a command line have it."""
    parts = {"ns": "/", "node": NODE_NAME}
    for argument in arguments:
        if renamed := RENAMED.fullmatch(argument):
            parts["ns" if renamed[1] == "ns" else "node"] = renamed[2]
    return f"/{parts['ns'].strip('/')}/{parts['node']}".replace("//", "/")


def _hand_on(values: Mapping[str, Any], to: CommandLine) -> None:
    for name, value in values.items():
        to.beside.pop(name, None)
        if PLAIN_NAME.fullmatch(name) and _has_a_form(value):
            to.arguments.extend([PARAMETER, f"{name}:={json.dumps(value, ensure_ascii=False)}"])
        else:
            to.beside[name] = value


def _has_a_form(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) for item in value)
    return isinstance(value, bool | int | str) or (isinstance(value, float) and abs(value) < float("inf"))
