"""Measurements of many sensors -> frames: what belongs together, who is late and why.

The rule, for a frame with stamp t (the anchor camera's stamp):
- camera c: an image within `camera_tolerance_ns` of t + offset(c), the first one that is not early by more than half
  the tolerance, else the latest;
- radar: its newest `radar_sweeps` scans in [t - radar_max_age_ns, t - radar_settle_ns];
- ego poses at t and at every chosen stamp, interpolated.
The frame is complete when no message to come can change it, given that each camera sends in order and radars take no
longer than `radar_settle_ns` from stamp to here: every live camera has such a first image or one beyond, and a pose
lies at or after all stamps. Then the frame is a function of the messages alone, whatever their order of arrival. No
radar is waited for, but for those that have never spoken while they may still be starting. A camera is live until it
has been silent for `silence_ns`. When `deadline_ns` has passed since t the frame goes as it is.
Where the anchor is missing, the stamps come from another camera's images (stamp - offset), or from the radars.

A deadline depends on when messages came, which no recording repeats. So every frame says what it was made of, and the
frames of another run can be made again of just that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from bev_perception.measurements import Measurements
from bev_perception.structures import COMPLETE, DEADLINE, Composition, SensorFrame

GIVE_UP_NS = 2_000_000_000  # what a frame to be made again lacks for so long is not in the recording


class FrameSynchronizer:
    """Decides which frame comes next and when it is due; what there is to make it of is in `taken`. Not thread-safe.

    again: stamp -> composition of the frames of another run, to be made again, in the order of that run. Where their
    stamps step back, the time of that run was set back: what comes then is made when it is set back here, too.
    """

    def __init__(self, taken: Measurements, again: Mapping[int, Composition] | None = None) -> None:
        self.taken = taken
        self.config = taken.config
        self._again = _between_jumps(again or {})
        self._fresh = True  # nothing was made since the start, or since the time was set back

    def poll(self, all_taken: bool = True) -> list[SensorFrame]:
        """Frames that are due at the time that `taken` was told, in stamp order.

        all_taken: nothing that has arrived still waits to be taken in. Only then may a deadline close a frame: it is
        meant for what has not come, not for what nobody has looked at yet.
        """
        frames = []
        while (stamp_ns := self._next_stamp()) is not None:
            again = self._next_again(stamp_ns)
            if again is not None:
                stamp_ns, composition = again
                closed_by = composition.closed_by if self._is_there(stamp_ns, composition) else ""
            else:
                composition, closed_by = None, self._closed_by(stamp_ns, all_taken)
            if not closed_by:
                break
            frame = self.taken.assemble(stamp_ns, closed_by, composition)
            if frame is not None:
                frames.append(frame)
            self._finish(stamp_ns)
        return frames

    def is_overdue(self) -> bool:
        """Whether a deadline would close the next frame now."""
        now_ns, stamp_ns = self.taken.now_ns, self._next_stamp()
        return now_ns is not None and stamp_ns is not None and now_ns - stamp_ns >= self.config.deadline_ns

    # ---- frames of another run

    def _next_again(self, stamp_ns: int) -> tuple[int, Composition] | None:
        """The frame to be made again, where it comes before or takes the place of the one at `stamp_ns`."""
        last_ns = self.taken.last_ns
        if last_ns is None and not self._fresh and len(self._again) > 1:
            self._again.popleft()
        self._fresh = last_ns is None
        rows = self._again[0]
        while rows and last_ns is not None and rows[0][0] <= last_ns:
            rows.popleft()
        near = rows and rows[0][0] < stamp_ns + self.config.period_ns // 2
        return rows[0] if near else None

    def _is_there(self, stamp_ns: int, composition: Composition) -> bool:
        """Whether everything that it was made of has come, or will not."""
        taken = self.taken
        if taken.now_ns is not None and taken.now_ns - stamp_ns > GIVE_UP_NS:
            return True
        if taken.poses.newest_ns is None or taken.poses.newest_ns < composition.pose_ns:
            return False
        return all(taken.has(name, t) for name, stamps in composition.stamps_ns.items() for t in stamps)

    # ---- which stamp is next, and is it due

    def _next_stamp(self) -> int | None:
        """Stamp of the next frame as far as the messages tell; a later message may still show an earlier one."""
        half, last_ns = self.config.period_ns // 2, self.taken.last_ns
        earliest = last_ns + half if last_ns is not None else None
        anchor = self._first_slot([self.config.anchor], earliest)
        virtual = self._first_slot([c for c in self.config.cameras if c != self.config.anchor], earliest)
        if anchor is not None and (virtual is None or virtual >= anchor - half or last_ns is None):
            return anchor
        if virtual is not None:
            return virtual
        # Radars tell the time only where a whole period has passed without an image.
        after = last_ns + self.config.period_ns if last_ns is not None else None
        stamps = [s.stamp_ns + self.config.radar_settle_ns for r in self.taken.radars.values() for s in r.items]
        return min((t for t in stamps if after is None or t >= after), default=None)

    def _first_slot(self, cameras: list[str], earliest: int | None) -> int | None:
        """Smallest stamp - offset of the waiting images, not before `earliest`."""
        known = self.taken.cameras
        slots = (i.stamp_ns - self.config.offset(c) for c in cameras if c in known for i in known[c].items)
        return min((t for t in slots if earliest is None or t > earliest), default=None)

    def _closed_by(self, stamp_ns: int, all_taken: bool) -> str:
        """COMPLETE, DEADLINE, or "" while the frame has to wait."""
        now_ns, first_ns = self.taken.now_ns, self.taken.first_ns
        if now_ns is None:
            return ""
        anchor = self.taken.cameras.get(self.config.anchor)
        if self.taken.last_ns is None and not (anchor and anchor.items):
            # Nothing has been delivered yet: give the anchor time to appear before another camera sets the stamps.
            assert first_ns is not None
            if now_ns - first_ns < self.config.startup_ns:
                return ""
        if self._is_complete(stamp_ns):
            return COMPLETE
        return DEADLINE if all_taken and now_ns - stamp_ns >= self.config.deadline_ns else ""

    def _is_complete(self, stamp_ns: int) -> bool:
        config, needed_ns = self.config, stamp_ns
        for name, buffer in self.taken.cameras.items():
            target, tolerance = stamp_ns + config.offset(name), config.camera_tolerance_ns
            image = self.taken.image(name, stamp_ns)
            if image is not None:
                needed_ns = max(needed_ns, image.stamp_ns)
            settled = image is not None and image.stamp_ns >= target - tolerance // 2
            if not settled and self._awaited(buffer.newest_ns, target, target + tolerance):
                return False
        for scans in self.taken.radars.values():
            if scans.newest_ns is None and self._awaited(None, stamp_ns - config.radar_settle_ns, 0):
                return False
        return not self._awaited(self.taken.poses.newest_ns, needed_ns, needed_ns - 1, always=True)

    def _awaited(self, newest_ns: int | None, target_ns: int, satisfied_beyond_ns: int, always: bool = False) -> bool:
        """True while a sensor that is expected to speak has said nothing newer than `satisfied_beyond_ns`."""
        if newest_ns is None:
            first_ns = self.taken.first_ns
            return always or first_ns is None or target_ns - first_ns < self.config.startup_ns
        if newest_ns > satisfied_beyond_ns:
            return False
        return always or target_ns - newest_ns <= self.config.silence_ns

    def _finish(self, stamp_ns: int) -> None:
        """The frame is done: drop what no later frame can use."""
        self.taken.last_ns = stamp_ns
        next_ns = stamp_ns + self.config.period_ns // 2
        anchor = self.taken.cameras.get(self.config.anchor)
        if anchor is not None:
            for _ in anchor.between(stamp_ns + 1, next_ns):
                self.taken.refuse(self.config.anchor, "too_close")
            anchor.forget_before(next_ns + 1)
        for name, buffer in self.taken.cameras.items():
            buffer.forget_before(next_ns + 1 + self.config.offset(name) - self.config.camera_tolerance_ns)
        for scans in self.taken.radars.values():
            scans.forget_before(next_ns - self.config.radar_max_age_ns)


def _between_jumps(again: Mapping[int, Composition]) -> deque[deque[tuple[int, Composition]]]:
    """The frames in runs of rising stamps; one run, though it be empty, at least."""
    runs: deque[deque[tuple[int, Composition]]] = deque([deque()])
    for row in again.items():
        if runs[-1] and row[0] < runs[-1][-1][0]:
            runs.append(deque())
        runs[-1].append(row)
    return runs
