"""Cameras that fall silent one after the other: when they do, what is left, and what the node said meanwhile."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace as Row

import numpy as np
import pytest

from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.evaluation.outage import Run, outage_of, silences, topics_that_end
from bev_perception.evaluation.report_page.data import Health
from bev_perception.evaluation.report_page.health import health
from bev_perception.evaluation.statuses import Status, status_of, stretches
from bev_perception.evaluation.truth_between import LONGEST_NS, nearest, truth_at
from bev_perception.structures import COMPLETE, DEADLINE
from bev_perception.usual.reading import CONTENTS, EXTRINSICS, Reading

MS = 1_000_000
CAMERAS = ("a", "b")
PLACES = (10.0, 20.0, 30.0, 40.0)


def truth() -> Objects:
    boxes = np.array([[x, 0, 0, 4, 2, 2, 0] for x in PLACES], dtype=float)
    count = len(PLACES)
    return make_objects(boxes, np.zeros((count, 2)), np.ones(count), ("car",) * count, num_points=np.ones(count, int))


def message(cameras: int, found: int, closed_by: str = COMPLETE) -> Row:
    """The first `found` of the cars, by so many cameras and a radar."""

    def detection(x: float) -> Row:
        position, still = Row(x=x, y=0.0, z=0.0), Row(x=0.0, y=0.0, z=0.0, w=1.0)
        return Row(
            pose=Row(pose=Row(position=position, orientation=still)),
            dimensions=Row(x=4.0, y=2.0, z=2.0),
            twist=Row(twist=Row(linear=Row(x=0.0, y=0.0))),
            score=0.9, class_name="car", id="", num_sensor_points=0,
        )  # fmt: skip

    used = [*CAMERAS[:cameras], "radar"]
    return Row(detections=[detection(x) for x in PLACES[:found]], sensors_used=used, closed_by=closed_by)


def test_the_last_camera_falls_silent_before_the_end() -> None:
    ends = silences(("a", "b", "c"), 8.0)
    assert ends == {"a": 2.0, "b": 4.0, "c": 6.0} and silences((), 8.0) == {}
    config = Row(cameras={"a": Row(topic="/a", info_topic="/a_info"), "b": Row(topic="/b", info_topic="/b_info")})
    assert topics_that_end(config, {"b": 4.0}) == {"/b": 4.0, "/b_info": 4.0}


def test_each_part_is_held_against_the_same_part_of_the_whole_drive() -> None:
    """Half of the cars are lost with each camera; without any stamps are others; one frame is lost."""
    stamps = [k * 100 * MS for k in range(9)]
    lost = {s - 30 * MS * (k >= 6): message(2 - k // 3, 4 - 2 * (k // 3)) for k, s in enumerate(stamps) if k != 7}
    lost[stamps[3]] = message(1, 2, DEADLINE)
    whole = {s: message(2, 4 if k < 6 else 3) for k, s in enumerate(stamps)}
    wanted = {s: truth() for s in stamps}
    runs = [Run(messages, {s: 50.0 + 100 * (s == stamps[3]) for s in messages}, wanted) for messages in (lost, whole)]
    found = outage_of({"a": 0.3, "b": 0.6}, *runs, [])
    assert list(found.by_cameras) == [2, 1, 0]
    assert [own.frames for own, _ in found.by_cameras.values()] == [3, 3, 2]
    assert [usual.frames for _, usual in found.by_cameras.values()] == [3, 3, 3]
    assert [own.recall for own, _ in found.by_cameras.values()] == [1.0, 0.5, 0.0]
    assert [usual.recall for _, usual in found.by_cameras.values()] == [1.0, 1.0, 0.75]
    assert [own.objects for own, _ in found.by_cameras.values()] == [12, 12, 8], (
        "between two stamps there is something to find, too"
    )
    assert found.by_cameras[1][0].boxes_per_frame == 2.0
    maps = [own.mean_ap for own, _ in found.by_cameras.values()]
    assert maps[0] == pytest.approx(1.0) and maps[0] > maps[1] > maps[2] == 0
    assert (found.by_cameras[1][0].age_p50_ms, found.by_cameras[1][0].age_max_ms) == (50.0, 150.0)
    assert [frame.deadline for frame in found.frames] == [False] * 3 + [True] + [False] * 4
    assert found.gap_ms == pytest.approx(200.0), "where the frame was lost"
    assert found.whole_gap_ms == pytest.approx(200.0)


def test_without_ground_truth_nothing_is_said_to_be_found() -> None:
    run = Run({0: message(2, 4), 100 * MS: message(1, 2)}, {0: 5.0, 100 * MS: 5.0}, {})
    found = outage_of({"a": 0.1, "b": 0.2}, run, run, [])
    own = found.by_cameras[1][0]
    assert own.objects == 0 and math.isnan(own.recall) and math.isnan(own.mean_ap) and own.boxes_per_frame == 2


def test_nearest_is_that_of_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        rising = np.unique(rng.integers(0, 100, rng.integers(1, 12))).tolist()
        value = int(rng.integers(-10, 110))
        assert abs(rising[nearest(rising, value)] - value) == min(abs(r - value) for r in rising)


def test_objects_between_two_stamps_are_on_the_line() -> None:
    before, after = truth(), truth()
    after.boxes[:, 0] += 4.0
    after.boxes[:, 6] -= 0.2
    before.boxes[:, 6] += 2 * np.pi
    before, after = (
        dataclasses.replace(o, ids=ids) for o, ids in ((before, ("1", "2", "3", "")), (after, ("2", "1", "7", "")))
    )
    there = {0: before, 100 * MS: after}
    found = truth_at(there, 25 * MS)
    assert found is not None and found.ids == before.ids
    np.testing.assert_allclose(found.boxes[:, 0], [10 + (24 - 10) / 4, 20 + (14 - 20) / 4, 30, 40])
    np.testing.assert_allclose(found.boxes[:, 6], [2 * np.pi - 0.05] * 2 + [2 * np.pi] * 2)
    late = truth_at(there, 75 * MS)
    assert late is not None and late.ids == after.ids, "those of the nearer stamp"
    np.testing.assert_allclose(late.boxes[:2, 0], [14 + (20 - 14) / 4, 24 + (10 - 24) / 4])
    assert truth_at(there, 0) is before and truth_at(there, -1) is truth_at(there, 101 * MS) is truth_at({}, 5) is None
    assert truth_at({0: before, LONGEST_NS + 1: after}, 5) is None


def status(stamp_ns: int, **states: tuple[str, str]) -> Status:
    return Status(stamp_ns, states, {})


def test_a_stretch_ends_where_the_next_begins_and_details_do_not_end_it() -> None:
    said = [
        status(0, cam=("ok", "")),
        status(1, cam=("late", "too_late: 0.1 s"), other=("ok", "")),
        status(2, cam=("late", "too_late: 0.2 s"), other=("ok", "")),
        status(3, cam=("silent", "stale"), other=("ok", "")),
        status(5, cam=("silent", "stale"), other=("ok", "")),
    ]
    found = [(s.start_ns, s.end_ns, s.state, s.reason) for s in stretches(said, "cam")]
    assert found == [(0, 1, "ok", ""), (1, 3, "late", "too_late"), (3, 5, "silent", "stale")]
    assert [(s.start_ns, s.end_ns) for s in stretches(said, "other")] == [(1, 5)]
    assert list(stretches(said, "nobody")) == list(stretches([], "cam")) == []


def test_readings_of_both_checks_are_shown() -> None:
    contents = Reading("cam", 3.0, 2.0, 1, "brightness: 0.1 of the usual")
    drift = Reading("radar", -0.4, 0.5)
    said = [Status(k * 100 * MS, {"cam": ("ok", "")}, {CONTENTS: (contents,), EXTRINSICS: (drift,)}) for k in range(3)]
    text = health(Health(said, True, True))
    assert "brightness: 0.1 of the usual" in text and "0.0 to 0.2 s" in text and "degrees" in text
    assert "without an estimate" not in text and "no frame was looked at" not in text


def test_a_recorded_status_is_read(tmp_path: Path) -> None:
    constants = dict(OK=0, STALE=1, MISSING=2, NEVER_SEEN=3, INVALID=4, ABSENT=5, SUSPECT=6)
    sensors = [Row(name=f"s{n}", state=n, reason="why" if n else "", **constants) for n in range(7)]
    checks = dict(CONTENTS=0, EXTRINSICS=1)
    since = Row(sec=1, nanosec=5)
    rows = [
        Row(name="s0", check=1, alarm=True, score=1.5, threshold=0.5, since=since, text="yaw", **checks),
        Row(name="s1", check=1, alarm=False, score=0.1, threshold=0.5, since=Row(sec=0, nanosec=0), text="", **checks),
    ]
    found = status_of(Row(header=Row(stamp=Row(sec=2, nanosec=0)), sensors=sensors, health=rows))
    assert [state for state, _ in found.states.values()] == [
        "ok", "late", "silent", "never_seen", "invalid", "absent", "suspect",
    ]  # fmt: skip
    assert found.stamp_ns == 2_000_000_000 and found.states["s1"] == ("late", "why")
    assert set(found.readings) == {EXTRINSICS}
    assert found.readings[EXTRINSICS] == (Reading("s0", 1.5, 0.5, 1_000_000_005, "yaw"), Reading("s1", 0.1, 0.5))
