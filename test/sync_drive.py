"""A short drive of four cameras and two radars as stamped measurements, for the tests of the synchroniser."""

from __future__ import annotations

import numpy as np

from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.measurements import Measurements
from bev_perception.structures import CameraCalibration, CameraFrame, EgoPose, RadarScan
from bev_perception.sync import FrameSynchronizer
from bev_perception.sync_config import SyncConfig

MS = 1_000_000
PERIOD = 83_333_333
OFFSETS = {"left": -43 * MS, "front": -35 * MS, "right": -27 * MS, "back": 0}
CONFIG = SyncConfig(("left", "front", "right", "back"), ("near", "far"), period_ns=PERIOD, offsets_ns=OFFSETS)
START = 1_000 * 1000 * MS
PIXEL = np.zeros((2, 2, 3), np.uint8)
CALIBRATION = CameraCalibration(2, 2, np.eye(3), np.eye(4))


def image(sensor, stamp_ns):
    return CameraFrame(sensor, stamp_ns, "bgr8", PIXEL)


def scan(sensor, stamp_ns):
    return RadarScan(sensor, stamp_ns, np.ones((3, 6), np.float32))


def pose(stamp_ns, speed=10.0, shift=0.0):
    seconds = (stamp_ns - START) / 1e9
    transform = make_transform(
        rotation_from_yaw(0.1), np.array([np.cos(0.1), np.sin(0.1), 0]) * speed * seconds + shift
    )
    return EgoPose(stamp_ns, transform, np.array([speed, 0.0, 0.0]))


def drive(duration_s=2.0, start=START, without=(), sensors=(*OFFSETS, "near", "far", "odometry")):
    """All messages of a drive: cameras at 12 Hz, radars at 13 Hz, poses at 50 Hz. -> list of messages by stamp."""
    messages = []
    for name in sensors:
        if name in without:
            continue
        if name in OFFSETS:
            stamps = [start + k * PERIOD + OFFSETS[name] for k in range(1, round(duration_s * 12))]
            messages += [image(name, t) for t in stamps]
        elif name == "odometry":
            messages += [pose(start + k * 20 * MS) for k in range(round(duration_s * 50) + 10)]
        else:
            shift = {"near": 2, "far": 31}[name] * MS
            messages += [scan(name, start + k * 76_923_077 + shift) for k in range(round(duration_s * 13))]
    return sorted(messages, key=lambda m: m.stamp_ns)


class Sync:
    """Measurements and the synchroniser that makes frames of them."""

    def __init__(self, config=CONFIG, again=None):
        self.taken = Measurements(config)
        self.frames = FrameSynchronizer(self.taken, again)
        self.counters = self.taken.counters

    def poll(self, now_ns, all_taken=True):
        self.taken.advance(now_ns)
        return self.frames.poll(all_taken)


def make_sync(config=CONFIG, calibrated=True, again=None):
    sync = Sync(config, again)
    for name in config.cameras if calibrated else ():
        sync.taken.set_camera_calibration(name, CALIBRATION)
    for name in config.radars if calibrated else ():
        sync.taken.set_radar_extrinsics(name, np.eye(4))
    return sync


def add(sync, message):
    taken = sync.taken
    if isinstance(message, CameraFrame):
        return taken.add_camera(message)
    return taken.add_radar(message) if isinstance(message, RadarScan) else taken.add_pose(message)


def feed(sync, messages, latency_ns=5 * MS, poll_after_s=0.5):
    """Deliver in the given order, each `latency_ns` after its stamp, polling after every message and then on."""
    frames, now = [], 0
    for message in messages:
        add(sync, message)
        now = max(now, message.stamp_ns + latency_ns)
        frames += sync.poll(now)
    for _ in range(round(poll_after_s * 100)):
        now += 10 * MS
        frames += sync.poll(now)
    return frames


def content(frame):
    """What a frame is made of, comparable."""
    return (
        frame.stamp_ns,
        frame.ego.odom_from_ego.tobytes(),
        frame.ego.epoch,
        tuple((v.frame.sensor, v.frame.stamp_ns, v.ego.odom_from_ego.tobytes()) if v else None for v in frame.cameras),
        tuple(tuple((s.scan.stamp_ns, s.ego.odom_from_ego.tobytes()) for s in sweeps) for sweeps in frame.radars),
        tuple(sorted(frame.missing.items())),
        frame.epoch,
    )


def anchors(duration_s=2.0, start=START):
    return [start + k * PERIOD for k in range(1, round(duration_s * 12))]
