"""Frames from stamped messages when clock, odometry or calibration change, or what comes is not usable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sync_drive import (
    CALIBRATION,
    CONFIG,
    MS,
    OFFSETS,
    START,
    anchors,
    drive,
    feed,
    image,
    make_sync,
    pose,
    scan,
)

from bev_perception.structures import EgoPose, Epoch, RadarScan


def test_bag_loop_resets_once_and_frames_continue():
    sync = make_sync()
    first = feed(sync, drive(), poll_after_s=0.05)
    second = feed(sync, drive(), poll_after_s=0.5)
    assert sync.counters["reset/time_jump_back"] == 1
    # A message may arrive before the clock has jumped; after that the loop is like the first pass.
    assert [f.stamp_ns for f in second][-15:] == anchors()[-15:]
    assert len(second) >= len(first) - 1
    assert second[-1].ego.epoch > first[-1].ego.epoch
    assert first[-1].epoch == Epoch() and second[-1].epoch == Epoch(1, "time_jump_back")


def test_clock_that_jumps_back_resets():
    sync = make_sync()
    feed(sync, drive(1.0))
    assert sync.poll(START - 5_000 * MS) == []
    assert sync.counters["reset/time_jump_back"] == 1
    frames = feed(sync, drive(start=START - 5_000 * MS))
    assert len(frames) >= 20 and {f.epoch for f in frames} == {Epoch(1, "time_jump_back")}


def test_future_and_past_stamps_are_refused():
    sync = make_sync()
    feed(sync, drive(1.0), poll_after_s=0)
    now = START + 1_000 * MS
    assert sync.taken.add_camera(image("front", now + 1_500 * MS)) == "future_stamp"
    assert sync.taken.add_pose(pose(now + 5_000 * MS)) == "future_stamp"
    assert sync.taken.add_radar(scan("near", now - 2_500 * MS)) == "too_old"
    assert sync.counters["front/future_stamp"] == sync.counters["near/too_old"] == 1
    assert "reset/time_jump_back" not in sync.counters
    rest = [m for m in drive(3.0) if m.stamp_ns > now]
    assert len(feed(sync, rest)) >= 22


def test_unknown_sensors_and_malformed_scans_are_refused():
    sync = make_sync()
    assert sync.taken.add_camera(image("roof", START)) == "unknown_sensor"
    assert sync.taken.add_radar(scan("roof", START)) == "unknown_sensor"
    for points in (np.zeros((3, 5)), np.zeros(6), np.zeros((1, 3, 6))):
        assert sync.taken.add_radar(RadarScan("near", START, points.astype(np.float32))) == "bad_layout"
    assert sync.counters == {"roof/unknown_sensor": 2, "near/bad_layout": 3}


def test_no_pose_gives_no_frame_and_a_reason():
    sync = make_sync()
    frames = feed(sync, drive(without=("odometry",)))
    assert frames == []
    assert sync.counters["frame/no_pose"] >= 20
    assert sync.taken.missing == {"odometry": "no_pose"}


def test_odometry_that_stops_is_extrapolated_up_to_the_limit():
    cut = START + 1_000 * MS
    messages = [m for m in drive() if not (isinstance(m, EgoPose) and m.stamp_ns > cut)]
    sync = make_sync()
    frames = feed(sync, messages)
    assert frames[-1].stamp_ns <= cut + CONFIG.max_extrapolation_ns
    assert frames[-1].stamp_ns > cut
    np.testing.assert_allclose(frames[-1].ego.odom_from_ego, pose(frames[-1].stamp_ns).odom_from_ego, atol=1e-6)
    assert sync.counters["frame/no_pose"] >= 8


def test_pose_jump_separates_what_was_measured_before():
    jump = START + 1_060 * MS
    messages = [
        pose(m.stamp_ns, shift=30.0) if isinstance(m, EgoPose) and m.stamp_ns >= jump else m for m in drive(3.0)
    ]
    sync = make_sync()
    frames = feed(sync, messages)
    assert {f.ego.epoch for f in frames if f.stamp_ns < jump - 30 * MS} == {0}
    assert {f.ego.epoch for f in frames if f.stamp_ns > jump + 30 * MS} == {1}
    for frame in frames:
        measured = [v.ego for v in frame.cameras if v] + [s.ego for sweeps in frame.radars for s in sweeps]
        assert all(ego.epoch == frame.ego.epoch for ego in measured)
    after = next(f for f in frames if f.stamp_ns >= jump)
    assert "pose_jump" in after.missing.values()


def test_missing_calibration_is_a_named_reason_until_it_comes():
    sync = make_sync(calibrated=False)
    sync.taken.set_radar_extrinsics("near", np.eye(4))
    half = START + 1_000 * MS
    frames = feed(sync, [m for m in drive() if m.stamp_ns < half], poll_after_s=0)
    expected = {**dict.fromkeys(OFFSETS, "no_calibration"), "far": "no_calibration"}
    assert len(frames) > 5 and frames[-1].missing == expected
    for name in OFFSETS:
        assert sync.taken.set_camera_calibration(name, CALIBRATION) is False
    frames = feed(sync, [m for m in drive() if m.stamp_ns >= half])
    assert frames[-1].missing == {"far": "no_calibration"}


def test_changed_calibration_is_noticed():
    sync = make_sync()
    assert sync.taken.set_camera_calibration("front", dataclasses.replace(CALIBRATION, K=np.eye(3))) is False
    assert sync.taken.set_camera_calibration("front", dataclasses.replace(CALIBRATION, K=2 * np.eye(3))) is True
    assert sync.counters["front/calibration_changed"] == 1
    different = dict(width=3, height=3, distortion_model="fisheye", D=(0.1,), ego_from_cam=2 * np.eye(4))
    for change in ({name: value} for name, value in different.items()):
        assert sync.taken.set_camera_calibration("left", dataclasses.replace(CALIBRATION, **change)) is True
        assert sync.taken.set_camera_calibration("left", CALIBRATION) is True
    assert sync.taken.set_radar_extrinsics("near", np.eye(4)) is False
    assert sync.taken.set_radar_extrinsics("near", 2 * np.eye(4)) is True
    assert sync.counters["near/calibration_changed"] == 1


def test_frames_assembled_after_a_change_of_calibration_are_of_a_new_epoch():
    """The change comes between an anchor's image and the frame's completion: that frame, too, is made with it."""
    other = dataclasses.replace(CALIBRATION, K=2 * np.eye(3))
    changes = {
        8: lambda: sync.taken.set_camera_calibration("front", other),
        9: lambda: sync.taken.set_camera_calibration("front", other),  # said again
        16: lambda: sync.taken.set_radar_extrinsics("near", 2 * np.eye(4)),
    }
    sync, frames = make_sync(), []
    for message in drive():
        frames += feed(sync, [message], poll_after_s=0)
        if getattr(message, "sensor", "") == "back" and (k := anchors().index(message.stamp_ns)) in changes:
            assert len(frames) == k  # the image of frame k is there, the frame is not
            changes[k]()
    expected = [Epoch()] * 8 + [Epoch(1, "calibration_changed")] * 8 + [Epoch(2, "calibration_changed")] * 20
    assert [f.epoch for f in frames] == expected[: len(frames)] and len(frames) > 20
    assert [f.cameras[1].calibration.K[0, 0] for f in frames] == [1.0] * 8 + [2.0] * (len(frames) - 8)


def test_nothing_that_contributes_gives_no_frame():
    sync = make_sync(calibrated=False)
    assert feed(sync, drive()) == []
    assert sync.counters["frame/no_sensor"] >= 20


def test_buffers_stay_bounded():
    sync = make_sync()
    for k in range(2_000):  # no pose, no poll: nothing is ever taken out
        sync.taken.add_camera(image("front", START + k * 10 * MS))
        sync.taken.add_radar(scan("near", START + k * 10 * MS))
    assert len(sync.taken.cameras["front"].items) == 11  # 4, and 4 in each of the 1.8 periods of a deadline
    assert len(sync.taken.radars["near"].items) == 64


@pytest.mark.parametrize(
    "change",
    [{"anchor": "roof"}, {"offsets_ns": {"roof": 1}}, {"offsets_ns": {"back": 1}}, {"camera_tolerance_ns": 42 * MS}],
)
def test_inconsistent_configuration_is_refused(change):
    with pytest.raises(ValueError, match=r"roof|offset|tolerance"):
        dataclasses.replace(CONFIG, **change)
