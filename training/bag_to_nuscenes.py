"""A recorded drive becomes a data set in nuScenes' format, to train and to score with.

    python -m training.bag_to_nuscenes BAG OUT --params my.param.yaml [--labels FILE] [--split val] [--lidar TOPIC]

BAG is what the node would hear: a rosbag2 recording with the topics, frames and calibration that the parameters name;
names and number of the sensors are the bundle's. What the node refuses is left out, for the same reasons. A keyframe
every --period seconds is a frame of the node; everything between is a sweep. The global frame is `odom`: where it
jumps, and after --scene-seconds, the next scene begins. Images that come as JPEG or PNG are written as they are.

Objects come from /ground_truth/detections of the recording, or from --labels: the detections.json or the result bag of
a replay, boxes of at least --least-score; then keyframes are at their stamps. Without, nothing is annotated.

A drive is added to the drives that OUT has; the same command again changes nothing. Memory does not grow with the
drive. An interrupted run leaves OUT as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bev_perception.bags.recording import open_bag, warn
from bev_perception.bags.storage import Note
from bev_perception.bundle import load_bundle
from bev_perception.evaluation.objects import Objects
from bev_perception.evaluation.telling import Progress, WarnOnce, main_reason, reason_lines
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import SHIPPED_BUNDLE, SHIPPED_PARAMETERS, NodeConfig, load_config
from bev_perception.sync_config import NS
from training.command_line import errors_as_text
from training.recorded.dataset import DriveFolder, finished, log_row, open_dataset, open_drive, tables_of_drives
from training.recorded.drive import Drive, Moment, Taken, check_ready
from training.recorded.files import IMAGES, content_of
from training.recorded.labels import find_labels, read_labels
from training.recorded.lidar import LIDAR
from training.recorded.scene import Scenes, Stored, make_scene

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Settings:
    """How a drive is written; see the command's options."""

    period_s: float = 0.5
    scene_s: float = 20.0
    images: str = "png"
    lidar: str = ""
    vehicle: str = "recorded"


@dataclass
class Written:
    """What came out of a drive."""

    scenes: int = 0
    keyframes: int = 0
    boxes: int = 0
    files: Counter[str] = field(default_factory=Counter)  # by channel


class _Writer:
    """A drive into its folder."""

    def __init__(self, drive: Drive, folder: DriveFolder, settings: Settings, log: dict[str, Any]) -> None:
        self._drive, self._folder, self._settings, self._log = drive, folder, settings, log
        self._scenes = Scenes(round(settings.scene_s * NS))
        self.written = Written()

    def run(self) -> Written:
        for item in self._drive:
            if isinstance(item, Taken):
                self._file(item)
            else:
                self._scene(self._scenes.add_moment(item))
        self._scene(self._scenes.finish())
        self._remove(self._scenes.left())
        return self.written

    def _remove(self, files: list[Stored]) -> None:
        for file in files:
            self._folder.remove(file.channel, file.name)
            self._drive.count(file.channel, "no_keyframe", f"{file.name}: no keyframe before the odometry breaks off")

    def _file(self, taken: Taken) -> None:
        try:
            content = content_of(taken, self._settings.images)
        except ValueError as error:
            self._drive.count(taken.channel, getattr(error, "reason", "size_mismatch"), str(error))
            return
        if content.changed:
            self._drive.count(taken.channel, "not_as_recorded", content.changed)
        name = f"{self._folder.name}__{taken.channel}__{taken.stamp_ns // 1000}{content.suffix}"
        if not self._folder.write(taken.channel, name, content.data):
            self._drive.count(taken.channel, "duplicate", f"{name} is there already: the recording has this time twice")
            return
        self.written.files[taken.channel] += 1
        self._scenes.add_file(taken.stretch, Stored.of(taken, name, content.size))

    def _scene(self, closed: tuple[list[Moment], list[Stored]] | None) -> None:
        if closed is None:
            return
        moments, files = closed
        bare = {moment.stamp_ns for moment in moments} - _with_files(moments, files)
        moments = [moment for moment in moments if moment.stamp_ns not in bare]
        for stamp in bare:
            self._drive.count("frame", "no_files", f"none of the files of the keyframe at {stamp} could be written")
        if not moments:
            self._remove(files)
            return
        name = self._folder.next_scene()
        tables, keys = make_scene(name, self._log, moments, files, self._drive.count)
        self._folder.add_scene(tables, keys)
        self.written.scenes += 1
        self.written.keyframes += len(moments)
        self.written.boxes += len(tables["sample_annotation"])


def _with_files(moments: list[Moment], files: list[Stored]) -> set[int]:
    """Stamps of the keyframes that some file is of."""
    there = {(file.channel, file.stamp_ns) for file in files}
    return {moment.stamp_ns for moment in moments if there & set(moment.stamps_ns.items())}


