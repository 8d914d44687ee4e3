"""The statistics by which radars are compared, from keyframes to numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.world.radar_scans import KeyScan, placed
from training.world.radar_statistics import STILL, beside_boxes, depths, nearest, over_ground, passes, polar
from training.world.statistic import Statistic, distribution, mean, share

Floats = NDArray[np.float64]

BANDS_M = ((0, 20), (20, 40), (40, 60))
RINGS_M = ((0, 20), (20, 40), (40, 60), (60, 80), (80, 130))
WITHIN_M = 60.0
MOVES_MS = 1.0
STRETCH_S = 4.0  # scans of one stretch of a drive show the same things and count as one for the errors
STATES = {4: "low RCS", 7: "outside the field of view", 9: "child", 11: "no local maximum", 15: "beyond 95 m",
          16: "several targets"}  # fmt: skip
FEWEST_TRACKS = 3
FEWEST_VALUES = 50  # of a distribution: of fewer its quantiles would be the values themselves


def summarise(scans: Sequence[KeyScan]) -> list[Statistic]:
    """Every statistic that these keyframes can give, in the order of PARTS; those about boxes want boxes."""
    return [statistic for part in PARTS for statistic in part(scans)]


def _of_scans(scans: Sequence[KeyScan]) -> Iterator[Statistic]:
    where = [_stretch(s) for s in scans]
    yield mean("returns per scan", "all", "1", [len(s.returns) for s in scans], where)
    yield mean("returns per scan", "default filter", "1", [passes(s.returns).sum() for s in scans], where)
    distances = [polar(s.returns)[0] for s in scans]
    for low, high in RINGS_M:
        inside = [((d >= low) & (d < high)).sum() for d in distances]
        yield mean("returns per scan", f"{low} to {high} m", "1", inside, where)
    yield distribution("distance", "all", "m", distances, where)
    yield distribution("azimuth to either side", "all", "deg", [_aside(s) for s in scans], where)
    for group, keep in (
        ("all", lambda s: np.ones(len(s.returns), bool)),
        ("default filter", lambda s: passes(s.returns)),
    ):
        yield distribution("RCS", group, "dBsm", [s.returns["rcs"][keep(s)] for s in scans], where)


def _of_states(scans: Sequence[KeyScan]) -> Iterator[Statistic]:
    where = [_stretch(s) for s in scans]
    returns = [s.returns for s in scans]
    yield share("invalid_state", "not 0", [r["invalid_state"] != 0 for r in returns], where)
    for code, word in STATES.items():
        yield share("invalid_state", f"{code} {word}", [r["invalid_state"] == code for r in returns], where)
    for code, word in ((0, "0 no speed"), (1, "1 ambiguous"), (2, "2 staggered ramp")):
        yield share("ambig_state", word, [r["ambig_state"] == code for r in returns], where)
    for code, word in ((0, "0 moving"), (1, "1 stationary"), (2, "2 oncoming"), (3, "3 candidate"), (4, "4 unknown")):
        yield share("dyn_prop", word, [r["dyn_prop"] == code for r in returns], where)
    false = [(np.hypot(r["vx"], r["vy"]) == 0) & (np.abs(over_ground(r)) > 0.5) for r in returns]
    yield share("false compensation", "all", false, where)


def _of_doppler(scans: Sequence[KeyScan]) -> Iterator[Statistic]:
    where = [_stretch(s) for s in scans]
    still = [passes(s.returns) & np.isin(s.returns["dyn_prop"], STILL) for s in scans]
    speeds = [over_ground(s.returns) for s in scans]
    yield distribution("speed of still returns", "default filter", "m/s", [v[k] for v, k in zip(speeds, still)], where)
    moving = [np.abs(v) > MOVES_MS for v in speeds]
    yield share("moving returns", "all", moving, where)
    yield share("moving returns", "default filter", [m[passes(s.returns)] for m, s in zip(moving, scans)], where)


def _of_clutter(scans: Sequence[KeyScan]) -> Iterator[Statistic]:
    """What lies on no annotated object: a metre around their outlines, within 60 m."""
    scans = [s for s in scans if s.boxes is not None]
    where = [_stretch(s) for s in scans]
    away = [_beside(s) for s in scans]
    near = [polar(s.returns)[0] < WITHIN_M for s in scans]
    for group, keep in (("all", near), ("default filter", [n & passes(s.returns) for n, s in zip(near, scans)])):
        yield share("clutter, share of returns", group, [a[k] > 1.0 for a, k in zip(away, keep)], where)
    clutter = [n & (a > 1.0) for n, a in zip(near, away)]
    yield distribution("clutter, distance", "all", "m", [polar(s.returns)[0][c] for s, c in zip(scans, clutter)], where)
    sides = [_aside(s)[c] for s, c in zip(scans, clutter)]
    yield distribution("clutter, azimuth to either side", "all", "deg", sides, where)
    moving = [n & passes(s.returns) & (np.abs(over_ground(s.returns)) > MOVES_MS) for n, s in zip(near, scans)]
    ghosts = [(m & (a > 2.0)).sum() for m, a in zip(moving, away)]
    yield mean("moving returns 2 m from any box", "default filter", "1 per scan", ghosts, where)


def _of_objects(scans: Sequence[KeyScan]) -> Iterator[Statistic]:
    """Returns of all radars in the boxes of objects that LiDAR sees."""
    boxes = [s.boxes for s in scans if s.boxes is not None]
    names, tracks, distances, lidar, returns = (
        np.concatenate([getattr(b, n) for b in boxes])
        for n in ("names", "tracks", "distances", "lidar_points", "radar_returns")
    )
    for name in sorted(set(names.tolist())):
        for low, high in BANDS_M:
            of = (names == name) & (distances >= low) & (distances < high) & (lidar > 0)
            if len(set(tracks[of].tolist())) < FEWEST_TRACKS:
                continue
            group = f"{name}, {low} to {high} m"
            yield share("objects without a return", group, [returns[of] == 0], [tracks[of]])
            yield mean("returns per object", group, "1", returns[of], tracks[of])


def _of_hits(scans: Sequence[KeyScan]) -> Iterator[Statistic]:
    """The front radar's returns in and beside boxes: strength, place, speed."""
    rows = [row for s in scans if s.boxes is not None for row in _hits(s)]
    for name in sorted({r.name for r in rows}):
        of = [r for r in rows if r.name == name and r.away == 0]
        if _enough(of):
            yield distribution("RCS in boxes", name, "dBsm", [[r.rcs] for r in of], [r.track for r in of])
    cars = [r for r in rows if r.name == "car" and r.away < 1.0 and r.distance < 40.0]
    where = [r.track for r in cars]
    yield share("position, outside the outline (of those within 1 m)", "car", [[r.away > 0] for r in cars], where)
    depth = [r for r in cars if np.isfinite(r.depth)]
    yield distribution(
        "position, behind the near side", "car", "m", [[r.depth] for r in depth], [r.track for r in depth]
    )
    yield distribution("position, azimuth from the middle", "car", "half widths", [[r.aside] for r in cars], where)
    kept = [r for r in rows if r.away == 0 and r.kept]
    for name in ("car", "pedestrian"):
        for word, low, high in (("moving", MOVES_MS, np.inf), ("still", -1.0, 0.3)):
            chosen = [r for r in kept if r.name == name and low < r.speed < high]
            if _enough(chosen):
                group, tracks = f"{name}, {word}", [r.track for r in chosen]
                yield distribution("Doppler less the box's", group, "m/s", [[r.residual] for r in chosen], tracks)


