"""Subscriptions without DDS: what waits is taken in before a deadline fires, and what is too large is not converted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("onnx", reason="onnx is not installed")

import tiny_bundle
from node_rig import default_values, make_image, make_info, make_pose, make_scan
from rclpy.serialization import serialize_message

from bev_perception.measurements import Measurements
from bev_perception.parameters import make_config
from bev_perception.ros import inputs
from bev_perception.ros.inputs import HELD_UP_S, TICK_S, SensorInputs
from bev_perception.ros.start import make_executor
from bev_perception.ros.telemetry import Telemetry
from bev_perception.sensors.intake import SensorIntake
from bev_perception.structures import DEADLINE, SensorFrame
from bev_perception.sync import FrameSynchronizer

MS = 1_000_000
NOW = 1_700_000_100_000_000_000
SPEC = tiny_bundle.SPEC


class Queue:
    """A subscription: `waiting` is what has arrived without a callback."""

    def __init__(self, callback: Callable[[Any], None], raw: bool) -> None:
        self.callback, self.raw, self.msg_type = callback, raw, None
        self.waiting: deque[Any] = deque()
        self.handle = self

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None: ...

    def take_message(self, msg_type: Any, raw: bool) -> tuple[Any, None] | None:
        return (self.waiting.popleft(), None) if self.waiting else None


class Listener:
    """SensorInputs on a node that is none, with a clock that stands where it is put."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
        config = make_config({**default_values(folder, SPEC, folder), "sync.startup_ms": 0.0, **values}, SPEC)
        self.now_ns, self.monotonic_s = NOW, 100.0
        self.queues: dict[str, Queue] = {}
        self.frames: list[SensorFrame] = []
        self.taken = Measurements(config.sync_config(SPEC))
        self.intake = SensorIntake(config, self.taken)
        self._topics = {source.sensor: source.topic for source in self.intake.sources}
        clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns))
        node = SimpleNamespace(
            get_clock=lambda: clock,
            create_timer=lambda period, tick, clock: tick,
            create_subscription=self._subscribe,
        )
        monkeypatch.setattr(inputs, "time", SimpleNamespace(monotonic=lambda: self.monotonic_s, perf_counter_ns=int))
        monkeypatch.setattr(inputs, "Clock", lambda clock_type: None)
        lock, offer = threading.Lock(), self.frames.extend
        sync = FrameSynchronizer(self.taken)
        inputs_of_node: Any = SensorInputs(node, config, self.intake, sync, lock, Telemetry(), offer)
        self.tick = inputs_of_node._timer

    def _subscribe(self, kind: type, topic: str, callback: Any, qos: Any, raw: bool = False, **_: Any) -> Queue:
        return self.queues.setdefault(topic, Queue(callback, raw))

    def send(self, sensor: str, message: Any, waits: bool = False) -> None:
        queue = self.queues[self._topics[sensor]]
        given = serialize_message(message) if queue.raw else message
        queue.waiting.append(given) if waits else queue.callback(given)

    def send_frame(self, stamp_ns: int, without: tuple[str, ...] = ()) -> None:
        """What belongs to a frame, and arrives at its stamp."""
        self.now_ns = stamp_ns
        for back_ns in range(200 * MS, -1, -20 * MS):
            self.send("odometry", make_pose(stamp_ns - back_ns))
        for camera in SPEC.cameras:
            self.send(f"{camera} camera_info", make_info(camera, stamp_ns))
        for radar in SPEC.radars:
            self.send(radar, make_scan(radar, stamp_ns - 20 * MS))
        for camera in SPEC.cameras:
            if camera not in without:
                self.send(camera, make_image(camera, stamp_ns))


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    return Listener(tmp_path, monkeypatch)


LATE_CAMERA = SPEC.cameras[0]


