"""Cameras fall silent one after the other: the same drive, played to the node once more, against the first time."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.metrics import score
from bev_perception.evaluation.objects import Objects, objects_from_message
from bev_perception.evaluation.statuses import Status
from bev_perception.evaluation.truth_between import nearest, truth_at
from bev_perception.parameters import NodeConfig
from bev_perception.structures import DEADLINE


@dataclass(frozen=True)
class OutageFrame:
    """A frame that was published. cameras: how many it was made of; boxes: detections; wrong: (hits, false alarms,
    misses), None without ground truth; age_ms: from its stamp to the recording of its detections; deadline: whether
    that closed it."""

    stamp_ns: int
    cameras: int
    boxes: int
    wrong: tuple[int, int, int] | None
    age_ms: float
    deadline: bool


@dataclass(frozen=True)
class Figures:
    """Of some frames, as published. objects: how many there were to find; recall and mean_ap (over the classes that
    are there) are NaN without any."""

    frames: int
    boxes_per_frame: float
    objects: int
    recall: float
    mean_ap: float
    age_p50_ms: float
    age_max_ms: float


@dataclass(frozen=True)
class Outage:
    """ends: camera -> seconds of the drive after which it was silent, in that order. frames, statuses: of the drive
    with silence; whole: frames of the same drive without. by_cameras: cameras left -> (with silence, without, in the
    same part of the drive), most first. gap_ms, whole_gap_ms: the longest time between the recordings of detections."""

    ends: Mapping[str, float]
    frames: Sequence[OutageFrame]
    whole: Sequence[OutageFrame]
    statuses: Sequence[Status]
    by_cameras: Mapping[int, tuple[Figures, Figures]]
    gap_ms: float
    whole_gap_ms: float


def silences(cameras: Sequence[str], seconds: float) -> dict[str, float]:
    """Camera -> when it falls silent: evenly over a drive of this length, so that at its end none is left."""
    return {name: seconds * (k + 1) / (len(cameras) + 1) for k, name in enumerate(cameras)}


def topics_that_end(config: NodeConfig, ends: Mapping[str, float]) -> dict[str, float]:
    """Topic -> the same: of a camera its images and its camera_info."""
    of = {name: (config.cameras[name].topic, config.cameras[name].info_topic) for name in ends}
    return {topic: ends[name] for name, topics in of.items() for topic in topics}


@dataclass(frozen=True)
class Run:
    """What a node published, stamp (ns) -> message and milliseconds to its recording, and what was there to find, at
    stamps of its own: without any camera radars set the time of the frames."""

    messages: Mapping[int, Any]
    ages_ms: Mapping[int, float]
    truth: Mapping[int, Objects]

    def frame(self, stamp: int, cameras: Collection[str]) -> OutageFrame:
        message, wanted = self.messages[stamp], truth_at(self.truth, stamp)
        found = objects_from_message(message)
        wrong = None if wanted is None else judge(wanted, found).totals()
        used = len(set(cameras) & set(message.sensors_used))
        return OutageFrame(stamp, used, len(found), wrong, self.ages_ms[stamp], message.closed_by == DEADLINE)

    def frames(self, cameras: Collection[str]) -> list[OutageFrame]:
        return [self.frame(stamp, cameras) for stamp in sorted(self.messages)]

    def figures(self, frames: Sequence[OutageFrame]) -> Figures:
        """Of some of its frames; at least one."""
        pairs = {f.stamp_ns: truth_at(self.truth, f.stamp_ns) for f in frames}
        wanted = {stamp: objects for stamp, objects in pairs.items() if objects is not None}
        found = {stamp: objects_from_message(self.messages[stamp]) for stamp in wanted}
        hits, missed = (sum(f.wrong[k] for f in frames if f.wrong) for k in (0, 2))
        ages = [f.age_ms for f in frames]
        return Figures(
            frames=len(frames),
            boxes_per_frame=sum(f.boxes for f in frames) / len(frames),
            objects=hits + missed,
            recall=hits / (hits + missed) if hits + missed else math.nan,
            mean_ap=score(wanted, found).mean_ap_present if wanted else math.nan,
            age_p50_ms=float(np.median(ages)),
            age_max_ms=max(ages),
        )


def outage_of(ends: Mapping[str, float], lost: Run, whole: Run, statuses: Sequence[Status]) -> Outage:
    """lost: the run in which cameras fell silent; statuses: of that one."""
    frames, usual = lost.frames(ends), whole.frames(ends)
    stamps = [frame.stamp_ns for frame in frames]
    of_usual = [frames[nearest(stamps, frame.stamp_ns)].cameras for frame in usual]
    by_cameras = {}
    for cameras in sorted({frame.cameras for frame in frames}, reverse=True):
        then = [frame for frame, left in zip(usual, of_usual) if left == cameras]
        if then:
            own = lost.figures([frame for frame in frames if frame.cameras == cameras])
            by_cameras[cameras] = own, whole.figures(then)
    return Outage(ends, frames, usual, statuses, by_cameras, _gap_ms(frames), _gap_ms(usual))


def _gap_ms(frames: Sequence[OutageFrame]) -> float:
    """The longest time without a detection."""
    came = [frame.stamp_ns / 1e6 + frame.age_ms for frame in frames]
    return max((later - earlier for earlier, later in pairwise(came)), default=math.nan)
