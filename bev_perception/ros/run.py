"""One activation: synchroniser, subscriptions, worker and pipeline, from start to stop."""

from __future__ import annotations

import math
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from bev_perception.bundle import Bundle
from bev_perception.decode import Thresholds
from bev_perception.inference.interface import InferenceBackend
from bev_perception.intake import SensorIntake
from bev_perception.messages import PUBLISHERS, Context
from bev_perception.parameters import NodeConfig
from bev_perception.pipeline import BevPipeline
from bev_perception.ros.diagnostics import INVALID, SensorReport
from bev_perception.ros.inputs import SensorInputs
from bev_perception.ros.telemetry import Telemetry
from bev_perception.ros.worker import Worker
from bev_perception.structures import Detections, SensorFrame
from bev_perception.sync import ODOMETRY, FrameSynchronizer
from bev_perception.sync_config import HealthState
from bev_perception_msgs.msg import SensorState

# Stages of BevPipeline.timings_ms -> stages of the status.
STAGES = {"preprocess": "preprocess", "inference": "infer", "decode": "decode"}
# SensorHealth.state -> SensorState.state; messages that come but cannot be used are INVALID, whatever the reason.
STATES: dict[HealthState, int] = {
    "ok": SensorState.OK, "degraded": SensorState.STALE, "stale": SensorState.MISSING,
    "never_seen": SensorState.NEVER_SEEN,
}  # fmt: skip
UNUSABLE = ("no_calibration", "no_pose", "pose_jump")


@dataclass(frozen=True)
class Model:
    """A verified bundle and the engine that runs it."""

    bundle: Bundle
    backend: InferenceBackend


class ActiveRun:
    """Exists while the node is active. start() subscribes; after stop() no message is taken and no step runs."""

    def __init__(
        self, node: Node, config: NodeConfig, model: Model, outputs: dict[str, Any], telemetry: Telemetry
    ) -> None:
        self._node, self._config, self._model = node, config, model
        self._outputs, self._telemetry = outputs, telemetry
        self._clock = node.get_clock()
        spec = model.bundle.spec
        self._lock = threading.Lock()  # guards intake and synchroniser: executor, worker and status thread use them
        self._sync = FrameSynchronizer(config.sync_config(spec))
        self._intake = SensorIntake(config, self._sync, self._report)
        self._thresholds = Thresholds(config.score_threshold, spec.nms_radius)
        self._pipeline = BevPipeline(spec, model.backend, self._thresholds, config.sync["max_speed_mps"])
        self._worker = Worker(self._process, self._tick, telemetry.dropped)
        self._inputs: SensorInputs | None = None

    def start(self) -> None:
        self._worker.start()
        self._inputs = SensorInputs(
            self._node, self._config, self._intake, self._lock, self._telemetry, self._worker.offer
        )

    def stop(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
        self._worker.stop()

    def change_config(self, config: NodeConfig) -> None:
        """Thresholds and marker lifetime apply from the next step on."""
        self._config = config
        self._thresholds = Thresholds(config.score_threshold, self._model.bundle.spec.nms_radius)

    def sensor_reports(self) -> tuple[SensorReport, ...]:
        """One entry for each sensor of the model and one for odometry."""
        now = self._now()
        with self._lock:
            states, faults = self._sync.sensor_states(now), dict(self._intake.faults)
            gaps = {name: self._intake.calibration_gap(name) for name in states}
        kinds = dict.fromkeys(self._config.cameras, SensorState.CAMERA) | dict.fromkeys(
            self._config.radars, SensorState.RADAR
        )
        reports = []
        for name, kind in {**kinds, ODOMETRY: SensorState.ODOMETRY}.items():
            health = states[name]
            state, reason = STATES[health.state], health.reason
            if health.state == "degraded" and reason in UNUSABLE:
                state = INVALID
            if reason == "no_calibration" and gaps[name]:
                reason = f"no_calibration: {gaps[name]}"
            if name in faults:
                state, reason = INVALID, ": ".join(part for part in faults[name] if part)
            age_s = health.age_s if math.isfinite(health.age_s) else math.nan
            reports.append(SensorReport(name, kind, state, age_s, float(health.rate_hz), reason))
        return tuple(reports)

    def counters(self) -> dict[str, int]:
        """What intake, synchroniser and pipeline counted since activation: `SENSOR/reason`, `frame/reason`,
        `reset/reason`, `radar/reason`, `memory/reason`."""
        with self._lock:
            return dict(self._sync.counters) | dict(self._pipeline.counters)

    def _report(self, sensor: str, reason: str, detail: str) -> None:
        if self._telemetry.note(f"{sensor}/{reason}", detail):
            self._node.get_logger().warning(f"{sensor}: {reason}: {detail} (counted from here on, see /diagnostics)")

    # ---- in the worker thread

    def _tick(self) -> None:
        """Let deadlines fire while no message comes."""
        try:
            with self._lock:
                frames = self._intake.poll(self._now())
            self._worker.offer(frames)
        except Exception:
            self._failed("synchroniser_failed")

    def _process(self, frame: SensorFrame) -> None:
        """One step: frame -> detections -> messages. A failure costs this frame and the memory, not the node."""
        try:
            self._pipeline.thresholds = self._thresholds
            detections = self._pipeline.step(frame)
            for stage, ms in self._pipeline.timings_ms.items():
                if stage in STAGES:
                    self._telemetry.time(STAGES[stage], ms)
            for sensor, reason in detections.missing.items():
                if sensor not in frame.missing:  # the synchroniser counts its own
                    self._telemetry.count(f"{sensor}/{reason}")
            self._publish(detections)
        except Exception:
            self._failed("step_failed")
            self._pipeline.memory.reset("step_failed")

    def _publish(self, detections: Detections) -> None:
        started = time.perf_counter_ns()
        config = self._config
        context = Context(self._model.bundle.spec, config.base_frame, config.marker_lifetime_s)
        for name, publisher in self._outputs.items():
            # Nobody listens: nothing to build. Detections always go out, a late recorder may just be joining.
            if name == "detections" or publisher.get_subscription_count():
                publisher.publish(PUBLISHERS[name].convert(detections, context))
        self._telemetry.time("publish", (time.perf_counter_ns() - started) / 1e6)
        age_s = (self._now() - detections.stamp_ns) / 1e9
        self._telemetry.time("total", age_s * 1e3)
        self._telemetry.output(age_s, detections.memory_reset)

    def _failed(self, reason: str) -> None:
        if not self._node.context.ok():
            return
        text = traceback.format_exc()
        last_line = text.strip().rsplit("\n", 1)[-1]
        self._telemetry.failed(last_line)
        if self._telemetry.count(reason, last_line):
            self._node.get_logger().error(f"{reason}, the node goes on:\n{text}")

    def _now(self) -> int:
        return int(self._clock.now().nanoseconds)
