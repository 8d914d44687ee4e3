"""How a drive's traffic is made up: boxes by class, distances, headings, speeds, who crosses, who walks with whom.

Pure functions of `Sightings`, which `sightings` takes from a world; whoever has boxes from elsewhere fills one in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from training.world.rig import NS
from training.world.world import World

Floats = NDArray[np.float64]
Direction = Literal["along", "oncoming", "across", "turning"]

MOVES_MPS = 1.0  # what is slower counts as standing: a heading of travel means little there
TURN_RADIUS_M = 30.0  # who follows a tighter curve turns; the town's bends are wider, its junctions tighter
VEHICLES = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle", "bicycle")


@dataclass(frozen=True)
class Sightings:
    """N boxes seen in `frames` frames: `frame` (N,) int from 0, `track` (N,) int, the same for the same object, class
    `name` (N,) str, `xy` (N, 2) m in the ego frame, `heading` (N,) rad relative to the ego's, `speed` (N,) m/s over
    ground, `curvature` (N,) 1/m of the path followed."""

    frames: int
    frame: NDArray[np.int64]
    track: NDArray[np.int64]
    name: NDArray[np.str_]
    xy: Floats
    heading: Floats
    speed: Floats
    curvature: Floats

    @property
    def distance(self) -> Floats:
        """(N,) m over ground from the ego's rear axle."""
        return np.hypot(*self.xy.T)

    def where(self, keep: NDArray[np.bool_]) -> Sightings:
        """Those of the mask (N,); `frames` stays, so means per frame stay right."""
        return Sightings(self.frames, *(getattr(self, name)[keep] for name in list(self.__dataclass_fields__)[1:]))

    def of(self, names: Iterable[str]) -> Sightings:
        """Those of these classes."""
        return self.where(np.isin(self.name, list(names)))


def sightings(world: World, stamps_ns: Iterable[int], reach_m: float = 50.0) -> Sightings:
    """The boxes within `reach_m` of the ego's rear axle at each stamp, hidden ones too."""
    rows: list[tuple[float, ...]] = []
    names: list[str] = []
    frames = 0
    for frame, stamp in enumerate(stamps_ns):
        frames += 1
        ego_from_world = np.linalg.inv(world.ego_pose(stamp))
        yaw = np.arctan2(ego_from_world[0, 1], ego_from_world[0, 0])
        for state in world.actor_states(stamp, reach_m):
            x, y = (ego_from_world @ np.append(state.center, 1.0))[:2]
            heading = (state.yaw - yaw + np.pi) % (2 * np.pi) - np.pi
            motion = world.actors[state.track_id].motion
            curvature = float(motion.path.curvature_at(motion.at(stamp / NS)[4]))
            rows.append((frame, state.track_id, x, y, heading, float(np.linalg.norm(state.velocity)), curvature))
            names.append(state.name)
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    frame_of, track = table[:, :2].astype(np.int64).T
    return Sightings(frames, frame_of, track, np.array(names, dtype=np.str_), table[:, 2:4], *table[:, 4:].T)


def together(parts: list[Sightings]) -> Sightings:
    """The sightings of several drives as those of one; frames and tracks are numbered on."""
    first = np.cumsum([0] + [part.frames for part in parts])
    frame = np.concatenate([part.frame + start for part, start in zip(parts, first)])
    tracks = np.cumsum([0] + [int(part.track.max(initial=-1)) + 1 for part in parts])
    track = np.concatenate([part.track + start for part, start in zip(parts, tracks)])
    rest = [name for name in Sightings.__dataclass_fields__ if name not in ("frames", "frame", "track")]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in rest}
    return Sightings(int(first[-1]), frame, track, **joined)


def directions(seen: Sightings) -> NDArray[np.str_]:
    """(N,) Direction of each, as seen along the ego's axis: `turning` on a curve of less than TURN_RADIUS_M; otherwise
    `along` within 45 degrees of the ego's heading, `oncoming` beyond 135, `across` between."""
    off = np.abs((seen.heading + np.pi) % (2 * np.pi) - np.pi)
    found = np.where(off < np.pi / 4, "along", np.where(off > 3 * np.pi / 4, "oncoming", "across"))
    return np.where(np.abs(seen.curvature) > 1 / TURN_RADIUS_M, "turning", found)


def direction_shares(seen: Sightings) -> dict[Direction, float]:
    """Share of each direction among what moves faster than MOVES_MPS; NaN where nothing does."""
    found = directions(seen.where(seen.speed > MOVES_MPS))
    return {name: float(np.mean(found == name)) if len(found) else np.nan for name in get_args(Direction)}


def across_or_turning(seen: Sightings) -> float:
    """Share of `across` and `turning` together among what moves faster than MOVES_MPS."""
    shares = direction_shares(seen)
    return shares["across"] + shares["turning"]


def boxes_per_frame(seen: Sightings) -> dict[str, float]:
    """Mean number of boxes in a frame, by class."""
    names, counts = np.unique(seen.name, return_counts=True)
    return {str(name): float(count) / seen.frames for name, count in zip(names, counts)}


def quantiles(
    seen: Sightings, value: Callable[[Sightings], Floats], q: tuple[float, ...] = (0.1, 0.5, 0.9)
) -> dict[str, tuple[float, ...]]:
    """Quantiles `q` by class of `value(seen)` (N,): distance, speed, |heading|, whatever a sighting has."""
    values = value(seen)
    return {
        str(name): tuple(float(x) for x in np.quantile(values[seen.name == name], q)) for name in np.unique(seen.name)
    }


def moving_share(seen: Sightings) -> dict[str, float]:
    """Share of the boxes of each class that move faster than MOVES_MPS."""
    return {str(name): float(np.mean(seen.speed[seen.name == name] > MOVES_MPS)) for name in np.unique(seen.name)}


def neighbour_distance(seen: Sightings, name: str = "pedestrian") -> Floats:
    """(M,) m from each box of the class to its nearest one of that class in the same frame, centre to centre; boxes
    alone in their frame are left out."""
    of = seen.of([name])
    nearest = []
    for frame in np.unique(of.frame):
        xy = of.xy[of.frame == frame]
        if len(xy) > 1:
            apart = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
            np.fill_diagonal(apart, np.inf)
            nearest.append(apart.min(1))
    return np.concatenate(nearest) if nearest else np.zeros(0)


def axis_passes(seen: Sightings, names: Iterable[str] = VEHICLES) -> tuple[int, int]:
    """How many tracks of these classes pass over the ego's axis, ahead of it and behind it, while they travel across:
    from one frame to the next the same track changes from its left to its right, or the other way."""
    of = seen.of(names)
    of = of.where((of.speed > MOVES_MPS) & (np.abs(np.abs(of.heading) - np.pi / 2) < np.pi / 4))
    order = np.lexsort([of.frame, of.track])
    track, frame, (x, y) = of.track[order], of.frame[order], of.xy[order].T
    passes = (track[1:] == track[:-1]) & (frame[1:] == frame[:-1] + 1) & (y[1:] * y[:-1] < 0)
    ahead = x[1:] > 0
    return len(np.unique(track[1:][passes & ahead])), len(np.unique(track[1:][passes & ~ahead]))
