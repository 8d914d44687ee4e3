"""Extrinsics from /tf_static over real DDS: late, in a chain, incomplete, changed; and where tf2_msgs is absent."""
# ruff: noqa: E402

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from node_rig import CAMERA_ROTATION, running_node
from rclpy.qos import DurabilityPolicy, QoSProfile

from bev_perception.geometry import quaternion_from_rotation
from bev_perception_msgs.msg import PerceptionStatus, SensorState

HAS_TF = importlib.util.find_spec("tf2_msgs") is not None
FROM_TF = {"extrinsics.source": "tf_static", "extrinsics.file": ""}


def transform(parent: str, child: str, x: float, rotation: np.ndarray | None = None) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.transform.translation.x = x
    q = message.transform.rotation
    q.w, q.x, q.y, q.z = quaternion_from_rotation(np.eye(3) if rotation is None else rotation).tolist()
    return message


@pytest.mark.skipif(HAS_TF, reason="tf2_msgs is installed")
def test_without_tf2_msgs_configure_says_what_to_do(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    with running_node(tmp_path, bundle.path, bundle.spec, **FROM_TF) as (process, rig):
        assert not rig.change_state(Transition.TRANSITION_CONFIGURE)
        rig.wait_for(lambda: "or set extrinsics.source: file" in rig.status.summary, "the mend in the status")
        assert process.alive()


@pytest.mark.skipif(not HAS_TF, reason="tf2_msgs is not installed; test/stand_ins/tf2_msgs can be built instead")
def test_extrinsics_from_tf_static(tmp_path: Path) -> None:
    from tf2_msgs.msg import TFMessage

    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    with running_node(tmp_path, bundle.path, bundle.spec, **FROM_TF) as (process, rig):
        qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        mast = rig.node.create_publisher(TFMessage, "/tf_static", qos)
        mast.publish(TFMessage(transforms=[transform("mast", "cam_a", 0.1, CAMERA_ROTATION)]))
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        rig.drive_until(
            lambda: "no static transforms from 'cam_a' to 'base_link'" in rig.status.summary, "the gap to be named"
        )
        assert rig.sensor("cam_a").state == SensorState.INVALID
        # another broadcaster completes the chain of cam_a and the radar's, while cam_b stays without
        body = rig.node.create_publisher(TFMessage, "/tf_static", qos)
        body.publish(
            TFMessage(transforms=[transform("base_link", "mast", 1.0), transform("base_link", "radar_a", 3.0)])
        )
        found = rig.drive_until(
            lambda: rig.detections and list(rig.detections[-1].sensors_missing) == ["cam_b"] and rig.detections[-1],
            "detections with all but cam_b",
        )
        assert list(found.sensors_used) == ["cam_a", "radar_a"]
        body.publish(TFMessage(transforms=[transform("mast", "cam_b", 0.2, CAMERA_ROTATION)]))
        rig.drive_until(lambda: rig.status.level == PerceptionStatus.OK, "all sensors")
        body.publish(TFMessage(transforms=[transform("base_link", "mast", 1.5)]))
        rig.drive_until(lambda: rig.counters().get("cam_b/calibration_changed"), "the change to be counted")
        rig.drive_until(lambda: rig.status.last_memory_reset_reason == "calibration_changed", "the memory reset")
        assert "Traceback" not in process.log.read_text()
