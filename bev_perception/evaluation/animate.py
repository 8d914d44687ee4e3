"""A recording as a film: cameras and bird's-eye view, with what the model finds, to send or to put on a page.

    python -m bev_perception.evaluation.animate BAG [--detections RESULT_BAG] [--out out/film.mp4]

Without --detections the bundle runs over the recording, as in a replay; with it, what another run published is shown, a
live one for example. Where the recording has ground truth, hits, false alarms and misses have colours of their own.
The ending of --out chooses the kind: .webm plays in every browser, .mp4 and .avi in players, a .gif wants Pillow. With
.rrd it is no film but a view for rerun, in which one can move and click; it wants rerun-sdk.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bev_perception.bags.storage import BagError
from bev_perception.bundle import load_bundle
from bev_perception.calibration import CalibrationError
from bev_perception.evaluation.bag import read_detection_arrays
from bev_perception.evaluation.draw import draw_frame
from bev_perception.evaluation.film import open_film
from bev_perception.evaluation.frames import read_frames
from bev_perception.evaluation.ground_truth import GroundTruth
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.objects import Objects, objects_from_detections, objects_from_message
from bev_perception.evaluation.pictures import shrink
from bev_perception.evaluation.rerun_view import ENDING as RERUN
from bev_perception.evaluation.rerun_view import open_rerun
from bev_perception.evaluation.telling import WarnOnce
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.parameters import SHIPPED_BUNDLE, SHIPPED_PARAMETERS, NodeConfig, ParameterError, load_config
from bev_perception.replay import Replay
from bev_perception.structures import SensorFrame

Add = Callable[[SensorFrame, Objects, Objects | None], None]


def seen(args: argparse.Namespace, spec: ModelSpec, config: NodeConfig) -> Iterator[tuple[SensorFrame, Objects]]:
    """Frames with what was published in each, in their order."""
    note = WarnOnce()
    if args.detections is None:
        for found in Replay(args.bag, args.bundle, config, note=note):
            yield found.frame, objects_from_detections(found.published, spec.classes)
        return
    published = read_detection_arrays(args.detections, note=note)
    for _, frame in read_frames(args.bag, spec, config, note):
        if frame.stamp_ns in published:
            yield frame, objects_from_message(published[frame.stamp_ns])


def animate(args: argparse.Namespace) -> int:
    """Write the film, or the view; how many frames of the recording are in it. Raises the errors of bag, bundle and
    film."""
    config = load_config(args.bundle, args.params, args.backend or None)
    spec = load_bundle(args.bundle).spec
    truth = GroundTruth(args.bag)
    shown = 0
    with _open(args.out, spec, 1e9 / config.sync_config(spec).period_ns, args.width) as add:
        for frame, found in within(seen(args, spec, config), args.start, args.seconds):
            add(frame, found, truth.at(frame.stamp_ns))
            shown += 1
    return shown


@contextmanager
def _open(path: Path, spec: ModelSpec, rate_hz: float, width: int) -> Iterator[Add]:
    """What takes a frame, what was found, and what was there where that is known."""
    if path.suffix == RERUN:
        with open_rerun(path, spec) as view:
            yield view.add
        return
    with open_film(path, rate_hz) as film:

        def add(frame: SensorFrame, found: Objects, wanted: Objects | None) -> None:
            judged = judge(wanted, found) if wanted is not None else None
            film.add(frame.stamp_ns, shrink(draw_frame(frame, spec, found, wanted, judged=judged), width))

        yield add


def within(
    frames: Iterable[tuple[SensorFrame, Objects]], start_s: float, seconds: float
) -> Iterator[tuple[SensorFrame, Objects]]:
    """Those from start_s after the first on, and at most so many seconds."""
    first_ns = 0
    for frame, found in frames:
        first_ns = first_ns or frame.stamp_ns
        passed = (frame.stamp_ns - first_ns) / 1e9
        if passed > start_s + seconds:
            return
        if passed >= start_s:
            yield frame, found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bev_perception.evaluation.animate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder or file, MCAP or sqlite3")
    parser.add_argument("--detections", type=Path, metavar="RESULT_BAG", help="of another run; default: run the bundle")
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's YAML; default: the shipped")
    parser.add_argument("--backend", default="", help="overrides the parameter `backend`")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds after the first frame")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="at most so many")
    parser.add_argument("--width", type=int, default=1280, help="at most so many pixels")
    parser.add_argument("--out", type=Path, default=Path("out/film.mp4"))
    args = parser.parse_args(argv)
    try:
        shown = animate(args)
    except (BagError, BundleError, ParameterError, CalibrationError, ImportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {shown} frames, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
