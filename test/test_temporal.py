"""Which state is used, and when the memory is emptied."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bev_perception.geometry import make_transform, rotation_from_yaw, transform_points
from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec
from bev_perception.structures import EgoPose, Epoch, SensorFrame
from bev_perception.temporal import TemporalMemory

SPEC = ModelSpec(
    "m", ("c",), ("r",), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=BevGrid(0, 8, 0, 8, 1)
)
PERIOD_S = 1 / 12
FIRST, RECALIBRATED = Epoch(), Epoch(1, "calibration_changed")


def frame_at(t_s, pose_epoch=0, speed=10.0, epoch=FIRST):
    stamp = round(t_s * 1e9)
    odom_from_ego = make_transform(rotation_from_yaw(0.3 * t_s), np.array([speed * t_s, 0, 0]))
    return SensorFrame(stamp, EgoPose(stamp, odom_from_ego, epoch=pose_epoch), (), (), epoch=epoch)


def run(memory, times, **kwargs):
    """Store a state holding its own time for each frame; -> the last frame's inputs and reasons."""
    reasons, inputs = [], {}
    for t in times:
        frame = frame_at(t, **kwargs)
        inputs, reason = memory.inputs(frame)
        reasons.append(reason)
        memory.store(frame, np.full((64, 8, 8), t, np.float32))
    return inputs, reasons


def test_the_state_nearest_the_interval_is_used():
    memory = TemporalMemory(SPEC)
    inputs, reasons = run(memory, np.arange(40) * PERIOD_S)
    now, used = 39 * PERIOD_S, 33 * PERIOD_S  # six periods are 0.5 s
    assert set(reasons) == {""}
    assert inputs["prev_bev"][0, 0, 0] == pytest.approx(used)
    assert inputs["prev_valid"].tolist() == [1.0]
    assert inputs["prev_dt"][0] == pytest.approx(now - used, abs=1e-6)
    point_now = np.array([[10.0, 3.0, 1.0]])
    in_odom = transform_points(frame_at(now).ego.odom_from_ego, point_now)
    in_prev = transform_points(inputs["prev_from_curr"].astype(float), point_now)
    np.testing.assert_allclose(transform_points(frame_at(used).ego.odom_from_ego, in_prev), in_odom, atol=1e-4)
    expected = {t.name: (t.shape, t.dtype) for t in SPEC.inputs() if t.name.startswith("prev_")}
    assert {name: (a.shape, str(a.dtype)) for name, a in inputs.items()} == expected


def test_no_state_until_the_minimum_age():
    memory = TemporalMemory(SPEC)
    inputs, reasons = run(memory, [0.0, PERIOD_S, 2 * PERIOD_S])
    assert inputs["prev_valid"].tolist() == [0.0] and not inputs["prev_bev"].any()
    assert not inputs["prev_bev"].flags.writeable  # every frame without a state gets the same zeros
    np.testing.assert_array_equal(inputs["prev_from_curr"], np.eye(4, dtype=np.float32))
    assert inputs["prev_dt"][0] == pytest.approx(0.5)
    inputs, _ = run(memory, [3 * PERIOD_S])
    assert inputs["prev_valid"].tolist() == [1.0] and inputs["prev_bev"][0, 0, 0] == 0.0
    assert reasons == ["", "", ""]


@pytest.mark.parametrize(("rate_hz", "age_s"), [(2.0, 0.5), (5.0, 0.4), (1.0, 1.0), (30.0, 0.5)])
def test_other_frame_rates(rate_hz, age_s):
    inputs, reasons = run(TemporalMemory(SPEC), np.arange(1, 60) / rate_hz)
    assert inputs["prev_dt"][0] == pytest.approx(age_s, abs=0.04) and set(reasons) == {""}


def stored(*times_s):
    """A memory of frames at these times, each state a handle that is its time."""
    memory = TemporalMemory(SPEC)
    for t in times_s:
        memory.store(frame_at(t), t)
    return memory


def test_ages_from_the_least_to_the_greatest_are_used():
    for age_s, valid in ((0.199, 0.0), (0.2, 1.0), (1.1, 1.0)):
        inputs, reason = stored(0.0).inputs(frame_at(age_s))
        assert (inputs["prev_valid"].tolist(), reason) == ([valid], "")


def test_of_two_states_as_near_to_the_interval_the_newer_is_used():
    assert stored(0.0, 0.25).inputs(frame_at(0.625))[0]["prev_bev"] == 0.25
    assert stored(0.0, 0.25).inputs(frame_at(0.6))[0]["prev_bev"] == 0.0


