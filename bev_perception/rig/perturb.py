"""A sensor that is turned a little, or moved: to see what that does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bev_perception.geometry import make_transform

# Right-handed about the axes of base_link (x forward, y left, z up), degrees; and along them, metres.
TURNS = {"roll": 0, "pitch": 1, "yaw": 2}
MOVES = {"x": 0, "y": 1, "z": 2}


def parse_change(text: str) -> dict[str, float]:
    """`yaw=1,z=0.1` -> {"yaw": 1.0, "z": 0.1}. Raises ValueError."""
    change = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        if not equals or name.strip() not in TURNS | MOVES:
            raise ValueError(f"{part!r}: expected one of {', '.join(TURNS | MOVES)} with a number, as in yaw=1,z=0.1")
        change[name.strip()] = float(number)
    return change


def perturbed(ego_from_sensor: np.ndarray, change: Mapping[str, float]) -> np.ndarray:
    """(4, 4): turned where it sits, about the vehicle's axes (roll, then pitch, then yaw), and moved along them."""
    rotation = np.eye(3)
    for name, axis in TURNS.items():
        angle = np.radians(change.get(name, 0.0))
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        rotation = turn @ rotation
    moved = np.array([change.get(name, 0.0) for name in MOVES])
    return make_transform(rotation @ ego_from_sensor[:3, :3], ego_from_sensor[:3, 3] + moved)
