"""The pictures of a drive: a few frames large, and all of them small for the animation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bev_perception.evaluation.draw import DrawSettings, draw_frame
from bev_perception.evaluation.frames import read_frames
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig

CHOSEN = 4
ANIMATION_FRAMES = 60  # at most
ANIMATION_WIDTH = 1280
ANIMATION_BYTES = 3_800_000  # before base64
NOTHING = make_objects(np.zeros((0, 7)), np.zeros((0, 2)), np.zeros(0), ())


@dataclass(frozen=True)
class Picture:
    """A JPEG of one frame."""

    stamp_ns: int
    jpeg: bytes


def choose_stamps(detections: Mapping[int, Objects], ground_truth: Mapping[int, Objects], count: int) -> list[int]:
    """The busiest processed frame of each of `count` equal parts of the drive; most ground truth within 40 m."""
    stamps = sorted(detections)
    parts = np.array_split(np.array(stamps, dtype=np.int64), min(count, len(stamps)) or 1)

    def near(stamp: int) -> int:
        objects = ground_truth.get(stamp, detections[stamp])
        return int(np.sum(np.hypot(objects.boxes[:, 0], objects.boxes[:, 1]) < 40))

    return [max((int(s) for s in part), key=near) for part in parts if len(part)]


def draw_drive(
    bag: str | Path,
    spec: ModelSpec,
    config: NodeConfig,
    detections: Mapping[int, Objects],
    ground_truth: Mapping[int, Objects],
) -> tuple[list[Picture], list[Picture]]:
    """(large pictures of chosen frames, small pictures of at most ANIMATION_FRAMES frames) of a recorded drive.

    Frames are assembled from the recording as the replay does; only those with detections are drawn.
    """
    chosen = set(choose_stamps(detections, ground_truth, CHOSEN))
    stamps = sorted(detections)
    step = max(1, -(-len(stamps) // ANIMATION_FRAMES))
    animated = set(stamps[::step])
    large, small = [], []
    for _, frame in read_frames(bag, spec, config):
        stamp = frame.stamp_ns
        if stamp not in chosen and stamp not in animated:
            continue
        found, truth = detections[stamp], ground_truth.get(stamp, NOTHING)
        image = draw_frame(frame, spec, found, truth, DrawSettings())
        if stamp in chosen:
            large.append(Picture(stamp, encode_jpeg(image, 82)))
        if stamp in animated:
            small.append((stamp, shrink(image, ANIMATION_WIDTH)))
    return large, _within_budget(small)


def shrink(image: np.ndarray, width: int) -> np.ndarray:
    """To `width` columns, by area; smaller images as they are."""
    if image.shape[1] <= width:
        return image
    return cv2.resize(image, (width, round(image.shape[0] * width / image.shape[1])), interpolation=cv2.INTER_AREA)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV could not encode an image of shape {image.shape} as JPEG")
    return bytes(data.tobytes())


def _within_budget(images: list[tuple[int, np.ndarray]]) -> list[Picture]:
    """The best of a few JPEG qualities at which all images together fit ANIMATION_BYTES."""
    pictures: list[Picture] = []
    for quality in (75, 60, 45, 30):
        pictures = [Picture(stamp, encode_jpeg(image, quality)) for stamp, image in images]
        if sum(len(p.jpeg) for p in pictures) <= ANIMATION_BYTES:
            break
    return pictures