def test_what_waits_in_a_queue_is_taken_in_before_a_deadline_fires(listener: Listener) -> None:
    listener.send_frame(NOW)
    listener.frames.clear()
    listener.send_frame(NOW + 100 * MS, without=(LATE_CAMERA,))
    listener.send(LATE_CAMERA, make_image(LATE_CAMERA, NOW + 100 * MS), waits=True)
    assert listener.frames == []
    listener.now_ns += 1000 * MS  # the deadline has long passed; nobody looked at the queue meanwhile
    listener.monotonic_s += TICK_S
    listener.tick()
    (frame,) = listener.frames
    assert len(frame.cameras) == len(SPEC.cameras) and frame.missing == {}


def close_without(listener: Listener, stalled_s: float) -> SensorFrame:
    """A frame that a deadline closes, in a tick that comes so much too late."""
    listener.send_frame(NOW)
    listener.tick()
    listener.frames.clear()
    listener.send_frame(NOW + 100 * MS, without=(LATE_CAMERA,))
    listener.now_ns += 400 * MS
    listener.monotonic_s += TICK_S + stalled_s
    listener.tick()
    (frame,) = listener.frames
    assert frame.composition.closed_by == DEADLINE
    return frame


def test_what_a_tick_that_was_held_up_lacks_is_called_overloaded(listener: Listener) -> None:
    assert close_without(listener, 2 * HELD_UP_S).missing == {LATE_CAMERA: "overloaded"}
    assert listener.taken.counters[f"{LATE_CAMERA}/overloaded"] == 1


def test_what_a_tick_in_time_lacks_is_late(listener: Listener) -> None:
    assert close_without(listener, HELD_UP_S / 2).missing == {LATE_CAMERA: "late"}


def test_the_first_message_after_a_tick_that_did_not_come_knows_that_it_waited(listener: Listener) -> None:
    listener.tick()
    listener.monotonic_s += TICK_S + HELD_UP_S / 2
    listener.send_frame(NOW)
    assert not listener.taken.held_up
    listener.monotonic_s += HELD_UP_S
    listener.send_frame(NOW + 100 * MS)
    assert listener.taken.held_up


def test_being_held_up_ends(listener: Listener) -> None:
    listener.tick()
    listener.monotonic_s += TICK_S + 2 * HELD_UP_S
    listener.tick()
    assert listener.taken.held_up
    for _ in range(30):
        listener.monotonic_s += TICK_S
        listener.tick()
    assert not listener.taken.held_up


def test_camera_info_that_says_the_same_is_not_converted_again(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []
    take = listener.intake.take
    monkeypatch.setattr(
        listener.intake, "take", lambda source, *rest: (converted.append(source.sensor), take(source, *rest))
    )
    sensor = f"{LATE_CAMERA} camera_info"
    for k in range(5):
        listener.send(sensor, make_info(LATE_CAMERA, NOW + k * MS))
    assert converted == [sensor]
    listener.send(sensor, make_info(LATE_CAMERA, NOW + 9 * MS, focal=51.0))
    listener.send(sensor, make_info(LATE_CAMERA, NOW + 9 * MS, focal=50.0))
    assert converted == [sensor] * 3


def test_what_is_too_large_is_refused_before_it_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(tmp_path, monkeypatch, **{"limits.message_bytes": 100_000})

    def convert(serialised: bytes) -> Any:
        raise AssertionError("was converted")

    monkeypatch.setitem(inputs.READERS, "sensor_msgs/msg/Image", convert)
    message = make_image(LATE_CAMERA, NOW)
    message.data.frombytes(bytes(100_001 - len(message.data)))
    listener.send(LATE_CAMERA, message)
    reason, detail = listener.intake.faults[LATE_CAMERA]
    assert reason == "message_too_large" and "allowed are 100000 (limits.message_bytes" in detail
    assert listener.taken.counters == {f"{LATE_CAMERA}/message_too_large": 1}


def test_messages_come_by_events_where_rclpy_has_them() -> None:
    """The other one searches its list of everything to wait for anew for each message."""
    events = pytest.importorskip("rclpy.experimental.events_executor", reason="not in this rclpy")
    made = object()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "EventsExecutor", lambda: made)
        assert make_executor() is made
