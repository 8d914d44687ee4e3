"""Whose time is wrong? Each stamp against the clock and against what its sensor sent before."""

from __future__ import annotations

from bev_perception.sync_config import SyncConfig

RESTART_AFTER_NS = 500_000_000
RESTART_MESSAGES = 3


class StampGuard:
    """One sensor that steps back is that sensor's fault; where most do, time itself was set back.

    Of each sensor it remembers the newest stamp, and those that went back without an interruption: a single stray
    message is refused, a sensor that goes on in its new time for half a second is taken at its word.
    """

    def __init__(self, config: SyncConfig) -> None:
        self._config = config
        self.clear()

    def clear(self) -> None:
        self._newest_ns: dict[str, int] = {}
        self._stepped_back: dict[str, list[int]] = {}

    def check(self, sensor: str, stamp_ns: int, now_ns: int | None) -> str:
        """What to do with a measurement: "" (take it), a reason to refuse it (`future_stamp`, `too_old`,
        `stepped_back`), `restarted` (forget the sensor's past, then take it) or `time_jump_back` (forget everybody's).

        now_ns: the clock of the stamps, None before it runs.
        """
        config = self._config
        if now_ns is not None and stamp_ns > now_ns + config.max_future_ns:
            return "future_stamp"
        if now_ns is not None and stamp_ns < now_ns - config.max_past_ns:
            return "too_old"
        newest = self._newest_ns.get(sensor)
        if newest is None or stamp_ns >= newest - config.jump_back_ns:
            self._stepped_back.pop(sensor, None)
            self._newest_ns[sensor] = stamp_ns if newest is None else max(stamp_ns, newest)
            return ""
        stamps = self._stepped_back.setdefault(sensor, [])
        if stamps and stamp_ns <= stamps[-1]:
            stamps.clear()
        stamps.append(stamp_ns)
        if len(self._stepped_back) > max(1, len(self._newest_ns) // 2):
            return "time_jump_back"
        if len(stamps) >= RESTART_MESSAGES and stamps[-1] - stamps[0] >= RESTART_AFTER_NS:
            del self._stepped_back[sensor]
            self._newest_ns[sensor] = stamp_ns
            return "restarted"
        return "stepped_back"
