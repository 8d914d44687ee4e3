"""Where sensors look, estimated from frames: radars by closed form, cameras by drawn points, and at what cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rig_drive = pytest.importorskip("rig_drive", reason="onnx or rosbags is not installed")

from bev_perception import extrinsics_watch  # noqa: E402
from bev_perception.evaluation.frames import read_frames  # noqa: E402
from bev_perception.extrinsics_watch import CAMERA_DEG, LEAST_SCANS, RADAR_DEG, ExtrinsicsWatch  # noqa: E402
from bev_perception.parameters import make_config  # noqa: E402
from bev_perception.rig.perturb import perturbed  # noqa: E402
from bev_perception.structures import EgoPose, RadarScan, RadarSweep, SensorFrame  # noqa: E402

THINGS = np.random.default_rng(1).uniform((-30, -40, 0), (90, 60, 2), (250, 3))
FREE = 1e9  # a share that makes no rest


def radar_frames(turned_deg: float, sign: float = 1.0, compensated: bool = False) -> Iterator[SensorFrame]:
    """Of one radar whose extrinsics are so many degrees beside where it looks."""
    truth = rig_drive.MOUNTS["radar_b"]
    for index in range(60):
        stamp_ns = rig_drive.START + index * 100_000_000
        returns = rig_drive.radar_returns(truth, stamp_ns, THINGS, index)
        v = "_comp" if compensated else ""
        columns = [returns[n] for n in ("x", "y", "z", "rcs")] + [sign * returns[f"{a}{v}"] for a in ("vx", "vy")]
        scan = RadarScan("radar_b", stamp_ns, np.stack(columns, axis=1), compensated)
        ego = EgoPose(
            stamp_ns,
            rig_drive.pose_at(stamp_ns),
            np.array([rig_drive.SPEED_MPS, 0, 0]),
            np.array([0, 0, rig_drive.TURN_RPS]),
        )
        yield SensorFrame(stamp_ns, ego, (), ((RadarSweep(scan, perturbed(truth, {"yaw": turned_deg}), ego),),))


def watched(frames: Iterator[SensorFrame]) -> ExtrinsicsWatch:
    watch = ExtrinsicsWatch((), ("radar_b",), FREE)
    for frame in frames:
        watch.add(frame)
    return watch


@pytest.mark.parametrize("turned_deg", [0.0, 1.0, -2.0])
def test_a_radars_yaw_is_found_to_a_quarter_of_a_degree(turned_deg: float) -> None:
    (reading,) = watched(radar_frames(turned_deg)).readings()
    assert reading.score == pytest.approx(abs(turned_deg), abs=0.25) and reading.threshold == RADAR_DEG
    assert reading.alarm == bool(turned_deg)
    if turned_deg:
        assert f"yaw {'-' if turned_deg > 0 else '+'}{abs(turned_deg):.0f}"[:5] in reading.text
        assert reading.since_ns is not None and reading.since_ns > rig_drive.START


def test_a_wrong_sign_is_told_and_speeds_over_ground_say_nothing() -> None:
    (reading,) = watched(radar_frames(0.0, sign=-1.0)).readings()
    assert reading.alarm and "sign of its speeds" in reading.text
    assert watched(radar_frames(0.0, compensated=True)).readings() == ()


def test_few_scans_say_nothing() -> None:
    frames = list(radar_frames(1.0))
    watch = ExtrinsicsWatch((), ("radar_b",), FREE)
    for frame in frames[: LEAST_SCANS - 1]:
        watch.add(frame)
        watch.add(frame)  # the same scan again is none more
    assert watch.readings() == ()


def test_it_rests_so_long_that_its_share_is_kept() -> None:
    now, worked = [0.0], [0.0]

    class Clock:
        """Every question of it costs 5 ms of computing: two of them frame a piece of work."""

        def __call__(self) -> float:
            worked[0] += 0.005
            return worked[0]

    watch = ExtrinsicsWatch((), ("radar_b",), 0.03, used_s=Clock(), now_s=lambda: now[0])
    frames = list(radar_frames(0.0))
    for step in range(3000):
        now[0] = step / 100
        watch.add(frames[step % len(frames)])
    pieces = worked[0] / 0.01
    assert pieces * 0.005 / now[0] == pytest.approx(0.03, rel=0.1)


def test_what_other_threads_do_for_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenCV's do: its own thread waits for them, and takes no CPU time."""
    helper = ThreadPoolExecutor(1)
    monkeypatch.setattr(extrinsics_watch, "fit_velocity", lambda points: helper.submit(time.sleep, 0.1).result())
    watch = ExtrinsicsWatch((), ("radar_b",), 0.03)
    watch.add(next(radar_frames(0.0)))
    assert watch._budget.owed_s() > 0.1 / 0.03 - 1.0
    helper.shutdown()


