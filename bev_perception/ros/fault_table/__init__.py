"""What can go wrong with the sensors of a car, as changes of the messages that it sends; and what has to be said of it.

A row names the fault, what it does to the messages, and what the status must then say: of which sensor, in which state,
with which reason, at which level, and how many sensors are used. Other sensors must stay OK, whatever happens to this
one. Rows stand in groups, groups belong to a car: the usual one, or one that sends other kinds of messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bev_perception.ros.fault_table.calibration import CALIBRATION
from bev_perception.ros.fault_table.ego_motion import EGO_MOTION
from bev_perception.ros.fault_table.fault import ANCHOR, CAMERA, COMPRESSED, RADAR, Fault
from bev_perception.ros.fault_table.images import IMAGES
from bev_perception.ros.fault_table.other_cars import FRAMES, OTHER_QOS, STREAMS, WRONG_TOPIC
from bev_perception.ros.fault_table.radars import RADARS
from bev_perception.ros.fault_table.stamps import SENDING, STAMPS


@dataclass(frozen=True)
class CarOfFaults:
    """One start of node and car. parameters: of both, besides the shipped ones. pictures: camera -> h264, nv12 or png,
    where it is neither raw bgr8 nor JPEG; topics: sensor -> where the car sends, against what the parameters say."""

    faults: Mapping[str, tuple[Fault, ...]]
    parameters: Mapping[str, Any]
    pictures: Mapping[str, str] = field(default_factory=dict)
    topics: Mapping[str, str] = field(default_factory=dict)


FAULTS: dict[str, tuple[Fault, ...]] = {
    "What is not sent": SENDING,
    "Stamps and clocks": STAMPS,
    "Images": IMAGES,
    "Calibration": CALIBRATION,
    "Radar": RADARS,
    "Ego motion": EGO_MOTION,
}
CARS: dict[str, CarOfFaults] = {
    "usual": CarOfFaults(FAULTS, {f"cameras.{COMPRESSED}.compressed": True}),
    "streams": CarOfFaults(
        {"Other kinds of messages": STREAMS},
        {
            f"cameras.{CAMERA}.compressed": True,
            f"cameras.{COMPRESSED}.compressed": True,
            f"radars.{RADAR}.kind": "scan",
            "odometry.source": "pose_twist",
        },
        pictures={CAMERA: "h264", COMPRESSED: "png", ANCHOR: "nv12"},
    ),
    "frames": CarOfFaults(
        {"Transforms": FRAMES}, {"extrinsics.source": "tf_static", "extrinsics.file": "", "odometry.source": "tf"}
    ),
    "wrong_topic": CarOfFaults({"From the start": WRONG_TOPIC}, {}, topics={CAMERA: "/elsewhere/image_raw"}),
    "other_qos": CarOfFaults(
        {"From the start": OTHER_QOS},
        {f"qos_overrides./radar/{RADAR.lower()}/points.subscription.reliability": "reliable"},
    ),
}
EVERY_GROUP = {group: car.faults[group] for car in CARS.values() for group in car.faults}
