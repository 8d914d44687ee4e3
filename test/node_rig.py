"""A car for tests over real DDS: the node in a process of its own, and a rclpy node here that plays its sensors."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from domains import next_domain
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from visualization_msgs.msg import MarkerArray

from bev_perception.calibration import save_extrinsics
from bev_perception.geometry import make_transform
from bev_perception.model_spec import ModelSpec
from bev_perception_msgs.msg import Detection3DArray, PerceptionStatus

ROOT = Path(__file__).resolve().parent.parent
NODE = "bev_perception"
START = ("-m", "bev_perception.ros.node")
PERIOD_S = 0.1
SPEED_MPS = 5.0
WIDTH, HEIGHT = 64, 48
RADAR_FIELDS = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
CAMERA_ROTATION = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # optical frame looking along x


def environment() -> dict[str, str]:
    """A domain that no other node of this process has, nor probably another process; nothing leaves the machine."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": next_domain(),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def default_values(bundle: Path, spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """Parameters for the tiny bundle, with a calibration file in `folder`."""
    poses = {name: make_transform(CAMERA_ROTATION, np.array([1.0, 0.0, 1.5])) for name in spec.cameras}
    poses |= {name: make_transform(np.eye(3), np.array([3.0, 0.0, 0.5])) for name in spec.radars}
    save_extrinsics(folder / "calibration.yaml", "base_link", poses)
    return {
        "bundle": str(bundle),
        "onnxruntime.threads": 1,
        "extrinsics.source": "file",
        "extrinsics.file": str(folder / "calibration.yaml"),
        "sync.period_ms": PERIOD_S * 1e3,
        "sync.deadline_ms": 300.0,
    }


class NodeProcess:
    """`perception_node` with a parameter file; its output goes to a file."""

    def __init__(
        self,
        values: dict[str, Any],
        folder: Path,
        env: dict[str, str],
        start: Sequence[str] = START,
        namespace: str = "/",
    ) -> None:
        params = folder / "params.yaml"
        params.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
        self.log = folder / "node.log"
        self._file = self.log.open("w")
        command = [sys.executable, *start, "--ros-args", "--params-file", str(params), "-r", f"__ns:={namespace}"]
        self.process = subprocess.Popen(command, stdout=self._file, stderr=subprocess.STDOUT, env=env, cwd=folder)

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, how: int = signal.SIGINT) -> int:
        """Signal, wait, exit code."""
        if self.alive():
            self.process.send_signal(how)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._file.close()
        return self.process.returncode


