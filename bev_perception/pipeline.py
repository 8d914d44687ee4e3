"""The algorithm: one frame of sensor data -> detections. Vehicle node, replay and evaluation all call this."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Protocol

from bev_perception.decode import Thresholds, decode, thresholds_of
from bev_perception.fault import Fault
from bev_perception.inference.interface import InferenceBackend, TakesRows
from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess import prepare_inputs
from bev_perception.preprocess.contents import ImageChecks, Seen, check_images
from bev_perception.structures import Detections, SensorFrame
from bev_perception.sync_config import SyncConfig
from bev_perception.temporal import TemporalMemory
from bev_perception.uncertainty import Estimator
from bev_perception.usual.reading import Reading
from bev_perception.usual.statistics import Glimpse

HEALTH = "health"  # what is told of the monitor itself, where others have the name of a sensor


class Monitor(Protocol):
    """What looks at every step (usual.monitor.HealthMonitor)."""

    def look(self, glimpse: Glimpse) -> dict[str, Fault]:
        """-> sensor -> what is to be told of it, though it was used."""

    def readings(self) -> tuple[Reading, ...]:
        """What it found last, of all sensors; in any thread."""

    def forget(self, why: str) -> None:
        """There was nothing to look at, or it could not be looked at: until the next look nothing is known."""


class BevPipeline:
    """Holds the engine, the memory and the thresholds (which may be replaced between steps). After a step that raised
    memory and monitor begin anew.

    estimator: of a calibrated bundle, says what each detection is worth. monitor: looks whether sensors are as usual.

    timings_ms: milliseconds of the last step by stage: preprocess, inference, decode, health, total.
    faults: sensor -> why the last step could not use it, or what is to be told of it though it was used; `health` ->
    what the monitor raised.
    counters, since construction: `SENSOR/reason` -> in how many steps a sensor had that fault, `radar/reason` -> how
    much of the sensors' data did not reach the network, `memory/reason` -> how often the memory was emptied
    (Detections.memory_reset), `output/reason` -> candidates of the network that no detection can be, `health/failed` ->
    in how many steps the monitor raised.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backend: InferenceBackend,
        thresholds: Thresholds | None = None,
        max_speed_mps: float = SyncConfig.max_speed_mps,
        image_checks: ImageChecks | None = None,
        estimator: Estimator | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.spec = spec
        self.backend = backend
        self._own_thresholds = thresholds_of(spec)
        self.thresholds = thresholds or self._own_thresholds
        self.memory = TemporalMemory(spec, max_speed_mps)
        self.timings_ms: dict[str, float] = {}
        self.faults: dict[str, Fault] = {}
        self.counters: Counter[str] = Counter()
        self._estimator, self.monitor = estimator, monitor
        self._image_checks = image_checks or ImageChecks()
        self._seen: dict[str, Seen] = {}
        # Each image goes to the engine's device, where it has one, while the next is prepared.
        self._image_ready = partial(backend.offer, "images") if isinstance(backend, TakesRows) else None

    def step(self, frame: SensorFrame) -> Detections:
        """Detect in `frame`; frames come in stamp order. Sensors that are missing or unusable are masked and named."""
        try:
            return self._step(frame)
        except Exception:
            self._forget("step_failed")
            raise

    def _step(self, frame: SensorFrame) -> Detections:
        started = time.perf_counter_ns()
        inputs, problems, lost = prepare_inputs(frame, self.spec, self._image_ready)
        self.counters.update(lost)
        told: dict[str, Fault] = {}
        if self.spec.cameras:
            blind, told, self._seen = check_images(
                inputs, frame.cameras, self.spec.cameras, self._image_checks, self._seen
            )
            problems |= blind
        self.faults = problems | told
        self.counters.update(f"{sensor}/{fault.reason}" for sensor, fault in self.faults.items())
        previous, memory_reset = self.memory.inputs(frame)
        if memory_reset:
            self.counters[f"memory/{memory_reset}"] += 1

        prepared = time.perf_counter_ns()
        outputs = self.backend.infer(inputs | previous)
        candidates = {t.name: self.backend.fetch(outputs[t.name]) for t in self.spec.outputs() if t.name != "bev"}

        inferred = time.perf_counter_ns()
        decoded = decode(candidates, self.spec, self.thresholds)
        if decoded.out_of_range:
            self.counters["output/out_of_range"] += decoded.out_of_range
        if decoded.not_finite:
            self.counters["output/not_finite"] += decoded.not_finite
            self._forget("not_finite_output")  # a state that came with NaN would spoil every frame after it
        elif self.spec.temporal.state_channels:
            self.memory.store(frame, outputs["bev"])
        estimate = self._estimator and self._estimator(decoded.boxes, decoded.scores, decoded.labels, decoded.variances)

        decoded_at = time.perf_counter_ns()
        if self.monitor is not None and not decoded.not_finite:
            # Usual is what was found by the bundle's own thresholds, whatever the integrator's are.
            usual = decoded if self.thresholds == self._own_thresholds else decode(candidates, self.spec)
            self._look(self.monitor, Glimpse(frame, inputs, candidates, usual.boxes))
        self._note_timings(started, prepared, inferred, decoded_at, time.perf_counter_ns())
        valid = [*inputs.get("camera_valid", ()), *inputs.get("radar_valid", ())]
        return Detections(
            frame.stamp_ns,
            decoded.boxes,
            decoded.velocity,
            decoded.scores,
            decoded.labels,
            sensors_used=tuple(n for n, v in zip(self.spec.cameras + self.spec.radars, valid) if v > 0),
            missing=frame.missing | {name: fault.reason for name, fault in problems.items()},
            temporal_used=bool(previous) and bool(previous["prev_valid"][0] > 0),
            memory_reset=memory_reset,
            composition=frame.composition,
            uncertainty=estimate or None,
            variances=decoded.variances,
        )

    def _look(self, monitor: Monitor, glimpse: Glimpse) -> None:
        """What is known of a sensor already goes before what is unusual about it; a look that fails costs no frame."""
        try:
            found = monitor.look(glimpse)
        except Exception as error:
            failed = Fault("failed", f"{type(error).__name__}: {error}")
            self.faults = self.faults | {HEALTH: failed}
            self.counters[f"{HEALTH}/{failed.reason}"] += 1
            monitor.forget(f"{failed.reason}: {failed.detail}")
            return
        unusual = {sensor: fault for sensor, fault in found.items() if sensor not in self.faults}
        self.faults = self.faults | unusual
        self.counters.update(f"{sensor}/{fault.reason}" for sensor, fault in unusual.items())

    def _forget(self, why: str) -> None:
        """What went before says nothing of the frames to come."""
        self.memory.reset(why)
        if self.monitor is not None:
            self.monitor.forget(why)

    def _note_timings(self, started: int, prepared: int, inferred: int, decoded: int, looked: int) -> None:
        self.timings_ms = {
            "preprocess": (prepared - started) / 1e6,
            "inference": (inferred - prepared) / 1e6,
            "decode": (decoded - inferred) / 1e6,
            "health": (looked - decoded) / 1e6,
            "total": (looked - started) / 1e6,
        }
