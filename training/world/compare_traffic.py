"""The traffic of the worlds beside each other, or beside recorded boxes, statistic by statistic.

    python -m training.world.compare_traffic --world town city --drives 24 --out out/traffic
    python -m training.world.compare_traffic --real ../data --world city

--real is a folder as of compare_radar, of which the boxes are taken. What it says of recordings is under their terms,
as they are; a table of them belongs where their terms allow, not into this repository. Without --real the worlds stand
beside the first one. Everything is within 50 m; recorded boxes are those that somebody saw, the worlds' are all there
are, so numbers per frame and per image compare worlds with each other only. Images are those of the simulated rig.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from training.world.generate import keyframe_stamps
from training.world.image_boxes import WHOLE, ImageBoxes, of_recorded, of_world
from training.world.radar_scans import KeyScan, recorded
from training.world.statistic import Statistic, beside, distribution, mean, share, write_tables
from training.world.styles import STYLES, style_named
from training.world.traffic_statistics import MOVES_MPS, VEHICLES, Sightings, directions, neighbour_distance, sightings
from training.world.world import make_world

REACH_M = 50.0
GROUPS = {
    "cars": ("car",),
    "large vehicles": ("truck", "bus", "trailer", "construction_vehicle"),
    "cycles": ("motorcycle", "bicycle"),
    "pedestrians": ("pedestrian",),
    "cones and barriers": ("traffic_cone", "barrier"),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.world.compare_traffic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", help="folder of recordings with boxes")
    parser.add_argument("--world", nargs="+", default=list(STYLES), choices=list(STYLES))
    parser.add_argument("--drives", type=int, default=24)
    parser.add_argument("--seed", type=int, default=700_000, help="world seed of the first")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of each")
    parser.add_argument("--out", help="folder for a table of each, traffic_NAME.csv")
    args = parser.parse_args(argv)
    seeds = range(args.seed, args.seed + args.drives)
    try:
        found = {"recorded": _recorded(recorded(args.real))} if args.real else {}
        found |= {name: _simulated(name, seeds, args.duration) for name in args.world}
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(beside(found)))
    if args.out:
        write_tables(args.out, "traffic", found)
    return 0


def _simulated(style: str, seeds: Sequence[int], duration_s: float) -> list[Statistic]:
    worlds = [make_world(seed, duration_s, style=style_named(style)) for seed in seeds]
    stamps = keyframe_stamps(duration_s)
    drives = [sightings(world, stamps, REACH_M) for world in worlds]
    return summarise(drives) + in_pictures([of_world(world, stamps, REACH_M) for world in worlds])


def _recorded(scans: Sequence[KeyScan]) -> list[Statistic]:
    return summarise([of_scans(scans)]) + in_pictures([of_recorded(scans, REACH_M)])


def of_scans(scans: Sequence[KeyScan]) -> Sightings:
    """The boxes of recorded keyframes within REACH_M. How tight a curve somebody follows is not recorded: 0, so that
    who turns counts by direction alone. Raises ValueError where no keyframe has boxes."""
    kept = [scan for scan in scans if scan.boxes is not None]
    if not kept:
        raise ValueError("no recorded keyframe has boxes; give --real a folder with some")
    rows: list[tuple[float, ...]] = []
    names: list[str] = []
    tracks: dict[str, int] = {}
    for frame, scan in enumerate(kept):
        assert scan.boxes is not None
        ego_from_global = np.linalg.inv(scan.global_from_radar)  # the front radar looks along the vehicle's axis
        yaw = np.arctan2(scan.global_from_radar[1, 0], scan.global_from_radar[0, 0])
        for k in np.flatnonzero(scan.boxes.distances < REACH_M):
            box, velocity = scan.boxes.boxes[k], scan.boxes.velocities[k]
            x, y = (ego_from_global @ [*box[:3], 1.0])[:2]
            track = tracks.setdefault(f"{scan.drive} {scan.boxes.tracks[k]}", len(tracks))
            rows.append((frame, track, x, y, (box[6] - yaw + np.pi) % (2 * np.pi) - np.pi, np.hypot(*velocity), 0.0))
            names.append(str(scan.boxes.names[k]))
    table = np.array(rows).reshape(-1, 7)
    frame_of, track_of = table[:, :2].astype(np.int64).T
    return Sightings(len(kept), frame_of, track_of, np.array(names, dtype=np.str_), table[:, 2:4], *table[:, 4:].T)


def summarise(drives: Sequence[Sightings]) -> list[Statistic]:
    """Every statistic over drives; those of one drive go together in the errors."""
    out = []
    for group, names in GROUPS.items():
        seen = [drive.of(names) for drive in drives]
        per_frame = [np.bincount(of.frame, minlength=of.frames) for of in seen]
        where = [np.full(len(counts), k) for k, counts in enumerate(per_frame)]
        out.append(mean("boxes per frame", group, "1", np.concatenate(per_frame), np.concatenate(where)))
    for group, names in list(GROUPS.items())[:4]:
        seen = [drive.of(names) for drive in drives]
        out.append(share("moving", group, [of.speed > MOVES_MPS for of in seen], range(len(seen))))
        out.append(distribution("distance", group, "m", [of.distance for of in seen], range(len(seen))))
        speeds = [of.speed[of.speed > MOVES_MPS] for of in seen]
        out.append(distribution("speed of who moves", group, "m/s", speeds, range(len(seen))))
    moving = [drive.of(VEHICLES).where(drive.of(VEHICLES).speed > MOVES_MPS) for drive in drives]
    for name in ("along", "oncoming", "across", "turning"):
        found = [directions(of) == name for of in moving]
        out.append(share("direction of moving vehicles", name, found, range(len(moving))))
    neighbours = [neighbour_distance(drive) for drive in drives]
    out.append(distribution("nearest other pedestrian", "pedestrians", "m", neighbours, range(len(drives))))
    close = [distances < 1.0 for distances in neighbours]
    out.append(share("another pedestrian within 1 m", "pedestrians", close, range(len(drives))))
    return out


def in_pictures(drives: Sequence[ImageBoxes]) -> list[Statistic]:
    """How many boxes an image has, how large they are there, and how many its edges cut."""
    out, where = [], range(len(drives))
    for group, names in GROUPS.items():
        seen = [drive.of(names) for drive in drives]
        per_image = [np.bincount(of.image, minlength=of.images) for of in seen]
        drive_of = np.repeat(where, [len(counts) for counts in per_image]).tolist()
        out.append(mean("boxes per image", group, "1", np.concatenate(per_image), drive_of))
        out.append(distribution("height in the image", group, "of the image", [of.height for of in seen], where))
        out.append(share("cut by the image's edge", group, [of.inside < WHOLE for of in seen], where))
    return out


if __name__ == "__main__":
    sys.exit(main())
