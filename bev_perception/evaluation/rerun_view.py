"""A recording for rerun's viewer: six images with boxes, the scene from above with radar and velocity, and what was
wrong, with a blueprint that arranges them. `rerun FILE.rrd` opens it.

rerun-sdk (https://rerun.io) is no part of the package: it is large, and wants an environment of its own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_perception.colors import color_of
from bev_perception.evaluation.box_lines import box_lines
from bev_perception.evaluation.draw import MOVING_MPS, RADAR_COLOR, RADAR_MOVING_COLOR
from bev_perception.evaluation.objects import Objects
from bev_perception.evaluation.paint import TRUTH_COLOR, by_class
from bev_perception.files import sync, work_folder
from bev_perception.messages import ARROW_S, MIN_ARROW_MPS
from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.encodings import ImageError, decode_image
from bev_perception.preprocess.radar import accumulate
from bev_perception.structures import CameraView, SensorFrame

ENDING = ".rrd"
TIMELINE = "stamp"
QUALITY = 85  # of images that are not JPEG already
HEIGHT_M = 60.0  # from which the scene is seen at first


class RerunView:
    """Add frames in their order, each with what was found in it and, where it is known, what was there."""

    def __init__(self, rerun: Any, recording: Any, spec: ModelSpec) -> None:
        self._rerun, self._recording, self._spec = rerun, recording, spec
        self._missing: dict[str, str] | None = None
        recording.log("vehicle", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

    def add(self, frame: SensorFrame, found: Objects, wanted: Objects | None = None) -> None:
        self._recording.set_time(TIMELINE, timestamp=np.datetime64(frame.stamp_ns, "ns"))
        self._scene(frame, found, wanted)
        for camera, view in zip(self._spec.cameras, frame.cameras):
            self._image(camera, view, frame, found)
        self._state(frame, found)

    def _scene(self, frame: SensorFrame, found: Objects, wanted: Objects | None) -> None:
        """In base_link at the frame's stamp."""
        rerun, log = self._rerun, self._recording.log
        log("vehicle/detections", self._boxes(found, by_class(found).texts, _rgb_of(found)))
        fast = np.hypot(*found.velocity.T) >= MIN_ARROW_MPS
        ways = np.column_stack([found.velocity[fast] * ARROW_S, np.zeros(int(fast.sum()))])
        arrows = rerun.Arrows3D(origins=found.boxes[fast, :3], vectors=ways, colors=_rgb_of(found)[fast], radii=0.1)
        log("vehicle/velocity", arrows)
        radar = accumulate(frame, self._spec)
        moving = np.hypot(radar[:, 4], radar[:, 5]) > MOVING_MPS
        colors = np.where(moving[:, None], RADAR_MOVING_COLOR[::-1], RADAR_COLOR[::-1]).astype(np.uint8)
        log("vehicle/radar", rerun.Points3D(radar[:, :3], colors=colors, radii=0.15))
        if wanted is not None:
            green = np.tile(np.array(TRUTH_COLOR[::-1], np.uint8), (len(wanted), 1))
            log("vehicle/ground_truth", self._boxes(wanted, list(wanted.names), green))

    def _boxes(self, objects: Objects, texts: Any, colors: np.ndarray) -> Any:
        half = objects.boxes[:, 6] / 2
        turns = np.column_stack([np.zeros((len(half), 2)), np.sin(half), np.cos(half)])  # x y z w
        return self._rerun.Boxes3D(
            centers=objects.boxes[:, :3],
            sizes=objects.boxes[:, 3:6],
            quaternions=turns,
            colors=colors,
            labels=list(texts),
            show_labels=False,
        )

    def _image(self, camera: str, view: CameraView | None, frame: SensorFrame, found: Objects) -> None:
        place, rerun = f"cameras/{camera}", self._rerun
        jpeg = _jpeg(view)
        if view is None or jpeg is None:
            self._recording.log(place, rerun.Clear(recursive=True))
            return
        self._recording.log(f"{place}/image", rerun.EncodedImage(contents=jpeg, media_type="image/jpeg"))
        # rerun counts pixels from the corner of the first
        strips, colors = [], []
        for lines, color in zip(box_lines(found, view, frame), _rgb_of(found)):
            strips += list(lines + 0.5)
            colors += [color] * len(lines)
        drawn = rerun.LineStrips2D(strips, colors=np.reshape(colors, (-1, 3)).astype(np.uint8), radii=0.7)
        self._recording.log(f"{place}/boxes", drawn)

    def _state(self, frame: SensorFrame, found: Objects) -> None:
        rerun, log = self._rerun, self._recording.log
        speeds = np.hypot(*np.nan_to_num(found.velocity).T)
        log("speed/vehicle", rerun.Scalars(float(np.linalg.norm(frame.ego.linear[:2]))))
        log("speed/fastest_object", rerun.Scalars(float(speeds.max(initial=0.0))))
        log("count/boxes", rerun.Scalars(len(found)))
        log("count/sensors_missing", rerun.Scalars(len(frame.missing)))
        if frame.missing != self._missing:
            self._missing = dict(frame.missing)
            text = ", ".join(f"{name} {why}" for name, why in frame.missing.items())
            level = rerun.TextLogLevel.WARN if text else rerun.TextLogLevel.INFO
            log("diagnostics", rerun.TextLog(f"without {text}" if text else "all sensors", level=level))