class Rig:
    """Publishes sensor messages, listens to the node and changes its state."""

    def __init__(self, spec: ModelSpec, env: dict[str, str], node_name: str = NODE, namespace: str = "") -> None:
        self.spec = spec
        self._context = Context()
        previous = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = env["ROS_AUTOMATIC_DISCOVERY_RANGE"]
        rclpy.init(context=self._context, domain_id=int(env["ROS_DOMAIN_ID"]))
        if previous is None:
            del os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"]
        self.node = rclpy.create_node("rig", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.detections: list[Detection3DArray] = []
        self.markers: list[MarkerArray] = []
        self.status: PerceptionStatus | None = None
        self.diagnostics: DiagnosticArray | None = None
        n = self.node
        n.create_subscription(Detection3DArray, f"{namespace}/perception/detections", self.detections.append, 50)
        n.create_subscription(MarkerArray, f"{namespace}/perception/markers", self.markers.append, 50)
        n.create_subscription(
            PerceptionStatus, f"{namespace}/perception/status", lambda m: setattr(self, "status", m), 10
        )
        n.create_subscription(DiagnosticArray, "/diagnostics", lambda m: setattr(self, "diagnostics", m), 10)
        self.images = {c: n.create_publisher(Image, f"/camera/{c.lower()}/image_raw", 10) for c in spec.cameras}
        self.infos = {c: n.create_publisher(CameraInfo, f"/camera/{c.lower()}/camera_info", 10) for c in spec.cameras}
        self.radars = {r: n.create_publisher(PointCloud2, f"/radar/{r.lower()}/points", 10) for r in spec.radars}
        self.odometry = n.create_publisher(Odometry, "/odometry", 50)
        self._change = n.create_client(ChangeState, f"{namespace}/{node_name}/change_state")
        self._state = n.create_client(GetState, f"{namespace}/{node_name}/get_state")
        self._set = n.create_client(SetParameters, f"{namespace}/{node_name}/set_parameters")
        self._describe = n.create_client(DescribeParameters, f"{namespace}/{node_name}/describe_parameters")
        self._odometry_ns = 0
        self._cycle_ns = 0
        self.cycles: list[int] = []  # stamps of the images that were sent

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    # ---- talking to the node

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait_for(self, predicate: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
        """Spin until the predicate is true -> its value. Fails after the (generous) time."""
        return self._until(predicate, what, timeout_s, lambda: None)

    def _until(self, predicate: Callable[[], Any], what: str, timeout_s: float, between: Callable[[], None]) -> Any:
        end = time.monotonic() + timeout_s
        while True:
            value = predicate()
            if value:
                return value
            seen = self.status.summary if self.status else "no status"
            assert time.monotonic() < end, f"waited {timeout_s:.0f} s for {what}; the node says: {seen}"
            between()
            self._executor.spin_once(timeout_sec=0.005)

    def call(self, client: Any, request: Any) -> Any:
        assert client.wait_for_service(timeout_sec=60), f"no service {client.srv_name}"
        future = client.call_async(request)
        self.wait_for(future.done, f"an answer of {client.srv_name}")
        return future.result()

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(self._change, request).success)

    def state(self) -> str:
        return str(self.call(self._state, GetState.Request()).current_state.label)

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        kinds = {
            bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
            int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
            float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
            str: (ParameterType.PARAMETER_STRING, "string_value"),
        }
        kind, attribute = kinds[type(value)]
        message = ParameterMessage(name=name, value=ParameterValue(type=kind, **{attribute: value}))
        result = self.call(self._set, SetParameters.Request(parameters=[message])).results[0]
        return result.successful, result.reason

    def describe(self, name: str) -> Any:
        return self.call(self._describe, DescribeParameters.Request(names=[name])).descriptors[0]

    def counters(self) -> dict[str, int]:
        return {c.name: c.value for c in self.status.counters} if self.status else {}

    def sensor(self, name: str) -> Any:
        """SensorState of the newest status, or None."""
        return next((s for s in self.status.sensors if s.name == name), None) if self.status else None

    def diagnostic_text(self) -> str:
        """Everything /diagnostics says."""
        if self.diagnostics is None:
            return ""
        rows = [
            f"{s.name}: {s.message} " + " ".join(f"{v.key}={v.value}" for v in s.values)
            for s in self.diagnostics.status
        ]
        return "\n".join(rows)

    # ---- sensors

    def drive(self, without: tuple[str, ...] = (), bad: Callable[[int], None] | None = None) -> None:
        """Publish what is due now: odometry every 20 ms; images, camera_info and radars every PERIOD_S.

        without: names of sensors that stay silent, `odometry`, or `CAMERA camera_info`. bad(stamp_ns) is called in
        each cycle, to publish something else.
        """
        now = time.time_ns()
        if "odometry" not in without and now - self._odometry_ns >= 20_000_000:
            self._odometry_ns = now
            self.odometry.publish(make_pose(now))
        if now - self._cycle_ns < PERIOD_S * 1e9:
            return
        self._cycle_ns = now
        self.cycles.append(now)
        for radar, publisher in self.radars.items():
            if radar not in without:
                publisher.publish(make_scan(radar, now))
        for camera, publisher in self.images.items():
            if f"{camera} camera_info" not in without:
                self.infos[camera].publish(make_info(camera, now))
            if camera not in without:
                publisher.publish(make_image(camera, now))
        if bad is not None:
            bad(now)

    def drive_until(
        self,
        predicate: Callable[[], Any],
        what: str,
        without: tuple[str, ...] = (),
        bad: Callable[[int], None] | None = None,
        timeout_s: float = 60.0,
    ) -> Any:
        return self._until(predicate, what, timeout_s, lambda: self.drive(without, bad))

    def drive_until_detection(self, **keywords: Any) -> Detection3DArray:
        """Drive on until detections of a frame measured from now on arrive."""
        start_ns = time.time_ns()

        def fresh() -> Detection3DArray | None:
            newest = self.detections[-1] if self.detections else None
            return newest if newest is not None and stamp_ns(newest.header) > start_ns else None

        return self.drive_until(fresh, "detections of a new frame", **keywords)


def stamped(message: Any, stamp_ns: int, frame_id: str) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id = frame_id
    return message


def make_image(camera: str, stamp_ns: int) -> Image:
    """Blocks of colour, others at every stamp."""
    message = Image(width=WIDTH, height=HEIGHT, encoding="bgr8", step=WIDTH * 3)
    blocks = np.random.default_rng(stamp_ns).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    message.data.frombytes(blocks.repeat(4, axis=0).repeat(4, axis=1).tobytes())
    return stamped(message, stamp_ns, camera.lower())


def make_info(camera: str, stamp_ns: int, focal: float = 50.0) -> CameraInfo:
    message = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [focal, 0.0, WIDTH / 2 - 0.5, 0.0, focal, HEIGHT / 2 - 0.5, 0.0, 0.0, 1.0]
    return stamped(message, stamp_ns, camera.lower())


def make_scan(radar: str, stamp_ns: int, points: np.ndarray | None = None) -> PointCloud2:
    """points (P, 6) in the order of RADAR_FIELDS."""
    if points is None:
        points = np.array([[1.0, 1.0, 0.0, 5.0, 1.0, 0.0], [2.0, -1.0, 0.0, 15.0, 0.0, 0.5]])
    message = PointCloud2(height=1, width=len(points), point_step=24, row_step=24 * len(points), is_dense=True)
    message.fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate(RADAR_FIELDS)]
    message.data.frombytes(points.astype("<f4").tobytes())
    return stamped(message, stamp_ns, radar.lower())


def make_pose(stamp_ns: int) -> Odometry:
    """Straight ahead at SPEED_MPS."""
    message = stamped(Odometry(child_frame_id="base_link"), stamp_ns, "odom")
    message.pose.pose.position.x = SPEED_MPS * (stamp_ns % 1_000_000_000_000) / 1e9
    message.pose.pose.orientation.w = 1.0
    message.twist.twist.linear.x = SPEED_MPS
    return message


def stamp_ns(header: Any) -> int:
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


@contextlib.contextmanager
def running_node(
    folder: Path, bundle: Path, spec: ModelSpec, /, start: Sequence[str] = START, **values: Any
) -> Iterator[tuple[NodeProcess, Rig]]:
    """A node process, not yet configured, with its rig; both gone afterwards. values: parameters besides defaults."""
    env = environment()
    process = NodeProcess({**default_values(bundle, spec, folder), **values}, folder, env, start)
    try:
        rig = Rig(spec, env)
        try:
            rig.wait_for(lambda: rig.status is not None, "the node's first status")
            yield process, rig
        finally:
            rig.close()
    finally:
        process.stop()
