"""The network's memory: states of earlier frames, the one to use now, and when to forget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.geometry import invert
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import EgoPose, Epoch, SensorFrame
from bev_perception.sync_config import SyncConfig

NS = 1_000_000_000
JUMP_M = 1.0  # what the odometry may be off between two frames beyond what the top speed explains


@dataclass(frozen=True)
class _State:
    ego: EgoPose
    bev: Any  # an array, or an engine's handle


class TemporalMemory:
    """States of the last `spec.temporal.max_age_s`, an eighth of `interval_s` apart or more: a bounded number.

    A student without memory (state_channels 0) has no inputs of it, and nothing is stored.
    Reasons to forget that are found here: the reason of SensorFrame.epoch, `time_backward`, `gap`, `pose_jump`.
    """

    def __init__(self, spec: ModelSpec, max_speed_mps: float = SyncConfig.max_speed_mps) -> None:
        self.spec = spec
        self.max_speed_mps = max_speed_mps
        self._states: list[_State] = []  # oldest first
        self._last: EgoPose | None = None  # of the newest frame stored
        self._epoch = Epoch()  # the same frame's
        self._reset_reason = ""
        self._zeros = np.zeros((spec.temporal.state_channels, *spec.grid.shape), dtype=np.float32)
        self._zeros.flags.writeable = False

    def inputs(self, frame: SensorFrame) -> tuple[dict[str, Any], str]:
        """-> prev_bev, prev_from_curr, prev_valid, prev_dt as in ModelSpec.inputs(), and why states were lost, or "".

        The state whose age is nearest `interval_s` within [min_age_s, max_age_s]; without one prev_valid is 0.
        """
        if not self.spec.temporal.state_channels:
            return {}, ""
        reason = self._discontinuity(frame)
        if reason:
            self.reset(reason)
        reason, self._reset_reason = self._reset_reason, ""
        temporal = self.spec.temporal
        usable = []
        for state in reversed(self._states):  # newest first: it wins a tie
            age_s = (frame.stamp_ns - state.ego.stamp_ns) / NS
            if temporal.min_age_s <= age_s <= temporal.max_age_s:
                usable.append((round(abs(age_s - temporal.interval_s), 6), age_s, state))
        if not usable:
            return self._tensors(self._zeros, np.eye(4), 0.0, temporal.interval_s), reason
        _, age_s, best = min(usable, key=lambda row: row[0])
        prev_from_curr = invert(best.ego.odom_from_ego) @ frame.ego.odom_from_ego
        return self._tensors(best.bev, prev_from_curr, 1.0, age_s), reason

    def store(self, frame: SensorFrame, bev: Any) -> None:
        """Remember the state that the network gave for `frame`."""
        self._last, self._epoch = frame.ego, frame.epoch
        temporal = self.spec.temporal
        oldest_ns = frame.stamp_ns - round(temporal.max_age_s * NS)
        self._states = [s for s in self._states if s.ego.stamp_ns >= oldest_ns]
        spacing_ns = round(temporal.interval_s / 8 * NS)
        if not self._states or frame.stamp_ns - self._states[-1].ego.stamp_ns >= spacing_ns:
            self._states.append(_State(frame.ego, bev))

    def reset(self, reason: str) -> None:
        """Forget everything; told by the next `inputs`, when there was something to forget."""
        if self._last is not None:
            self._reset_reason = self._reset_reason or reason
        self._states = []
        self._last = None

    def follow(self, reason: str) -> None:
        """This memory is empty and takes the place of another network's: told by the next `inputs`."""
        self._reset_reason = reason

    def __len__(self) -> int:
        return len(self._states)

    def _discontinuity(self, frame: SensorFrame) -> str:
        """Why the states kept do not lead to `frame`, or ""."""
        if self._last is None:
            return ""
        if frame.epoch != self._epoch:
            return frame.epoch.reason
        elapsed_s = (frame.stamp_ns - self._last.stamp_ns) / NS
        if elapsed_s <= 0:
            return "time_backward"
        if elapsed_s > self.spec.temporal.max_age_s:
            return "gap"
        moved_m = np.linalg.norm(frame.ego.odom_from_ego[:3, 3] - self._last.odom_from_ego[:3, 3])
        if frame.ego.epoch != self._last.epoch or moved_m > self.max_speed_mps * elapsed_s + JUMP_M:
            return "pose_jump"
        return ""

    @staticmethod
    def _tensors(bev: Any, prev_from_curr: np.ndarray, valid: float, age_s: float) -> dict[str, Any]:
        return {
            "prev_bev": bev,
            "prev_from_curr": prev_from_curr.astype(np.float32),
            "prev_valid": np.array([valid], dtype=np.float32),
            "prev_dt": np.array([age_s], dtype=np.float32),
        }
