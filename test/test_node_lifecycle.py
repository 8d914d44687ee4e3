"""Lifecycle transitions and parameters of the node in a second process, over real DDS."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from node_rig import NodeProcess, Rig, running_node, stamp_ns  # noqa: E402
from rcl_interfaces.msg import ParameterType  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from bev_perception_msgs.msg import PerceptionStatus  # noqa: E402

# The node, interrupted at a bad moment: in its main thread, which has just taken a lock that stopping needs.
INTERRUPTED = """
import os, signal, sys, threading
from bev_perception import worker
from bev_perception.ros import node

class Condition(threading.Condition):
    struck = False
    def __enter__(self):
        taken = super().__enter__()
        if threading.current_thread() is threading.main_thread() and not Condition.struck:
            Condition.struck = True
            os.kill(os.getpid(), signal.SIGINT)
        return taken

class Threading:
    Condition, Thread = Condition, threading.Thread

worker.threading = Threading
sys.exit(node.main())
"""
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = (
    Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE,
)  # fmt: skip
Running = tuple[NodeProcess, Rig]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("node")
    bundle = tiny_bundle.write_bundle(folder / "bundle")
    with running_node(folder, bundle.path, bundle.spec) as (process, rig):
        yield process, rig
        assert "Traceback" not in process.log.read_text()


@pytest.fixture
def node(running: Running) -> Iterator[Rig]:
    """The node, unconfigured before and after each test."""
    process, rig = running
    assert rig.state() == "unconfigured"
    yield rig
    assert process.alive()
    if rig.state() == "active":
        rig.change_state(DEACTIVATE)
    if rig.state() == "inactive":
        rig.change_state(CLEANUP)


def test_up_and_down_twice(node: Rig) -> None:
    for _ in range(2):
        assert node.change_state(CONFIGURE) and node.state() == "inactive"
        assert node.change_state(ACTIVATE) and node.state() == "active"
        assert len(node.drive_until_detection().detections) > 0
        node.wait_for(lambda: "engine_ms=" in node.diagnostic_text(), "/diagnostics to say how long the engine takes")
        assert node.change_state(DEACTIVATE) and node.state() == "inactive"
        assert node.change_state(CLEANUP) and node.state() == "unconfigured"


def test_an_inactive_node_listens_to_nobody(node: Rig) -> None:
    node.change_state(CONFIGURE)
    node.change_state(ACTIVATE)
    node.drive_until_detection()
    node.change_state(DEACTIVATE)
    node.wait_for(lambda: node.status.lifecycle_state == "inactive", "the status to say inactive")
    assert node.status.level == PerceptionStatus.INACTIVE
    node.wait_for(
        lambda: node.images["cam_a"].get_subscription_count() == 0 == node.odometry.get_subscription_count(),
        "the subscriptions to go",
    )
    count, stamp = len(node.detections), node.status.header
    # five more statuses, while the sensors go on
    node.drive_until(lambda: stamp_ns(node.status.header) > stamp_ns(stamp) + 500_000_000, "more of the status")
    assert len(node.detections) == count
    node.change_state(ACTIVATE)
    node.drive_until_detection()


def test_impossible_transitions_are_answered(node: Rig) -> None:
    assert not node.change_state(ACTIVATE)
    assert not node.change_state(DEACTIVATE)
    assert node.change_state(CONFIGURE)
    assert not node.change_state(CONFIGURE)
    assert node.state() == "inactive"


def test_a_bad_bundle_leaves_the_node_unconfigured_until_it_is_mended(node: Rig, running: Running) -> None:
    onnx = running[0].log.parent / "bundle" / "model.onnx"
    good = onnx.read_bytes()
    onnx.write_bytes(good[:-1] + b"?")
    assert not node.change_state(CONFIGURE)
    assert node.state() == "unconfigured"
    node.wait_for(lambda: "sha256" in node.diagnostic_text(), "/diagnostics to name the reason")
    assert node.diagnostics.status[0].level == DiagnosticStatus.ERROR
    assert "copy the whole bundle again" in node.status.summary
    onnx.write_bytes(good)
    assert node.change_state(CONFIGURE)
    node.wait_for(lambda: "sha256" not in node.status.summary, "the error to go")


def test_a_wrong_golden_sample_stops_configure(node: Rig, running: Running) -> None:
    """The self-test: an engine that gives other numbers than the training side said does not drive."""
    import numpy as np

    path = running[0].log.parent / "bundle" / "golden.npz"
    good = path.read_bytes()
    with np.load(path) as data:
        arrays = dict(data)
    arrays["out.scores"] = arrays["out.scores"] + np.float32(0.1)
    np.savez(path, **arrays)
    assert not node.change_state(CONFIGURE)
    node.wait_for(lambda: "self-test" in node.status.summary, "the status to name the self-test")
    path.write_bytes(good)
    assert node.change_state(CONFIGURE)


def test_a_wrong_golden_frame_stops_configure(node: Rig, running: Running) -> None:
    """The engine is right, and what is made around it is not what the export recorded."""
    import numpy as np

    path = running[0].log.parent / "bundle" / "golden_frame.npz"
    good = path.read_bytes()
    with np.load(path) as data:
        arrays = dict(data)
    arrays["expected.boxes"][:, 0] += 1.0
    np.savez(path, **arrays)
    assert not node.change_state(CONFIGURE)
    node.wait_for(lambda: "golden frame of 'tiny'" in node.status.summary, "the status to name the golden frame")
    path.write_bytes(good)
    assert node.change_state(CONFIGURE)


def test_parameters_are_described(node: Rig) -> None:
    node.change_state(CONFIGURE)
    depth = node.describe("qos.depth")
    assert depth.read_only and depth.integer_range[0].from_value == 1 and depth.description
    score = node.describe("score_threshold.car")
    assert not score.read_only and score.floating_point_range[0].to_value == 1.0
    assert "tensorrt" in node.describe("backend").additional_constraints
    assert node.describe("absent").type == ParameterType.PARAMETER_STRING_ARRAY  # though it is empty


def test_parameters_are_checked_when_set(node: Rig) -> None:
    node.change_state(CONFIGURE)
    for name, value, part in (
        ("qos.depth", 7, "read-only"),
        ("base_frame", "chassis", "read-only"),
        ("score_threshold.car", 1.5, "range"),
        ("score_threshold.car", "high", "type"),
        ("backend", "tensort", "did you mean 'tensorrt'"),
        ("sync.deadline_ms", 80.0, "takes effect at configure"),
        ("score_treshold.car", 0.5, ""),  # rclpy's own answer: not declared
    ):
        successful, reason = node.set_parameter(name, value)
        assert not successful, name
        assert part in reason.replace("read only", "read-only"), reason
    node.change_state(CLEANUP)
    assert node.set_parameter("sync.deadline_ms", 280.0)[0]
    assert node.change_state(CONFIGURE)


def test_a_threshold_takes_effect_while_running(node: Rig) -> None:
    node.change_state(CONFIGURE)
    node.change_state(ACTIVATE)
    label = node.drive_until_detection().detections[0].class_name
    assert node.set_parameter(f"score_threshold.{label}", 1.0)[0]
    node.drive_until(
        lambda: label not in {d.class_name for d in node.detections[-1].detections}, f"{label} to disappear"
    )
    assert node.set_parameter(f"score_threshold.{label}", 0.1)[0]
    node.drive_until(lambda: label in {d.class_name for d in node.detections[-1].detections}, f"{label} to return")


def test_a_wrong_parameter_file(tmp_path: Path) -> None:
    """The process lives, configure fails, and the status names every fault with its mend."""
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    wrong = {
        "sync.deadlin_ms": 60.0,
        "cameras.cam_a.topik": "/x",
        "qos.depth": 0,
        "backend": 3,
        "publish.outputs": ["detections", "markrs"],
        "score_threshold.car": -1.0,
    }
    with running_node(tmp_path, bundle.path, bundle.spec, **wrong) as (process, rig):
        assert not rig.change_state(CONFIGURE)
        for part in (
            "sync.deadlin_ms: no such parameter; did you mean 'sync.deadline_ms'?",
            "did you mean 'cameras.cam_a.topic'",
            "qos.depth: 0 is outside",
            "backend: expected string, found 3",
            "did you mean 'markers'",
            "score_threshold.car: -1.0 is outside [0, 1]",
        ):
            rig.wait_for(lambda: part in rig.status.summary, f"the status to say {part!r}")  # noqa: B023
        assert process.alive()


NO_BUNDLE = {
    "bundle": "",
    "sync.deadlin_ms": 60.0,
    "cameras.any.topik": "/x",
    "cameras.any.topic": "/y",
    "qos.depth": 0,
}


@pytest.mark.parametrize(
    "values, parts",
    [
        (NO_BUNDLE, ["bundle: is required", "'sync.deadline_ms'?", "'cameras.any.topic'?", "qos.depth: 0 is outside"]),
        ({"extrinsics.file": "/nowhere.yaml"}, ["/nowhere.yaml: cannot be read"]),
    ],
    ids=["no bundle, and more", "no calibration"],
)
def test_something_is_missing(tmp_path: Path, values: dict, parts: list[str]) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    with running_node(tmp_path, bundle.path, bundle.spec, **values) as (process, rig):
        assert not rig.change_state(CONFIGURE)
        rig.wait_for(lambda: all(part in rig.status.summary for part in parts), f"the status to say {parts}")
        assert rig.status.summary.count("\n") == len(parts) - 1
        assert process.alive()


def test_incompatible_qos_is_named(tmp_path: Path) -> None:
    """A reliable subscriber of a best-effort publisher gets nothing, and without a report nobody knows why."""
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    with running_node(tmp_path, bundle.path, bundle.spec, **{"qos.reliability": "reliable"}) as (_, rig):
        assert rig.change_state(CONFIGURE) and rig.change_state(ACTIVATE)
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        rig.node.create_publisher(Image, "/camera/cam_a/image_raw", qos)
        rig.wait_for(
            lambda: rig.counters().get("cam_a/qos_incompatible") and "qos_overrides" in rig.diagnostic_text(),
            "the QoS to be named",
        )
        begins = "never_seen: qos_incompatible: a publisher of /camera/cam_a/image_raw offers another "
        rig.wait_for(lambda: rig.sensor("cam_a").reason.startswith(begins), "the QoS to be the reason of never_seen")
        other = "never_seen: nothing on /camera/cam_b/image_raw (1 publisher)"
        rig.wait_for(lambda: rig.sensor("cam_b").reason == other, "the topic to be the reason where there is no other")


def test_missing_camera_info_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    silent = ("cam_b camera_info",)
    with running_node(tmp_path, bundle.path, bundle.spec) as (_, rig):
        assert rig.change_state(CONFIGURE) and rig.change_state(ACTIVATE)
        found = rig.drive_until_detection(without=silent)
        assert "cam_b" in found.sensors_missing
        rig.drive_until(
            lambda: "nothing usable arrived on /camera/cam_b/camera_info" in rig.status.summary,
            "the status to name the missing camera_info",
            without=silent,
        )
        rig.drive_until(lambda: rig.status.level == PerceptionStatus.OK, "cam_b to come in")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_while_active(tmp_path: Path, how: int) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    with running_node(tmp_path, bundle.path, bundle.spec) as (process, rig):
        assert rig.change_state(CONFIGURE) and rig.change_state(ACTIVATE)
        rig.drive_until_detection()
        assert process.stop(how) == 0, process.log.read_text()
        assert "Traceback" not in process.log.read_text()


def test_an_interrupt_may_strike_anywhere(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    with running_node(tmp_path, bundle.path, bundle.spec, start=("-c", INTERRUPTED)) as (process, rig):
        assert rig.change_state(CONFIGURE) and rig.change_state(ACTIVATE)
        rig.drive_until(lambda: not process.alive(), "the interrupted node to end")
        assert process.stop() == 0, process.log.read_text()
        assert "Traceback" not in process.log.read_text()
