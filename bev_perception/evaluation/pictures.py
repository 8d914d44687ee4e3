"""The pictures of a drive: a few frames large, and all of them small for the animation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from bev_perception.evaluation.draw import DrawSettings, draw_frame
from bev_perception.evaluation.frames import read_frames
from bev_perception.evaluation.judged import Judged, judge
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.evaluation.worst_frames import COUNT, Scene, WorstFrames
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig

ANIMATION_FRAMES = 60  # at most
ANIMATION_WIDTH = 1280
# Before base64; together they leave a report below 8 MB.
ANIMATION_BYTES, LARGE_BYTES = 3_300_000, 1_800_000
QUALITIES = (82, 75, 60, 45, 30)
NOTHING = make_objects(np.zeros((0, 7)), np.zeros((0, 2)), np.zeros(0), ())


def choose_stamps(detections: Mapping[int, Objects], ground_truth: Mapping[int, Objects], count: int) -> list[int]:
    """The busiest processed frame of each of `count` equal parts of the drive; most ground truth within 40 m."""
    stamps = sorted(detections)
    parts = np.array_split(np.array(stamps, dtype=np.int64), min(count, len(stamps)) or 1)

    def near(stamp: int) -> int:
        objects = ground_truth.get(stamp, detections[stamp])
        return int(np.sum(np.hypot(objects.boxes[:, 0], objects.boxes[:, 1]) < 40))

    return [max((int(s) for s in part), key=near) for part in parts if len(part)]


def worst_stamps(judged: Mapping[int, Judged]) -> list[int]:
    """Of the worst frames, the worst first; nothing where nothing is wrong."""
    worst = WorstFrames()
    for stamp, verdict in sorted(judged.items()):
        if worst.wants(stamp, verdict.errors()):
            worst.add(Scene(stamp, b"", verdict.totals()))
    return [scene.stamp_ns for scene in worst.scenes()]


def draw_drive(
    bag: str | Path,
    spec: ModelSpec,
    config: NodeConfig,
    detections: Mapping[int, Objects],
    ground_truth: Mapping[int, Objects],
) -> tuple[list[Scene], list[Scene]]:
    """(large pictures, small ones of at most ANIMATION_FRAMES frames) of a recorded drive.

    Large are the worst frames, or, where nothing is known to be wrong, the busiest ones. Frames are assembled from the
    recording as the replay does; only those with detections are drawn.
    """
    judged = {s: judge(ground_truth[s], found) for s, found in detections.items() if s in ground_truth}
    chosen = worst_stamps(judged) or choose_stamps(detections, ground_truth, COUNT)
    stamps = sorted(detections)
    animated = set(stamps[:: max(1, -(-len(stamps) // ANIMATION_FRAMES))])
    large: dict[int, np.ndarray] = {}
    small: list[tuple[int, np.ndarray]] = []
    for _, frame in read_frames(bag, spec, config):
        stamp = frame.stamp_ns
        if stamp not in chosen and stamp not in animated:
            continue
        found, truth = detections[stamp], ground_truth.get(stamp, NOTHING)
        image = draw_frame(frame, spec, found, truth, DrawSettings(), judged.get(stamp))
        if stamp in chosen:
            large[stamp] = image
        if stamp in animated:
            small.append((stamp, shrink(image, ANIMATION_WIDTH)))
    wrong = {stamp: verdict.totals() for stamp, verdict in judged.items()}
    in_order = [(stamp, large[stamp]) for stamp in chosen if stamp in large]
    return (
        [Scene(stamp, jpeg, wrong.get(stamp)) for stamp, jpeg in within(in_order, LARGE_BYTES)],
        [Scene(stamp, jpeg, wrong.get(stamp)) for stamp, jpeg in within(small, ANIMATION_BYTES)],
    )


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


def within(images: Sequence[tuple[int, np.ndarray]], limit: int) -> list[tuple[int, bytes]]:
    """JPEGs of the best of QUALITIES at which all together have at most `limit` bytes; where even the lowest has more,
    of every second image, and so on."""
    for quality in QUALITIES:
        jpegs = [(stamp, encode_jpeg(image, quality)) for stamp, image in images]
        if sum(len(jpeg) for _, jpeg in jpegs) <= limit:
            return jpegs
    return within(images[::2], limit) if len(images) > 1 else jpegs
