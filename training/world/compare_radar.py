"""A simulated radar beside recorded ones, statistic by statistic.

    python -m training.world.compare_radar --real ../data --profile listed --out out/radar

--real is a folder with recordings of nuScenes' front radar and boxes, or a table of statistics that this command wrote.
What it says of recordings is under their terms, as they are. Without --real the profiles stand beside the first one.
A table of recordings and what is fitted to them belong where their terms allow, not into this repository.
Without --synthetic a few drives of the town are simulated for the purpose, with every profile that --profile names.
Of shares and means the difference is given with its standard error, of distributions Kolmogorov and Smirnov's distance.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bev_perception.files import write_atomic
from training.world.radar_profiles import ABOUT, RADARS, radar_named
from training.world.radar_scans import recorded, simulated
from training.world.radar_stored import stored
from training.world.radar_summary import summarise
from training.world.statistic import Statistic, beside, read, write_tables
from training.world.styles import ABOUT as STYLES_ABOUT
from training.world.styles import TOWN, style_named


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.world.compare_radar",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", help="folder of recordings, or a CSV that this command wrote")
    parser.add_argument("--synthetic", help="a data set of python -m training.world nuscenes instead of own drives")
    parser.add_argument("--profile", nargs="+", default=list(RADARS), help=ABOUT)
    parser.add_argument("--world", default=TOWN.name, help=STYLES_ABOUT)
    parser.add_argument("--drives", type=int, default=8, help="how many drives are simulated")
    parser.add_argument("--seed", type=int, default=700_000, help="world seed of the first")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of each")
    parser.add_argument("--out", help="folder for radar.png and a table of each radar, radar_NAME.csv")
    args = parser.parse_args(argv)
    try:
        radars = _recorded(args) | _simulated(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(beside(radars)))
    if args.out:
        write_tables(args.out, "radar", radars)
        _draw(Path(args.out) / "radar.png", radars)
    return 0


def _draw(path: Path, radars: Mapping[str, Sequence[Statistic]]) -> None:
    from training.world.radar_figure import compared  # matplotlib is wanted by the picture only

    picture = io.BytesIO()
    compared(radars).savefig(picture, format="png", dpi=120)
    write_atomic(path, picture.getvalue())


def _recorded(args: argparse.Namespace) -> dict[str, list[Statistic]]:
    if not args.real:
        return {}
    return {"recorded": read(args.real) if args.real.endswith(".csv") else summarise(recorded(args.real))}


def _simulated(args: argparse.Namespace) -> dict[str, list[Statistic]]:
    if args.synthetic:
        return {"synthetic": summarise(stored(args.synthetic))}
    seeds = range(args.seed, args.seed + args.drives)
    radars = {Path(name).stem: radar_named(name) for name in args.profile}
    if len(radars) < len(args.profile) or "recorded" in radars:
        raise ValueError(f"--profile {args.profile}: names of columns must differ from each other and from `recorded`")
    return {
        name: summarise(simulated(radar, seeds, args.duration, style_named(args.world)))
        for name, radar in radars.items()
    }


if __name__ == "__main__":
    sys.exit(main())
