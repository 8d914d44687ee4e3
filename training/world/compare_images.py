"""Drawn images beside photographs, statistic by statistic.

    python -m training.world.compare_images --real ../data --world city --out out/images

--real is a folder of JPEG or PNG files, looked through with all folders in it; photographs of one log (the part of a
nuScenes file's name before the channel) go together in the errors. What it says of recordings is under their terms, as
they are; a table of them belongs where their terms allow, not into this repository. Without --real the worlds stand
beside the first one. Kolmogorov and Smirnov's distance of each distribution is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from training.world.camera import render_camera
from training.world.generate import ordered_map
from training.world.image_statistics import WIDTH, Picture, summarise
from training.world.rig import IMAGE_WIDTH, NS, RIG, scan_rng
from training.world.statistic import beside, write_tables
from training.world.styles import STYLES
from training.world.world import conditions_of, make_world

CAMERAS = tuple(name for name, mount in RIG.items() if mount.kind == "camera")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.world.compare_images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", help="folder of photographs")
    parser.add_argument("--world", nargs="+", default=list(STYLES), choices=list(STYLES))
    parser.add_argument("--drives", type=int, default=24, help="how many drives are drawn, six images of each")
    parser.add_argument("--seed", type=int, default=700_000, help="world seed of the first")
    parser.add_argument("--fair", action="store_true", help="only drives by day without rain or fog")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", help="folder for a table of each, images_NAME.csv")
    args = parser.parse_args(argv)
    try:
        found = {"photographs": summarise(photographs(args.real))} if args.real else {}
        found |= {
            name: summarise(drawn(name, _seeds(args.seed, args.drives, args.fair), args.workers)) for name in args.world
        }
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(beside(found)))
    if args.out:
        write_tables(args.out, "images", found)
    return 0


def _seeds(first: int, drives: int, fair: bool) -> list[int]:
    """The first so many seeds from `first` on; of fair weather by day only, where that is asked for."""
    found: list[int] = []
    seed = first
    while len(found) < drives:
        weather = conditions_of(seed)
        if not fair or (weather.time_of_day == "day" and not weather.rain and not weather.fog):
            found.append(seed)
        seed += 1
    return found


def photographs(folder: str | Path) -> Iterator[Picture]:
    """The images below a folder. Raises FileNotFoundError where there is none, ValueError for one that is broken."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no .jpg, .jpeg or .png below it; give --real a folder of photographs")
    for path in paths:
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError(f"{path}: cannot be read as an image; mend it or take it away")
        yield Picture(np.asarray(bgr, np.uint8), path.name.partition("__")[0])


def drawn(style: str, seeds: Sequence[int], workers: int) -> Iterator[Picture]:
    """Six images of each drive of a world, in its middle."""
    for seed, images in zip(seeds, ordered_map(partial(_six, style), seeds, workers)):
        yield from (Picture(bgr, str(seed)) for bgr in images)


def _six(style: str, seed: int) -> list[np.ndarray]:
    world, stamp = make_world(seed, 4.0, style=STYLES[style]), 2 * NS
    scale = WIDTH / IMAGE_WIDTH
    return [render_camera(world, RIG[c], stamp, scale, scan_rng(seed, c, stamp)).bgr for c in CAMERAS]


if __name__ == "__main__":
    sys.exit(main())
