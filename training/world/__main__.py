"""Commands of the synthetic world.

    python -m training.world nuscenes OUT --scenes 60 --seed 0 --duration 20 --scale 0.22 \\
        --camera-hz 2 --lidar-hz 2 --radar-hz 13 --workers 2 [--masks] [--world city]
    python -m training.world masks OUT
    python -m training.world look OUT.png --seed 903 --world city
    python -m training.world bag OUT --seed 903 --duration 10 --scale 0.25 --image-format raw

Scene i of seed s is the drive with the world seed 1000 s + i: a bag of seed 903 shows none of the first 903 of seed 0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bev_perception.files import write_atomic
from training.world.generate import NS, Rates
from training.world.listed_radar import ListedRadar
from training.world.radar_profiles import ABOUT, RADAR_OF, radar_named
from training.world.rig import NUSCENES, Rig
from training.world.rigs import ABOUT as RIGS_ABOUT
from training.world.rigs import rig_named
from training.world.styles import ABOUT as STYLES_ABOUT
from training.world.styles import TOWN, Style, style_named
from training.world.world import make_world


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.world",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    dataset = commands.add_parser("nuscenes", help="a nuScenes-format data set; goes on where it was interrupted")
    dataset.add_argument("out")
    dataset.add_argument("--scenes", type=int, default=60)
    dataset.add_argument("--seed", type=int, default=0)
    dataset.add_argument("--duration", type=float, default=20.0, help="seconds per scene")
    dataset.add_argument("--scale", type=float, default=0.22, help="image size as a share of 1600x900")
    _add_rates(dataset, Rates(camera=2.0, lidar=2.0))
    dataset.add_argument("--workers", type=int, default=2)
    dataset.add_argument("--version", default="v1.0-trainval")
    dataset.add_argument("--val-every", type=int, default=6, help="every n-th scene validates, of fewer the last")

    _add_world(dataset)
    dataset.add_argument("--masks", action="store_true", help="also write instance masks (OUT/masks, COCO JSON)")

    masks = commands.add_parser("masks", help="instance masks for a data set that is already there")
    masks.add_argument("out")
    masks.add_argument("--workers", type=int, default=2)

    bag = commands.add_parser("bag", help="one drive as a rosbag2 MCAP recording")
    bag.add_argument("out")
    bag.add_argument("--seed", type=int, default=900)
    bag.add_argument("--duration", type=float, default=10.0)
    bag.add_argument("--scale", type=float, default=0.25)
    bag.add_argument("--image-format", choices=("raw", "jpeg"), default="raw")
    bag.add_argument("--lidar", action="store_true", help="with the LiDAR topic")
    bag.add_argument("--odometry-noise", type=float, default=0.0, help="1: as a wheel odometer; 0: exact")
    bag.add_argument("--rig", default="nuscenes", help="nuscenes, or other: four cameras, two radars, other names")
    _add_rates(bag, Rates())
    _add_world(bag)
    bag.add_argument("--workers", type=int, default=2)
    replacing = bag.add_mutually_exclusive_group()
    replacing.add_argument("--overwrite", action="store_true", help="replace what is there")
    replacing.add_argument("--keep", action="store_true", help="replace it only if settings or sources have changed")

    look = commands.add_parser("look", help="six cameras of a drive in one picture")
    look.add_argument("out", help="a file .png or .jpg")
    look.add_argument("--seed", type=int, default=903)
    look.add_argument("--duration", type=float, default=10.0, help="of the drive, which it is a part of")
    look.add_argument("--at", type=float, default=4.0, help="seconds from the drive's start")
    look.add_argument("--scale", type=float, default=0.25)
    _add_world(look)

    args = parser.parse_args(argv)
    try:
        rates = _run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made = ", ".join(f"{value} {name}" for name, value in rates.items())
    print(f"{args.out}: {made or 'is there already, of the same settings'}")
    return 0


def _add_rates(parser: argparse.ArgumentParser, usual: Rates) -> None:
    for kind, hz in vars(usual).items():
        parser.add_argument(f"--{kind}-hz", type=float, default=hz, help="scans kept a second (%(default)g)")


def _rates(args: argparse.Namespace) -> Rates:
    return Rates(camera=args.camera_hz, lidar=args.lidar_hz, radar=args.radar_hz)


def _add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--world", default=TOWN.name, help=STYLES_ABOUT)
    parser.add_argument("--rolling-shutter", type=float, default=0.0, metavar="S", help="first to last row, seconds")
    parser.add_argument("--mounts", default=NUSCENES.name, help=RIGS_ABOUT)
    parser.add_argument("--radar-profile", help=f"{ABOUT}; of the town clear, of the city listed unless given")


def _world(args: argparse.Namespace) -> tuple[ListedRadar | None, Style, Rig]:
    style = style_named(args.world, args.rolling_shutter)
    return radar_named(args.radar_profile or RADAR_OF[style.name]), style, rig_named(args.mounts)


def _run(args: argparse.Namespace) -> dict:
    if args.command == "look":
        from training.world.look import encoded

        _, style, rig = _world(args)
        world = make_world(args.seed, args.duration, style=style, rig=rig)
        write_atomic(Path(args.out), encoded(world, round(args.at * NS), args.scale, Path(args.out).suffix))
        return {"pictures": 1}
    if args.command == "nuscenes":
        from training.world.nuscenes_writer import DatasetSettings, write_dataset

        settings = DatasetSettings(args.seed, args.duration, args.scale, _rates(args), *_world(args))
        made = write_dataset(args.out, args.scenes, settings, args.workers, args.version, args.val_every)
    if args.command == "masks" or (args.command == "nuscenes" and args.masks):
        from training.world.masks import write_masks

        made = write_masks(args.out, args.workers)
    if args.command != "bag":
        return made
    # rosbags is needed for bags only
    from training.world.bag_writer import BagSettings, write_bag
    from training.world.kept_bag import keep_bag

    sensors = args.scale, args.image_format, args.lidar, args.odometry_noise
    drive = BagSettings(args.seed, args.duration, *sensors, *_world(args), args.rig, _rates(args))
    if args.keep:
        return keep_bag(Path(args.out), drive, args.workers)
    return write_bag(args.out, drive, args.workers, args.overwrite)


if __name__ == "__main__":
    sys.exit(main())
