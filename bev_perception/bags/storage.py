"""What every kind of file of a rosbag2 recording gives: channels and messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import parse_qos

Note = Callable[[str], None]  # told what is damaged and how it is mended
FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")


class BagError(ValueError):
    """A recording that cannot be read or lacks what is asked of it."""


@dataclass(frozen=True)
class Channel:
    """A topic of a file. encoding: of its messages, "cdr" for those of ROS 2; latched: recorded as transient local."""

    topic: str
    msgtype: str
    encoding: str
    definition: MessageDefinition
    latched: bool


class Storage(Protocol):
    """A file that is open. start_ns, end_ns: of the first and the last message, None where the file does not say."""

    channels: tuple[Channel, ...]
    start_ns: int | None
    end_ns: int | None

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, bytes]]:
        """(channel, record time ns, serialised message) of the named topics, in the order of recording."""

    def close(self) -> None: ...


def is_latched(profiles: Any) -> bool:
    """Of rosbags' profiles, or the YAML of them."""
    try:
        found = parse_qos(profiles) if isinstance(profiles, str) else profiles
    except Exception:
        return False
    return any(profile.durability.name == "TRANSIENT_LOCAL" for profile in found)
