"""The twist that two poses imply, and whether the twist that the odometry states is the same motion.

A message of odometry says twice how the vehicle moves: where it is, again and again, and how fast. Poses place images
and radar scans, the twist bridges to the newest pose and takes the vehicle's own motion out of relative radar speeds. A
twist in map axes, in km/h or left at zero makes standing objects move, and nothing else looks wrong.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from bev_perception.structures import EgoPose
from bev_perception.sync_config import MS, NS

# m/s along and rad/s about the axes of the body, x y z each. Plain numbers: arrays of three cost ten times as much.
Twist = tuple[float, float, float, float, float, float]
MAX_GAP_NS = 500 * MS  # across longer gaps nothing is concluded, as PoseBuffer interpolates across none
PIECE_NS = 100 * MS  # stated and implied twist are compared over this, PIECES times: half a second
PIECES = 5
RELATIVE = 0.1  # what a twist may differ by, beside the tolerance
JUMP_M, JUMP_RELATIVE = 1.0, 0.2
NEXT, ANEW, STRAY = "next", "anew", "stray"


def succession(last_ns: int | None, stamp_ns: int) -> str:
    """How a stamp follows the last one: NEXT; ANEW, where nothing leads from there to here (the first, after a gap,
    after time restarted); or STRAY, where a message is out of order and says nothing."""
    if last_ns is None or not -NS <= stamp_ns - last_ns <= MAX_GAP_NS:
        return ANEW
    return NEXT if stamp_ns > last_ns else STRAY


def mean_twist(a_from_b: np.ndarray, dt_s: float) -> Twist:
    """The constant twist that moves a body from pose a to pose b (4, 4) in dt_s: the logarithm of SE(3) over the time.

    The inverse of ego_motion.integrate_twist; turns of half a circle and more are ambiguous.
    """
    (r00, r01, r02, tx), (r10, r11, r12, ty), (r20, r21, r22, tz), _ = a_from_b.tolist()
    # sin(angle) * axis and cos(angle)
    x, y, z = (r21 - r12) / 2, (r02 - r20) / 2, (r10 - r01) / 2
    sine, cosine = math.sqrt(x * x + y * y + z * z), (r00 + r11 + r22 - 1) / 2
    angle = math.atan2(sine, cosine)
    scale = angle / sine if sine > 1e-9 else 1.0
    x, y, z = x * scale, y * scale, z * scale
    # t - w x t / 2 + c w x (w x t)
    c = (1 - angle * sine / (2 * (1 - cosine))) / (angle * angle) if angle > 1e-3 else 1 / 12
    ux, uy, uz = y * tz - z * ty, z * tx - x * tz, x * ty - y * tx
    vx = tx - ux / 2 + c * (y * uz - z * uy)
    vy = ty - uy / 2 + c * (z * ux - x * uz)
    vz = tz - uz / 2 + c * (x * uy - y * ux)
    return vx / dt_s, vy / dt_s, vz / dt_s, x / dt_s, y / dt_s, z / dt_s


def with_twist(pose: EgoPose, twist: Twist) -> EgoPose:
    return replace(pose, linear=np.array(twist[:3]), angular=np.array(twist[3:]))


def _relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """inverse(a) @ b of two poses (4, 4)."""
    turned: np.ndarray = b.copy()
    turned[:3, 3] -= a[:3, 3]
    turned[:3] = a[:3, :3].T @ turned[:3]
    return turned


class PoseDifferences:
    """The twist at the newest pose, from the poses of a window before it: it is late by half of the window.

    A step that differs from the one before by more than a metre and a fifth is a jump: it begins a new window, and so
    do gaps and stamps that go back.
    """

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._poses: deque[EgoPose] = deque(maxlen=1000)
        self._at: list[float] = []  # where the newest pose is, and how fast it got there: in odom axes
        self._velocity: tuple[float, ...] = ()

    def add(self, pose: EgoPose) -> None:
        """Take the newest pose; one that is out of order is left out."""
        poses = self._poses
        order = succession(poses[-1].stamp_ns if poses else None, pose.stamp_ns)
        if order == STRAY:
            return
        position = pose.odom_from_ego[:3, 3].tolist()
        if order == ANEW or self._jumps(position, (pose.stamp_ns - poses[-1].stamp_ns) / NS):
            poses.clear()
            self._velocity = ()
        self._at = position
        # the oldest pose within the window, or the one before this where none is
        while len(poses) > 1 and poses[0].stamp_ns < pose.stamp_ns - self._window_ns:
            poses.popleft()
        poses.append(pose)

    def twist(self) -> Twist | None:
        """None where there is no earlier pose to compare the newest one with."""
        if len(self._poses) < 2:
            return None
        first, last = self._poses[0], self._poses[-1]
        return mean_twist(_relative(first.odom_from_ego, last.odom_from_ego), (last.stamp_ns - first.stamp_ns) / NS)

    def _jumps(self, position: list[float], dt_s: float) -> bool:
        (x, y, z), (x0, y0, z0), before = position, self._at, self._velocity
        self._velocity = velocity = ((x - x0) / dt_s, (y - y0) / dt_s, (z - z0) / dt_s)
        off = math.dist(velocity, before) * dt_s if before else 0.0
        return off > JUMP_M and off > JUMP_M + JUMP_RELATIVE * math.hypot(*before) * dt_s


class TwistCheck:
    """Compares the stated twist with the poses over half a second; where they disagree, the poses are believed.

    Poses are proven by use, for images and standing returns must fall into place; a twist is a number that nobody looks
    at. The half second is five pieces of which the median counts, so that a jump of the pose is not taken for a wrong
    twist. The stated twist is believed again when it is nearer than half of the tolerance.
    detail: what does not fit together; "" while both agree, or nothing can be said.
    """

    def __init__(self, tolerance_mps: float, tolerance_rps: float, window_ns: int) -> None:
        self.detail = ""
        self._tolerance = (tolerance_mps, tolerance_rps)
        self._differences = PoseDifferences(window_ns)
        self._last: EgoPose | None = None
        self._stated: list[float] = []  # by the last pose, and its integral over the piece that has begun
        self._moved: list[float] = []
        self._pieces: deque[tuple[list[float], Twist]] = deque(maxlen=PIECES)  # mean twists, stated and implied
        self._implied: Twist | None = None

    def add(self, pose: EgoPose) -> EgoPose:
        """The pose, with the twist to use."""
        last = self._last
        order = succession(last.stamp_ns if last is not None else None, pose.stamp_ns)
        if order != STRAY:
            self._differences.add(pose)
            stated = [*pose.linear.tolist(), *pose.angular.tolist()]
            if order == ANEW or last is None:
                self._pieces.clear()
                self._begin_piece(pose)
            else:
                half_s = (pose.stamp_ns - last.stamp_ns) / (2 * NS)
                self._moved = [m + (a + b) * half_s for m, a, b in zip(self._moved, self._stated, stated)]
                if pose.stamp_ns - self._start.stamp_ns >= PIECE_NS:
                    self._end_piece(pose)
            self._last, self._stated = pose, stated
        if not self.detail:
            return pose
        # where the poses say nothing, after a jump or a gap, the vehicle moves on as before
        self._implied = self._differences.twist() or self._implied
        return with_twist(pose, self._implied) if self._implied else pose

    def _begin_piece(self, pose: EgoPose) -> None:
        self._start, self._moved = pose, [0.0] * 6

    def _end_piece(self, pose: EgoPose) -> None:
        dt_s = (pose.stamp_ns - self._start.stamp_ns) / NS
        implied = mean_twist(_relative(self._start.odom_from_ego, pose.odom_from_ego), dt_s)
        self._pieces.append(([moved / dt_s for moved in self._moved], implied))
        self._begin_piece(pose)
        if len(self._pieces) == PIECES:
            self.detail = self._compare()

    def _compare(self) -> str:
        off = [_median(stated[i] - implied[i] for stated, implied in self._pieces) for i in range(6)]
        moved = [_median(implied[i] for _, implied in self._pieces) for i in range(6)]
        texts = []
        for part, tolerance, unit in zip((slice(0, 3), slice(3, 6)), self._tolerance, ("m/s", "rad/s")):
            allowed = tolerance + RELATIVE * math.hypot(*moved[part])
            if math.hypot(*off[part]) > (allowed / 2 if self.detail else allowed):
                said = [a + b for a, b in zip(moved[part], off[part])]
                texts.append(f"twist says {_text(said)} {unit}, the poses say {_text(moved[part])}")
        return "; ".join(texts)


def _median(values: Iterable[float]) -> float:
    """Of PIECES values."""
    return sorted(values)[PIECES // 2]


def _text(vector: Sequence[float]) -> str:
    return f"({', '.join(f'{round(value, 2) + 0.0:.2f}' for value in vector)})"
