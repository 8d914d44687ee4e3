"""The kinds of body that each class has, how often, and their sizes: what a size says about the shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]


@dataclass(frozen=True)
class Body:
    """A kind of body: how often its class has it (any unit), and from where to where length, width and height go, m."""

    kind: str
    weight: float
    length: Range
    width: Range
    height: Range

    def fits(self, size_lwh: NDArray[np.float64]) -> bool:
        ranges = (self.length, self.width, self.height)
        return all(low - 1e-6 <= value <= high + 1e-6 for value, (low, high) in zip(size_lwh, ranges))


# Who belongs where is nuScenes' rule: pickups, delivery vans and cement mixers are trucks, people carriers are cars.
# What its ten classes leave out (police cars, ambulances, prams, wheelchairs) is left out here too.
BODIES: dict[str, tuple[Body, ...]] = {
    "car": (
        Body("sedan", 0.27, (4.45, 5.0), (1.78, 1.92), (1.40, 1.50)),
        Body("hatchback", 0.20, (3.6, 4.4), (1.65, 1.85), (1.44, 1.58)),
        Body("estate", 0.12, (4.5, 4.95), (1.8, 1.92), (1.44, 1.56)),
        Body("suv", 0.24, (4.3, 5.0), (1.82, 2.02), (1.62, 1.85)),
        Body("minivan", 0.10, (4.5, 5.2), (1.8, 2.0), (1.72, 2.0)),
        Body("coupe", 0.07, (4.1, 4.6), (1.78, 1.95), (1.22, 1.36)),
    ),
    "truck": (
        Body("pickup", 0.20, (5.1, 5.8), (1.85, 2.05), (1.75, 1.95)),
        Body("delivery_van", 0.24, (5.2, 7.0), (2.0, 2.2), (2.35, 2.8)),
        Body("box_truck", 0.22, (6.2, 8.8), (2.3, 2.6), (2.9, 3.6)),
        Body("flatbed", 0.10, (6.2, 8.8), (2.3, 2.6), (2.6, 3.2)),
        Body("tank", 0.06, (6.8, 8.8), (2.4, 2.6), (2.9, 3.4)),
        Body("refuse", 0.07, (7.6, 8.6), (2.45, 2.6), (3.2, 3.6)),
        Body("mixer", 0.06, (7.2, 8.6), (2.4, 2.6), (3.4, 3.8)),
        Body("tractor", 0.05, (5.8, 6.8), (2.45, 2.6), (3.4, 3.8)),
    ),
    "bus": (
        Body("city_bus", 0.50, (10.4, 12.2), (2.55, 2.95), (3.0, 3.4)),
        Body("coach", 0.20, (11.4, 13.2), (2.5, 2.6), (3.45, 3.8)),
        Body("double_decker", 0.12, (10.2, 11.4), (2.5, 2.6), (4.1, 4.4)),
        Body("minibus", 0.18, (6.2, 8.2), (2.1, 2.35), (2.65, 3.0)),
    ),
    "trailer": (
        Body("box_trailer", 0.30, (8.6, 12.8), (2.45, 2.62), (3.4, 4.0)),
        Body("curtain_trailer", 0.22, (8.6, 12.8), (2.45, 2.62), (3.4, 4.0)),
        Body("container", 0.20, (6.6, 12.5), (2.4, 2.6), (3.3, 3.9)),
        Body("tank_trailer", 0.10, (8.6, 11.5), (2.45, 2.6), (3.2, 3.7)),
        Body("small_trailer", 0.18, (4.6, 7.0), (2.0, 2.35), (2.3, 2.9)),
    ),
    "construction_vehicle": (
        Body("excavator", 0.40, (5.6, 7.6), (2.35, 2.9), (2.8, 3.4)),
        Body("loader", 0.30, (5.4, 7.2), (2.35, 2.75), (2.8, 3.4)),
        Body("roller", 0.14, (4.2, 5.2), (1.9, 2.25), (2.6, 3.0)),
        Body("crane", 0.16, (8.2, 10.0), (2.5, 2.75), (3.4, 3.8)),
    ),
    "pedestrian": (
        Body("adult", 0.83, (0.55, 0.88), (0.50, 0.80), (1.55, 1.95)),
        Body("child", 0.12, (0.40, 0.60), (0.38, 0.55), (1.0, 1.45)),
        Body("umbrella", 0.05, (0.92, 1.06), (0.92, 1.06), (1.96, 2.15)),
        Body("sitting", 0.0, (0.90, 1.0), (0.48, 0.62), (1.22, 1.36)),
    ),
    "motorcycle": (
        Body("motorbike", 0.5, (2.05, 2.3), (0.72, 0.9), (1.15, 1.35)),
        Body("scooter", 0.5, (1.75, 2.0), (0.65, 0.78), (1.1, 1.3)),
    ),
    "bicycle": (Body("bicycle", 1.0, (1.55, 1.88), (0.5, 0.72), (1.0, 1.25)),),
    "traffic_cone": (
        Body("cone", 0.7, (0.32, 0.48), (0.32, 0.48), (0.6, 1.1)),
        Body("post", 0.15, (0.22, 0.29), (0.22, 0.29), (1.0, 1.2)),
        Body("drum", 0.15, (0.52, 0.62), (0.52, 0.62), (0.9, 1.1)),
    ),
    "barrier": (Body("barrier", 1.0, (0.42, 0.6), (1.9, 2.8), (0.85, 1.1)),),
}
RIDER_HEIGHT: Range = (1.55, 1.82)


def draw_size(name: str, rider: bool, rng: np.random.Generator, kind: str | None = None) -> NDArray[np.float64]:
    """Length, width, height (m) of one of this class, of this kind of body if given; someone on a cycle adds to it.

    Slender things (a cone, a post) are as wide as long.
    """
    bodies = [body for body in BODIES[name] if kind in (None, body.kind)]
    weights = np.array([body.weight for body in bodies]) if kind is None else np.ones(len(bodies))
    body = bodies[rng.choice(len(bodies), p=weights / weights.sum())]
    size = np.array([rng.uniform(*span) for span in (body.length, body.width, body.height)])
    if name == "traffic_cone":
        size[1] = size[0]
    if rider:
        size[2] = rng.uniform(*RIDER_HEIGHT)
    return size


def kind_of(name: str, size_lwh: tuple[float, float, float], rng: np.random.Generator) -> str:
    """A kind of body that fits this size, by weight where several do; the nearest by length and height if none does."""
    size = np.array(size_lwh)
    fitting = [body for body in BODIES[name] if body.fits(size)]
    if not fitting:
        off = [
            abs(size[0] / np.mean(body.length) - 1) + abs(size[2] / np.mean(body.height) - 1) for body in BODIES[name]
        ]
        fitting = [BODIES[name][int(np.argmin(off))]]
    weights = np.array([max(body.weight, 1e-9) for body in fitting])
    return fitting[rng.choice(len(fitting), p=weights / weights.sum())].kind


def sits(size_lwh: NDArray[np.float64]) -> bool:
    """Whether a pedestrian of this size is one who sits: no other body has such a size."""
    return any(body.kind == "sitting" and body.fits(size_lwh) for body in BODIES["pedestrian"])
