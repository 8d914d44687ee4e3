"""Sensors that send nothing, or black images. Functions of a frame, how many, and the moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.structures import SensorFrame
from training.robustness.moment import Moment, change_images


@dataclass(frozen=True)
class Loss:
    """How many cameras and radars send nothing; which ones is drawn for every scene."""

    cameras: int
    radars: int

    def __str__(self) -> str:
        return f"{self.cameras} cameras, {self.radars} radars"


def cameras_black(frame: SensorFrame, count: int, moment: Moment) -> SensorFrame:
    """CameraCrash of RoboBEV: `count` cameras are drawn once for the run, with replacement as in the authors' code, so
    that they may be fewer; they send black images."""
    names = moment.spec.cameras
    crashed = {names[i] for i in moment.rng_of_run().choice(len(names), size=count)}
    return _black(frame, crashed, moment)


def images_black(frame: SensorFrame, count: int, moment: Moment) -> SensorFrame:
    """FrameLost of RoboBEV: every image by itself is black with a probability of `count` in six."""
    crashed = {name for name in moment.spec.cameras if moment.rng(name).random() < count / 6}
    return _black(frame, crashed, moment)


def radars_lost(frame: SensorFrame, count: int, moment: Moment) -> SensorFrame:
    """`count` radars, drawn once for the run, send nothing."""
    names = moment.spec.radars
    off = {names[i] for i in moment.rng_of_run().permutation(len(names))[:count]}
    return frame.without(off, moment.spec.cameras, names)


def scans_lost(frame: SensorFrame, share: float, moment: Moment) -> SensorFrame:
    """Every radar by itself has nothing in a frame with a probability of `share`."""
    off = {name for name in moment.spec.radars if moment.rng(name).random() < share}
    return frame.without(off, moment.spec.cameras, moment.spec.radars)


def without(frame: SensorFrame, loss: Loss, moment: Moment) -> SensorFrame:
    """As if the sensors of `lost_sensors` had sent nothing."""
    return frame.without(lost_sensors(loss, moment), moment.spec.cameras, moment.spec.radars)


def lost_sensors(loss: Loss, moment: Moment) -> frozenset[str]:
    """Cameras and radars of the spec that a scene goes without. The first n of one order, so that two losses of a scene
    hold each other."""
    rng, lost = moment.rng_of_scene(), []
    for names, count in ((moment.spec.cameras, loss.cameras), (moment.spec.radars, loss.radars)):
        lost += [names[i] for i in rng.permutation(len(names))[:count]]
    return frozenset(lost)


def _black(frame: SensorFrame, names: set[str], moment: Moment) -> SensorFrame:
    return change_images(frame, moment, lambda image, rng: np.zeros_like(image), only=names)
