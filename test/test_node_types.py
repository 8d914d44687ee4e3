"""Publishers of another type on a sensor's topic never reach the node; it names them all the same, over real DDS."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from lifecycle_msgs.msg import Transition  # noqa: E402
from node_rig import running_node  # noqa: E402

from bev_perception_msgs.msg import SensorState  # noqa: E402


def test_a_camera_that_sends_another_kind_of_image_is_named(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    # the rig sends raw images
    with running_node(tmp_path, bundle.path, bundle.spec, **{"cameras.cam_a.compressed": True}) as (process, rig):
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        rig.drive_until(
            lambda: "wrong_type" in getattr(rig.sensor("cam_a"), "reason", ""), "the other type to be named"
        )
        camera = rig.sensor("cam_a")
        assert camera.state == SensorState.NEVER_SEEN
        assert camera.reason == (
            "never_seen: wrong_type: /camera/cam_a/image_raw is sensor_msgs/msg/Image, "
            "sensor_msgs/msg/CompressedImage is expected; set cameras.*.compressed: false"
        )
        rig.drive_until(lambda: rig.counters().get("cam_a/wrong_type"), "it to be counted")
        assert rig.counters()["cam_a/wrong_type"] == 1, "once, not in every status"
        assert "wrong_type" in process.log.read_text()
        assert not rig.counters().get("cam_b/wrong_type")