def _enough(hits: Sequence[_Hit]) -> bool:
    return len(hits) >= FEWEST_VALUES and len({hit.track for hit in hits}) >= FEWEST_TRACKS


def _of_persistence(scans: Sequence[KeyScan]) -> Iterator[Statistic]:
    """Still returns between 5 and 50 m, of those that the next keyframe half a second later must see, too."""
    again: dict[str, list[NDArray[np.bool_]]] = {"as it is": [], "mirrored, for chance": []}
    where = []
    for before, after in pairwise(scans):
        if before.drive != after.drive or after.time - before.time > 0.75:
            continue
        then, now = _still(before), _still(after)
        now_from_then = np.linalg.inv(after.global_from_radar) @ before.global_from_radar
        moved = then @ now_from_then[:2, :2].T + now_from_then[:2, 3]
        seen = (
            (np.hypot(*moved.T) < 50) & (np.abs(np.arctan2(moved[:, 1], moved[:, 0])) < np.pi / 4) & (moved[:, 0] > 5)
        )
        where.append(_stretch(before))
        again["as it is"].append(nearest(moved[seen], now) < 1.0)
        again["mirrored, for chance"].append(nearest(moved[seen], now * (1, -1)) < 1.0)
    if where:
        for group, shares in again.items():
            yield share("still returns found again within 1 m", group, shares, where)


# The order in which they are printed and stored.
PARTS: tuple[Callable[[Sequence[KeyScan]], Iterator[Statistic]], ...] = (
    _of_scans, _of_objects, _of_clutter, _of_hits, _of_doppler, _of_states, _of_persistence,
)  # fmt: skip


@dataclass(frozen=True)
class _Hit:
    name: str
    track: str
    away: float  # m outside the outline
    distance: float
    rcs: float
    depth: float
    aside: float
    residual: float  # radial speed less the box's
    speed: float  # of the box
    kept: bool  # by the default filter


def _hits(scan: KeyScan) -> Iterator[_Hit]:
    boxes, returns = scan.boxes, scan.returns
    assert boxes is not None
    points, speeds, kept = placed(returns, scan.global_from_radar), over_ground(returns), passes(returns)
    away, origin = beside_boxes(points, boxes.boxes), scan.global_from_radar[:2, 3]
    for m in np.flatnonzero((away < 1.0).any(axis=1)):
        of = np.flatnonzero(away[m] < 1.0)
        behind, aside = depths(points[of, :2], boxes.boxes[m], origin)
        for i, depth, azimuth in zip(of, behind, aside):
            ray = points[i, :2] - origin
            distance = float(np.linalg.norm(ray))
            along = float(ray @ boxes.velocities[m]) / distance
            yield _Hit(
                str(boxes.names[m]), str(boxes.tracks[m]), float(away[m, i]), distance, float(returns["rcs"][i]),
                float(depth), float(azimuth), float(speeds[i]) - along, float(np.hypot(*boxes.velocities[m])),
                bool(kept[i]),
            )  # fmt: skip


def _beside(scan: KeyScan) -> Floats:
    """(P,) metres from each return to the nearest outline."""
    assert scan.boxes is not None
    if not len(scan.boxes.boxes):
        return np.full(len(scan.returns), np.inf)
    return beside_boxes(placed(scan.returns, scan.global_from_radar), scan.boxes.boxes).min(axis=0)


def _still(scan: KeyScan) -> Floats:
    distance, _ = polar(scan.returns)
    keep = passes(scan.returns) & (np.abs(over_ground(scan.returns)) < 0.3) & (distance < 50)
    return np.stack([scan.returns["x"], scan.returns["y"]], axis=1)[keep].astype(float)


def _aside(scan: KeyScan) -> Floats:
    return np.rad2deg(np.abs(polar(scan.returns)[1]))


def _stretch(scan: KeyScan) -> str:
    return f"{scan.drive} {scan.time // STRETCH_S:.0f}"
