"""What is tried: name -> how a frame is spoilt, from easy to hard.

The cameras' first eight are those of RoboBEV (Xie et al., 2023), at its three severities; the others are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.structures import SensorFrame
from training.robustness import image_corruptions as images
from training.robustness import lens, lost, radar_corruptions, rig_errors
from training.robustness.lost import Loss
from training.robustness.moment import Moment, change_images, change_scans

Spoil = Callable[[SensorFrame, Any, Moment], SensorFrame]
Spoiler = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]
CLEAN, LOST = "clean", "lost"


@dataclass(frozen=True)
class Condition:
    """of: camera, lens (one camera's), radar or rig. levels: what `spoil` is given, from easy to hard. unit: of the
    levels, for a table."""

    of: str
    spoil: Spoil
    levels: tuple[Any, ...]
    unit: str = "level"


def _image(change: Spoiler, *levels: int) -> Condition:
    def spoil(frame: SensorFrame, level: int, moment: Moment) -> SensorFrame:
        return change_images(frame, moment, lambda image, rng: change(image, level, rng))

    return Condition("camera", spoil, levels)


def _lens(change: Spoiler, *levels: int) -> Condition:
    """Of one camera, drawn for the scene; what is drawn stays the same in all of its frames."""

    def spoil(frame: SensorFrame, level: int, moment: Moment) -> SensorFrame:
        rng = moment.rng_of_scene()
        dirty = moment.spec.cameras[int(rng.integers(len(moment.spec.cameras)))]
        return change_images(frame, moment, lambda image, _: change(image, level, moment.rng_of_scene()), {dirty})

    return Condition("lens", spoil, levels)


def _scan(change: Spoiler, unit: str, *levels: float) -> Condition:
    def spoil(frame: SensorFrame, level: float, moment: Moment) -> SensorFrame:
        return change_scans(frame, moment, lambda points, rng: change(points, level, rng))

    return Condition("radar", spoil, levels, unit)


CONDITIONS: dict[str, Condition] = {
    "camera_crash": Condition("camera", lost.cameras_black, (2, 4, 5), "cameras, drawn with replacement"),
    "frame_lost": Condition("camera", lost.images_black, (2, 4, 5), "of six images"),
    "colour_quant": _image(images.quantise_colours, 1, 2, 3),
    "motion_blur": _image(images.motion_blur, 2, 4, 5),
    "brightness": _image(images.brighten, 2, 4, 5),
    "low_light": _image(images.darken, 2, 3, 4),
    "fog": _image(images.fog, 2, 4, 5),
    "snow": _image(images.snow, 1, 2, 3),
    "lens_dirt": _lens(lens.lens_dirt, 1, 2, 3),
    "water_drops": _lens(lens.water_drops, 1, 2, 3),
    "low_sun": _lens(lens.low_sun, 1, 2, 3),
    "radar_crash": Condition("radar", lost.radars_lost, (1, 3, 5), "radars"),
    "scan_lost": Condition("radar", lost.scans_lost, (0.3, 0.6, 0.9), "of the scans"),
    "azimuth_noise": _scan(radar_corruptions.noisy_azimuth, "degrees", 1.0, 2.0, 4.0),
    "clutter": _scan(radar_corruptions.clutter, "times the returns", 0.5, 1.0, 2.0),
    "ghosts": _scan(radar_corruptions.ghosts, "of the returns", 0.1, 0.25, 0.5),
    "interference": _scan(radar_corruptions.interference, "dB", 3.0, 6.0, 12.0),
    "blockage": _scan(radar_corruptions.blocked, "dB", 6.0, 12.0, 20.0),
    "radar_late": Condition("radar", rig_errors.radars_late, (50.0, 100.0, 200.0), "ms"),
    "cameras_turned": Condition("rig", rig_errors.cameras_turned, (0.5, 1.0, 2.0), "degrees"),
    "cameras_shifted": Condition("rig", rig_errors.cameras_shifted, (0.05, 0.1, 0.2), "m"),
    "radars_turned": Condition("rig", rig_errors.radars_turned, (1.0, 2.0, 4.0), "degrees"),
    "cameras_late": Condition("rig", rig_errors.cameras_late, (50.0, 100.0, 200.0), "ms"),
    "odometry_drift": Condition("rig", rig_errors.odometry_drifts, (1.0, 3.0, 10.0), "percent"),
}
ROBOBEV = tuple(name for name, condition in CONDITIONS.items() if condition.of == "camera")
CAMERAS_LOST = (0, 1, 2, 4, 5, 6)


@dataclass(frozen=True)
class Cell:
    """One row of the result: a condition at a level (0 is the easiest), or sensors that are lost, or nothing."""

    condition: str = CLEAN
    level: int = 0
    loss: Loss | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        if self.loss is not None:
            return f"{LOST}-{self.loss.cameras}-{self.loss.radars}"
        return self.condition if self.condition == CLEAN else f"{self.condition}-{self.level + 1}"

    def spoil(self, frame: SensorFrame, moment: Moment) -> SensorFrame:
        """The frame as the network is given it."""
        if self.loss is not None:
            return lost.without(frame, self.loss, moment)
        if self.condition == CLEAN:
            return frame
        condition = CONDITIONS[self.condition]
        return condition.spoil(frame, condition.levels[self.level], moment)


def applicable(spec: ModelSpec) -> list[str]:
    """Names of the conditions that a model has sensors for."""
    has = {"camera": spec.cameras, "lens": spec.cameras, "radar": spec.radars, "rig": spec.cameras}
    return [name for name, condition in CONDITIONS.items() if has[condition.of]]


def levels(spec: ModelSpec, only: Sequence[str], also: Sequence[str] = ()) -> list[Cell]:
    """All levels of the conditions of these names. also: names that are no conditions.

    Raises ValueError for a name that there is not, or that the model has no sensor for.
    """
    there = applicable(spec)
    wrong = [name for name in only if name not in (*there, *also)]
    if wrong:
        raise ValueError(f"no condition {', '.join(wrong)} for {spec.name}; there are {', '.join((*there, *also))}")
    return [Cell(name, n) for name in there if name in only for n in range(len(CONDITIONS[name].levels))]


def cells(spec: ModelSpec, only: Sequence[str] = ()) -> list[Cell]:
    """Those that a model with these sensors has, the clean one first. only: names of conditions, `lost` among them.
    Raises as `levels`."""
    rows = [Cell(), *levels(spec, only or applicable(spec), (LOST,))]
    return rows + [Cell(LOST, loss=loss) for loss in losses(spec) if not only or LOST in only]


def losses(spec: ModelSpec) -> list[Loss]:
    """Cameras lost, crossed with no, one and all radars lost; something always works."""
    cameras = sorted({min(n, len(spec.cameras)) for n in CAMERAS_LOST} if spec.cameras else {0})
    radars = sorted({0, 1, len(spec.radars)} if spec.radars else {0})
    everything = Loss(len(spec.cameras), len(spec.radars))
    return [loss for r in radars for c in cameras if (loss := Loss(c, r)) not in (Loss(0, 0), everything)]
