"""Boxes that somebody else knows, such as a recording's true ones: kept until the frame of theirs is made."""

from __future__ import annotations

from typing import Any

from bev_perception.conversions import stamp_ns
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.evaluation.objects import Objects, objects_from_message
from bev_perception.messages import PUBLISHERS
from bev_perception.sensors.intake import Source

KEPT = 100
KIND = PUBLISHERS["detections"].kind


class BoxesHeard:
    """The newest boxes by their stamps. topic: bev_perception_msgs/Detection3DArray in base_link, at the frames' stamps
    as the node's own detections and a recording's true boxes are."""

    def __init__(self, topic: str = GROUND_TRUTH_TOPIC) -> None:
        self.source = Source(topic, "boxes", KIND, self.take)
        self.heard = 0
        self._kept: dict[int, Objects] = {}

    def take(self, message: Any) -> None:
        self.heard += 1
        if len(self._kept) >= KEPT:
            self._kept.pop(min(self._kept))
        self._kept[stamp_ns(message.header.stamp)] = objects_from_message(message, ground_truth=True)

    def at(self, stamp: int) -> Objects | None:
        """In the vehicle's frame at this stamp (ns); None where there are none."""
        return self._kept.get(stamp)
