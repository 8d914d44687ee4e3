"""Two instances on one vehicle, over real DDS: side by side in two namespaces, and noticed when both have one name."""
# ruff: noqa: E402

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from node_rig import NODE, NodeProcess, Rig, default_values, environment

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE


def test_side_by_side_and_one_name_twice(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    env = environment()
    said: dict[str, DiagnosticStatus] = {}
    with ExitStack() as stack:

        def start(folder: str, namespace: str) -> NodeProcess:
            (tmp_path / folder).mkdir()
            values = default_values(bundle.path, bundle.spec, tmp_path / folder)
            values["diagnostics.hardware_id"] = folder
            process = NodeProcess(values, tmp_path / folder, env, namespace=namespace)
            stack.callback(process.stop)
            return process

        processes = {name: start(name, f"/{name}") for name in ("front", "rear")}
        rigs = {name: Rig(bundle.spec, env, namespace=f"/{name}") for name in processes}
        for rig in rigs.values():
            stack.callback(rig.close)
        front, rear = rigs.values()
        listen = lambda message: said.update({s.name: s for s in message.status})  # noqa: E731
        front.node.create_subscription(DiagnosticArray, "/diagnostics", listen, 50)

        # Both listen to the same sensors, and each publishes on its own topics.
        for rig in rigs.values():
            assert rig.change_state(CONFIGURE) and rig.change_state(ACTIVATE)
        front.drive_until(lambda: rear.spin(0.001) or (front.detections and rear.detections), "detections of both")
        names = {f"/{name}/{NODE}: {task}" for name in rigs for task in ("pipeline", "camera cam_a", "odometry")}
        front.drive_until(lambda: names <= set(said), f"/diagnostics to have {names}")
        assert {s.name.split("/")[1]: s.hardware_id for s in said.values()} == {"front": "front", "rear": "rear"}
        middleware = f"/front/{NODE}: middleware"
        assert "node_name_taken" not in said[middleware].message

        # A second node of the name /front/bev_perception: both say so, and it is over when it ends.
        second = start("second", "/front")
        said_so = lambda node: f"2 nodes are called /front/{NODE}" in node.log.read_text()  # noqa: E731
        front.drive_until(
            lambda: said_so(processes["front"]) and said_so(second), "both to notice that their name is one"
        )
        front.drive_until(lambda: "node_name_taken" in said[middleware].message, "/diagnostics to name it")
        second.stop()
        front.drive_until(lambda: "node_name_taken" not in said[middleware].message, "the name to be its own again")
        assert "node_name_taken" not in processes["rear"].log.read_text()
