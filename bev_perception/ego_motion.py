"""Where the vehicle was: poses in `odom`, interpolated at a stamp, with jumps of the odometry found and marked."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bev_perception.geometry import interpolate_pose, make_transform
from bev_perception.stamped_buffer import NS, mean_rate_hz
from bev_perception.structures import EgoPose
from bev_perception.sync_config import SyncConfig


@dataclass(frozen=True)
class MotionLimits:
    """What counts as one continuous motion.

    max_extrapolation_ns: how far from the nearest pose a pose may be extrapolated from its twist.
    max_gap_ns: across longer gaps nothing is interpolated. history_ns: how long poses are kept.
    A displacement between two poses that no vehicle of max_speed_mps can have driven, or that differs from what the
    twists say by more than jump_m (plus 20 %), is a jump; so is a turn by more than jump_rad plus max_turn_rps * time.
    """

    max_extrapolation_ns: int = SyncConfig.max_extrapolation_ns
    max_gap_ns: int = 500_000_000
    history_ns: int = 3 * NS
    max_speed_mps: float = SyncConfig.max_speed_mps
    max_turn_rps: float = 2.0
    jump_m: float = 1.0
    jump_rad: float = 0.2


class PoseBuffer:
    """Bounded history of EgoPose, sorted by stamp; what it answers depends on the poses, not on their arrival order.

    Each pose gets the epoch it belongs to: the number of jumps and resets before it.
    """

    def __init__(self, limits: MotionLimits | None = None) -> None:
        self.limits = limits or MotionLimits()
        self._stamps: list[int] = []
        self._poses: list[EgoPose] = []
        self._epoch = 0  # of the oldest pose kept
        self._between: dict[int, EgoPose] = {}  # what was interpolated: every radar sweep is asked for in many frames

    @property
    def newest_ns(self) -> int | None:
        return self._stamps[-1] if self._stamps else None

    def add(self, pose: EgoPose) -> str:
        """ "" or why the pose is refused: `not_finite`, `not_a_rotation`, `duplicate`, `too_late`."""
        reason = _fault(pose)
        if reason:
            return reason
        i = bisect.bisect_left(self._stamps, pose.stamp_ns)
        if i < len(self._stamps) and self._stamps[i] == pose.stamp_ns:
            return "duplicate"
        if self._stamps and pose.stamp_ns < self._stamps[-1] - self.limits.history_ns:
            return "too_late"
        if i < len(self._stamps) or len(self._between) > 500:
            self._between.clear()
        self._stamps.insert(i, pose.stamp_ns)
        self._poses.insert(i, pose)
        self._mark_epochs(i)
        self._forget()
        return ""

    def at(self, stamp_ns: int, until_ns: int | None = None) -> EgoPose | None:
        """Pose and twist at `stamp_ns`: linear and slerp between two poses of one epoch; else extrapolated along the
        twist of the nearest pose, within the limit; else None.

        until_ns: what was known when this was the newest pose, for a frame that is made again.
        """
        if stamp_ns in self._between and (until_ns is None or until_ns > stamp_ns):
            return self._between[stamp_ns]
        known = len(self._poses) if until_ns is None else bisect.bisect_right(self._stamps, until_ns)
        i = min(bisect.bisect_left(self._stamps, stamp_ns), known)
        before = self._poses[i - 1] if i > 0 else None
        after = self._poses[i] if i < known else None
        if after is not None and after.stamp_ns == stamp_ns:
            return after
        if before is not None and after is not None:
            gap = after.stamp_ns - before.stamp_ns
            if before.epoch == after.epoch and gap <= self.limits.max_gap_ns:
                return self._between.setdefault(stamp_ns, _interpolate(before, after, stamp_ns))
        near = [p for p in (before, after) if p is not None]
        nearest = min(near, key=lambda p: abs(stamp_ns - p.stamp_ns), default=None)
        if nearest is None or abs(stamp_ns - nearest.stamp_ns) > self.limits.max_extrapolation_ns:
            return None
        moved = integrate_twist(nearest.linear, nearest.angular, (stamp_ns - nearest.stamp_ns) / NS)
        return replace(nearest, stamp_ns=stamp_ns, odom_from_ego=nearest.odom_from_ego @ moved)

    def rate_hz(self) -> float:
        """Poses per second, the mean of the newest 20; 0 while there are fewer than two."""
        return mean_rate_hz(self._stamps[-20:])

    def reset(self) -> None:
        """Forget all poses; those to come are of a new epoch."""
        if self._poses:
            self._epoch = self._poses[-1].epoch + 1
        self._stamps.clear()
        self._poses.clear()
        self._between.clear()

    def _mark_epochs(self, start: int) -> None:
        """Number the poses from `start` on; usually that is the newest one alone."""
        for i in range(start, len(self._poses)):
            epoch = self._epoch
            if i > 0:
                before = self._poses[i - 1]
                epoch = before.epoch + self._jumps(before, self._poses[i])
            self._poses[i] = replace(self._poses[i], epoch=epoch)

    def _forget(self) -> None:
        oldest_ns = self._stamps[-1] - self.limits.history_ns
        keep = bisect.bisect_left(self._stamps, oldest_ns)
        if keep:
            self._epoch = self._poses[keep].epoch
            del self._stamps[:keep], self._poses[:keep]

    def _jumps(self, a: EgoPose, b: EgoPose) -> bool:
        """True when no plausible motion leads from pose a to the later pose b.

        In plain numbers: a call of numpy takes longer than all of this, and odometry comes 500 times a second.
        """
        limits = self.limits
        dt = (b.stamp_ns - a.stamp_ns) / NS
        rows_a, rows_b = a.odom_from_ego.tolist(), b.odom_from_ego.tolist()
        trace = sum(x * y for row_a, row_b in zip(rows_a[:3], rows_b[:3]) for x, y in zip(row_a[:3], row_b[:3]))
        if math.acos(min(max((trace - 1) / 2, -1.0), 1.0)) > limits.jump_rad + limits.max_turn_rps * dt:
            return True
        moved = [row_b[3] - row_a[3] for row_a, row_b in zip(rows_a[:3], rows_b[:3])]  # along odom's axes
        if math.hypot(*moved) > limits.jump_m + limits.max_speed_mps * dt:
            return True
        linear = [(x + y) / 2 * dt for x, y in zip(a.linear.tolist(), b.linear.tolist())]
        angular = [(x + y) / 2 * dt for x, y in zip(a.angular.tolist(), b.angular.tolist())]
        if not (any(a.linear.tolist()) or any(b.linear.tolist())):
            return False  # standing still, or an odometry without a twist: nothing to compare with
        expected = _displacement(linear, angular)
        moved = [sum(rows_a[j][i] * moved[j] for j in range(3)) for i in range(3)]  # along a's axes
        return math.dist(moved, expected) > limits.jump_m + 0.2 * math.hypot(*expected)


def _displacement(v: Sequence[float], w: Sequence[float]) -> list[float]:
    """The translation of the exponential of the twist (v, w), both times the duration: as in integrate_twist."""
    angle = math.hypot(*w)
    if angle < 1e-6:
        b, c = 0.5, 1.0 / 6.0
    else:
        b, c = (1 - math.cos(angle)) / angle**2, (angle - math.sin(angle)) / angle**3
    wv = _cross(w, v)
    return [x + b * y + c * z for x, y, z in zip(v, wv, _cross(w, wv))]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def integrate_twist(linear: np.ndarray, angular: np.ndarray, dt_s: float) -> np.ndarray:
    """(4, 4) motion of a body whose twist (m/s, rad/s, body axes) stays constant for dt_s: the exponential of SE(3)."""
    v, w = np.asarray(linear, dtype=np.float64) * dt_s, np.asarray(angular, dtype=np.float64) * dt_s
    W = np.array([[0.0, -w[2], w[1]], [w[2], 0.0, -w[0]], [-w[1], w[0], 0.0]])
    angle = float(np.linalg.norm(w))
    if angle < 1e-6:
        a, b, c = 1.0, 0.5, 1.0 / 6.0
    else:
        a, b, c = np.sin(angle) / angle, (1 - np.cos(angle)) / angle**2, (angle - np.sin(angle)) / angle**3
    return make_transform(np.eye(3) + a * W + b * W @ W, (np.eye(3) + b * W + c * W @ W) @ v)


def _interpolate(a: EgoPose, b: EgoPose, stamp_ns: int) -> EgoPose:
    fraction = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
    return EgoPose(
        stamp_ns,
        interpolate_pose(a.odom_from_ego, b.odom_from_ego, fraction),
        (1 - fraction) * a.linear + fraction * b.linear,
        (1 - fraction) * a.angular + fraction * b.angular,
        a.epoch,
    )


def _fault(pose: EgoPose) -> str:
    rows = pose.odom_from_ego.tolist()
    numbers = (*rows[0], *rows[1], *rows[2], *pose.linear.tolist(), *pose.angular.tolist())
    if not math.isfinite(sum(numbers)) and not all(map(math.isfinite, numbers)):
        return "not_finite"
    x, y, z = (row[:3] for row in rows[:3])
    skew = max(abs(_dot(x, y)), abs(_dot(y, z)), abs(_dot(z, x)))
    stretch = max(abs(_dot(row, row) - 1) for row in (x, y, z))
    if max(skew, stretch) > 1e-3 or _dot(_cross(x, y), z) < 0:
        return "not_a_rotation"
    return ""
