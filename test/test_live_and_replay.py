"""A calibration that changes, or a time that jumps, while a finished frame waits: node and replay find the same, bit
for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not installed; test/stand_ins/tf2_msgs can be built instead")
pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

import rclpy  # noqa: E402
import tiny_drive  # noqa: E402
from bag_copies import Row, copy_bag  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from rclpy.time import Time  # noqa: E402
from replays import replay  # noqa: E402
from rosbags.typesys.store import Typestore  # noqa: E402
from tiny_drive import DELAY, MS  # noqa: E402

from bev_perception.bundle import Bundle  # noqa: E402
from bev_perception.evaluation.bag import open_bag  # noqa: E402
from bev_perception.evaluation.frames import read_frames  # noqa: E402
from bev_perception.evaluation.result_bag import make_typestore  # noqa: E402
from bev_perception.inference.backend import open_backend  # noqa: E402
from bev_perception.messages import PUBLISHERS, Output  # noqa: E402
from bev_perception.parameters import NodeConfig, load_config  # noqa: E402
from bev_perception.ros.run import ActiveRun, Model  # noqa: E402
from bev_perception.ros.telemetry import Telemetry  # noqa: E402
from bev_perception.structures import Detections  # noqa: E402

STAMPS = tiny_drive.anchor_stamps()
HELD, WAITS, AFTER = STAMPS[4:7]  # the frame in the engine, the one that is finished meanwhile, and the next
FINISHED = 10 * MS  # a frame is finished less than this after its stamp, by a message that is recorded then
MOVED = {
    "cam_a": {"cam_a": tiny_drive.EGO_FROM_CAM + 0.3 * np.eye(4, k=3)},
    "radar_a": {"radar_a": tiny_drive.EGO_FROM_RADAR + 0.5 * np.eye(4, k=3)},
}


class SlowEngine:
    """The engine, which holds on in its `held`-th run until it may go."""

    def __init__(self, bundle: Bundle, held: int) -> None:
        self._backend, self._runs, self._held = open_backend(bundle, threads=1), 0, held
        self.name, self.spec, self.details = self._backend.name, self._backend.spec, self._backend.details
        self.fetch, self.close = self._backend.fetch, self._backend.close
        self.holds, self.may_go = threading.Event(), threading.Event()

    def infer(self, inputs: Any) -> Any:
        if self._runs == self._held:
            self.holds.set()
            assert self.may_go.wait(60)
        self._runs += 1
        return self._backend.infer(inputs)


class Keeper(list[Detections]):
    """A publisher that keeps what it gets."""

    publish = list.append

    def get_subscription_count(self) -> int:
        return 1


@contextlib.contextmanager
def live_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """On simulated time, which the test sets; it is never spun, as messages come from the test alone."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = Context()
    rclpy.init(context=context, domain_id=random.SystemRandom().randrange(1, 101))
    simulated = Parameter("use_sim_time", value=True)
    node = rclpy.create_node("live", context=context, parameter_overrides=[simulated])
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with live_node(monkeypatch) as node:
        yield node


@dataclasses.dataclass
class Live:
    detections: list[Detections]
    telemetry: Telemetry
    counters: dict[str, int]


def run_live(node: Node, bag: Path, bundle: Bundle, config: NodeConfig, let_go_ns: int) -> Live:
    """The node's run over the bag's messages. Each frame is processed before the next message comes; but from frame
    HELD on, which stays in the engine, they wait until the messages up to let_go_ns (time of the recording) are in."""
    finished_ns = Counter(record_ns for record_ns, _ in read_frames(bag, bundle.spec, config))
    engine, keeper, telemetry = SlowEngine(bundle, STAMPS.index(HELD)), Keeper(), Telemetry()
    run = ActiveRun(node, config, Model(bundle, engine), {"keeper": keeper}, telemetry)
    run.start()
    inputs = {s.topic_name: s for s in node.subscriptions}

    def wait_until_done(frames: int) -> None:
        end = time.monotonic() + 60
        while (now := telemetry.snapshot()).frames_processed + now.frames_dropped < frames:
            assert time.monotonic() < end and not now.recent_failure, now.recent_failure or "a frame was never done"
            time.sleep(0.001)

    try:
        finished = 0
        with open_bag(bag) as reader:
            for record_ns, messages in groupby(reader.messages(inputs), key=lambda row: row[1]):
                node.get_clock().set_ros_time_override(Time(nanoseconds=record_ns))
                for connection, _, raw in messages:
                    subscription = inputs[connection.topic]
                    raw = bytes(raw)
                    subscription.callback(raw if subscription.raw else deserialize_message(raw, subscription.msg_type))
                finished += finished_ns[record_ns]
                if record_ns >= let_go_ns:
                    engine.may_go.set()
                if finished <= STAMPS.index(HELD) or engine.may_go.is_set():
                    wait_until_done(finished)
                else:
                    assert engine.holds.wait(60)
        return Live(list(keeper), telemetry, run.counters())
    finally:
        engine.may_go.set()
        run.stop()
        engine.close()


def content(detections: Detections) -> dict[str, object]:
    """Everything that was found and said, comparable bit for bit."""
    values = dataclasses.asdict(detections)
    return {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in values.items()}


