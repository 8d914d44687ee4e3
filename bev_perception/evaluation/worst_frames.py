"""The frames of a drive in which most went wrong, not all of one moment, chosen while the drive is read."""

from __future__ import annotations

from dataclasses import dataclass

COUNT = 4
APART_NS = 1_000_000_000


@dataclass(frozen=True)
class Scene:
    """A frame as a picture (JPEG). wrong: (hits, false alarms, misses); None without ground truth."""

    stamp_ns: int
    jpeg: bytes
    wrong: tuple[int, int, int] | None = None

    def errors(self) -> int:
        return sum(self.wrong[1:]) if self.wrong else 0


class WorstFrames:
    """At most `count` scenes, any two at least APART_NS apart: ask `wants` before a scene is drawn, `add` it then.

    Of frames nearer to each other the worse stays, of equal ones the first.
    """

    def __init__(self, count: int = COUNT) -> None:
        self._count = count
        self._kept: list[Scene] = []

    def wants(self, stamp_ns: int, errors: int) -> bool:
        return errors > 0 and all(errors > scene.errors() for scene in self._displaced(stamp_ns))

    def add(self, scene: Scene) -> None:
        """Of a frame that was wanted."""
        gone = self._displaced(scene.stamp_ns)
        self._kept = [kept for kept in self._kept if kept not in gone] + [scene]

    def scenes(self) -> list[Scene]:
        """The worst first."""
        return sorted(self._kept, key=lambda scene: (-scene.errors(), scene.stamp_ns))

    def _displaced(self, stamp_ns: int) -> list[Scene]:
        """What would have to go for a frame: those near to it; else, where all places are taken, the best."""
        near = [scene for scene in self._kept if abs(scene.stamp_ns - stamp_ns) < APART_NS]
        return near if near or len(self._kept) < self._count else self.scenes()[-1:]
