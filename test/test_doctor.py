"""Every check of the doctor calls a right recording well, and says what is wrong with one made wrong in its way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import rig_drive
import tiny_bundle
import yaml
from bag_copies import copy_bag
from rig_drive import MS, NS, START, Change, Row, altered, as_it_is, only, points_of, stamped, then, with_points

from bev_perception import doctor
from bev_perception.parameters import make_config
from bev_perception.rig import outlines
from bev_perception.rig.checks import CHECKS, check_all
from bev_perception.rig.doppler import fit_velocity
from bev_perception.rig.finding import Finding, lines, merged
from bev_perception.rig.from_bag import listen_to_bag
from bev_perception.rig.machine import MACHINE_CHECKS, Machine, check_machine
from bev_perception.rig.perturb import perturbed
from bev_perception.rig.summary import Offer
from bev_perception.rig.thinned import Thinned
from bev_perception.rig.times import TimesHeard, phase_of

CAMERA, INFO, RADAR = "/camera/cam_a/image_raw", "/camera/cam_a/camera_info", "/radar/radar_a/points"


def examined(bag: Path, values: dict[str, Any] | None = None) -> list[Finding]:
    config = make_config(rig_drive.VALUES | (values or {}), rig_drive.SPEC)
    return check_all(listen_to_bag(bag, config, rig_drive.SPEC))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig_drive.write_drive(tmp_path_factory.mktemp("rig") / "good")


def test_all_is_well_with_a_right_recording(good: Path) -> None:
    found = examined(good)
    # Images without a corner say nothing of where a camera looks, and without boxes nothing of where it sits.
    unknown = [("camera_direction", "unknown"), ("camera_place", "unknown")]
    assert [(f.check, f.verdict) for f in found if f.verdict != "ok"] == unknown
    assert [finding.check for finding in found] == list(CHECKS)


def test_where_cameras_look(tmp_path: Path) -> None:
    right = rig_drive.write_drive(tmp_path / "right", rig_drive.in_sight)
    (found,) = (finding for finding in examined(right) if finding.check == "camera_direction")
    assert found.verdict == "ok", found.line()
    wrong = rig_drive.write_drive(tmp_path / "wrong", then(rig_drive.in_sight, _turned(3.0, "cam_a")))
    (found,) = (finding for finding in examined(wrong) if finding.check == "camera_direction")
    assert found.verdict == "warning" and found.found.startswith("cam_a:"), found.line()
    assert "turn it by yaw -3.00" in found.mend or "turn it by yaw -2.75" in found.mend, found.line()


def test_how_cameras_sit_by_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "LEAST_OBJECTS", 12)  # five seconds show no more

    def said(name: str, wrong: Change) -> dict[str, Finding]:
        bag = rig_drive.write_drive(tmp_path / name, then(rig_drive.past_cars, wrong))
        return {f.found.partition(":")[0]: f for f in examined(bag) if f.check == "camera_place"}

    right = said("right", as_it_is)
    assert {found.verdict for found in right.values()} == {"ok"}, [found.line() for found in right.values()]
    wrong = said("wrong", _moved("cam_a", {"roll": 3.0}))
    assert wrong["cam_a"].verdict == "warning" and "cam_b" not in wrong
    assert "change roll -3.0 degrees" in wrong["cam_a"].mend, wrong["cam_a"].line()


# ---- made wrong


def _times_k(row: Row, factor: float) -> Row:
    return altered(row, k=row.message.k * np.array([factor, 1, 1, 1, factor, 1, 1, 1, 1]))


def _velocities(row: Row, change: Callable[[np.ndarray], None]) -> Row:
    points = points_of(row)
    change(points)
    return with_points(row, points)


def _compensated_is_relative(points: np.ndarray) -> None:
    points["vx_comp"], points["vy_comp"] = points["vx"], points["vy"]


def _relative_is_compensated(points: np.ndarray) -> None:
    points["vx"], points["vy"] = points["vx_comp"], points["vy_comp"]


def _scaled(factor: float) -> Callable[[np.ndarray], None]:
    def change(points: np.ndarray) -> None:
        points["vx"] *= factor
        points["vy"] *= factor

    return change


def _turned(degrees: float, name: str = "radar_a") -> Change:
    """The extrinsics of one radar are turned; what it measures is not."""
    return _moved(name, {"yaw": degrees})


def _moved(name: str, wrong: dict[str, float]) -> Change:
    """The extrinsics of one sensor are turned or moved; what it measures is not."""

    def change(row: Row) -> Iterator[Row]:
        transforms = []
        for transform in row.message.transforms:
            if transform.child_frame_id == name:
                pose = perturbed(rig_drive.MOUNTS[name], wrong)
                make = rig_drive.Messages(rig_drive.make_typestore())
                transform = make.transforms(START, "base_link", {name: pose}).transforms[0]
            transforms.append(transform)
        yield altered(row, transforms=transforms)

    return only("/tf_static", change)


def _without(name: str) -> Change:
    def change(row: Row) -> Iterator[Row]:
        yield altered(row, transforms=[t for t in row.message.transforms if t.child_frame_id != name])

    return only("/tf_static", change)


def _faster(row: Row) -> Row:
    """Odometry in km/h: pose and twist alike."""
    pose, twist = row.message.pose.pose, row.message.twist
    position = dataclasses.replace(pose.position, x=pose.position.x * 1.3, y=pose.position.y * 1.3)
    linear = dataclasses.replace(twist.twist.linear, x=twist.twist.linear.x * 1.3)
    return altered(
        row,
        pose=dataclasses.replace(row.message.pose, pose=dataclasses.replace(pose, position=position)),
        twist=dataclasses.replace(twist, twist=dataclasses.replace(twist.twist, linear=linear)),
    )


def _corrected(row: Row) -> Row:
    """A localisation that pulls the pose by 0.6 m twice a second."""
    pose = row.message.pose.pose
    pulls = (row.record_ns - START) // (500 * MS)
    position = dataclasses.replace(pose.position, y=pose.position.y + 0.6 * (pulls % 2))
    return altered(row, pose=dataclasses.replace(row.message.pose, pose=dataclasses.replace(pose, position=position)))


def _red(row: Row) -> Row:
    image = row.message.data.reshape(rig_drive.HEIGHT, rig_drive.WIDTH, 3)[..., ::-1]
    return altered(row, data=np.ascontiguousarray(image).reshape(-1))


def _since(row: Row) -> int:
    return row.record_ns - START


def _drifting(row: Row) -> Row:
    return stamped(row, -(_since(row) // 100))


def _jittering(row: Row) -> Row:
    return stamped(row, (_since(row) // (75 * MS) * 37 % 61 - 60) * MS)


def _late(row: Row) -> bool:
    return 1500 * MS < _since(row) < 3000 * MS


# name -> (what is done to the messages, parameters, check, its verdict, words of the line)
WRONG: dict[str, tuple[Change, dict[str, Any], str, str, str]] = {
    "no topic": (only(RADAR, lambda row: []), {}, "topics", "error", "radar_a: /radar/radar_a/points is not there"),
    "another topic": (
        only(CAMERA, lambda row: [dataclasses.replace(row, topic="/front/image")]), {},
        "topics", "error", "of its type there is /front/image; expected sensor_msgs/msg/Image; set cameras.cam_a.topic",
    ),
    "another type": (
        as_it_is, {"cameras.cam_a.compressed": True}, "types", "error", "set cameras.*.compressed: false",
    ),
    "another frame": (
        only(CAMERA, lambda row: [stamped(row, frame_id="roof")]), {}, "frame_ids", "error", "'roof'",
    ),
    "no stamps": (only(CAMERA, lambda row: [stamped(row, stamp_ns=0)]), {}, "stamps", "error", "cam_a: 48 of 48"),
    "stamps repeat": (
        only("/odometry", lambda row: [row, row]), {}, "stamps", "warning", "odometry: 250 of 500 stamps repeat",
    ),
    "stamps go back": (
        only(RADAR, lambda row: [stamped(row, -200 * MS * (_since(row) // (75 * MS) % 2))]), {},
        "stamps", "error", "radar_a: stamps go back",
    ),
    "a clock ahead": (only(RADAR, lambda row: [stamped(row, 40 * MS)]), {}, "clocks", "error", "35 ms ahead"),
    "a clock behind": (only(CAMERA, lambda row: [stamped(row, -NS)]), {}, "clocks", "error", "1005 ms behind"),
    "a clock that drifts": (only(RADAR, lambda row: [_drifting(row)]), {}, "clocks", "warning", "its clock moved by"),
    "stamps of arrival": (only(RADAR, lambda row: [_jittering(row)]), {}, "jitter", "warning", "radar_a: steps"),
    "half the rate": (
        only(CAMERA, lambda row: [row] if _since(row) // PERIOD_NS % 2 else []), {},
        "rates", "error", "cam_a: 5.00 Hz; expected 10.00 Hz",
    ),
    "an anchor of another rate": (as_it_is, {"sync.period_ms": 200.0}, "rates", "error", "sync.period_ms: 100.0"),
    "a gap": (only(RADAR, lambda row: [] if _late(row) else [row]), {}, "gaps", "warning", "radar_a: nothing for 1.5"),
    "odometry with a gap": (
        only("/odometry", lambda row: [] if _late(row) else [row]), {}, "gaps", "warning", "odometry: nothing for 1.5",
    ),
    "poses are missing for a third of the drive": (
        only("/odometry", lambda row: [] if _late(row) else [row]), {},
        "frames_made", "warning", "frames could not be made: no_pose",
    ),
    "one camera is there now and then": (
        only(CAMERA, lambda row: [row] if _since(row) < 1500 * MS else []), {},
        "frames_made", "error", "cam_a is in 2",
    ),
    "another offset": (
        as_it_is, {"cameras.cam_a.offset_ms": 30.0},
        "camera_offsets", "error",
        "cam_a fires -10.0 ms from cam_b; expected +30.0 ms (offset_ms); set cameras.cam_a.offset_ms: -10.0",
    ),
    "a camera that runs freely": (
        only(CAMERA, lambda row: [stamped(row, -(_since(row) // 40))]), {},
        "camera_offsets", "warning", "cam_a fires at any time",
    ),
    "half an image": (
        only(CAMERA, lambda row: [altered(row, data=row.message.data[:700])]), {}, "images", "error", "image_truncated",
    ),
    "an encoding": (
        only(CAMERA, lambda row: [altered(row, encoding="32FC3")]), {}, "images", "error", "image_encoding",
    ),
    "an image that is too flat": (
        then(
            only(CAMERA, lambda row: [altered(row, height=6, data=row.message.data[: 6 * 32 * 3])]),
            only(INFO, lambda row: [altered(row, height=6, k=np.array([20.0, 0, 15.5, 0, 20.0, 2.5, 0, 0, 1]))]),
        ), {},
        "images", "error", "cam_a: too_flat",
    ),
    "camera_info of another size": (
        only(INFO, lambda row: [altered(row, width=64, height=32)]), {}, "camera_info", "error", "image_size_differs",
    ),
    "a focal length in millimetres": (
        only(INFO, lambda row: [_times_k(row, 0.002)]), {}, "camera_info", "error", "camera_info_field_of_view",
    ),
    "a distortion model nobody knows": (
        only(INFO, lambda row: [altered(row, distortion_model="own", d=np.ones(5))]), {},
        "camera_info", "error", "camera_info_distortion",
    ),
    "red and blue exchanged": (only(CAMERA, lambda row: [_red(row)]), {}, "colors", "warning", "as in no other camera"),
    "no transform": (_without("radar_b"), {}, "extrinsics", "error", "radar_b: no static transforms"),
    "a camera that looks at the sky": (
        as_it_is, {"cameras.cam_a.frame_id": "radar_a", "radars.radar_a.frame_id": "cam_a"},
        "extrinsics", "error", "mount_",
    ),
    "odometry in the map": (as_it_is, {"odometry.frame": "map"}, "odometry_frame", "error", "REP-105"),
    "odometry that is corrected": (
        only("/odometry", lambda row: [_corrected(row)]), {}, "odometry", "error", "steps from pose to pose are off",
    ),
    "odometry that is not a number": (
        only("/odometry", lambda row: [stamped(_nan(row))]), {}, "odometry", "error", "pose_not_finite",
    ),
    "fields nobody named": (
        as_it_is, {"radar_fields.vx": "speed_x", "radar_fields.vy": "speed_y"},
        "radar_messages", "error", "no field 'speed_x'",
    ),
    "not compensated": (
        only(RADAR, lambda row: [_velocities(row, _compensated_is_relative)]), {},
        "radar_compensation", "error", "set radars.radar_a.fields.velocity: relative",
    ),
    "compensated already": (
        only(RADAR, lambda row: [_velocities(row, _relative_is_compensated)]),
        {"radar_fields.vx": "vx", "radar_fields.vy": "vy", "radar_fields.velocity": "relative"},
        "radar_compensation", "error", "set radars.radar_a.fields.velocity: compensated",
    ),
    "km/h": (only(RADAR, lambda row: [_velocities(row, _scaled(3.6))]), {}, "radar_speed", "error", "in km/h"),
    "the sign of the speed": (
        only(RADAR, lambda row: [_velocities(row, _scaled(-1.0))]), {}, "radar_yaw", "error", "the sign of its speeds",
    ),
    "a wheel of another size": (
        only("/odometry", lambda row: [_faster(row)]), {}, "radar_speed", "error", "all radars say the same",
    ),
    "a radar turned by 4 degrees": (_turned(4.0), {}, "radar_yaw", "warning", "turn it by -4."),
    "a radar that sits further left": (
        _moved("radar_a", {"y": 0.8}), {}, "radar_place", "warning",
        "move it by x +0.00, y -0.80 m in the extrinsics, or the other radar the other way",
    ),
    "a radar turned by -15 degrees": (_turned(-15.0, "radar_b"), {}, "radar_yaw", "error", "turn it by +15."),
}  # fmt: skip
PERIOD_NS = rig_drive.PERIOD


def _nan(row: Row) -> Row:
    pose = row.message.pose.pose
    broken = dataclasses.replace(pose, position=dataclasses.replace(pose.position, x=float("nan")))
    return altered(row, pose=dataclasses.replace(row.message.pose, pose=broken))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str, good: Path, tmp_path: Path) -> None:
    change, values, check, verdict, words = WRONG[name]
    bag = good if change is as_it_is else rig_drive.write_drive(tmp_path / "wrong", change)
    lines = [f.line() for f in examined(bag, values) if (f.check, f.verdict) == (check, verdict)]
    assert any(words in line for line in lines), lines


def test_a_latched_topic_that_was_not_recorded_as_one(tmp_path: Path) -> None:
    bag = rig_drive.write_drive(tmp_path / "bag", latched=False)
    (found,) = (finding for finding in examined(bag) if finding.check == "qos")
    assert found.verdict == "warning" and "/tf_static is not latched" in found.found


@pytest.mark.parametrize(
    ("topic", "offer", "said"),
    [
        ("/tf_static", {"latched": False}, "/tf_static is not latched"),
        ("/tf_static", {"reliable": False, "latched": True}, "/tf_static is best effort"),
        (CAMERA, {"reliable": False}, "cam_a: /camera/cam_a/image_raw is best effort"),
    ],
)
def test_what_publishers_offer_must_be_enough(good: Path, topic: str, offer: dict[str, bool], said: str) -> None:
    config = make_config(rig_drive.VALUES | {"qos.reliability": "reliable"}, rig_drive.SPEC)
    summary = listen_to_bag(good, config, rig_drive.SPEC)
    assert [finding.verdict for finding in CHECKS["qos"](summary)] == ["ok"]
    weak = summary.topics | {topic: (Offer("any", **offer),)}
    found = CHECKS["qos"](dataclasses.replace(summary, topics=weak, live=True))
    assert [(finding.verdict, finding.found) for finding in found] == [("error", said)]


def test_a_clock_that_was_set_back_is_told(good: Path) -> None:
    config = make_config(rig_drive.VALUES, rig_drive.SPEC)
    summary = listen_to_bag(good, config, rig_drive.SPEC)
    (found,) = CHECKS["stamps"](dataclasses.replace(summary, counters={"reset/time_jump_back": 2}))
    assert found.verdict == "warning" and found.found == "everything was forgotten 2 times: time_jump_back"


def test_damage_is_told(good: Path, tmp_path: Path) -> None:
    def damage(row: tuple[str, str, int, bytes]) -> list[tuple[str, str, int, bytes]]:
        topic, kind, ns, raw = row
        return [(topic, kind, ns, raw[:40] if topic == CAMERA else raw)]

    damaged = copy_bag(good, tmp_path / "damaged", change=damage)
    (damaged / "metadata.yaml").unlink()
    found = [finding for finding in examined(damaged) if finding.check == "recording"]
    assert [finding.verdict for finding in found] == ["warning", "error"]
    assert "ros2 bag reindex" in found[0].found and "cam_a: message_damaged, 48 of 48" in found[1].found


def test_a_vehicle_that_stands_does_not_tell(tmp_path: Path) -> None:
    """Nothing is called well that nobody could see."""

    def stand(row: Row) -> Iterator[Row]:
        pose = altered(row, pose=rig_drive.good_rows()[-1].message.pose) if row.topic == "/odometry" else row
        twist = pose.message.twist if row.topic == "/odometry" else None
        if twist is not None:
            still = dataclasses.replace(twist.twist.linear, x=0.0)
            turn = dataclasses.replace(twist.twist.angular, z=0.0)
            whole = dataclasses.replace(twist, twist=dataclasses.replace(twist.twist, linear=still, angular=turn))
            pose = altered(pose, pose=_first_pose(), twist=whole)
        yield pose

    found = {f.check: f.verdict for f in examined(rig_drive.write_drive(tmp_path / "bag", stand))}
    assert found["radar_yaw"] == found["radar_speed"] == found["radar_compensation"] == "unknown"


def _first_pose() -> Any:
    return next(row for row in rig_drive.good_rows() if row.topic == "/odometry").message.pose


# ---- the command


def test_the_command(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    tiny_bundle.write_bundle(bundle)  # one radar: the other's topic is nobody's
    params = tmp_path / "params.yaml"
    flat = rig_drive.VALUES | {"bundle": str(bundle), "onnxruntime.threads": 1}
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": flat}}))
    report = tmp_path / "report.json"
    assert doctor.main([str(good), "--params", str(params), "--no-machine", "--json", str(report)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    written = json.loads(report.read_text())
    assert written["ok"] and {f["check"] for f in written["findings"]} == {"bundle", *CHECKS}
    flat["odometry.topic"] = "/elsewhere"
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": flat}}))
    assert doctor.main([str(good), "--params", str(params), "--no-machine", "--json", "-"]) == 1
    assert not json.loads(capsys.readouterr().out)["ok"]


@pytest.mark.parametrize(
    ("values", "check", "words"),
    [
        ({"bundle": "/nowhere"}, "bundle", "/nowhere"),
        ({"anchr": "cam_a"}, "parameters", "did you mean 'anchor'"),
        ({"extrinsics.source": "file", "extrinsics.file": "/nowhere.yaml"}, "extrinsics", "cannot be read"),
    ],
)
def test_what_cannot_even_begin(good: Path, tmp_path: Path, values: dict[str, Any], check: str, words: str) -> None:
    tiny_bundle.write_bundle(tmp_path / "bundle")
    flat = rig_drive.VALUES | {"bundle": str(tmp_path / "bundle")} | values
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": flat}}))
    found = doctor.examine(good, params, None, 1.0, with_machine=False)
    assert (found[-1].check, found[-1].verdict) == (check, "error") and words in found[-1].found


def test_what_is_alike_is_said_once_or_cut_short() -> None:
    a, b = Finding("gaps", "warning", "a: 3 s", "1 s", "mend"), Finding("gaps", "warning", "b: 3 s", "1 s", "mend")
    other = Finding("gaps", "warning", "c: 4 s", "1 s", "mend")
    assert [f.found for f in merged([a, other, b])] == ["a, b: 3 s", "c: 4 s"]
    assert merged([Finding("qos", "ok", "all well")]) == [Finding("qos", "ok", "all well")]
    assert len(lines([a] * 3)) == 3
    assert lines([a] * 9)[3:] == [a.line()[:30] + "and 6 more like these (--json)"]


# ---- the machine

WELL = Machine("onnxruntime", "", "", ("onnxruntime 1.20",), "1.26.4", "", "numpy", "rmw_fastrtps_cpp", 2**26, ())


def test_a_machine_that_is_well() -> None:
    assert [(f.check, f.verdict) for f in check_machine(WELL)] == [(name, "ok") for name in MACHINE_CHECKS]


@pytest.mark.parametrize(
    ("change", "check", "verdict"),
    [
        ({"engine_fault": "the Python package onnxruntime cannot be imported"}, "engine", "error"),
        ({"backend": "tensorrt"}, "gpu", "error"),
        ({"bridge_fault": "numpy.core.multiarray failed to import"}, "cv_bridge", "warning"),
        ({"bridge_fault": "numpy.core.multiarray", "image_reader": "cv_bridge"}, "cv_bridge", "error"),
        ({"bridge_fault": None, "image_reader": "cv_bridge"}, "cv_bridge", "error"),
        ({"shared_memory": ("shm_too_small: /dev/shm has 64 MiB",)}, "shared_memory", "error"),
        ({"shared_memory": ("shm_left_over: 3 segments",)}, "shared_memory", "warning"),
        ({"receive_buffer": 212992}, "dds_buffers", "warning"),
        ({"receive_buffer": 212992, "middleware": "rmw_cyclonedds_cpp"}, "dds_buffers", "error"),
        ({"receive_buffer": None}, "dds_buffers", "unknown"),
    ],
)
def test_a_machine_that_is_not(change: dict[str, Any], check: str, verdict: str) -> None:
    found = check_machine(dataclasses.replace(WELL, **change))
    assert [(f.check, f.verdict) for f in found if f.verdict != "ok"] == [(check, verdict)]
    assert all(f.expected and f.mend for f in found if f.verdict == "error")


# ---- what the checks stand on


def test_the_fit_finds_the_motion_among_moving_things() -> None:
    rng = np.random.default_rng(0)
    angles, own = rng.uniform(-1.2, 1.2, 60), np.array([7.0, -1.5])
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    speed = -(rays @ own) + rng.normal(0, 0.05, 60)
    speed[::3] += rng.uniform(2, 9, 20)  # a third moves
    distance = rng.uniform(5, 50, (60, 1))
    points = np.concatenate([rays * distance, np.zeros((60, 2)), rays * speed[:, None]], axis=1)
    fit = fit_velocity(points)
    assert (
        fit is not None
        and fit.velocity == pytest.approx(own, abs=0.1)
        and fit.standing == pytest.approx(2 / 3, abs=0.1)
    )
    assert fit_velocity(points[:5]) is None
    one_direction = np.tile(points[1], (30, 1))
    assert fit_velocity(one_direction) is None


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_thinned_keeps_every_so_many(count: int) -> None:
    thinned: Thinned[int] = Thinned(8)
    made = []
    for k in range(count):
        thinned.offer(lambda k=k: made.append(k) or k)
    assert thinned.values == list(range(0, count, thinned.stride))
    assert len(thinned.values) <= 8 and (count <= 8 or len(thinned.values) >= 4)
    assert len(made) <= 8 + 4 * 8


def test_an_hour_is_kept_in_little_memory() -> None:
    heard = TimesHeard()
    for k in range(36000):
        heard.add(START + k * 10 * MS + k * 500, START + k * 10 * MS + 5 * MS)  # the clock gains 50 ppm
    times = heard.finish()
    assert times.count == 36000 and times.rate_hz == pytest.approx(100, rel=1e-3)
    assert times.drift_ns == pytest.approx(-36000 * 500 * 7 / 8, rel=0.01)
    assert len(heard._steps.values) <= 4096 >= len(heard._delays.values)


def test_phases_meet_around_the_ends_of_a_period() -> None:
    assert phase_of([49 * MS, -49 * MS, 48 * MS, -48 * MS], 100 * MS) == pytest.approx((50 * MS, 1.0), rel=0.01)
    assert phase_of(list(range(0, 100 * MS, MS)), 100 * MS)[1] < 0.01
