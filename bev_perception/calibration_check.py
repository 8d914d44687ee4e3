"""Does the calibration fit the images? Horizon, ground, radar, LiDAR and boxes drawn into them, and a score.

    ros2 run bev_perception calibration_check BAG --params my.param.yaml --out out/calibration
    ros2 run bev_perception calibration_check BAG --params my.param.yaml --out out/turned --perturb yaw=1
    ros2 run bev_perception calibration_check --live --params my.param.yaml --out out/calibration

Into some frames of the recording is drawn where the calibration says that things are: a picture of all cameras for each
frame. The score of a camera is how far, in pixels of a picture 640 wide, what moves in its images lies from the lines
on which it must move by odometry, if it stands. Beside it stands what one degree does to it. --perturb turns every
camera (yaw, pitch, roll in degrees about the vehicle's axes) or moves it (x, y, z in metres), and draws it beside the
pictures as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from bev_perception.bags.storage import BagError
from bev_perception.calibration import CalibrationError
from bev_perception.doctor import load
from bev_perception.evaluation.telling import Progress
from bev_perception.files import write_atomic
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.parameters import SHIPPED_PARAMETERS, ParameterError
from bev_perception.rig.direction import direction_of
from bev_perception.rig.from_bag import view_bag
from bev_perception.rig.from_live import view_live
from bev_perception.rig.perturb import TURNS, parse_change
from bev_perception.rig.views import Moment, draw


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="calibration_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, nargs="?", help="a rosbag2 recording of a drive")
    parser.add_argument("--live", action="store_true", help="look at the system that runs, instead of a recording")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to look (default: %(default)g)")
    parser.add_argument(
        "--use-sim-time", action="store_true", help="live: take the time of /clock, as where a bag is played with it"
    )
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's parameter YAML")
    parser.add_argument("--bundle", type=Path, help="the model (default: that of the parameters)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--frames", type=int, default=4, help="pictures (default: %(default)s)")
    parser.add_argument("--perturb", type=_change, default={}, metavar="yaw=1,z=0.1", help="degrees and metres")
    args = parser.parse_args(argv)
    if args.live == (args.bag is not None):
        parser.error("give a recording, or --live")
    try:
        bundle, config = load(args.params, args.bundle)
        if args.live:
            views = view_live(config, bundle.spec, args.frames, args.seconds, args.use_sim_time)
        else:
            views = view_bag(args.bag, config, bundle.spec, args.frames, Progress())
    except (BagError, BundleError, ParameterError, CalibrationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if not views.moments:
        print(f"error: {args.bag or 'live'}: no frame can be made; ask the doctor why", file=sys.stderr)
        return 1
    for k, moment in enumerate(views.moments):
        path = args.out / f"frame_{k}.jpg"
        write_atomic(path, _jpeg(_picture(moment, bundle.spec, args.perturb)))
        print(f"written: {path}")
    for camera in config.cameras:
        print(f"{camera}: {direction_of(views.pairs.get(camera, ()), views.poses.get(camera), args.perturb).text()}")
    return 0


def _change(text: str) -> dict[str, float]:
    try:
        return parse_change(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _picture(moment: Moment, spec: ModelSpec, change: Mapping[str, float]) -> np.ndarray:
    """All cameras below each other, left as they are and right as changed; two beside each other without a change."""
    panels = []
    for name, view in zip(spec.cameras, moment.frame.cameras):
        if view is None:
            continue
        for turn, words in (({}, name), (change, f"{name} {_words(change)}")) if change else (({}, name),):
            image = draw(moment, view, spec, turn)
            if image is not None:
                cv2.putText(image, words, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2, cv2.LINE_AA)
                panels.append(image)
    height = max((panel.shape[0] for panel in panels), default=1)
    blank = np.zeros((height, panels[0].shape[1] if panels else 1, 3), np.uint8)
    padded = [cv2.copyMakeBorder(p, 0, height - p.shape[0], 0, 0, cv2.BORDER_CONSTANT) for p in panels]
    columns = min(2, max(1, len(padded)))
    padded += [blank] * (len(padded) % columns)
    rows = [np.hstack(padded[k : k + columns]) for k in range(0, len(padded), columns)]
    return np.vstack(rows or [blank])


def _words(change: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:+g}{' deg' if name in TURNS else ' m'}" for name, value in change.items())


def _jpeg(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


if __name__ == "__main__":
    sys.exit(main())
