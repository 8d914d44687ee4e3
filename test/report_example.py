"""A report with every section, of a made-up drive: long names, gaps, resets and a gate that was not held."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from bev_perception.evaluation.benchmark import curve
from bev_perception.evaluation.followed_object import FollowedObject, Moment
from bev_perception.evaluation.matching import CLASS_RANGE
from bev_perception.evaluation.metrics import Tally, add_tallies, score_tally, tally
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.evaluation.outage import Figures, Outage, OutageFrame
from bev_perception.evaluation.reliability import reliability, score_reliability
from bev_perception.evaluation.report_page.data import (
    Comparison,
    Drive,
    FrameRow,
    Health,
    Latency,
    Pace,
    ReportData,
)
from bev_perception.evaluation.statuses import Status
from bev_perception.evaluation.worst_frames import Scene
from bev_perception.evaluation.worth import PUBLISHED, Covered, Worth
from bev_perception.health import State
from bev_perception.usual.reading import CONTENTS, Reading

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


def worth() -> Worth:
    """Twenty bins of ten detections each; heading without any error."""
    said = np.repeat((np.arange(20) + 0.5) / 20, 10)
    right = np.arange(200) % 10 < np.repeat(np.arange(20) // 2, 10)
    held = {name: Covered(90, (46, 80, 85), 45.0) for name in PUBLISHED}
    return Worth(reliability(said, right), held | {"yaw": Covered(0, (0, 0, 0), 0.0)})


def statuses() -> list[Status]:
    """One camera silent from 1 s on, one radar doubtful, an alarm of what a camera sends; nothing of extrinsics."""

    def one(k: int) -> Status:
        silent: tuple[State, str] = ("silent", "stale") if k >= 10 else ("ok", "")
        doubt: tuple[State, str] = ("suspect", f"clock_ahead: {k} ms") if k % 20 > 15 else ("ok", "")
        at = START + k * 100_000_000
        since = START + 2_000_000_000 if k >= 20 else None
        readings = (
            Reading("CAM_FRONT", 0.1 * k, 2.0, since, "detail, lower left: 0.3 of the usual" if since else ""),
            Reading("scene", math.nan, math.nan),
        )
        states = {"CAM_FRONT": ("ok", ""), "CAM_BACK_RIGHT": silent, "RADAR_FRONT_RIGHT": doubt, "odometry": ("ok", "")}
        return Status(at, states, {CONTENTS: readings})

    return [one(k) for k in range(40)]


def outage_frame(k: int, cameras: int) -> OutageFrame:
    wrong = (4 * max(cameras, 1), 3, 24 - 4 * max(cameras, 1))
    return OutageFrame(START + k * 83_000_000, max(cameras, 0), 10 + cameras, wrong, 60 + k % 7, k % 11 == 0)


def figures(recall: float) -> Figures:
    return Figures(7, 31.5, 168, recall, recall / 2, 63.0, 97.0)


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
    lost = [outage_frame(k, 6 - k // 6) for k in range(40)]
    usual = [outage_frame(k, 6) for k in range(40)]
    return ReportData(
        title="A <report> & more",
        facts={"model": "m" * 90, "machine": "this one"},
        scores=scores,
        published=scores,
        curves={name: curve(matched) for name, matched in whole.whole.items()},
        score_reliability=score_reliability(list(whole.whole.values())),
        worth=worth(),
        health=Health(statuses(), contents=True, extrinsics=True),
        outage=Outage(
            {f"CAM_NUMBER_{k}": 0.5 + 0.5 * k for k in range(6)},
            lost,
            usual,
            statuses(),
            {n: (figures(n / 8), figures(0.8)) for n in range(6, -1, -1)},
            98.0,
            92.0,
        ),
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
