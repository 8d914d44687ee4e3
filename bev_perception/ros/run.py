"""One activation: intake, synchroniser, subscriptions, pipeline and publication, from start to stop.

Threads: the executor's takes messages in and closes frames; `bev_pipeline` runs the network on the newest frame;
`bev_publish` makes and sends the messages, while the network is at the next frame already; `bev_extrinsics` looks, now
and then, whether sensors look where they should.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node

from bev_perception.bundle import Bundle
from bev_perception.decode import Thresholds
from bev_perception.deployment.serving import Observer, Serving, Stepped
from bev_perception.extrinsics_watch import DRIFT, ExtrinsicsWatch
from bev_perception.fault import Fault
from bev_perception.health import Failures, SensorHealth, newest_outcome, sensor_health
from bev_perception.inference.interface import InferenceBackend
from bev_perception.measurements import Measurements
from bev_perception.messages import PUBLISHERS, Context
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.pipeline import BevPipeline
from bev_perception.ring.triggers import Moment
from bev_perception.ros.inputs import SensorInputs
from bev_perception.ros.silence import TOLD_AFTER_S, never_seen_warning, nothing_on
from bev_perception.ros.telemetry import OF_A_STEP, Telemetry
from bev_perception.sensors.intake import SensorIntake, Source
from bev_perception.structures import DEADLINE, ODOMETRY, Detections, SensorFrame
from bev_perception.sync import FrameSynchronizer
from bev_perception.uncertainty import estimator_of
from bev_perception.usual.monitor import monitor_of
from bev_perception.usual.reading import CONTENTS, EXTRINSICS, Reading
from bev_perception.worker import EveryWorker, NewestWorker

PIPELINE_THREAD = "bev_pipeline"
PATIENCE_S = 10.0  # with the step that runs when the node is deactivated
DETECTIONS = "detections"  # of PUBLISHERS, the one that others are made beside


@dataclass(frozen=True)
class Model:
    """A verified bundle and the engine that runs it."""

    bundle: Bundle
    backend: InferenceBackend


def make_pipeline(model: Model, config: NodeConfig, score_threshold: Mapping[str, float]) -> BevPipeline:
    """With an empty memory. score_threshold: by class."""
    spec = model.bundle.spec
    thresholds = Thresholds(score_threshold, spec.nms_radius)
    return BevPipeline(
        spec,
        model.backend,
        thresholds,
        config.sync["max_speed_mps"],
        config.image_checks,
        estimator_of(model.bundle),
        monitor_of(model.bundle),
    )


@dataclass(frozen=True)
class _Closed:
    """A frame with what it has waited: ms from its stamp until it was closed, and when that was (perf_counter_ns)."""

    frame: SensorFrame
    wait_ms: float
    closed_at: int


@dataclass(frozen=True)
class _Found:
    detections: Detections
    spec: ModelSpec
    closed: _Closed
    done_at: int


class ActiveRun:
    """Exists while the node is active. start() subscribes; after stop() no message is taken and no step runs."""

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        model: Model,
        outputs: dict[str, Any],
        telemetry: Telemetry,
        tap: Callable[[Source, bytes], None] | None = None,
    ) -> None:
        self._node, self._config, self._tap = node, config, tap
        self._outputs, self._telemetry = outputs, telemetry
        self._clock = node.get_clock()
        spec = model.bundle.spec
        self._lock = threading.Lock()  # guards intake and measurements: executor and status thread use them
        self._taken = Measurements(config.sync_config(spec))
        self._intake = SensorIntake(config, self._taken, self._report)
        self._serving = Serving(model.bundle, make_pipeline(model, config, config.score_threshold))
        self._counted: Counter[str] = Counter()  # of every pipeline while it served
        self._observer: Observer | None = None
        self._stepping = threading.Lock()  # held while a step runs and is observed
        self._newest: Detections | None = None
        self._faults: dict[str, Fault] = {}  # of the same frame
        self._worker = NewestWorker(PIPELINE_THREAD, self._process, telemetry.dropped)
        self._publisher = EveryWorker("bev_publish", self._publish)
        self._watch: ExtrinsicsWatch | None = None
        if config.watch_share > 0:
            self._watch = ExtrinsicsWatch(spec.cameras, spec.radars, config.watch_share)
            self._watcher = NewestWorker("bev_extrinsics", self._look_at_extrinsics, lambda dropped: None)
        self._inputs: SensorInputs | None = None
        self._started_at = time.monotonic()
        self._sensors = {*config.cameras, *config.radars, ODOMETRY}
        self._told: set[str] = set()
        self._failures = Failures()

    def start(self) -> None:
        """Subscribe, and begin to process and publish: the threads first, so that no message waits for them."""
        self._started_at = time.monotonic()
        self._publisher.start()
        self._worker.start()
        if self._watch is not None:
            self._watcher.start()
        synchronizer = FrameSynchronizer(self._taken)
        self._inputs = SensorInputs(
            self._node, self._config, self._intake, synchronizer, self._lock, self._telemetry, self._offer,
            self._tap,
        )  # fmt: skip

    def stop(self) -> None:
        """Unsubscribe, end the step that runs and publish it; an engine that does not end within PATIENCE_S is
        interrupted."""
        try:
            if self._inputs is not None:
                self._inputs.close()
        finally:
            if not self._worker.stop(PATIENCE_S):
                self._node.get_logger().error(f"a step has not ended in {PATIENCE_S:g} s: the engine is interrupted")
                self._serving.pipeline.backend.interrupt()
                self._worker.stop(PATIENCE_S)
            if self._watch is not None:
                self._watcher.stop(PATIENCE_S)
            self._publisher.stop()

    def change_config(self, config: NodeConfig) -> None:
        """Thresholds and marker lifetime apply from the next step on."""
        self._config = config
        pipeline = self._serving.pipeline
        pipeline.thresholds = Thresholds(config.score_threshold, pipeline.spec.nms_radius)

    def serving(self) -> Serving:
        """The model in service."""
        return self._serving

    def observe(self, observer: Observer | None) -> None:
        """Called after each step, in the pipeline's thread; what it raises costs no frame."""
        self._observer = observer

    def switch(self, serving: Serving) -> None:
        """From the next frame on, in any thread; a step that runs ends with what it began with. Which mounts of cameras
        are accepted is this model's matter from here on."""
        self._serving = serving
        with self._lock:
            self._intake.calibration.accept(serving.bundle.spec.mounts)

    def unlike(self, spec: ModelSpec) -> dict[str, str]:
        """Cameras that are mounted otherwise than a model accepts, each in words."""
        with self._lock:
            return self._intake.calibration.unlike(spec.mounts)

    def settle(self) -> None:
        """Wait for the step that runs and for who observes it. Not in the pipeline's thread."""
        with self._stepping:
            pass

    def sensor_health(self) -> list[SensorHealth]:
        """One entry for each sensor of the model and one for odometry."""
        silent = self._silent_topics()
        if self._inputs is not None:
            self._inputs.name_wrong_types()
        with self._lock:
            outcome = newest_outcome(self._taken, self._newest, self._drifts() | self._faults)
            return sensor_health(self._intake, self._taken, outcome, self._now(), silent | self._intake.warnings)

    def moment(self, health: Sequence[SensorHealth]) -> tuple[Moment, tuple[int, float] | None]:
        """What triggers look at, of the newest frame and the sensors; stamp (ns) and speed (m/s) of the newest pose.
        Before the first frame there is nothing to look at."""
        with self._lock:
            newest, stamp_ns = self._newest, self._taken.poses.newest_ns
            pose = None if stamp_ns is None else self._taken.poses.at(stamp_ns)
        if newest is None:
            return Moment(), None
        faults = self._failures.look(health)
        found = newest.scores if newest.uncertainty is None else newest.uncertainty.probability
        speed = None if pose is None else (pose.stamp_ns, float(np.hypot(*pose.linear[:2])))
        signals = {r.name: r.score / r.threshold for r in self.health()[CONTENTS] if r.alarm}
        return Moment(np.asarray(found), faults, signals=signals), speed

    def health(self) -> dict[str, tuple[Reading, ...]]:
        """Check (CONTENTS, EXTRINSICS) -> how far sensors are from the usual; empty where nothing looks."""
        monitor = self._serving.pipeline.monitor
        return {
            CONTENTS: monitor.readings() if monitor is not None else (),
            EXTRINSICS: self._watch.readings() if self._watch is not None else (),
        }

    def _drifts(self) -> dict[str, Fault]:
        readings = self._watch.readings() if self._watch is not None else ()
        return {reading.name: Fault(DRIFT, reading.text) for reading in readings if reading.alarm}

    def counters(self) -> dict[str, int]:
        """What intake, synchroniser and pipeline counted since activation: `SENSOR/reason`, `frame/reason`,
        `reset/reason`, `radar/reason`, `memory/reason`."""
        with self._lock:
            return dict(self._taken.counters + self._counted)

    def _silent_topics(self) -> dict[str, str]:
        """Sensor from which nothing ever came -> its topics and who publishes there; after a while the log says so."""
        since_s = time.monotonic() - self._started_at
        with self._lock:
            heard = {name for name in self._sensors if self._intake.was_heard(name)}
        silent: dict[str, str] = {}
        for source in self._intake.sources:
            sensor = source.sensor
            if sensor not in self._sensors - heard:
                continue
            publishers = self._node.count_publishers(source.topic)
            silent[sensor] = "; ".join(filter(None, [silent.get(sensor, ""), nothing_on(source.topic, publishers)]))
            if since_s > TOLD_AFTER_S and source.topic not in self._told:
                self._told.add(source.topic)
                self._node.get_logger().warning(never_seen_warning(sensor, source.topic, publishers, since_s))
        return silent

    def _report(self, sensor: str, reason: str, detail: str) -> None:
        if self._telemetry.note(f"{sensor}/{reason}", detail):
            self._node.get_logger().warning(f"{sensor}: {reason}: {detail} (counted from here on, see /diagnostics)")

    # ---- in the executor's thread

    def _offer(self, frames: list[SensorFrame]) -> None:
        now_ns, closed_at = self._now(), time.perf_counter_ns()
        for frame in frames:
            if frame.composition.closed_by == DEADLINE:
                self._report("frame", "closed_by_deadline", f"without {frame.lacks()}")
        if self._watch is not None:
            self._watcher.offer(frames)
        self._worker.offer([_Closed(frame, (now_ns - frame.stamp_ns) / 1e6, closed_at) for frame in frames])

    # ---- in the thread of the extrinsics

    def _look_at_extrinsics(self, frame: SensorFrame) -> None:
        assert self._watch is not None
        try:
            self._watch.add(frame)
        except Exception:
            self._failed("extrinsics_watch_failed")
        for name, fault in self._drifts().items():
            self._report(name, fault.reason, fault.detail)

    # ---- in the pipeline's thread

    def _process(self, closed: _Closed) -> None:
        """One step: frame -> detections. A failure costs this frame and the memory, not the node."""
        with self._stepping:
            serving = self._serving  # for the whole of this frame
            stepped = self._step(serving, closed)
            observer = self._observer
            if observer is None:
                return
            try:
                observer(stepped)
            except Exception:
                self._failed("observer_failed")

    def _step(self, serving: Serving, closed: _Closed) -> Stepped:
        pipeline, sha256 = serving.pipeline, serving.bundle.spec.onnx_sha256
        started = time.perf_counter_ns()
        before = Counter(pipeline.counters)
        try:
            detections = pipeline.step(closed.frame)
        except Exception as error:
            self._failed("step_failed", costs_detections=True)
            ms = (time.perf_counter_ns() - started) / 1e6
            return Stepped(closed.frame, sha256, ms, None, error=f"{type(error).__name__}: {error}")
        done = time.perf_counter_ns()
        counted = pipeline.counters - before
        with self._lock:
            self._newest, self._faults = detections, pipeline.faults
            self._counted += counted
        for sensor, fault in pipeline.faults.items():
            self._report(sensor, fault.reason, fault.detail)  # the pipeline has counted it
        self._telemetry.time("wait", closed.wait_ms)
        self._telemetry.time("queue", (started - closed.closed_at) / 1e6)
        for stage, name in OF_A_STEP.items():
            self._telemetry.time(name, pipeline.timings_ms[stage])
        self._publisher.put(_Found(detections, pipeline.spec, closed, done))
        return Stepped(closed.frame, sha256, (done - started) / 1e6, detections, counted["output/not_finite"])

    # ---- in the publisher's thread

    def _publish(self, found: _Found) -> None:
        config, detections = self._config, found.detections
        context = Context(found.spec, config.base_frame, config.marker_lifetime_s)
        # The detections first: what somebody else's message type makes of them may fail.
        for name in sorted(self._outputs, key=lambda name: name != DETECTIONS):
            publisher = self._outputs[name]
            try:
                # Nobody listens: nothing to build. Detections always go out, a late recorder may just be joining.
                if name == DETECTIONS or publisher.get_subscription_count():
                    publisher.publish(PUBLISHERS[name].convert(detections, context))
            except Exception:
                self._failed("publish_failed", costs_detections=name == DETECTIONS)
                if name == DETECTIONS:
                    return
        done = time.perf_counter_ns()
        self._telemetry.time("publish", (done - found.done_at) / 1e6)
        self._telemetry.time("total", found.closed.wait_ms + (done - found.closed.closed_at) / 1e6)
        age_s = (self._now() - detections.stamp_ns) / 1e9
        self._telemetry.output(age_s, detections.memory_reset, detections.temporal_used)

    def _failed(self, reason: str, costs_detections: bool = False) -> None:
        if not self._node.context.ok():
            return
        text = traceback.format_exc()
        last_line = text.strip().rsplit("\n", 1)[-1]
        if costs_detections:
            self._telemetry.failed(last_line)
        if self._telemetry.count(reason, last_line):
            self._node.get_logger().error(f"{reason}, the node goes on:\n{text}")

    def _now(self) -> int:
        return int(self._clock.now().nanoseconds)
