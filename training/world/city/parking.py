"""Who stands about: parked vehicles, yards of machines, and work zones with their barriers and cones."""

from __future__ import annotations

import numpy as np

from training.world.city.bodies import draw_size
from training.world.ground import Yard
from training.world.paths import Motion, Path, standing
from training.world.placing import Scene
from training.world.roads import LANE_M, Road

PARKED = {"car": 0.45, "truck": 0.14, "trailer": 0.17, "bus": 0.10, "construction_vehicle": 0.05, "motorcycle": 0.09}
IN_YARD = {"car": 0.2, "truck": 0.17, "trailer": 0.26, "bus": 0.12, "construction_vehicle": 0.25}


def still_beside(path: Path, s: float, left: float, turn: float) -> Motion:
    """Standing `left` metres beside a station of a path, turned by `turn` (rad)."""
    x, y, yaw = path.beside(s, left)
    return standing(float(x), float(y), float(yaw) + turn)


def work_zone(scene: Scene, road: Road, s: float, side: int) -> None:
    rng = scene.rng
    length, edge = rng.uniform(13, 24), road.lanes * LANE_M
    middle = road.half_width - 1.15
    scene.add(
        "construction_vehicle",
        still_beside(
            road.path,
            s + length * rng.uniform(0.4, 0.6),
            side * middle,
            rng.choice([0, np.pi]) + rng.uniform(-0.12, 0.12),
        ),
        parked=True,
    )
    for end in (s, s + length):
        scene.add("barrier", still_beside(road.path, end, side * middle, rng.uniform(-0.15, 0.15)), gap=0.05)
    if scene.chance(0.5):  # barriers along, like a wall
        along = np.arange(s + 1.8, s + length - 1.5, 2.9)
        for at in along:
            scene.add(
                "barrier",
                still_beside(road.path, at, side * (edge + 0.05), np.pi / 2 + rng.uniform(-0.05, 0.05)),
                gap=0.02,
            )
    else:
        for at in np.arange(s + 1.0, s + length, rng.uniform(2.0, 3.2)):
            scene.add("traffic_cone", still_beside(road.path, at, side * (edge + 0.1), rng.uniform(-3, 3)), gap=0.02)
    for _ in range(rng.integers(3, 7)):
        scene.add(
            "traffic_cone",
            still_beside(road.path, s - rng.uniform(1, 6), side * (edge + rng.uniform(0.2, 2.3)), rng.uniform(-3, 3)),
            gap=0.05,
        )
    for _ in range(rng.integers(1, 4)):
        scene.add(
            "pedestrian",
            still_beside(
                road.path,
                s + rng.uniform(0, length),
                side * (road.half_width - rng.uniform(0.3, 2)),
                rng.uniform(-np.pi, np.pi),
            ),
        )


def park_along(scene: Scene, road: Road) -> None:
    rng = scene.rng
    for side in (-1, 1):
        s = rng.uniform(2, 8)
        heading = 0.0 if side < 0 else np.pi
        density = rng.uniform(0.5, 0.85)
        while s < road.path.length:
            name = scene.pick(PARKED)
            size = draw_size(name, False, rng)
            slot = size[0] + rng.uniform(0.7, 2.2)
            if name == "motorcycle":
                slot = 1.4 * (count := int(rng.integers(2, 4)))
            mid = s + slot / 2
            if road.clear(mid, slot / 2 + 0.5) and scene.chance(density):
                turned = np.pi if scene.chance(0.12) else 0.0
                if name == "motorcycle":
                    for k in range(count):
                        scene.add(
                            name if scene.chance(0.6) else "bicycle",
                            still_beside(
                                road.path,
                                s + 0.7 + 1.4 * k,
                                side * (road.half_width - 1.2),
                                np.pi / 2 * side + rng.uniform(-0.3, 0.3),
                            ),
                            gap=0.1,
                        )
                elif name == "car" and scene.chance(0.18):  # nose to the kerb, half on the pavement
                    d = road.half_width + 0.5
                    scene.add(
                        name,
                        still_beside(road.path, s + 1.5, side * d, -side * np.pi / 2 + rng.uniform(-0.15, 0.15)),
                        parked=True,
                        size=size,
                    )
                    slot = 3.0
                else:
                    d = road.half_width - size[1] / 2 - 0.12 + rng.uniform(-0.08, 0.05)
                    motion = still_beside(road.path, mid, side * d, heading + turned + rng.normal(0, 0.03))
                    scene.add(name, motion, parked=True, size=size)
            s += slot


def fill_yard(scene: Scene, yard: Yard) -> None:
    rng = scene.rng
    c, s = np.cos(yard.yaw), np.sin(yard.yaw)
    lean = rng.choice([np.pi / 2, np.pi / 2, 0.0]) + rng.uniform(-0.4, 0.4)
    for u in np.arange(-yard.length / 2 + 2.4, yard.length / 2 - 1.0, 3.9):
        if scene.chance(0.75):
            name = scene.pick(IN_YARD)
            size = draw_size(name, False, rng)
            v = rng.uniform(-0.5, 0.5) * max(0.0, yard.depth - size[0])
            yaw = yard.yaw + lean + rng.uniform(-0.12, 0.12) + rng.choice([0, np.pi])
            scene.add(
                name, standing(yard.x + c * u - s * v, yard.y + s * u + c * v, yaw), parked=True, size=size, gap=0.4
            )
