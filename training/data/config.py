"""What of a data set a run sees, and how it is changed on the way: plain, frozen, JSON-able."""

from __future__ import annotations

from dataclasses import dataclass

from training.data.augment import NO_AUGMENTATION, Augmentation


@dataclass(frozen=True)
class LidarConfig:
    """Sweeps gathered into the keyframe's ego frame.

    sweeps: at most so many, none older than max_age_s (a set that keeps 2 Hz has fewer). bounds: x, y, z minimum and
    maximum (m) in the ego frame after augmentation; points outside are dropped. own_radius: half the side of the square
    around the sensor whose points are the vehicle's own roof (nuscenes-devkit and CenterPoint: 1 m).
    """

    sweeps: int = 10
    max_age_s: float = 0.6
    bounds: tuple[float, float, float, float, float, float] = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
    own_radius: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    """Samples of ClipDataset.

    history: earlier frames of a clip. interval: seconds between two frames of a clip are drawn from this range and the
    nearest frame that the set has is taken; None: the spec's interval. lidar: give LiDAR points as network input.
    depth_stride: of the image features that depth and class supervision look at. cache_mb: decoded keyframes that each
    loader process keeps in memory.
    """

    augmentation: Augmentation = NO_AUGMENTATION
    history: int = 1
    interval: tuple[float, float] | None = None
    lidar: LidarConfig | None = None
    depth_stride: int = 8
    cache_mb: int = 2000

    def __post_init__(self) -> None:
        if self.history < 0:
            raise ValueError(f"data.history must be 0 or more earlier frames, found {self.history}")
        if self.interval is not None and not 0 < self.interval[0] <= self.interval[1]:
            raise ValueError(f"data.interval must be (least, most) seconds above 0, found {self.interval}")


PLAIN = DataConfig()
