"""The meshes of all that is in the city, each inside a box of given size about the box's gravity centre."""

from __future__ import annotations

import numpy as np

from training.world.actors import Actor
from training.world.city.bodies import kind_of
from training.world.city.buses import bus
from training.world.city.cars import car, delivery_van, pickup
from training.world.city.cycles import PEDAL_TURN_M, bicycle, motorcycle
from training.world.city.lorries import trailer, truck
from training.world.city.machines import construction_vehicle
from training.world.city.people import STRIDE_M, pedestrian
from training.world.city.road_works import barrier, traffic_cone
from training.world.mesh import Mesh, join

_BUILDERS = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "trailer": trailer,
    "construction_vehicle": construction_vehicle,
}


def vehicle(name: str, size_lwh: tuple[float, float, float], style: int) -> Mesh:
    """The mesh of a car, truck, bus, trailer or construction vehicle of this size, about its gravity centre.

    Which kind of body it has is what its size allows; `style` decides among those, and its colours.
    """
    ln, w, h = size_lwh
    rng = np.random.default_rng(style)
    kind = kind_of(name, size_lwh, rng)
    if kind in ("pickup", "delivery_van"):
        parts = {"pickup": pickup, "delivery_van": delivery_van}[kind](ln, w, h, rng)
    else:
        parts = _BUILDERS[name](ln, w, h, kind, rng)
    return join(parts).placed(0, 0, -h / 2, 0)


def city_mesh(actor: Actor, phase: float) -> Mesh:
    """The actor's triangles; `phase` in [0, 1) of a walker's or rider's swing."""
    length, width, height = (float(value) for value in actor.size_lwh)
    size = length, width, height
    if actor.name == "pedestrian":
        return pedestrian(size, actor.style, phase * 2 * STRIDE_M)
    if actor.name == "bicycle":
        return bicycle(size, actor.style, phase * PEDAL_TURN_M, actor.rider)
    if actor.name == "motorcycle":
        return motorcycle(size, actor.style, actor.rider)
    if actor.name == "traffic_cone":
        return traffic_cone(size)
    if actor.name == "barrier":
        return barrier(size, actor.style)
    return vehicle(actor.name, size, actor.style)
