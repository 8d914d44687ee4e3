"""A rig that is there now, over real DDS: parameters are made of what it publishes, and the doctor listens to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import rclpy
import rig_drive
from domains import next_domain
from rclpy.context import Context
from rig_drive import NS, START
from rosgraph_msgs.msg import Clock

from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.messages import message_class, to_time
from bev_perception.parameters import SHIPPED_BUNDLE, load_config
from bev_perception.ros.car import LATCHED, SENSOR_QOS

SECONDS = 60.0  # of the drive; the commands take a part of it


@contextmanager
def driving(played: bool) -> Iterator[str]:
    """The domain in which the drive goes on: as if it were now, or as it was recorded, with its time on /clock."""
    rig_drive.good_rows(SECONDS)  # made before anybody waits for them
    domain, over = next_domain(), threading.Event()
    context = Context()
    rclpy.init(context=context, domain_id=int(domain))
    node = rclpy.create_node("rig", context=context)
    thread = threading.Thread(target=_drive, args=(node, over, played))
    thread.start()
    try:
        yield domain
    finally:
        over.set()
        thread.join()
        node.destroy_node()
        context.shutdown()


def _drive(node: rclpy.node.Node, over: threading.Event, played: bool) -> None:
    store, rows = make_typestore(), rig_drive.good_rows(SECONDS)
    publishers = {
        row.topic: node.create_publisher(
            message_class(row.kind), row.topic, LATCHED if row.topic == "/tf_static" else SENSOR_QOS
        )
        for row in rows[:200]
    }
    clock = node.create_publisher(Clock, "/clock", 10) if played else None
    shift_ns = time.time_ns() - START
    for row in rows:
        if over.wait(max(0.0, (row.record_ns + shift_ns - time.time_ns()) / NS)):
            return
        if clock is not None:
            clock.publish(Clock(clock=to_time(row.record_ns)))
        now = row if played or row.topic == "/tf_static" else rig_drive.stamped(row, shift_ns)
        publishers[row.topic].publish(bytes(store.serialize_cdr(now.message, now.kind)))


def bring_up(domain: str, out: Path, *more: str) -> tuple[list[str], str]:
    """What the command says, line by line, and all of it."""
    command = [sys.executable, "-m", "bev_perception.bring_up_rig", "--live", "--seconds", "3", "--no-machine", *more]
    done = subprocess.run(
        [*command, "--out", str(out)], env=os.environ | {"ROS_DOMAIN_ID": domain}, capture_output=True, text=True
    )
    assert (out / "rig.param.yaml").exists(), done.stdout + done.stderr
    return done.stdout.splitlines(), done.stdout + done.stderr


# The tiny cameras have other lenses than those that the model learnt from, and that is told.
USUAL = {"extrinsics": ["warning", "warning"]}


def verdict(lines: list[str], check: str) -> list[str]:
    return [line.split()[0] for line in lines if line.split()[1:2] == [check]]


# Of what does not depend on how busy this machine is.
CALM = ("topics", "types", "qos", "frame_ids", "images", "camera_info", "extrinsics", "radar_messages")


def test_a_rig_comes_up_from_a_recording_that_is_played(tmp_path: Path) -> None:
    """By /clock its stamps are right, by the time of the wall they are far from now."""
    with driving(played=True) as domain:
        lines, said = bring_up(domain, tmp_path / "rig", "--use-sim-time")
        for check in CALM:
            assert verdict(lines, check) == USUAL.get(check, ["ok"]), said
        assert not {"in_future", "too_old", "clock_not_started"} & set(said.replace(",", " ").split()), said
        lines, said = bring_up(domain, tmp_path / "wall")
        assert "error" in verdict(lines, "clocks") and "--use-sim-time where a recording is played" in said, said


def test_a_rig_comes_up_from_what_it_publishes(tmp_path: Path) -> None:
    with driving(played=False) as domain:
        _comes_up(domain, tmp_path / "rig")


def _comes_up(domain: str, out: Path) -> None:
    lines, said = bring_up(domain, out)
    config = load_config(SHIPPED_BUNDLE, out / "rig.param.yaml")
    assert {name: camera.topic for name, camera in config.cameras.items()} == {
        "CAM_FRONT": "/camera/cam_a/image_raw",
        "CAM_BACK": "/camera/cam_b/image_raw",
    }
    assert {name: radar.topic for name, radar in config.radars.items()} == {
        "RADAR_FRONT": "/radar/radar_a/points",
        "RADAR_FRONT_LEFT": "/radar/radar_b/points",
    }
    assert (config.anchor, config.odometry.topic) == ("CAM_BACK", "/odometry")
    for check in CALM:
        assert verdict(lines, check) == USUAL.get(check, ["ok"]), said

    look = [sys.executable, "-m", "bev_perception.calibration_check", "--live", "--seconds", "3", "--frames", "1"]
    subprocess.run(
        [*look, "--params", str(out / "rig.param.yaml"), "--out", str(out)],
        env=os.environ | {"ROS_DOMAIN_ID": domain},
        check=True,
    )
    assert (out / "frame_0.jpg").stat().st_size > 1000
