"""A report with every section, of a made-up drive: long names, gaps, resets and a gate that was not held."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from bev_perception.evaluation.benchmark import curve
from bev_perception.evaluation.followed_object import FollowedObject, Moment
from bev_perception.evaluation.matching import CLASS_RANGE
from bev_perception.evaluation.metrics import Tally, add_tallies, score_tally, tally
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.evaluation.reliability import score_reliability
from bev_perception.evaluation.report_page.data import Comparison, Drive, FrameRow, Latency, Pace, ReportData
from bev_perception.evaluation.worst_frames import Scene

START = 1_700_000_000_000_000_000
SENSORS = ("CAM_FRONT", "CAM_BACK_RIGHT", "RADAR_FRONT_RIGHT")
LONG = "a_drive_with_the_longest_name_that_anybody_would_give_to_a_recording_2026_07_14"


def picture(width: int = 1200, height: int = 400) -> bytes:
    image = np.full((height, width, 3), 90, np.uint8)
    cv2.line(image, (0, 0), (width, height), (40, 200, 250), 3)
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


def objects(rng: np.random.Generator, names: tuple[str, ...]) -> Objects:
    count = len(names)
    boxes = np.column_stack([rng.uniform(-28, 28, (count, 2)), np.zeros(count), np.ones((count, 3)), np.zeros(count)])
    return make_objects(boxes, rng.normal(0, 3, (count, 2)), np.ones(count), names, None, np.ones(count, np.int64))


def scored(frames: int = 12, without: str = "trailer") -> Tally:
    """Of detections that hit, miss and invent."""
    rng = np.random.default_rng(1)
    tallies = []
    for _ in range(frames):
        wanted = objects(rng, tuple(name for name in CLASS_RANGE if name != without) * 2)
        found = objects(rng, wanted.names)
        near = rng.random(len(wanted)) < 0.7
        found.boxes[near, :2] = wanted.boxes[near, :2] + rng.normal(0, 0.5, (int(near.sum()), 2))
        scores = np.where(near, rng.uniform(0.3, 1, len(near)), rng.uniform(0, 0.7, len(near)))
        tallies.append(tally(wanted, make_objects(found.boxes, found.velocity, scores, found.names)))
    return add_tallies(tallies)


def frames(count: int = 40) -> list[FrameRow]:
    def row(k: int) -> FrameRow:
        missing = {"CAM_BACK_RIGHT": "never_seen"} if 10 <= k < 15 else {}
        reset = "time_jump_back" if k == 20 else ""
        return FrameRow(START + k * 83_000_000, missing, k not in (0, 20), reset, 100 + 7 * (k % 9), (20, k % 5, 3))

    return [row(k) for k in range(count)]


def followed() -> FollowedObject:
    def moment(k: int) -> Moment:
        seen = (None,) * 4 if k % 7 == 3 else (4.5, -0.2, 0.4, 0.8)
        return Moment(k * 0.083, 30 - 0.4 * k, 5 - 0.1 * k, 0.1 * k, *seen)

    return FollowedObject("17", "construction_vehicle", tuple(moment(k) for k in range(30)))


def example(folder: Path) -> ReportData:
    """folder: where its recordings are said to lie."""
    whole = scored()
    scores = score_tally(whole)
    jpeg = picture()
    scenes = [Scene(START + k * 2_000_000_000, jpeg, (10, 5 + k, 3)) for k in range(2)]
    used = {"CAM_FRONT": 40, "CAM_BACK_RIGHT": 35, "RADAR_FRONT_RIGHT": 40}
    drives = [
        Drive(name, folder / name, START, used, frames(), scores, scenes, followed())
        for name in (LONG, "short <drive>")
    ]
    return ReportData(
        title="A <report> & more",
        facts={"model": "m" * 90, "machine": "this one"},
        scores=scores,
        published=scores,
        curves={name: curve(matched) for name, matched in whole.whole.items()},
        score_reliability=score_reliability(list(whole.whole.values())),
        pace=Pace(11.9, 3, 43, "3 of 43 gave way to newer ones"),
        latencies=[Latency("preprocess", 9, 12, 14, 20, 40), Latency("total", 1080.4, 1290, 1395, 1499, 40)],
        counters={"RADAR_FRONT_RIGHT/a_reason_that_has_a_very_long_name_of_its_own": 123456},
        drives=drives,
        agreement=("identical: all 40 frames, bit for bit", True),
        gate=["scores.mean_ap is 0.5048, asked for is at least 0.9"],
        failed={"broken": "BagError: no recording"},
        beside={"cameras alone, without any of the five radars": scores, "radars alone": scores},
        comparison=Comparison("an_earlier_model", [("NDS", 0.5, 0.55, 1), ("mAVE", 0.3, 0.4, -1)], ["+5.0 points"]),
        animation=[Scene(START + k * 83_000_000, jpeg, (k, 0, 1)) for k in range(3)],
        result=folder / "result",
        command="make demo",
        remark="synthetic",
    )
