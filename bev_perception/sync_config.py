"""What the frame synchroniser is told."""

from __future__ import annotations

from dataclasses import dataclass, field

MS = 1_000_000
NS = 1_000_000_000


@dataclass(frozen=True)
class SyncConfig:
    """Times in nanoseconds. `anchor` defaults to the last camera of the sweep; it has no offset.

    offsets_ns: camera -> its stamp minus the anchor's within one sweep. period_ns: the anchor's period; frames are at
    least half of it apart. radar_settle_ns: younger scans are left to the next frame, so that none is waited for.
    startup_ns: how long after the first message a sensor that was never seen is waited for.
    """

    cameras: tuple[str, ...]
    radars: tuple[str, ...]
    anchor: str = ""
    period_ns: int = 83_333_333
    offsets_ns: dict[str, int] = field(default_factory=dict)
    camera_tolerance_ns: int = 40 * MS
    radar_sweeps: int = 6
    radar_max_age_ns: int = 600 * MS
    radar_settle_ns: int = 40 * MS
    deadline_ns: int = 150 * MS
    max_extrapolation_ns: int = 100 * MS
    silence_ns: int = NS
    startup_ns: int = NS
    jump_back_ns: int = NS
    max_future_ns: int = 50 * MS
    max_past_ns: int = 2 * NS
    max_speed_mps: float = 70.0

    def __post_init__(self) -> None:
        if not self.anchor and self.cameras:
            object.__setattr__(self, "anchor", self.cameras[-1])
        if self.cameras and self.anchor not in self.cameras:
            raise ValueError(f"anchor {self.anchor!r} must be one of the cameras {self.cameras}")
        unknown = sorted(set(self.offsets_ns) - set(self.cameras))
        if unknown:
            raise ValueError(f"offsets_ns names {unknown}, which are not among the cameras {self.cameras}")
        if self.offsets_ns.get(self.anchor, 0) != 0:
            raise ValueError(f"the anchor {self.anchor} has offset 0, found {self.offsets_ns[self.anchor]} ns")
        if not 0 < 2 * self.camera_tolerance_ns <= self.period_ns:
            raise ValueError(
                f"camera_tolerance_ns must lie in (0, period_ns / 2 = {self.period_ns // 2}], or two images of one "
                f"camera fit into a frame; found {self.camera_tolerance_ns}"
            )

    def offset(self, camera: str) -> int:
        return self.offsets_ns.get(camera, 0)
