"""Parameters and calibration for a rig that nobody has described: from a recording, or from what it publishes now.

    ros2 run bev_perception bring_up_rig --bag BAG --out my_rig/
    ros2 run bev_perception bring_up_rig --live --seconds 20 --out my_rig/

Topics, types, frames, rates, sizes, stamps, transforms and columns are read. Each camera and radar becomes the part of
the model that looks where it looks; offsets and the anchor follow from the stamps. What is written says why, and what
is a guess; what only you can know is asked. Then the doctor looks at the result. The exit status is 1 where something
is asked, or the doctor finds an error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from bev_perception.bags.storage import BagError
from bev_perception.bundle import load_bundle
from bev_perception.doctor import examine, report
from bev_perception.files import write_atomic
from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.model_spec import BundleError
from bev_perception.parameter_table import PACKAGE_SCHEME
from bev_perception.parameters import SHIPPED_BUNDLE
from bev_perception.rig.assign import model_poses
from bev_perception.rig.finding import has_errors
from bev_perception.rig.from_bag import survey_bag
from bev_perception.rig.from_live import survey_live
from bev_perception.rig.proposal import OPTICAL_IN_FORWARD, Proposal, propose
from bev_perception.rig.rig_files import PARAMETERS, files_of

POSE = "FRAME=x,y,z,yaw"


class RigError(ValueError):
    """What keeps a rig from being written; the message says how to mend it."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bring_up_rig", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bag", type=Path, help="a rosbag2 recording of the rig, best of a drive")
    source.add_argument("--live", action="store_true", help="listen to what is published now")
    parser.add_argument("--seconds", type=float, default=30.0, help="how much is looked at (default: %(default)g)")
    parser.add_argument(
        "--use-sim-time", action="store_true", help="live: take the time of /clock, as where a bag is played with it"
    )
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE, help="the model (default: the shipped one)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the parameter YAML and the calibration file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the two files where they are there")
    parser.add_argument(
        "--base-frame", default="", help="where detections are to be (default: the frame odometry moves)"
    )
    parser.add_argument(
        "--pose", action="append", default=[], metavar=POSE,
        help="where the sensor of a frame sits in base_frame and looks, m and degrees, where no transform says it",
    )  # fmt: skip
    parser.add_argument("--no-machine", action="store_true", help="the doctor leaves out engine, GPU and buffers")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except (BagError, BundleError, RigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    bundle = load_bundle(args.bundle)
    for name in files_of(Proposal({}, {}, frozenset(), {}, False, None), "", args.out, ""):
        if name.exists() and not args.overwrite:
            raise RigError(f"{name} is there already; choose another --out, or --overwrite")
    model = model_poses(bundle)
    survey = survey_live(args.seconds, args.use_sim_time) if args.live else survey_bag(args.bag, args.seconds)
    given = read_poses(args.pose, {seen.frame for seen in survey.seen.values() if "Image" in seen.kind})
    proposal = propose(survey, bundle.spec, model, given, args.base_frame)
    _tell(proposal)
    if not proposal.mounts:
        has = (
            ", ".join(f"{seen.topic} ({seen.kind})" for seen in survey.seen.values()) or "nothing that the node can use"
        )
        raise RigError(f"no sensor can be used: answer what is asked above; found was {has}")
    shipped = args.bundle == SHIPPED_BUNDLE
    named = f"{PACKAGE_SCHEME}bundles/demo" if shipped else str(args.bundle.resolve())
    for path, text in files_of(proposal, named, args.out, "what is published" if args.live else str(args.bag)).items():
        write_atomic(path, text)
        print(f"written: {path}")
    print()
    findings = examine(
        args.bag, args.out / PARAMETERS, args.bundle, args.seconds, not args.no_machine, args.use_sim_time
    )
    report(findings, None)
    return int(has_errors(findings) or bool(proposal.asked))


def _tell(proposal: Proposal) -> None:
    for name, remark in proposal.remarks.items():
        topic = proposal.values.get(f"{name}.topic", proposal.values.get(name, ""))
        print(f"{name.partition('.')[2] or name}: {topic}: {remark}" if topic != "" else f"{name}: {remark}")
    for name in sorted(proposal.guesses):
        print(f"guess: {name}: {proposal.values[name]}")
    for text in proposal.told:
        print(f"note: {text}")
    for text in proposal.asked:
        print(f"ASKED: {text}")


def read_poses(texts: list[str], camera_frames: set[str]) -> dict[str, np.ndarray]:
    """--pose of the command line -> frame: base_from_frame (4, 4); frames of cameras are optical. Raises RigError."""
    poses = {}
    for text in texts:
        frame, _, numbers = text.partition("=")
        try:
            x, y, z, yaw_deg = (float(number) for number in numbers.split(","))
        except ValueError as error:
            raise RigError(f"--pose {text}: expected {POSE}, in metres and degrees") from error
        pose = make_transform(rotation_from_yaw(np.radians(yaw_deg)), np.array([x, y, z]))
        poses[frame] = pose @ OPTICAL_IN_FORWARD if frame in camera_frames else pose
    return poses


if __name__ == "__main__":
    sys.exit(main())
