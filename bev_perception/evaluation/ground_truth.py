"""Annotated objects of a recording, read as the frames that they belong to come: memory stays flat."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from bev_perception.bags.recording import open_bag
from bev_perception.bags.storage import BagError, Note
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC, read_bag, read_detection_arrays, stamp_ns
from bev_perception.evaluation.objects import Objects, objects_from_message
from bev_perception.messages import PUBLISHERS

HEAD = 4  # bytes before the header of a serialised message; the second says in which order bytes are


class GroundTruth:
    """Ask for stamps in their order; an earlier one begins again from the front. Nothing where the recording has no
    such topic. count: of the stamps that have annotations.

    Stamps that do not rise in the order of recording, as of labels that were added in parts, cannot be walked through:
    then all objects are held in memory. Raises BagError where the topic is of another type or nothing can be read.
    """

    def __init__(self, bag: Path, topic: str = GROUND_TRUTH_TOPIC, note: Note = lambda text: None) -> None:
        self._bag, self._topic, self._note = bag, topic, note
        stamps = _stamps(bag, topic, note)
        self.count = len(set(stamps))
        self._all: dict[int, Objects] | None = None
        if any(later <= earlier for earlier, later in pairwise(stamps)):
            messages = read_detection_arrays(bag, topic, note)
            self._all = {stamp: objects_from_message(m, ground_truth=True) for stamp, m in messages.items()}
        self._walk = self._begin()
        self._here: tuple[int, Objects] | None = None
        self._asked = -1

    def at(self, stamp: int) -> Objects | None:
        """The objects at this stamp (ns), in the ego frame; None where it was not annotated."""
        if self._all is not None:
            return self._all.get(stamp)
        if stamp < self._asked:
            self._walk, self._here = self._begin(), None
        self._asked = stamp
        while self._here is None or self._here[0] < stamp:
            self._here = next(self._walk, None)
            if self._here is None:
                return None
        return self._here[1] if self._here[0] == stamp else None

    def _begin(self) -> Iterator[tuple[int, Objects]]:
        for row in read_bag(self._bag, {self._topic}, self._note) if self.count else ():
            yield stamp_ns(row.message.header), objects_from_message(row.message, ground_truth=True)


def _stamps(bag: Path, topic: str, note: Note) -> list[int]:
    """In the order of recording, from the first bytes of each message; of damaged ones too short to have one, none."""
    expected = PUBLISHERS["detections"].kind
    stamps = []
    with open_bag(bag, note) as recording:
        kinds = {c.topic: c.msgtype for c in recording.connections}
        if topic not in kinds:
            return []
        if kinds[topic] != expected:
            raise BagError(f"{bag}: {topic} is {kinds[topic]}, expected {expected}")
        for _, _, raw in recording.messages({topic}):
            if len(raw) >= HEAD + 8:
                seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] else ">iI", raw, HEAD)
                stamps.append(seconds * 1_000_000_000 + nanoseconds)
    return stamps
