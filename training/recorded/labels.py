"""What was where in a recorded drive: ground truth of the recording, or detections as pseudo labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bags.storage import BagError, Note
from bev_perception.evaluation.bag import DETECTIONS_TOPIC, GROUND_TRUTH_TOPIC, bag_topics, read_bag, stamp_ns
from bev_perception.evaluation.objects import Objects, make_objects, objects_from_message
from bev_perception.evaluation.result_json import is_detection_json
from bev_perception.messages import PUBLISHERS

SEEN = 1  # points of an object that came without a count: training leaves out what no sensor has seen


@dataclass(frozen=True)
class Labels:
    """Where the objects come from. path: a recording, or the detections.json of a replay; topic: of the recording."""

    path: Path
    topic: str = GROUND_TRUTH_TOPIC
    least_score: float = 0.0


def find_labels(bag: Path, labels: Path | None, least_score: float, note: Note) -> Labels | None:
    """Of the file `labels`, else the recording's ground truth; None where there is neither.

    Raises BagError for a file that holds no detections.
    """
    if labels is None:
        return Labels(bag) if GROUND_TRUTH_TOPIC in bag_topics(bag, note) else None
    if labels.is_file() and labels.suffix == ".json":
        if not is_detection_json(labels):
            raise BagError(
                f"{labels} is no detections.json of a replay: expected one, or a bag with {DETECTIONS_TOPIC} or "
                f"{GROUND_TRUTH_TOPIC}; make it: python -m bev_perception.replay BAG --bundle TEACHER --out OUT"
            )
        with open(labels, "rb") as file:
            file.seek(max(0, labels.stat().st_size - 16))
            whole = file.read().rstrip().endswith(b"}}")
        if not whole:
            raise BagError(f"{labels}: is cut off, its end is missing; write it again: python -m bev_perception.replay")
        return Labels(labels, "", least_score)
    topics = bag_topics(labels, note)
    for topic in (GROUND_TRUTH_TOPIC, DETECTIONS_TOPIC):
        if topic in topics:
            return Labels(labels, topic, 0.0 if topic == GROUND_TRUTH_TOPIC else least_score)
    raise BagError(
        f"{labels} has neither {GROUND_TRUTH_TOPIC} nor {DETECTIONS_TOPIC}; it has "
        f"{', '.join(sorted(topics)) or 'no topics'}"
    )


def read_labels(labels: Labels, base_frame: str, note: Note) -> Iterator[tuple[int, Objects]]:
    """(stamp ns, objects in the ego frame at that stamp) in the order of recording, read as they are asked for.

    Objects that came without a count of points have SEEN. Raises BagError for a topic of another type, boxes in another
    frame than `base_frame`, and a file that is cut off or holds what is no frame.
    """
    for frame_id, stamp, objects in _frames(labels, note):
        if frame_id.lstrip("/") != base_frame.lstrip("/"):
            raise BagError(
                f"{labels.path}: boxes in {frame_id!r}, expected {base_frame!r} (base_frame of the parameters): give "
                "labels in that frame"
            )
        chosen = objects.select(objects.scores >= labels.least_score)
        yield stamp, replace(chosen, num_points=np.where(chosen.num_points < 0, SEEN, chosen.num_points))


def _frames(labels: Labels, note: Note) -> Iterator[tuple[str, int, Objects]]:
    """(frame, stamp, objects) in the order of recording."""
    if not labels.topic:
        yield from _json_frames(labels.path)
        return
    kind, found = PUBLISHERS["detections"].kind, bag_topics(labels.path, note)[labels.topic]
    if found != kind:
        raise BagError(f"{labels.path}: {labels.topic} is {found}, expected {kind}")
    for read in read_bag(labels.path, {labels.topic}, note):
        is_truth = labels.topic == GROUND_TRUTH_TOPIC
        header = read.message.header
        yield header.frame_id, stamp_ns(header), objects_from_message(read.message, ground_truth=is_truth)


def _json_frames(path: Path) -> Iterator[tuple[str, int, Objects]]:
    """One frame a line after the header, as result_json writes them."""
    frame_id = ""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                if number == 1:
                    frame_id = json.loads(line.rstrip().rstrip(",") + "}")["header"]["frame_id"]
                elif line.startswith('{"stamp_ns"'):
                    yield frame_id, *_json_frame(json.loads(line.rstrip().rstrip(",")))
            except (ValueError, KeyError, TypeError) as error:
                raise BagError(
                    f"{path}: line {number} is no frame of a replay ({type(error).__name__}: {error}); write it again: "
                    "python -m bev_perception.replay"
                ) from error


def _json_frame(frame: dict[str, Any]) -> tuple[int, Objects]:
    names = tuple(frame["names"])
    return int(frame["stamp_ns"]), make_objects(frame["boxes_xyzlwh_yaw"], frame["velocity"], frame["scores"], names)
