"""What of a data set a run sees, and how it is changed on the way: plain, frozen, JSON-able."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from training.data.augment import NO_AUGMENTATION, Augmentation

# Metres from the vehicle within which the benchmark scores a class (detection_cvpr_2019).
SCORED_RANGE_M = {
    "car": 50.0, "truck": 50.0, "bus": 50.0, "trailer": 50.0, "construction_vehicle": 50.0,
    "pedestrian": 40.0, "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0,
}  # fmt: skip


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
class RadarFilter:
    """Which radar returns are kept, by the states that the radar gives them; None keeps every state. range_m in the
    radar's own plane."""

    invalid_state: tuple[int, ...] | None = None
    dyn_prop: tuple[int, ...] | None = None
    ambig_state: tuple[int, ...] | None = None
    range_m: tuple[float, float] = (0.0, 1000.0)


# What the vehicle's stream is: radar topics carry no states, so every return is kept (as RadarDistill, BEVFusion do).
EVERY_RETURN = RadarFilter()
# CRN (Kim et al., ICCV 2023), scripts/gen_radar_bev.py.
CRN_RETURNS = RadarFilter((0, 4, 8, 9, 10, 11, 12, 15, 16, 17), None, (3,), (0.1, 100.0))


@dataclass(frozen=True)
class PasteConfig:
    """CenterPoint's database sampling: objects of other keyframes are added until the frame has about so many.

    counts: (class name, objects to paste). min_lidar, min_radar: points an object must have to be in the database,
    where the run sees that sensor (RadarDistill wants both). epochs: paste in so many epochs only and show frames as
    they are afterwards; 0: in all.
    """

    counts: tuple[tuple[str, int], ...] = (
        ("car", 2), ("truck", 3), ("construction_vehicle", 7), ("bus", 4), ("trailer", 6),
        ("barrier", 2), ("motorcycle", 6), ("bicycle", 6), ("pedestrian", 2), ("traffic_cone", 2),
    )  # fmt: skip
    min_lidar: int = 5
    min_radar: int = 1
    epochs: int = 0


@dataclass(frozen=True)
class VirtualConfig:
    """MVP's virtual points (training.data.virtual_points) from the masks in DATA/`masks` (training.data.masks)."""

    masks: str = "masks"
    cameras: tuple[str, ...] = (
        "CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT",
    )  # fmt: skip
    min_score: float = 0.3
    per_mask: int = 50
    max_pixels: float = 3000.0


@dataclass(frozen=True)
class DataConfig:
    """Samples of ClipDataset.

    history: earlier frames of a clip. interval: seconds between two frames of a clip are drawn from this range and the
    nearest frame that the set has is taken, sweeps between keyframes included; None: the spec's interval, keyframes
    only. lidar, virtual: give these points as network inputs. returns: filter of radar returns. paste: objects of other
    keyframes, for runs without cameras. cbgs: class-balanced resampling (Zhu et al., 2019). scored_ranges: leave out
    objects farther away than the benchmark scores their class. depth_stride: of the image features that depth and class
    supervision look at; 0: without such supervision. Networks that predict neither have no such targets either way.
    cache_mb: decoded keyframes, and whole items where none is drawn, that each loader process keeps in memory; nothing
    where less than a quarter of the set would fit.
    holdout: so many scenes at the end of the training split are not trained on; they are the split "holdout", on which
    settings are searched. train_scenes: train on so many of the others, spread evenly; 0: on all.
    """

    augmentation: Augmentation = NO_AUGMENTATION
    history: int = 1
    interval: tuple[float, float] | None = None
    lidar: LidarConfig | None = None
    virtual: VirtualConfig | None = None
    returns: RadarFilter = EVERY_RETURN
    paste: PasteConfig | None = None
    cbgs: bool = False
    scored_ranges: bool = False
    depth_stride: int = 8
    cache_mb: int = 2000
    holdout: int = 0
    train_scenes: int = 0

    def __post_init__(self) -> None:
        if min(self.holdout, self.train_scenes) < 0:
            found = f"{self.holdout}, {self.train_scenes}"
            raise ValueError(f"data.holdout and data.train_scenes must be 0 or more scenes, found {found}")
        if self.depth_stride < 0:
            raise ValueError(f"data.depth_stride must be 0 (no targets) or a stride, found {self.depth_stride}")
        if self.history < 0:
            raise ValueError(f"data.history must be 0 or more earlier frames, found {self.history}")
        if self.paste is not None and self.paste.epochs < 0:
            raise ValueError(f"data.paste.epochs must be 0 (all) or more, found {self.paste.epochs}")
        if self.interval is not None and not 0 < self.interval[0] <= self.interval[1]:
            raise ValueError(f"data.interval must be (least, most) seconds above 0, found {self.interval}")
        if self.virtual is not None and self.lidar is None:
            raise ValueError("data.virtual takes its depths from LiDAR: set data.lidar too")


PLAIN = DataConfig()


def for_evaluation(config: DataConfig) -> DataConfig:
    """The same samples, each once and unchanged: no augmentation, the spec's own interval."""
    return dataclasses.replace(
        config, augmentation=NO_AUGMENTATION, interval=None, paste=None, cbgs=False, scored_ranges=False
    )