def blueprint(rerun: Any, spec: ModelSpec) -> Any:
    """Images of the cameras in two rows, front above rear with left at the left; below them the scene from above, and
    speeds, counts and diagnostics over time."""
    b = importlib.import_module("rerun.blueprint")
    images = [b.Spatial2DView(origin=f"cameras/{camera}", name=camera) for camera in spec.cameras]
    columns = (len(images) + 1) // 2
    rows = [row for row in (images[:columns], images[columns:][::-1]) if row]  # as draw.mosaic has them
    above = b.EyeControls3D(position=(0.0, 0.0, HEIGHT_M), look_target=(0.0, 0.0, 0.0), eye_up=(1.0, 0.0, 0.0))
    scene = b.Spatial3DView(origin="vehicle", name="From above", eye_controls=above)
    plots = [
        b.TimeSeriesView(origin="speed", name="Speed, m/s"),
        b.TimeSeriesView(origin="count", name="Boxes, sensors missing"),
        b.TextLogView(origin="diagnostics", name="Diagnostics"),
    ]
    below = b.Horizontal(scene, b.Vertical(*plots), column_shares=[2, 1])
    shown = b.Vertical(*(b.Horizontal(*row) for row in rows), below, row_shares=[1] * len(rows) + [3])
    return b.Blueprint(shown, b.TimePanel(timeline=TIMELINE), collapse_panels=True)


@contextmanager
def open_rerun(path: Path, spec: ModelSpec) -> Iterator[RerunView]:
    """A file for rerun's viewer that takes its name, also from an earlier one, when the block ends; nothing of it stays
    when the block raises. Raises ImportError where rerun-sdk is not installed."""
    try:
        rerun = importlib.import_module("rerun")
    except ImportError as error:
        raise ImportError(f"a view for rerun needs its SDK ({error}): `pip install rerun-sdk`", name="rerun") from error
    with work_folder(path) as part:
        unfinished = part / path.name
        recording = rerun.RecordingStream("bev_perception")
        recording.save(unfinished, default_blueprint=blueprint(rerun, spec))
        yield RerunView(rerun, recording, spec)
        recording.flush()
        recording.disconnect()
        sync(unfinished)
        os.replace(unfinished, path)


def _rgb_of(objects: Objects) -> np.ndarray:
    """(M, 3) uint8, of the classes."""
    return np.array([color_of(name)[::-1] for name in objects.names], np.uint8).reshape(-1, 3)


def _jpeg(view: CameraView | None) -> bytes | None:
    """The image as it was received; None where there is none, or none that can be read."""
    if view is None:
        return None
    if view.frame.encoding == "jpeg":
        return view.frame.data.tobytes()
    try:
        image = decode_image(view.frame, view.calibration.width)
    except ImageError:
        return None
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(data) if done else None
