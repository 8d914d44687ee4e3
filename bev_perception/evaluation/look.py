"""What of a drive is worth looking at, gathered while it is read, and as files in its folder: look.json and, for each
scene, look/STAMP.jpg."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bev_perception.evaluation.draw import DrawSettings, draw_frame
from bev_perception.evaluation.followed_object import FollowedObject, Follower
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.objects import Objects
from bev_perception.evaluation.pictures import encode_jpeg
from bev_perception.evaluation.worst_frames import Scene, WorstFrames
from bev_perception.files import naming, read_bytes, read_text, write_atomic
from bev_perception.model_spec import ModelSpec
from bev_perception.plain import from_plain, parse_json, to_plain
from bev_perception.structures import SensorFrame

LOOK, PICTURES = "look.json", "look"
LIMIT, PICTURE_LIMIT = 2**26, 2**24  # bytes
QUALITY = 80


@dataclass(frozen=True)
class Look:
    """scenes: the worst frames, the worst first. followed: None where no object could be."""

    scenes: tuple[Scene, ...]
    followed: FollowedObject | None


class Looking:
    """Add the frames of a drive in their order; only the worst are drawn."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._worst, self._follower = WorstFrames(), Follower()

    def add(self, frame: SensorFrame, wanted: Objects, found: Objects) -> tuple[int, int, int]:
        """-> (hits, false alarms, misses) of the frame."""
        judged = judge(wanted, found)
        self._follower.add(frame.stamp_ns, wanted, found, judged)
        if self._worst.wants(frame.stamp_ns, judged.errors()):
            picture = draw_frame(frame, self._spec, found, wanted, DrawSettings(), judged)
            self._worst.add(Scene(frame.stamp_ns, encode_jpeg(picture, QUALITY), judged.totals()))
        return judged.totals()

    def look(self) -> Look:
        return Look(tuple(self._worst.scenes()), self._follower.best())


@dataclass(frozen=True)
class _Listed:
    stamp_ns: str  # a number of 19 digits, which not every reader of JSON keeps whole
    wrong: tuple[int, int, int]


@dataclass(frozen=True)
class _File:
    scenes: tuple[_Listed, ...]
    followed: FollowedObject | None


def write_look(folder: Path, look: Look) -> None:
    for scene in look.scenes:
        write_atomic(folder / PICTURES / f"{scene.stamp_ns}.jpg", scene.jpeg)
    listed = tuple(_Listed(str(scene.stamp_ns), scene.wrong or (0, 0, 0)) for scene in look.scenes)
    write_atomic(folder / LOOK, json.dumps(to_plain(_File(listed, look.followed)), allow_nan=False) + "\n")


def read_look(folder: Path) -> Look:
    """Raises ValueError for what is no such file, OSError where it cannot be read."""
    with naming(folder / LOOK):
        file: _File = from_plain(_File, parse_json(read_text(folder / LOOK, LIMIT)), "look")
        stamps = [int(row.stamp_ns) for row in file.scenes]
    scenes = []
    for stamp, row in zip(stamps, file.scenes):
        picture = folder / PICTURES / f"{stamp}.jpg"
        with naming(picture):
            scenes.append(Scene(stamp, read_bytes(picture, PICTURE_LIMIT), row.wrong))
    return Look(tuple(scenes), file.followed)
