"""What one pass over a recording, or some seconds of a live system, leaves behind: plain numbers for the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.rig.direction import Direction
from bev_perception.rig.outlines import OutlineFit
from bev_perception.rig.place import Placed
from bev_perception.rig.times import Times


@dataclass(frozen=True)
class Offer:
    """A publisher of a topic, or how a recorder remembers it. reliable, latched: None where that is not known."""

    kind: str
    reliable: bool | None = None
    latched: bool | None = None


@dataclass(frozen=True)
class Heard:
    """One input of the node. sensor: as the intake counts it (`CAM_FRONT`, `CAM_FRONT camera_info`, `odometry` ...);
    kind: the message type that the parameters ask for. refused: reason -> number."""

    sensor: str
    topic: str
    kind: str
    times: Times = field(default_factory=Times)
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """Sizes and encodings of a camera's images, with how often; of some of them, in grey levels (N,): what is more blue
    than red of their brightest upper parts, where a sky is, and of the whole."""

    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    encodings: Mapping[str, int] = field(default_factory=dict)
    sky_blue: tuple[float, ...] = ()
    blue: tuple[float, ...] = ()


@dataclass(frozen=True)
class Motion:
    """A radar's own motion by its returns against that by odometry and extrinsics, one row each: found, expected (N, 2)
    m/s in the radar's axes. over_ground (M, 2): what is left in speeds that are called compensated, expected (M, 2) as
    before. standing (N,): share of the returns that stand."""

    found: np.ndarray
    expected: np.ndarray
    over_ground: np.ndarray
    over_ground_expected: np.ndarray
    standing: np.ndarray
    scans: int = 0


@dataclass(frozen=True)
class Drive:
    """What odometry says: metres driven, radians turned in all, the largest speed, steps from pose to pose. off_m: the
    largest difference of such a step from what the twist says; shifts: how many are off by more than a vehicle can
    be. frames: header.frame_id and child_frame_id of its messages."""

    metres: float = 0.0
    radians: float = 0.0
    top_mps: float = 0.0
    steps: int = 0
    shifts: int = 0
    off_m: float = 0.0
    frames: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """source: what was listened to. seconds: of the recording, or listened. topics: all that there are. counters,
    details: the intake's, `SENSOR/reason`. frames: made by the synchroniser; used: sensor -> in how many of them.
    gaps: sensor -> what its calibration lacks. phases: camera -> (ms after the anchor within a period, agreement).
    by_radars, by_boxes: radar -> by how much it sits elsewhere. boxes: how many messages of boxes came. notes: what is
    damaged about the recording. live: not a recording."""

    source: str
    config: NodeConfig
    spec: ModelSpec
    seconds: float
    topics: Mapping[str, tuple[Offer, ...]]
    heard: Mapping[str, Heard]
    counters: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    frames: int = 0
    used: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    phases: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    motions: Mapping[str, Motion] = field(default_factory=dict)
    radar_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    directions: Mapping[str, Direction] = field(default_factory=dict)
    by_radars: Mapping[str, Placed] = field(default_factory=dict)
    by_boxes: Mapping[str, Placed] = field(default_factory=dict)
    outlines: Mapping[str, OutlineFit] = field(default_factory=dict)
    boxes: int = 0
    drive: Drive = Drive()
    notes: tuple[str, ...] = ()
    live: bool = False
