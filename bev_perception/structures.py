"""What flows through the runtime. Plain data, numpy views, integer nanoseconds; no ROS and no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bev_perception.geometry import invert
from bev_perception.sync_config import ABSENT

ODOMETRY = "odometry"  # the name under which the ego motion is counted, beside the sensors of the model
MASKED = "masked"  # why a sensor is missing that was left out on purpose
COMPLETE, DEADLINE = "complete", "deadline"  # Composition.closed_by

# Columns of RadarScan.points, in the radar's own frame.
RADAR_COLUMNS = ("x", "y", "z", "rcs", "vx", "vy")


@dataclass(frozen=True)
class CameraFrame:
    """One image as it was received, not yet decoded or resized.

    data: (H, W), (H, W, C) uint8 or uint16 for raw encodings (ROS names: bgr8, rgb8, bgra8, mono16, yuv422...,
    bayer_...), (rows, W) uint8 for those in planes (nv12, yuv420: 3/2 H rows), (bytes,) uint8 for `jpeg` and `png`.
    bits: how many bits of a 16-bit sample are used, from the lowest on.
    mosaic: the raw encoding (bayer_...) of what a compressed image holds, where that is no picture yet; else "".
    """

    sensor: str
    stamp_ns: int
    encoding: str
    data: np.ndarray
    bits: int = 16
    mosaic: str = ""


@dataclass(frozen=True)
class CameraCalibration:
    """K (3, 3) at the given width and height, pixel centres at integers; distortion as in sensor_msgs/CameraInfo."""

    width: int
    height: int
    K: np.ndarray
    ego_from_cam: np.ndarray
    distortion_model: str = ""
    D: tuple[float, ...] = ()

    @property
    def cam_from_ego(self) -> np.ndarray:
        """(4, 4)."""
        return invert(self.ego_from_cam)


# Calibrations that differ by less are one: drivers that compute K anew for every message jitter in the last digits.
PIXEL_TOLERANCE = 0.01  # of K, px
DISTORTION_TOLERANCE = 1e-6  # of a coefficient: a thousandth of a pixel at 45 degrees and 1000 px focal length
POSE_TOLERANCE = 1e-6  # of extrinsics, m and rad


def same_calibration(a: CameraCalibration, b: CameraCalibration) -> bool:
    """Whether two calibrations say the same, up to what no image shows."""
    return (
        (a.width, a.height, a.distortion_model, len(a.D)) == (b.width, b.height, b.distortion_model, len(b.D))
        and np.allclose(a.K, b.K, rtol=0, atol=PIXEL_TOLERANCE)
        and np.allclose(a.D, b.D, rtol=0, atol=DISTORTION_TOLERANCE)
        and same_extrinsics(a.ego_from_cam, b.ego_from_cam)
    )


def same_extrinsics(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two poses (4, 4) of a sensor say the same, up to what neither image nor scan shows."""
    return np.allclose(a, b, rtol=0, atol=POSE_TOLERANCE)


@dataclass(frozen=True)
class RadarScan:
    """One radar measurement. points (P, 6) float32, columns RADAR_COLUMNS, in the radar's frame (m, dBsm, m/s).

    compensated: vx, vy are the radial speed over ground; otherwise relative to the moving sensor.
    """

    sensor: str
    stamp_ns: int
    points: np.ndarray
    compensated: bool = True


@dataclass(frozen=True)
class EgoPose:
    """Pose in the continuous frame `odom` with the twist of base_link: linear (3,) m/s, angular (3,) rad/s, ego axes.

    epoch: grows whenever `odom` jumped; poses of different epochs must never be related to each other.
    """

    stamp_ns: int
    odom_from_ego: np.ndarray
    linear: np.ndarray = field(default_factory=lambda: np.zeros(3))
    angular: np.ndarray = field(default_factory=lambda: np.zeros(3))
    epoch: int = 0


@dataclass(frozen=True)
class CameraView:
    """An image chosen for a frame, with its calibration and the ego pose at the image's own stamp."""

    frame: CameraFrame
    calibration: CameraCalibration
    ego: EgoPose


@dataclass(frozen=True)
class RadarSweep:
    """A scan chosen for a frame, with its extrinsics and the ego pose at the scan's own stamp."""

    scan: RadarScan
    ego_from_radar: np.ndarray
    ego: EgoPose


@dataclass(frozen=True)
class Epoch:
    """A stretch of frames that fit together: frames of different epochs share no memory, however many between are lost.

    number: grows whenever the past fits no longer. reason: why this epoch began (`calibration_changed`,
    `time_jump_back`). Raises ValueError where it is empty.
    """

    number: int = 0
    reason: str = "start"

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError(f"epoch {self.number} has no reason; name what began it")