@pytest.mark.parametrize("sensor", MOVED)
@pytest.mark.parametrize(
    ("moved_ns", "let_go_ns", "dropped"),
    [
        (WAITS + 20 * MS, WAITS + 20 * MS + DELAY, ()),
        (WAITS + 20 * MS, AFTER + FINISHED, (WAITS,)),
        (HELD + 20 * MS, AFTER + FINISHED, (WAITS,)),
    ],
    ids=["a_frame_waits", "a_frame_waits_and_is_dropped", "the_frame_with_the_news_is_dropped"],
)
def test_a_calibration_changes_while_the_engine_is_busy(
    node: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sensor: str,
    moved_ns: int,
    let_go_ns: int,
    dropped: Collection[int],
) -> None:
    monkeypatch.setitem(PUBLISHERS, "keeper", Output("nowhere", "no_package/msg/Nothing", lambda found, context: found))
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    bag = tiny_drive.write_drive(tmp_path / "bag", moves={moved_ns: MOVED[sensor]})
    config = load_config(bundle.path, tiny_drive.write_params(tmp_path / "params.yaml"))
    live = run_live(node, bag, bundle, config, let_go_ns)
    processed = [d.stamp_ns for d in live.detections]
    assert processed == [t for t in STAMPS if t not in dropped]

    offline = replay(bag, bundle.path, config, only={d.stamp_ns: d.composition for d in live.detections})
    for there, (_, here) in zip(live.detections, offline.detections, strict=True):
        assert content(there) == content(here)
    assert live.counters == dict(offline.counters)
    assert live.counters[f"{sensor}/calibration_changed"] == live.counters["memory/calibration_changed"] == 1

    assert {d.stamp_ns: d.memory_reset for d in live.detections if d.memory_reset} == {AFTER: "calibration_changed"}
    least_ns = bundle.spec.temporal.min_age_s * 1e9
    for d in live.detections:
        began_ns = AFTER if d.stamp_ns >= AFTER else STAMPS[0]
        assert d.temporal_used == (d.stamp_ns - began_ns >= least_ns)
    snapshot = live.telemetry.snapshot()
    assert (snapshot.memory_resets, snapshot.last_memory_reset_reason) == (1, "calibration_changed")
    assert snapshot.frames_dropped == len(dropped)


SET_BACK_S = 1.53  # no whole number of frames: every stamp is there once


def set_back(row: Row, store: Typestore) -> list[Row]:
    """The message with its stamp set back, from between WAITS and AFTER on; what has no stamp of its own as it was."""
    topic, kind, record_ns, raw = row
    if record_ns <= WAITS + FINISHED or topic == "/tf_static":
        return [row]
    message = store.deserialize_cdr(raw, kind)
    stamp = message.header.stamp
    moved_ns = stamp.sec * 10**9 + stamp.nanosec - round(SET_BACK_S * 1e9)
    stamp.sec, stamp.nanosec = divmod(moved_ns, 10**9)
    return [(topic, kind, record_ns, bytes(store.serialize_cdr(message, kind)))]


def without_queue(counters: Mapping[str, int]) -> dict[str, int]:
    """A scan that grew old in the node's own queue (`overloaded`, on a slow machine) counted as one that the frame is
    without: which of the two it was is a matter of milliseconds here."""
    out: dict[str, int] = {}
    for name, count in counters.items():
        name = name.replace("radar_a/overloaded", "radar_a/no_scan")
        out[name] = out.get(name, 0) + count
    return out


@pytest.mark.parametrize(("let_go_ns", "dropped"), [(AFTER, ()), (STAMPS[8] + FINISHED, (WAITS,))])
def test_the_time_jumps_while_the_engine_is_busy(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, let_go_ns: int, dropped: Collection[int]
) -> None:
    """The frame that waits meanwhile keeps the memory of before; the first one after the jump has lost it."""
    monkeypatch.setitem(PUBLISHERS, "keeper", Output("nowhere", "no_package/msg/Nothing", lambda found, context: found))
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    store = make_typestore()
    bag = copy_bag(
        tiny_drive.write_drive(tmp_path / "drive"), tmp_path / "bag", change=lambda row: set_back(row, store)
    )
    config = load_config(bundle.path, tiny_drive.write_params(tmp_path / "params.yaml", sync__deadline_ms=1900))
    # (The clock goes on, so that the deadline has to wait for what is set back.)
    live = run_live(node, bag, bundle, config, let_go_ns)
    processed = [d.stamp_ns for d in live.detections]
    assert (WAITS in processed) == (not dropped) and processed != sorted(processed)

    offline = replay(bag, bundle.path, config, only={d.stamp_ns: d.composition for d in live.detections})
    for there, (_, here) in zip(live.detections, offline.detections, strict=True):
        assert content(there) == content(here)
    assert without_queue(live.counters) == without_queue(offline.counters)
    assert live.counters["reset/time_jump_back"] == live.counters["memory/time_jump_back"] == 1
    told = {d.stamp_ns: d.memory_reset for d in live.detections if d.memory_reset}
    assert list(told.values()) == ["time_jump_back"] and list(told) == [processed[processed.index(min(processed))]]
