"""What a score and a box are worth: probability and variances of detections, from a table that a bundle may have.

The table is fitted on drives that the model has not learnt from (training.calibrate): for every class the share of
detections that are right, and how far off they are, by score and distance. Places and velocities err differently along
the line of sight than across it, so deviations are kept in these axes and turned into those of base_link here. Where
the network says itself how far it may be off, the table may be in units of a power of that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from bev_perception.bundle import Bundle, read_table
from bev_perception.model_spec import SPREAD_PARTS
from bev_perception.plain import to_plain
from bev_perception.spread import METRIC_CHANNELS, softened
from bev_perception.structures import Uncertainty

UNCERTAINTY = "uncertainty.json"
FORMAT, LIMIT = 1, 4 * 2**20  # bytes
LOGIT = METRIC_CHANNELS[-1]
# Of a detection: along and across the line of sight (m), height (m), heading (rad), velocity along and across (m/s),
# length, width and height (m), which older tables lack.
CHANNELS = METRIC_CHANNELS[:-1]
OLDER_CHANNELS, SIZES = CHANNELS[:6], CHANNELS[6:]
LEVELS = (0.5, 0.9, 0.95)  # of `intervals`

NOT_ESTIMATED = np.diag(np.full(6, -1.0)).ravel()  # a covariance of a message
NOT_ESTIMATED.setflags(write=False)

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ClassTable:
    """Of one class: rows by distance, columns by score. deviation: channel -> root mean square of the error, where
    UncertaintyTable.head has the channel in units of that power of what the network says."""

    probability: Rows
    deviation: dict[str, Rows]


@dataclass(frozen=True)
class UncertaintyTable:
    """What `uncertainty.json` holds.

    ranges_m, scores: rising; where the rows and columns of every table stand, between which is interpolated.
    intervals: channel -> how many deviations to both sides hold LEVELS of the errors (a normal error has 0.67, 1.64 and
    1.96). frames: how many it was fitted on. onnx_sha256: of the network that it is about. head: channel, or LOGIT ->
    power, from 0 to 1, of the network's own deviation that counts (ModelSpec.spread); that of LOGIT softens the score
    before the probability is looked up. Raises ValueError for tables of other shapes, and for what is no probability or
    no deviation.
    """

    onnx_sha256: str
    ranges_m: tuple[float, ...]
    scores: tuple[float, ...]
    classes: dict[str, ClassTable]
    intervals: dict[str, tuple[float, float, float]]
    frames: int
    head: dict[str, float] = field(default_factory=dict)
    format: int = field(default=FORMAT)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, this version reads {FORMAT}")
        for name, knots in (("ranges_m", self.ranges_m), ("scores", self.scores)):
            if not knots or not (np.diff(knots) > 0).all():
                raise ValueError(f"{name} must rise, found {knots}")
        channels = set(self.intervals)
        if channels not in (set(CHANNELS), set(OLDER_CHANNELS)):
            raise ValueError(f"intervals are of {', '.join(CHANNELS)}, found {', '.join(self.intervals)}")
        powers = {n: p for n, p in self.head.items() if not (n in channels | {LOGIT} and 0.0 <= p <= 1.0)}
        if powers:
            raise ValueError(f"head has powers from 0 to 1 of {', '.join((*self.intervals, LOGIT))}, found {powers}")
        for name, table in self.classes.items():
            if set(table.deviation) != channels:
                wanted, found = ", ".join(self.intervals), ", ".join(table.deviation)
                raise ValueError(f"{name}: deviations are of {wanted}, found {found}")
            for what, rows in {"probability": table.probability, **table.deviation}.items():
                values = np.array(rows, dtype=np.float64) if len({len(row) for row in rows}) == 1 else np.zeros(0)
                if values.shape != (len(self.ranges_m), len(self.scores)):
                    raise ValueError(f"{name}: {what} wants {len(self.ranges_m)} rows of {len(self.scores)} numbers")
                most = 1.0 if what == "probability" else np.inf
                if not ((values >= 0) & (values <= most) & np.isfinite(values)).all():
                    raise ValueError(f"{name}: {what} must be from 0 to {most:g} and finite")

    def to_json(self) -> str:
        return json.dumps(to_plain(self)) + "\n"


# A table of before networks said anything of their errors does without.
ADDED_LATER: dict[type, dict[str, object]] = {UncertaintyTable: {"head": {}}}


def read_uncertainty(bundle: Bundle) -> UncertaintyTable | None:
    """None where the bundle has none. Raises BundleError where it is malformed, of another model, or lacks a class."""

    def check(table: UncertaintyTable) -> None:
        if set(table.classes) != set(bundle.spec.classes):
            raise ValueError(f"has the classes {', '.join(table.classes)}, the model others")
        if table.head and not bundle.spec.spread:
            raise ValueError(f"counts on what the network says of {', '.join(table.head)}, and this one says nothing")

    mend = "calibrate the bundle again, or take the file out of the bundle"
    return read_table(bundle, UNCERTAINTY, UncertaintyTable, check, LIMIT, mend, ADDED_LATER)


class Estimator:
    """A table, ready to be read: its numbers as arrays, in the order of the model's classes."""

    def __init__(self, table: UncertaintyTable, classes: tuple[str, ...]) -> None:
        """Raises KeyError for a class that the table lacks."""
        self._ranges, self._scores = np.array(table.ranges_m), np.array(table.scores)
        of_class = [table.classes[name] for name in classes]
        self._probability = np.array([t.probability for t in of_class])  # (C, R, S)
        self._deviation = {c: np.array([t.deviation[c] for t in of_class]) for c in table.intervals}
        self._head = table.head

    def __call__(
        self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, variances: np.ndarray | None = None
    ) -> Uncertainty:
        """boxes (M, 7) in base_link, scores (M,), labels (M,) of one frame; variances (M, P, METRIC_CHANNELS) as the
        network says, which a table with `head` needs."""
        metres = np.hypot(boxes[:, 0], boxes[:, 1])
        said = None if variances is None else np.sqrt(variances.sum(axis=1))
        variance = {channel: d**2 for channel, d in self.deviations(metres, scores, labels, said).items()}
        angle = np.arctan2(boxes[:, 1], boxes[:, 0])
        pose = np.zeros((len(boxes), 4, 4))
        pose[:, :2, :2] = turned(variance["along"], variance["across"], angle)
        pose[:, 2, 2], pose[:, 3, 3] = variance["z"], variance["yaw"]
        velocity = turned(variance["speed_along"], variance["speed_across"], angle)
        size = np.stack([variance[c] for c in SIZES], axis=1) if set(SIZES) <= set(variance) else None
        probability = self.probabilities(metres, scores, labels, said)
        return Uncertainty(probability, pose, velocity, size, _epistemic(variances))

    def probabilities(
        self, metres: np.ndarray, scores: np.ndarray, labels: np.ndarray, said: np.ndarray | None = None
    ) -> np.ndarray:
        """(M,) of detections at these distances; said (M, METRIC_CHANNELS): the network's own deviations. Raises
        ValueError where the table needs them and they are not given."""
        if power := self._head.get(LOGIT):
            scores = softened(scores, self._own(said, LOGIT) ** power)
        return self._look_up(self._probability, metres, scores, labels)

    def deviations(
        self, metres: np.ndarray, scores: np.ndarray, labels: np.ndarray, said: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Channel -> (M,); said, and what is raised, as in `probabilities`."""
        found = {channel: self._look_up(table, metres, scores, labels) for channel, table in self._deviation.items()}
        for channel in found.keys() & self._head.keys():
            found[channel] = found[channel] * self._own(said, channel) ** self._head[channel]
        return found

    def _own(self, said: np.ndarray | None, channel: str) -> np.ndarray:
        """(M,) of the network's own deviations."""
        if said is None:
            raise ValueError(
                f"the table multiplies what the network says of {', '.join(self._head)}, and nothing is said here; "
                "give its deviations, or a table without `head`"
            )
        return np.asarray(said[:, METRIC_CHANNELS.index(channel)])

    def _look_up(self, table: np.ndarray, metres: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        (r0, r1, fr), (s0, s1, fs) = _between(self._ranges, metres), _between(self._scores, scores)
        near = (1 - fs) * table[labels, r0, s0] + fs * table[labels, r0, s1]
        far = (1 - fs) * table[labels, r1, s0] + fs * table[labels, r1, s1]
        return (1 - fr) * near + fr * far


def estimator_of(bundle: Bundle) -> Estimator | None:
    """None where the bundle has no table. Raises as `read_uncertainty`."""
    table = read_uncertainty(bundle)
    return None if table is None else Estimator(table, bundle.spec.classes)


def _between(knots: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the knots below and above (N,), and how far between them, from 0 to 1; beyond the ends the end's."""
    last = len(knots) - 1
    below = np.clip(np.searchsorted(knots, values, side="right") - 1, 0, last)
    above = np.minimum(below + 1, last)
    width = np.where(above > below, knots[above] - knots[below], 1.0)
    return below, above, np.clip((values - knots[below]) / width, 0.0, 1.0)


def turned(along: np.ndarray, across: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(N, 2, 2) covariances in x and y of errors along and across a direction at `angle` from x."""
    cos, sin = np.cos(angle), np.sin(angle)
    found = np.empty((len(angle), 2, 2))
    found[:, 0, 0] = along * cos**2 + across * sin**2
    found[:, 1, 1] = along * sin**2 + across * cos**2
    found[:, 0, 1] = found[:, 1, 0] = (along - across) * cos * sin
    return found


def in_line_of_sight(boxes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(N, 2) of x and y -> along and across the line from base_link to each box (N, 7); across grows to the left."""
    angle = np.arctan2(boxes[:, 1], boxes[:, 0])
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([vectors[:, 0] * cos + vectors[:, 1] * sin, vectors[:, 1] * cos - vectors[:, 0] * sin], axis=1)


def _epistemic(variances: np.ndarray | None) -> np.ndarray | None:
    """(M,) the second part's share of the variances along and across; None without a second part."""
    if variances is None or variances.shape[1] < len(SPREAD_PARTS):
        return None
    place = variances[:, :, :2].sum(axis=2)
    return np.asarray(place[:, 1] / place.sum(axis=1))


def message_covariances(uncertainty: Uncertainty) -> tuple[np.ndarray, np.ndarray]:
    """(M, 36) of geometry_msgs/PoseWithCovariance and (M, 36) of TwistWithCovariance, row-major; what is not estimated
    has the variance -1 (NOT_ESTIMATED)."""
    count = len(uncertainty.probability)
    pose, twist = (np.tile(NOT_ESTIMATED.reshape(6, 6), (count, 1, 1)) for _ in range(2))
    estimated = np.array([0, 1, 2, 5])  # x, y, z and yaw, of x, y, z, roll, pitch, yaw
    pose[:, estimated[:, None], estimated] = uncertainty.pose
    twist[:, :2, :2] = uncertainty.velocity
    return pose.reshape(count, 36), twist.reshape(count, 36)
