"""Does the memory of an evaluation grow with the drive? A short recording, repeated to half an hour.

    python -m training.bench.long_recording DRIVE [--params YAML] [--minutes 30] [--out DIR]

DRIVE is a recording with ground truth, such as `python -m training.world bag` writes. It is repeated with later stamps;
odometry goes on from where the round before ended, so that nothing tells the rounds apart. Messages, synchroniser,
preparation, decoding, scores and pictures are those of `evaluate`; the network is not run: what it made of its golden
input stands for every frame. Prints resident memory every tenth of the recording, and removes what it wrote.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.bags.recording import open_bag
from bev_perception.bundle import load_bundle
from bev_perception.evaluation.drive import Job, evaluate_drive
from bev_perception.evaluation.message_maker import MessageMaker
from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.evaluation.spread import spread
from bev_perception.geometry import invert, make_transform, quaternion_from_rotation, rotation_from_quaternion
from bev_perception.inference.backend import open_backend
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import SHIPPED_BUNDLE, SHIPPED_PARAMETERS

ONCE = ("/tf_static",)  # topics that are said once
ODOMETRY = "nav_msgs/msg/Odometry"
STAMP_AT = 4  # bytes of a serialised message before the stamp of its header: those that say how it is serialised
TENTHS = 10


def repeat(drive: Path, out: Path, rounds: int) -> None:
    """The recording `rounds` times, one after the other. Messages but odometry are copied as bytes, with later
    stamps."""
    store = make_typestore()
    with open_bag(drive) as recording:
        rows = [(c, record_ns, bytes(raw)) for c, record_ns, raw in recording.messages(None)]
        period = _period_ns(rows)
        way = _way(store, [raw for c, _, raw in rows if c.msgtype == ODOMETRY])
        with Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            to = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store) for c in recording.connections}
            for number in range(rounds):
                later_ns, moved = number * period, np.linalg.matrix_power(way, number)
                for connection, record_ns, raw in rows:
                    if connection.topic in ONCE and number:
                        continue
                    if connection.topic not in ONCE:
                        raw = _later(raw, later_ns)
                    if connection.msgtype == ODOMETRY:
                        raw = _moved(store, raw, moved)
                    writer.write(to[connection.topic], record_ns + later_ns, raw)


def _repeat(given: tuple[Path, Path, int]) -> None:
    repeat(*given)


def _period_ns(rows: list[tuple[Any, int, bytes]]) -> int:
    """After which the next round's messages follow as they follow each other: of the topic that comes most often."""
    stamps = [struct.unpack_from("<iI", raw, STAMP_AT) for c, _, raw in rows if c.msgtype == ODOMETRY]
    times = [seconds * 10**9 + nanoseconds for seconds, nanoseconds in stamps]
    return times[-1] - times[0] + (times[1] - times[0])


def _later(raw: bytes, later_ns: int) -> bytes:
    seconds, nanoseconds = struct.unpack_from("<iI", raw, STAMP_AT)
    stamp = divmod(seconds * 10**9 + nanoseconds + later_ns, 10**9)
    return raw[:STAMP_AT] + struct.pack("<iI", *stamp) + raw[STAMP_AT + 8 :]


def _way(store: Any, odometry: list[bytes]) -> np.ndarray:
    """odom_from_odom over one round, (4, 4): a step further than from the first pose to the last."""
    poses = [_pose(store.deserialize_cdr(raw, ODOMETRY)) for raw in (odometry[0], odometry[-2], odometry[-1])]
    beyond = poses[2] @ invert(poses[1]) @ poses[2]
    way: np.ndarray = beyond @ invert(poses[0])
    return way


def _pose(message: Any) -> np.ndarray:
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return make_transform(rotation_from_quaternion(np.array([q.w, q.x, q.y, q.z])), np.array([p.x, p.y, p.z]))


def _moved(store: Any, raw: bytes, moved: np.ndarray) -> bytes:
    message = store.deserialize_cdr(raw, ODOMETRY)
    pose = moved @ _pose(message)
    w, x, y, z = quaternion_from_rotation(pose[:3, :3]).tolist()
    make = MessageMaker(store)
    tx, ty, tz = pose[:3, 3].tolist()
    message.pose.pose.position = make.vector(tx, ty, tz, "Point")
    message.pose.pose.orientation = make.make("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)
    return bytes(store.serialize_cdr(message, ODOMETRY))


class SameEveryTime:
    """An engine that gives what another one made of the golden input."""

    name, details = "same", {"same": "every time"}

    def __init__(self, spec: ModelSpec, outputs: Mapping[str, np.ndarray]) -> None:
        self.spec, self._outputs = spec, outputs

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return dict(self._outputs)

    def fetch(self, value: np.ndarray) -> np.ndarray:
        return value

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass


def golden_engine(bundle: Path) -> SameEveryTime:
    loaded = load_bundle(bundle)
    inputs, _ = loaded.golden()
    with closing(open_backend(loaded, "onnxruntime", threads=1)) as engine:
        outputs = engine.infer(inputs)
        return SameEveryTime(loaded.spec, {name: np.array(engine.fetch(value)) for name, value in outputs.items()})


def resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drive", type=Path)
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS)
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=None, help="where there is room; default: the system's")
    args = parser.parse_args(argv)
    with open_bag(args.drive) as recording:
        seconds = (recording.end_ns - recording.start_ns) / 1e9
    rounds = max(1, round(args.minutes * 60 / seconds))
    folder = Path(tempfile.mkdtemp(prefix="long_recording.", dir=args.out))
    try:
        (written,) = spread(_repeat, [(args.drive, folder / "drive", rounds)], 1)  # alone: what it takes is not counted
        if written.error is not None:
            raise written.error
        size = sum(file.stat().st_size for file in (folder / "drive").iterdir())
        print(f"{rounds} x {seconds:.1f} s, {size / 1e9:.2f} GB", flush=True)
        engine, told, begun = golden_engine(args.bundle), 0, time.monotonic()

        def watch(share: float) -> None:
            nonlocal told
            if share * TENTHS >= told + 1:
                told = int(share * TENTHS)
                minute = share * rounds * seconds / 60
                print(f"minute {minute:5.1f}: {resident_mb():6.1f} MB, {time.monotonic() - begun:5.0f} s", flush=True)

        with mock.patch("bev_perception.replay.open_proven", lambda bundle, backend, **options: (engine, {})):
            result = evaluate_drive(Job(folder / "drive", args.bundle, args.params, folder / "out"), watch)
        print(f"{result.frames} frames, {result.boxes} boxes, {result.scored} scored; end {resident_mb():.1f} MB")
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