def test_states_are_an_eighth_of_the_interval_apart_and_leave_with_the_greatest_age():
    assert len(stored(0.0, 0.0625, 0.125)) == 3
    assert len(stored(0.0, 0.0624, 0.0625)) == 2  # the second is not taken, the third is apart from the first
    assert len(stored(0.0, 0.5, 1.1)) == 3
    assert len(stored(0.0, 0.5, 1.100000001)) == 2


@pytest.mark.parametrize(("speed", "reason"), [(72.0, ""), (72.02, "pose_jump")])
def test_the_limit_of_a_pose_jump_is_a_metre_more_than_the_top_speed_explains(speed, reason):
    memory = TemporalMemory(SPEC)
    memory.store(frame_at(0.0, speed=speed), None)
    assert memory.inputs(frame_at(0.5, speed=speed))[1] == reason  # 36 m at most


def test_the_ring_is_bounded():
    memory = TemporalMemory(SPEC)
    run(memory, np.arange(1000) / 100)
    assert len(memory) <= 18


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (frame_at(1.0), "time_backward"),
        (frame_at(0.5), "time_backward"),
        (frame_at(2.2), "gap"),
        (frame_at(1.1, pose_epoch=1), "pose_jump"),
        (frame_at(1.1, speed=100.0), "pose_jump"),  # 100 m from where it was 0.1 s ago
        (frame_at(1.1, epoch=RECALIBRATED), "calibration_changed"),
        (frame_at(0.5, epoch=Epoch(1, "time_jump_back")), "time_jump_back"),  # what is known counts, not its traces
        (frame_at(1.1, epoch=Epoch(4, "calibration_changed")), "calibration_changed"),  # 1 to 3 were never seen
    ],
)
def test_discontinuities_reset_with_their_reason(then, reason):
    memory = TemporalMemory(SPEC)
    run(memory, np.arange(13) * PERIOD_S)
    inputs, found = memory.inputs(then)
    assert found == reason
    assert inputs["prev_valid"].tolist() == [0.0] and len(memory) == 0
    memory.store(then, np.zeros((64, 8, 8), np.float32))
    _, found = memory.inputs(
        dataclasses.replace(
            then, stamp_ns=then.stamp_ns + 1, ego=dataclasses.replace(then.ego, stamp_ns=then.stamp_ns + 1)
        )
    )
    assert found == ""


def test_reset_by_the_caller_is_told_once():
    memory = TemporalMemory(SPEC)
    memory.reset("not_finite_output")  # nothing to lose yet
    _, reasons = run(memory, np.arange(13) * PERIOD_S)
    assert set(reasons) == {""}
    memory.reset("not_finite_output")
    assert memory.inputs(frame_at(1.1))[1] == "not_finite_output"
    assert memory.inputs(frame_at(1.1))[1] == ""
    memory.reset("not_finite_output")  # nothing to lose any more
    assert memory.inputs(frame_at(1.1))[1] == ""
    for reason in ("first", "second"):
        memory.store(frame_at(1.2), None)
        memory.reset(reason)
    assert memory.inputs(frame_at(1.3))[1] == "first"


def test_an_epoch_that_finds_nothing_to_forget_is_not_told():
    memory = TemporalMemory(SPEC)
    _, reasons = run(memory, np.arange(13) * PERIOD_S, epoch=RECALIBRATED)
    assert set(reasons) == {""} and len(memory) > 5


def test_a_frame_of_the_old_epoch_still_has_its_memory():
    """What was assembled before the change is processed as ever, however late that happens."""
    memory = TemporalMemory(SPEC)
    run(memory, np.arange(13) * PERIOD_S)
    inputs, reasons = run(memory, [13 * PERIOD_S])
    assert reasons == [""] and inputs["prev_valid"].tolist() == [1.0]
    inputs, reasons = run(memory, np.arange(14, 18) * PERIOD_S, epoch=RECALIBRATED)
    assert reasons == ["calibration_changed", "", "", ""]
    assert inputs["prev_valid"].tolist() == [1.0] and inputs["prev_bev"][0, 0, 0] == pytest.approx(14 * PERIOD_S)


def test_an_epoch_says_why_it_began():
    with pytest.raises(ValueError, match="epoch 2 has no reason"):
        Epoch(2, "")


def test_device_handles_pass_through_untouched():
    memory = TemporalMemory(SPEC)
    handle = object()
    memory.store(frame_at(0.0), handle)
    assert memory.inputs(frame_at(0.5))[0]["prev_bev"] is handle


def test_a_model_without_memory_has_no_inputs_of_it_and_nothing_to_reset():
    memory = TemporalMemory(dataclasses.replace(SPEC, temporal=TemporalSpec(state_channels=0)))
    assert memory.inputs(frame_at(1.0)) == ({}, "") and memory.inputs(frame_at(0.0)) == ({}, "")
    memory.reset("not_finite_output")
    assert memory.inputs(frame_at(2.0, epoch=RECALIBRATED)) == ({}, "")