@dataclass(frozen=True)
class Composition:
    """Which measurements a frame was made of: enough to make it again from a recording.

    closed_by: COMPLETE, no message to come could have changed it, or DEADLINE, it went without what came later.
    stamps_ns: sensor -> stamps of its measurements, newest first. missing: sensor -> reason, of those that have none.
    pose_ns: stamp of the newest ego pose that was known. poses_crc32: of the ego poses at the stamps of the frame and
    its measurements; two runs that knew the same odometry have the same.
    """

    closed_by: str = COMPLETE
    stamps_ns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    pose_ns: int = 0
    poses_crc32: int = 0

    def newest_ns(self, sensor: str) -> int | None:
        """Stamp of the newest measurement of a sensor, None where it has none."""
        stamps = self.stamps_ns.get(sensor)
        return stamps[0] if stamps else None


@dataclass(frozen=True)
class SensorFrame:
    """Everything one step sees: what was measured around `stamp_ns` and where the vehicle was.

    cameras: one CameraView or None for each camera of the spec, in its order.
    radars: for each radar of the spec its sweeps, newest first; empty when the radar is missing.
    missing: sensor name -> named reason, for exactly the sensors that are None or empty.
    epoch: the one that its measurements and calibrations were put together in.
    composition: what it was made of.
    """

    stamp_ns: int
    ego: EgoPose
    cameras: tuple[CameraView | None, ...]
    radars: tuple[tuple[RadarSweep, ...], ...]
    missing: dict[str, str] = field(default_factory=dict)
    epoch: Epoch = Epoch()
    composition: Composition = Composition()

    def without(self, off: Collection[str], cameras: Sequence[str], radars: Sequence[str]) -> SensorFrame:
        """As if the sensors `off` had sent nothing; cameras, radars: the names of all of the spec, in its order."""
        return replace(
            self,
            cameras=tuple(None if name in off else view for name, view in zip(cameras, self.cameras, strict=True)),
            radars=tuple(() if name in off else sweeps for name, sweeps in zip(radars, self.radars, strict=True)),
            missing=self.missing | dict.fromkeys(off, MASKED),
        )

    def lacks(self) -> str:
        """What a frame that its deadline closed went without, for a person."""
        missing = [f"{name} {reason}" for name, reason in self.missing.items() if reason != ABSENT]
        return ", ".join(missing) or "a newer pose or a better image"


@dataclass(frozen=True)
class Uncertainty:
    """Of M detections. probability (M,): that an object of the class is there. pose (M, 4, 4): covariance of x, y, z
    (m^2) and yaw (rad^2); velocity (M, 2, 2): of vx, vy ((m/s)^2); both along the axes of base_link. size (M, 3):
    variances of length, width and height (m^2), None where the bundle's table is older than that. epistemic (M,): the
    share of the place's variance that is the network's own ignorance, None where it tells no parts."""

    probability: np.ndarray
    pose: np.ndarray
    velocity: np.ndarray
    size: np.ndarray | None = None
    epistemic: np.ndarray | None = None

    def select(self, mask: np.ndarray) -> Uncertainty:
        """Of the detections where `mask` (M,) bool is true, in the same order."""
        size, epistemic = (None if v is None else v[mask] for v in (self.size, self.epistemic))
        return Uncertainty(self.probability[mask], self.pose[mask], self.velocity[mask], size, epistemic)


@dataclass(frozen=True)
class Detections:
    """Boxes in base_link at `stamp_ns`, and what they were made from.

    boxes (M, 7) float32 x y z l w h yaw (gravity centre, m, rad); velocity (M, 2) float32 m/s over ground along ego
    x, y; scores (M,) float32; labels (M,) int64 into ModelSpec.classes. Sorted by falling score.
    missing: sensor name -> named reason for each sensor that did not contribute.
    memory_reset: why the temporal memory was emptied in this step, or "". composition: the frame's.
    uncertainty: None where the model was not calibrated. variances (M, P, METRIC_CHANNELS): as the network itself says,
    before calibration (spread.metric_variances); P is 0 where it says nothing.
    """

    stamp_ns: int
    boxes: np.ndarray
    velocity: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    sensors_used: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    temporal_used: bool = False
    memory_reset: str = ""
    composition: Composition = Composition()
    uncertainty: Uncertainty | None = None
    variances: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def __len__(self) -> int:
        return len(self.scores)
