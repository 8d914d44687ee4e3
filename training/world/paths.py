"""Closed-form motion: paths of straight lines and arcs, travelled with piecewise linear speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """A planar curve by arc length: segment i starts at station `starts[i]` in `x, y, heading` with `curvature`.

    Before its start and beyond its end the first and the last segment go on.
    """

    starts: Floats
    x: Floats
    y: Floats
    heading: Floats
    curvature: Floats
    length: float

    @staticmethod
    def from_segments(x: float, y: float, heading: float, segments: list[tuple[float, float]]) -> Path:
        """Build from (length m, curvature 1/m) pairs."""
        rows, station = [], 0.0
        for length, curvature in segments:
            rows.append((station, x, y, heading, curvature))
            chord = length * np.sinc(curvature * length / 2 / np.pi)
            x += chord * np.cos(heading + curvature * length / 2)
            y += chord * np.sin(heading + curvature * length / 2)
            heading += curvature * length
            station += length
        starts, xs, ys, headings, curvatures = np.array(rows, dtype=np.float64).T
        return Path(starts, xs, ys, headings, curvatures, station)

    def segment(self, s: ArrayLike) -> NDArray[np.intp]:
        return np.clip(np.searchsorted(self.starts, s, side="right") - 1, 0, len(self.starts) - 1)

    def at(self, s: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """x, y, heading at stations `s` (any shape)."""
        i = self.segment(s)
        ds = np.asarray(s, dtype=np.float64) - self.starts[i]
        half = self.curvature[i] * ds / 2
        chord = ds * np.sinc(half / np.pi)
        mid = self.heading[i] + half
        return self.x[i] + chord * np.cos(mid), self.y[i] + chord * np.sin(mid), mid + half

    def curvature_at(self, s: ArrayLike) -> Floats:
        return self.curvature[self.segment(s)]

    def beside(self, s: ArrayLike, left: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """x, y, heading of the points `left` metres to the left of stations `s`."""
        x, y, heading = self.at(s)
        return x - np.sin(heading) * left, y + np.cos(heading) * left, heading

    def offset(self, left: float) -> Path:
        """The parallel curve `left` metres to the left; arcs stay arcs."""
        x, y, heading = self.beside(0.0, left)
        lengths = np.diff(np.append(self.starts, self.length))
        scale = 1.0 - self.curvature * left
        return Path.from_segments(
            float(x), float(y), float(heading), list(zip(lengths * scale, self.curvature / scale))
        )

    def part(self, begin: float, end: float) -> list[tuple[float, float]]:
        """(length m, curvature 1/m) of what lies between two stations, before the start and beyond the end too."""
        inside = self.starts[(self.starts > begin) & (self.starts < end)]
        edges = np.concatenate([[begin], inside, [end]])
        return list(zip(np.diff(edges).tolist(), self.curvature_at(edges[:-1]).tolist()))

    def reversed(self) -> Path:
        x, y, heading = self.at(self.length)
        lengths = np.diff(np.append(self.starts, self.length))
        backwards = list(zip(lengths[::-1], -self.curvature[::-1]))
        return Path.from_segments(float(x), float(y), float(heading) + np.pi, backwards)


@dataclass(frozen=True)
class SpeedProfile:
    """Speed (m/s) linear between knots, constant outside; the distance travelled since t = 0 is exact."""

    t: Floats
    v: Floats
    s: Floats

    @staticmethod
    def through(t: ArrayLike, v: ArrayLike) -> SpeedProfile:
        t, v = np.asarray(t, dtype=np.float64), np.asarray(v, dtype=np.float64)
        s = np.concatenate([[0.0], np.cumsum(np.diff(t) * (v[1:] + v[:-1]) / 2)])
        profile = SpeedProfile(t, v, s)
        return SpeedProfile(t, v, s - profile.at(0.0)[0])

    def at(self, t: ArrayLike) -> tuple[Floats, Floats]:
        """Distance since t = 0 and speed at times `t` in seconds."""
        t = np.asarray(t, dtype=np.float64)
        last = len(self.t) - 1
        i = np.clip(np.searchsorted(self.t, t, side="right") - 1, 0, max(last - 1, 0))
        if last == 0:
            return self.s[0] + self.v[0] * (t - self.t[0]), np.full(t.shape, self.v[0])
        inside = np.clip(t, self.t[0], self.t[-1])
        dt = inside - self.t[i]
        slope = (self.v[i + 1] - self.v[i]) / (self.t[i + 1] - self.t[i])
        v = self.v[i] + slope * dt
        return self.s[i] + (self.v[i] + v) / 2 * dt + v * (t - inside), v


@dataclass(frozen=True)
class Motion:
    """A path travelled with a speed profile, starting from station `s0` at t = 0."""

    path: Path
    profile: SpeedProfile
    s0: float = 0.0

    def at(self, t: ArrayLike) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """x, y, yaw, speed along yaw, station, at times `t` in seconds."""
        travelled, v = self.profile.at(t)
        s = self.s0 + travelled
        x, y, yaw = self.path.at(s)
        return x, y, yaw, v, s


def standing(x: float, y: float, yaw: float) -> Motion:
    """A motion that stays where it is."""
    return Motion(Path.from_segments(x, y, yaw, [(1.0, 0.0)]), SpeedProfile.through([0.0], [0.0]))


@dataclass(frozen=True)
class MotionTable:
    """N motions evaluated at once: what `Motion.at` gives for each, without a Python loop. Rows are padded with inf."""

    starts: Floats  # (N, S)
    rows: Floats  # (N, S, 4): x, y, heading, curvature
    t: Floats  # (N, K)
    v: Floats
    s: Floats
    s0: Floats  # (N,)

    @staticmethod
    def of(motions: list[Motion]) -> MotionTable:
        segments = max((len(m.path.starts) for m in motions), default=1)
        knots = max((len(m.profile.t) for m in motions), default=1) + 1
        n = len(motions)
        table = MotionTable(
            np.full((n, segments), np.inf),
            np.zeros((n, segments, 4)),
            np.full((n, knots), np.inf),
            np.zeros((n, knots)),
            np.zeros((n, knots)),
            np.array([m.s0 for m in motions]),
        )
        for i, m in enumerate(motions):
            j, k = len(m.path.starts), len(m.profile.t)
            table.starts[i, :j] = m.path.starts
            table.rows[i, :j] = np.stack([m.path.x, m.path.y, m.path.heading, m.path.curvature], axis=-1)
            table.t[i, :k], table.v[i, :k], table.s[i, :k] = m.profile.t, m.profile.v, m.profile.s
            table.v[i, k:] = m.profile.v[-1]
        return table

    def at(self, t: float) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """x, y, yaw, speed and station of every motion at time `t`: (N,) each."""
        n = np.arange(len(self.s0))
        i = np.maximum((self.t <= t).sum(1) - 1, 0)
        dt = t - self.t[n, i]
        v0, v1, span = self.v[n, i], self.v[n, i + 1], self.t[n, i + 1] - self.t[n, i]
        v = np.where(dt < 0, v0, v0 + (v1 - v0) / span * dt)  # span is inf behind the last knot: constant speed
        station = self.s0 + self.s[n, i] + (v0 + v) / 2 * dt
        j = np.maximum((self.starts <= station[:, None]).sum(1) - 1, 0)
        x, y, heading, curvature = self.rows[n, j].T
        ds = station - self.starts[n, j]
        half = curvature * ds / 2
        chord, mid = ds * np.sinc(half / np.pi), heading + half
        return x + chord * np.cos(mid), y + chord * np.sin(mid), mid + half, v, station
