"""What the status says of a sensor follows what the newest frame did with it, and names causes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")

import tiny_drive  # noqa: E402
from intake_rig import MAKE, MOUNTS, NOW, Listening, cloud, image, info, odometry  # noqa: E402

from bev_perception.fault import Fault  # noqa: E402
from bev_perception.health import Failures, FrameOutcome, SensorHealth, newest_outcome, sensor_health, situation  # noqa: E402
from bev_perception.measurements import Measurements  # noqa: E402
from bev_perception.modes import MODES, SEVERITIES, modes_that_hold  # noqa: E402
from bev_perception.structures import Detections  # noqa: E402
from bev_perception.sync_config import ABSENT  # noqa: E402

MS = tiny_drive.MS


def health(listening: Listening, outcome: FrameOutcome | None = None, now_ns: int = NOW) -> dict[str, SensorHealth]:
    found = sensor_health(listening.intake, listening.taken, outcome or FrameOutcome(), now_ns)
    return {h.name: h for h in found}


@pytest.fixture
def listening(tmp_path: Any) -> Listening:
    """Calibrated, with one good message of each sensor."""
    made = Listening(tmp_path)
    made.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    for camera in tiny_drive.CAMERAS:
        message = info()
        message.header.frame_id = camera
        made.take(f"{camera} camera_info", message)
        picture = image(stamp_ns=NOW - 10 * MS)
        picture.header.frame_id = camera
        made.take(camera, picture)
    made.take("radar_a", cloud(stamp_ns=NOW - 10 * MS))
    made.take("odometry", odometry(NOW - 10 * MS))
    return made


def test_sensors_that_contribute_are_ok(listening: Listening) -> None:
    found = health(listening)
    assert list(found) == [*tiny_drive.CAMERAS, "radar_a", "odometry"]
    assert {(h.state, h.reason) for h in found.values()} == {("ok", "")}
    assert all(h.age_s == h.delay_s == pytest.approx(0.01) for h in found.values())


@pytest.mark.parametrize(
    "reason", ["bad_calibration", "size_mismatch", "undecodable", "nan", "no_calibration", "image_failed"]
)
def test_what_a_step_could_not_use_is_invalid_in_every_status(listening: Listening, reason: str) -> None:
    outcome = FrameOutcome({"cam_a": reason}, {"cam_a": Fault(reason, "what was found")})
    for now in (NOW, NOW + 500 * MS):
        found = health(listening, outcome, now)
        assert (found["cam_a"].state, found["cam_a"].reason) == ("invalid", f"{reason}: what was found")
        assert found["cam_b"].state == "ok"


@pytest.mark.parametrize("reason", ["no_pose", "pose_jump"])
def test_what_odometry_gave_no_place_is_odometrys_fault(listening: Listening, reason: str) -> None:
    """One cause, one culprit: the sensors are alive and well, and their reasons name odometry."""
    for made, state in ((True, "suspect"), (False, "invalid")):
        faults = {"cam_b": Fault("pose_jump", "the ego pose jumped between the image and the frame")}
        found = health(listening, FrameOutcome({"cam_a": reason, "radar_a": reason}, faults, made))
        for name in ("cam_a", "radar_a"):
            assert found[name].state == "late" and found[name].reason.startswith(f"{reason}: odometry ")
        assert (found["odometry"].state, found["odometry"].reason) == (state, f"{reason}: no place for cam_a, radar_a")
    assert health(listening, FrameOutcome({"odometry": "no_pose"}, made=False))["odometry"].state == "invalid"
    late = health(listening, FrameOutcome({"cam_a": "late"}))
    assert late["odometry"].state == "ok"


@pytest.mark.parametrize("by_s", [-5.0, -1.5, 0.2, 3600.0])
def test_a_wrong_clock_of_this_computer_is_not_the_fault_of_each_sensor(listening: Listening, by_s: float) -> None:
    """The stamps of all sensors change at once, by so much, and go on."""
    now = NOW
    for step in range(40):
        now = NOW + step * 100 * MS
        stamp = now + round(by_s * 1e9) - 10 * MS
        for camera in tiny_drive.CAMERAS:
            picture = image(stamp_ns=stamp)
            picture.header.frame_id = camera
            listening.take(camera, picture, now)
        listening.take("radar_a", cloud(stamp_ns=stamp), now)
        listening.take("odometry", odometry(stamp), now)
        listening.frames.poll()
    way = "behind" if by_s < 0 else "ahead of"
    expected = f"the stamps of all sensors are at least {abs(by_s - 0.01):.3f} s {way} this computer's clock"
    for found in health(listening, FrameOutcome(listening.taken.missing), now).values():
        assert found.state == "late" and expected in found.reason, found
    listening.taken.held_up = True
    for found in health(listening, FrameOutcome(listening.taken.missing), now).values():
        assert expected not in found.reason, "after a pause of the node old messages are its own fault"


def test_what_grew_old_while_the_node_was_held_up_is_not_the_fault_of_a_clock(listening: Listening) -> None:
    old = NOW - listening.taken.config.max_past_ns - 20 * MS
    listening.take("odometry", odometry(old))
    assert health(listening)["odometry"].reason.startswith("too_old: ")
    listening.taken.held_up = True
    found = health(listening)["odometry"]
    assert (found.state, found.reason) == ("late", "overloaded")


def test_one_sensors_clock_is_that_sensors_fault(listening: Listening) -> None:
    for step in range(20):
        now = NOW + step * 100 * MS
        listening.take("radar_a", cloud(stamp_ns=now + 200 * MS), now)
        listening.take("odometry", odometry(now), now)
    found = health(listening, FrameOutcome({"radar_a": "no_scan"}), now)
    assert found["radar_a"].state == "invalid" and "this computer" not in found["radar_a"].reason


def test_what_is_told_of_a_sensor_that_was_used_makes_it_suspect(listening: Listening) -> None:
    found = health(listening, FrameOutcome({}, {"cam_a": Fault("image_noise", "what was found")}))
    assert (found["cam_a"].state, found["cam_a"].reason) == ("suspect", "image_noise: what was found")


@pytest.mark.parametrize("reason", ["late", "out_of_tolerance", "overloaded"])
def test_what_did_not_come_in_time_is_late(listening: Listening, reason: str) -> None:
    assert health(listening, FrameOutcome({"cam_a": reason}))["cam_a"].state == "late"


def test_a_refused_message_makes_a_sensor_suspect_while_frames_use_it_and_invalid_when_they_do_not(
    listening: Listening,
) -> None:
    listening.take("radar_a", cloud(spoiled=3, stamp_ns=NOW))
    used, masked = FrameOutcome(), FrameOutcome({"radar_a": "no_scan"})
    silent_ns = NOW + listening.taken.config.silence_ns
    for outcome, now, state in ((used, NOW, "suspect"), (masked, NOW, "invalid"), (masked, silent_ns, "invalid")):
        found = health(listening, outcome, now)["radar_a"]
        assert found.state == state and found.reason.startswith("cloud_not_finite: all 3 returns")
    assert health(listening, FrameOutcome(made=False))["radar_a"].state == "invalid"
    gone = health(listening, masked, silent_ns + 1)["radar_a"]
    assert (gone.state, gone.reason) == ("silent", "stale"), "a fault is no longer the newest news of a silent sensor"


def test_a_duplicate_does_not_spoil_a_sensor_that_is_used(listening: Listening) -> None:
    listening.take("radar_a", cloud(stamp_ns=NOW - 10 * MS))
    assert listening.taken.counters["radar_a/duplicate"] == 1
    assert health(listening)["radar_a"].state == "ok"


def test_the_reason_of_never_seen_is_what_keeps_messages_away(tmp_path: Any) -> None:
    made = Listening(tmp_path)
    assert health(made)["cam_a"].reason == "never_seen"
    made.intake.warnings["cam_a"] = "qos_incompatible: a publisher offers another RELIABILITY"
    found = health(made)["cam_a"]
    assert (found.state, found.reason) == ("never_seen", "never_seen: " + made.intake.warnings["cam_a"])
    assert found.age_s is None and found.delay_s is None


def test_silence(listening: Listening) -> None:
    silence = listening.taken.config.silence_ns
    assert health(listening, now_ns=NOW - 10 * MS + silence)["cam_a"].state == "ok"
    found = health(listening, now_ns=NOW - 10 * MS + silence + 1)["cam_a"]
    assert (found.state, found.reason) == ("silent", "stale") and found.age_s == pytest.approx(1.0)


def spoil_focal_length(message: Any) -> None:
    message.k[:] = 0.0


def spoil_distortion(message: Any) -> None:
    message.d = message.d * float("nan")


@pytest.mark.parametrize("spoil", [spoil_focal_length, spoil_distortion])
def test_calibration_that_turns_bad_while_driving_masks_its_camera_and_says_why(listening: Listening, spoil) -> None:
    listening.take("cam_a camera_info", info(spoil))
    frame = listening.taken.assemble(NOW - 10 * MS, "complete")
    assert frame is not None and frame.missing["cam_a"] == "no_calibration"
    found = health(listening, FrameOutcome(frame.missing))["cam_a"]
    assert found.state == "invalid" and found.reason.startswith("no_calibration: camera_info_")
    assert listening.taken.counters["cam_a/calibration_lost"] == 1
    listening.take("cam_a camera_info", info())
    assert health(listening)["cam_a"].state == "ok"
    assert listening.taken.counters["cam_a/calibration_changed"] == 0, "it is the one from before"


def test_a_transform_that_hangs_on_another_frame_masks_its_sensor(listening: Listening) -> None:
    listening.take("tf_static", MAKE.transforms(NOW, "trailer", {"radar_a": MOUNTS["radar_a"]}))
    assert listening.taken.counters["radar_a/calibration_lost"] == 1
    found = health(listening)["radar_a"]
    assert found.state == "invalid" and "no static transforms from 'radar_a' to 'base_link'" in found.reason
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", {"radar_a": MOUNTS["radar_a"]}))
    assert health(listening)["radar_a"].state == "ok"


def test_a_clock_that_is_ahead_is_named_with_how_far(listening: Listening) -> None:
    limit = listening.taken.config.max_future_ns
    ahead = image(stamp_ns=NOW + limit)
    listening.take("cam_a", ahead)
    found = health(listening)["cam_a"]
    assert found.state == "suspect" and found.reason == f"clock_ahead: clock of cam_a is {limit / 1e9:.3f} s ahead"
    listening.take("cam_a", image(stamp_ns=NOW + 200 * MS))
    found = health(listening, FrameOutcome({"cam_a": "late"}))["cam_a"]
    assert found.state == "invalid" and found.reason.startswith("future_stamp: its stamp is 0.200 s ahead")
    assert found.delay_s == pytest.approx(-0.2)


def test_the_newest_frame_that_could_not_be_made_counts(listening: Listening) -> None:
    detections = Detections(NOW, *[None] * 4, missing={"cam_a": "late"})
    assert newest_outcome(listening.taken, detections, {}).missing == {"cam_a": "late"}
    assert listening.taken.assemble(NOW - 3_000 * MS, "deadline") is None
    assert newest_outcome(listening.taken, detections, {}).missing == {"odometry": "no_pose"}
    assert not listening.taken.made
    assert listening.taken.assemble(NOW - 10 * MS, "complete") is not None and listening.taken.made


def test_a_sensor_that_the_vehicle_does_not_have_has_no_age(listening: Listening) -> None:
    config = dataclasses.replace(listening.taken.config, absent=("radar_a",))
    absent = {h.name: h for h in sensor_health(listening.intake, Measurements(config), FrameOutcome(), NOW)}["radar_a"]
    assert absent == SensorHealth("radar_a", "radar", "absent", None, None, 0.0, ABSENT)


def of(name: str, state: str = "ok", kind: str = "camera") -> SensorHealth:
    return SensorHealth(name, kind, state, 0.0, 0.0, 1.0, "")


DEFAULTS = {name: mode.severity for name, mode in MODES.items()}


@pytest.mark.parametrize(
    ("states", "modes", "worst"),
    [
        ({}, [], "ok"),
        ({"back": "late"}, ["some_cameras_lost"], "degraded"),
        ({"front": "invalid"}, ["front_cameras_lost", "some_cameras_lost"], "error"),
        (
            {"front": "invalid", "back": "silent"},
            ["all_cameras_lost", "front_cameras_lost", "some_cameras_lost"],
            "error",
        ),
        ({"near": "never_seen"}, ["some_radars_lost"], "degraded"),
        ({"near": "late", "far": "late"}, ["all_radars_lost", "some_radars_lost"], "degraded"),
        ({"odometry": "silent"}, ["no_ego_motion"], "error"),
        ({"back": "suspect"}, ["sensor_suspect"], "degraded"),
        ({"back": "absent", "near": "absent", "far": "absent"}, [], "ok"),
    ],
)
def test_modes(states: dict[str, str], modes: list[str], worst: str) -> None:
    kinds = {"front": "camera", "back": "camera", "near": "radar", "far": "radar", "odometry": "odometry"}
    sensors = [of(name, states.get(name, "ok"), kind) for name, kind in kinds.items()]
    found = situation(sensors, ("front",), without_memory_s=0.0)
    assert modes_that_hold(found, DEFAULTS) == (modes, worst)
    assert modes_that_hold(found, dict.fromkeys(DEFAULTS, "ok"))[1] == "ok"


def test_memory_off_is_a_mode_and_severities_are_ordered() -> None:
    found = situation([of("front")], ("front",), without_memory_s=2.1)
    assert modes_that_hold(found, DEFAULTS) == (["memory_off"], "degraded")
    assert modes_that_hold(situation([of("front")], ("front",), without_memory_s=2.0), DEFAULTS) == ([], "ok")
    assert SEVERITIES == ("ok", "degraded", "error") and set(DEFAULTS.values()) <= set(SEVERITIES)


def test_what_starts_up_is_no_failure_and_what_worked_is_one() -> None:
    failures = Failures()
    for starting in ("never_seen", "invalid", "late"):
        assert failures.look([of("cam_a", starting), of("radar_a")]) == {}
    assert failures.look([of("cam_a"), of("radar_a", "late")]) == {}
    broken = [dataclasses.replace(of("cam_a", "invalid"), reason="no_calibration"), of("radar_a", "silent")]
    assert failures.look(broken) == {"cam_a": "no_calibration", "radar_a": ""}
