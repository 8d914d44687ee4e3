"""Which state is used, and when the memory is emptied."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bev_perception.geometry import make_transform, rotation_from_yaw, transform_points
from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec
from bev_perception.structures import EgoPose, SensorFrame
from bev_perception.temporal import TemporalMemory

SPEC = ModelSpec(
    "m", ("c",), ("r",), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=BevGrid(0, 8, 0, 8, 1)
)
PERIOD_S = 1 / 12


def frame_at(t_s, epoch=0, speed=10.0):
    stamp = round(t_s * 1e9)
    return SensorFrame(
        stamp,
        EgoPose(stamp, make_transform(rotation_from_yaw(0.3 * t_s), np.array([speed * t_s, 0, 0])), epoch=epoch),
        (),
        (),
    )


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
    np.testing.assert_array_equal(inputs["prev_from_curr"], np.eye(4, dtype=np.float32))
    assert inputs["prev_dt"][0] == pytest.approx(0.5)
    inputs, _ = run(memory, [3 * PERIOD_S])
    assert inputs["prev_valid"].tolist() == [1.0] and inputs["prev_bev"][0, 0, 0] == 0.0
    assert reasons == ["", "", ""] and not memory.resets


@pytest.mark.parametrize(("rate_hz", "age_s"), [(2.0, 0.5), (5.0, 0.4), (1.0, 1.0), (30.0, 0.5)])
def test_other_frame_rates(rate_hz, age_s):
    inputs, reasons = run(TemporalMemory(SPEC), np.arange(1, 60) / rate_hz)
    assert inputs["prev_dt"][0] == pytest.approx(age_s, abs=0.04) and set(reasons) == {""}


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
        (frame_at(1.1, epoch=1), "pose_jump"),
        (frame_at(1.1, speed=100.0), "pose_jump"),  # 100 m from where it was 0.1 s ago
    ],
)
def test_discontinuities_reset_with_their_reason(then, reason):
    memory = TemporalMemory(SPEC)
    run(memory, np.arange(13) * PERIOD_S)
    inputs, found = memory.inputs(then)
    assert found == reason and memory.resets == {reason: 1}
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
    memory.reset("calibration_changed")  # nothing to lose yet
    assert not memory.resets
    run(memory, np.arange(13) * PERIOD_S)
    memory.reset("calibration_changed")
    assert memory.resets == {"calibration_changed": 1}
    assert memory.inputs(frame_at(1.1))[1] == "calibration_changed"
    assert memory.inputs(frame_at(1.1))[1] == ""


def test_device_handles_pass_through_untouched():
    memory = TemporalMemory(SPEC)
    handle = object()
    memory.store(frame_at(0.0), handle)
    assert memory.inputs(frame_at(0.5))[0]["prev_bev"] is handle


def test_a_model_without_memory_has_no_inputs_of_it_and_nothing_to_reset():
    memory = TemporalMemory(dataclasses.replace(SPEC, temporal=TemporalSpec(state_channels=0)))
    assert memory.inputs(frame_at(1.0)) == ({}, "") and memory.inputs(frame_at(0.0)) == ({}, "")
    memory.reset("calibration_changed")
    assert not memory.resets
