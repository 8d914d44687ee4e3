"""The fixed vocabulary of a nuScenes-format data set (categories, attributes, visibility), and tokens."""

from __future__ import annotations

import hashlib

TABLES = (
    "attribute calibrated_sensor category ego_pose instance log map sample sample_annotation sample_data scene sensor "
    "visibility"
).split()
CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
# Class of the benchmark -> the category that an object of it gets of which no more is known.
CATEGORY_OF = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
# token -> (level, lower end of the visible share)
VISIBILITY = {"1": ("v0-40", 0.0), "2": ("v40-60", 0.4), "3": ("v60-80", 0.6), "4": ("v80-100", 0.8)}


def token_of(*names: object) -> str:
    """32 hexadecimal digits that depend on nothing but the names: the same row always has the same token."""
    return hashlib.md5("/".join(map(str, names)).encode(), usedforsecurity=False).hexdigest()


def visibility_token(visible_share: float) -> str:
    """'1' to '4' for a share in [0, 1]."""
    return max(token for token, (_, low) in VISIBILITY.items() if visible_share >= low)


def static_tables() -> dict[str, list[dict]]:
    """The rows of the category, attribute and visibility tables."""
    return {
        "category": [{"token": token_of("category", name), "name": name, "description": ""} for name in CATEGORIES],
        "attribute": [{"token": token_of("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES],
        "visibility": [
            {
                "token": token,
                "level": level,
                "description": f"visible share of the pixels of all images: {level[1:]} %",
            }
            for token, (level, _) in VISIBILITY.items()
        ],
    }