def add_drive(
    bag: Path,
    out: Path,
    name: str,
    spec: ModelSpec,
    config: NodeConfig,
    settings: Settings,
    objects: Iterator[tuple[int, Objects]] | None = None,
    facts: dict[str, Any] | None = None,
    split: str = "train",
    note: Note = warn,
    watch: Callable[[float], None] = lambda share: None,
) -> tuple[Written, Drive]:
    """The drive's files and rows below OUT, once it is whole; the tables are the caller's (`tables_of_drives`).

    Raises BagError, CalibrationError, and ValueError where no keyframe came out of it.
    """
    with open_bag(bag, note) as recording:
        date = datetime.fromtimestamp(recording.start_ns / 1e9, tz=timezone.utc).strftime("%Y-%m-%d")
    drive = Drive(bag, spec, config, round(settings.period_s * NS), objects, settings.lidar, note, watch)
    sensors: dict[str, str] = {}
    with open_drive(out, name, facts or {}, split, sensors) as folder:
        writer = _Writer(drive, folder, settings, log_row(name, settings.vehicle, date, bag))
        written = writer.run()
        if not written.keyframes:
            raise ValueError(_no_keyframe(bag, drive, objects is not None))
        kinds = dict.fromkeys(config.cameras, "camera") | dict.fromkeys(config.radars, "radar") | {LIDAR: "lidar"}
        sensors.update({channel: kinds[channel] for channel in written.files})
    return written, drive


def _no_keyframe(bag: Path, drive: Drive, labelled: bool) -> str:
    most = main_reason(drive.counters, drive.details) or "nothing was counted"
    if labelled:
        return f"{bag}: no frame at a stamp of the labels; are they of another drive? Else, most often: {most}"
    return f"{bag}: no keyframe came out of it; most often: {most}"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bag_to_nuscenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE, help="whose sensors the parameters are of")
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's parameter YAML")
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--labels", type=Path, help="detections.json or a result bag: pseudo labels")
    labels.add_argument("--no-labels", action="store_true", help="leave out the recording's own ground truth")
    parser.add_argument("--least-score", type=float, default=0.3, help="of pseudo labels")
    parser.add_argument("--name", help="of the drive, which its scenes begin with (default: the bag's)")
    parser.add_argument("--split", default="train", help="which split the drive's scenes are added to, such as val")
    parser.add_argument("--period", type=float, default=0.5, help="seconds from keyframe to keyframe")
    parser.add_argument("--scene-seconds", type=float, default=20.0, help="of a scene at most")
    parser.add_argument("--images", choices=IMAGES, default="png", help="how raw images are written; jpeg loses")
    parser.add_argument("--lidar", default="", metavar="TOPIC", help="PointCloud2 that becomes LIDAR_TOP")
    parser.add_argument("--vehicle", default="recorded", help="its name in the log")
    parser.add_argument("--version", default="v1.0-trainval", help="folder of the tables")
    args = parser.parse_args(argv)
    name = args.name or args.bag.resolve().name.removesuffix(".mcap").removesuffix(".db3")
    if not NAME.fullmatch(name):
        parser.error(f"a drive's name is of letters, digits, '.', '_' and '-', found {name!r}; give --name")
    if args.period <= 0 or args.scene_seconds <= 0:
        parser.error("--period and --scene-seconds are seconds above 0")
    try:
        return _run(args, name)
    except KeyboardInterrupt:
        print(f"interrupted: the tables in {args.out} are as they were; the same command begins anew", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace, name: str) -> int:
    note, progress = WarnOnce(), Progress()
    config, spec = load_config(args.bundle, args.params), load_bundle(args.bundle).spec
    settings = Settings(args.period, args.scene_seconds, args.images, args.lidar, args.vehicle)
    check_ready(args.bag, spec, config, settings.lidar, note)
    source = None if args.no_labels else find_labels(args.bag, args.labels, args.least_score, note)
    with open_bag(args.bag, note) as recording:
        span = [recording.start_ns, recording.end_ns]
    facts = {
        "bag": args.bag.name,
        "span_ns": span,
        "labels": repr(source and (source.path.name, source.topic, source.least_score)),
        "settings": repr(settings),
        "parameters": hashlib.sha256(repr(config).encode()).hexdigest()[:16],
        "split": args.split,
    }
    with open_dataset(args.out, args.version):
        if finished(args.out, name, facts):
            print(f"{args.out} has the drive {name} already")
        else:
            objects = None if source is None else read_labels(source, config.base_frame, note)
            written, drive = add_drive(
                args.bag, args.out, name, spec, config, settings, objects, facts, args.split, note, progress
            )
            for line in reason_lines(+drive.counters, drive.details):
                print(line)
            of = "not annotated" if source is None else f"{written.boxes} boxes of {source.topic or source.path}"
            files = ", ".join(f"{count} {channel}" for channel, count in sorted(written.files.items()))
            print(f"{name}: {written.scenes} scenes, {written.keyframes} keyframes, {of}; {files}")
        drives = tables_of_drives(args.out, args.version)
    print(f"{args.out}: {drives} drives, {progress.seconds():.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