def test_a_look_that_fails_has_had_its_turn_and_is_rested_from(monkeypatch: pytest.MonkeyPatch) -> None:
    used, now, failed = [0.0], [0.0], []

    def follows(*views: Any) -> bool:
        used[0] += 0.03
        raise RuntimeError("what OpenCV does not take")

    monkeypatch.setattr(extrinsics_watch, "follows", follows)
    watch = ExtrinsicsWatch(("cam_a",), ("radar_b",), 0.2, lambda: used[0], lambda: now[0])
    view: Any = SimpleNamespace(calibration=None)
    for step, frame in enumerate(radar_frames(1.0)):
        now[0] = step / 10
        try:
            watch.add(dataclasses.replace(frame, cameras=(view,)))
        except RuntimeError:
            failed.append(step)
    assert failed == list(range(4, 60, 6)), "three turns of the radars, two images, and a rest of 0.15 s"
    assert [reading.name for reading in watch.readings()] == ["radar_b"]


def test_of_a_radar_that_cannot_be_looked_at_nothing_is_said_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [dataclasses.replace(frame, radars=frame.radars * 2) for frame in radar_frames(1.0)]
    watch, fit = ExtrinsicsWatch((), ("radar_a", "radar_b"), FREE), extrinsics_watch.fit_velocity
    for frame in frames[:30]:
        watch.add(frame)
    assert [reading.name for reading in watch.readings()] == ["radar_a", "radar_b"]
    looks: list[int] = []

    def fits(points: np.ndarray) -> Any:
        looks.append(len(points))
        if len(looks) % 2:
            raise ValueError("the first of the two")
        return fit(points)

    monkeypatch.setattr(extrinsics_watch, "fit_velocity", fits)
    for frame in frames[30:]:
        with pytest.raises(ValueError, match="the first"):
            watch.add(frame)
    assert [reading.name for reading in watch.readings()] == ["radar_b"] and len(looks) == 60


def test_other_extrinsics_of_a_radar_are_another_question() -> None:
    """At the first frame with them: not when the radar has its turn again."""
    wrong, right = list(radar_frames(2.0)), list(radar_frames(0.0))
    now = [0.0]
    watch = ExtrinsicsWatch((), ("radar_b",), 0.5, lambda: 0.0, lambda: now[0])
    for frame in wrong[:30]:
        watch.add(frame)
    assert watch.readings()[0].alarm
    watch._budget.spend(1.0)
    watch.add(right[30])
    assert watch.readings() == (), "what was found with the transform before"
    now[0] = 10.0
    for frame in right[31 : 30 + LEAST_SCANS]:
        watch.add(frame)
    assert watch.readings() == (), "it begins anew"
    for frame in right[30 + LEAST_SCANS :]:
        watch.add(frame)
    (reading,) = watch.readings()
    assert reading.score < RADAR_DEG / 2 and not reading.alarm
    jitter = [dataclasses.replace(s, ego_from_radar=s.ego_from_radar + 1e-9) for (s,) in right[-1].radars]
    watch.add(dataclasses.replace(right[-1], radars=(tuple(jitter),)))
    assert watch.readings() == (reading,), "jitter is no change"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig_drive.write_drive(tmp_path_factory.mktemp("rig") / "drive", rig_drive.in_sight)


def camera_frames(drive: Path, turned_deg: float, **lens: Any) -> Iterator[SensorFrame]:
    """Of cam_a alone, whose calibration says something else than how it was made."""
    for _, frame in read_frames(drive, rig_drive.SPEC, make_config(rig_drive.VALUES, rig_drive.SPEC)):
        view = frame.cameras[0]
        if view is not None:
            pose = perturbed(view.calibration.ego_from_cam, {"yaw": turned_deg})
            said = dataclasses.replace(view.calibration, ego_from_cam=pose, **lens)
            yield dataclasses.replace(frame, cameras=(dataclasses.replace(view, calibration=said),), radars=())


@pytest.mark.parametrize(
    "other", [{"turned_deg": 0.0}, {"turned_deg": 3.0, "K": np.array([[100.0, 0, 79.5], [0, 100.0, 44.5], [0, 0, 1]])}]
)
def test_another_calibration_of_a_camera_while_pairs_are_collected(drive: Path, other: dict[str, Any]) -> None:
    watch = ExtrinsicsWatch(("cam_a",), (), FREE)
    frames, changed = list(camera_frames(drive, 3.0)), list(camera_frames(drive, **other))
    for frame in frames[:-1]:
        watch.add(frame)
    assert watch.readings()[0].alarm
    before, seen = watch._watches["cam_a"], changed[-1].cameras[0]
    watch.add(changed[-1])
    now: Any = watch._watches["cam_a"]
    assert watch.readings() == () and now is not before and not now._pairs
    assert now._before is seen, "the image before was of another calibration, and makes no pair with this one"


@pytest.mark.parametrize("turned_deg", [0.0, 3.0])
def test_where_a_camera_looks(drive: Path, turned_deg: float) -> None:
    watch = ExtrinsicsWatch(("cam_a",), (), FREE)
    for frame in camera_frames(drive, turned_deg):
        watch.add(frame)
    (reading,) = watch.readings()
    assert reading.threshold == CAMERA_DEG and reading.alarm == bool(turned_deg), reading
    assert reading.score == pytest.approx(turned_deg, abs=0.5)
    if turned_deg:
        assert reading.text.startswith(f"turned by yaw -{reading.score:.2f} degrees it fits better")
