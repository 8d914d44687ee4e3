"""Frames from stamped messages: every way in which sensors can be late, early, absent or repeated."""

from __future__ import annotations

import dataclasses
import heapq
import random

import numpy as np
import pytest
from sync_drive import (
    CONFIG,
    MS,
    OFFSETS,
    PERIOD,
    START,
    add,
    anchors,
    content,
    drive,
    feed,
    image,
    make_sync,
    pose,
)

from bev_perception.structures import CameraFrame, EgoPose, RadarScan
from bev_perception.sync_config import SyncConfig


def test_complete_frames_at_every_anchor_without_waiting():
    sync = make_sync()
    frames = feed(sync, drive(), poll_after_s=0)
    # The last anchors may still wait for a pose or a scan; what was delivered is complete, in order, at the stamps.
    assert [f.stamp_ns for f in frames] == anchors()[: len(frames)]
    assert len(frames) >= len(anchors()) - 1
    for frame in frames[8:]:
        assert frame.missing == {}
        for view, offset in zip(frame.cameras, OFFSETS.values()):
            assert view.frame.stamp_ns == frame.stamp_ns + offset
        for sweeps in frame.radars:
            stamps = [s.scan.stamp_ns for s in sweeps]
            assert len(stamps) == 6 and stamps == sorted(stamps, reverse=True)
            assert stamps[0] <= frame.stamp_ns - CONFIG.radar_settle_ns < stamps[0] + 77 * MS
            assert stamps[-1] >= frame.stamp_ns - CONFIG.radar_max_age_ns


def test_latency_of_a_complete_frame_is_bounded_by_the_sensors_not_the_deadline():
    sync = make_sync()
    due = {}
    for message in drive():
        add(sync, message)
        for frame in sync.poll(message.stamp_ns):
            due[frame.stamp_ns] = message.stamp_ns - frame.stamp_ns
    # Worst case: the radar scan that proves nothing older is missing comes one period after the settle time.
    assert max(due.values()) <= 77 * MS - CONFIG.radar_settle_ns + 1 * MS


def test_ego_poses_belong_to_each_measurement():
    frame = feed(make_sync(), drive())[-1]
    for stamp, ego in [(v.frame.stamp_ns, v.ego) for v in frame.cameras] + [
        (s.scan.stamp_ns, s.ego) for sweeps in frame.radars for s in sweeps
    ]:
        assert ego.stamp_ns == stamp
        np.testing.assert_allclose(ego.odom_from_ego, pose(stamp).odom_from_ego, atol=1e-9)


@pytest.mark.parametrize("without", [(), ("front",), ("near",), ("left", "right", "far")])
def test_frames_do_not_depend_on_the_order_of_arrival(without):
    """Each sensor in its own order and with its own random delays: the same frames, bit for bit.

    Cameras and poses below the deadline, radars below the time for which their scans are left to settle.
    """
    messages = [m for m in drive(1.6) if not (m.stamp_ns < START + 60 * MS and isinstance(m, CameraFrame))]
    drop = random.Random(1)
    lost = {id(m) for m in messages if isinstance(m, CameraFrame) and drop.random() < 0.1}
    messages = [m for m in messages if id(m) not in lost and getattr(m, "sensor", "") not in without]
    config = dataclasses.replace(CONFIG, deadline_ns=400 * MS)  # fires only for what never comes
    reference = None
    for seed in range(20):
        rng = random.Random(seed)
        arrivals, queue = {}, []
        for k, m in enumerate(messages):
            sensor = getattr(m, "sensor", "odometry")
            most = config.radar_settle_ns if isinstance(m, RadarScan) else 100 * MS
            arrival = max(m.stamp_ns + rng.randrange(most), arrivals.get(sensor, 0) + 1)
            arrivals[sensor] = arrival
            heapq.heappush(queue, (arrival, k, m))
        sync = make_sync(config)
        frames = []
        while queue:
            arrival, _, m = heapq.heappop(queue)
            sync.taken.advance(arrival)
            assert add(sync, m) == ""
            frames += sync.poll(arrival)
        found = [content(f) for f in frames]
        reference = reference or found
        # The last frames may still be waiting when the messages end.
        both = min(len(found), len(reference))
        assert both >= 12 and found[:both] == reference[:both]


def test_nearest_image_is_kept_when_a_camera_is_faster_than_the_anchor():
    """A 30 Hz camera has several images in the window: the choice must not depend on what arrived first."""
    messages = drive(without=("front",))
    messages += [image("front", START + k * 33_333_333) for k in range(60)]
    frames = feed(make_sync(), sorted(messages, key=lambda m: m.stamp_ns))
    for frame in frames:
        assert abs(frame.cameras[1].frame.stamp_ns - (frame.stamp_ns - 35 * MS)) <= CONFIG.camera_tolerance_ns * 0.6


def test_an_image_is_early_by_half_of_the_tolerance_at_most_where_a_later_one_is_there():
    """Between a third and a half before its time it is timely; more than half before, the next one is taken."""
    tolerance = CONFIG.camera_tolerance_ns
    for early, later_is_taken in ((tolerance * 2 // 5, False), (tolerance * 3 // 5, True)):
        taken = make_sync().taken
        target = START + 1_000 * MS + CONFIG.offset("front")
        for stamp in (target - early, target + tolerance // 2):
            assert taken.add_camera(image("front", stamp)) == ""
        chosen = taken.image("front", START + 1_000 * MS)
        assert (chosen.stamp_ns > target) == later_is_taken


@pytest.mark.parametrize("absent", [{"front"}, {"near"}, {"left", "right", "far"}, {"back"}])
def test_a_sensor_that_the_vehicle_does_not_have_is_not_waited_for(absent):
    """The same frames as when it is silent, but for its reason, its count, and the time for which it was expected."""
    messages = drive(without=absent)
    anchor = "right" if "back" in absent else "back"
    offsets = {name: ns - OFFSETS[anchor] for name, ns in OFFSETS.items() if name not in absent}
    config = dataclasses.replace(
        CONFIG, absent=frozenset(absent), anchor=anchor, offsets_ns=offsets, startup_ns=10**12, silence_ns=10**12,
        deadline_ns=10**12,
    )  # fmt: skip
    sync = make_sync(config)
    frames = feed(sync, messages)
    assert len(frames) >= len(anchors()) - 1
    for frame in frames[8:]:
        assert frame.missing == dict.fromkeys(absent, "absent")
        assert len(frame.cameras) == len(CONFIG.cameras) and len(frame.radars) == len(CONFIG.radars)
        shown = dict(zip((*CONFIG.cameras, *CONFIG.radars), (*frame.cameras, *frame.radars)))
        assert {name for name, found in shown.items() if not found} == absent
    assert not [name for name in sync.counters if name.endswith("/absent")]
    for name in absent:
        assert sync.taken.add_camera(image(name, START + 2_900 * MS)) == "unknown_sensor"


def test_a_rig_without_cameras_goes_by_its_radars():
    config = dataclasses.replace(CONFIG, absent=frozenset(OFFSETS), anchor="", offsets_ns={}, startup_ns=0)
    frames = feed(make_sync(config), drive(without=OFFSETS))
    assert len(frames) > 10 and all(frame.missing == dict.fromkeys(OFFSETS, "absent") for frame in frames[2:])


def test_out_of_order_messages_of_one_sensor():
    messages = drive()
    shuffled = []
    for sensor in (*OFFSETS, "near", "far", "odometry"):
        own = [m for m in messages if getattr(m, "sensor", "odometry") == sensor]
        own[10], own[11] = own[11], own[10]
        shuffled.append([(max(m.stamp_ns, own[max(i - 1, 0)].stamp_ns), i, m) for i, m in enumerate(own)])
    ordered = [m for _, _, m in sorted((x for own in shuffled for x in own), key=lambda x: x[:2])]
    frames = feed(make_sync(), ordered)
    assert [f.stamp_ns for f in frames] == sorted(f.stamp_ns for f in frames)
    assert len(frames) >= len(anchors()) - 1


def test_duplicates_are_refused_and_counted():
    sync = make_sync()
    doubled = [m for message in drive() for m in (message, message)]
    frames = feed(sync, doubled)
    assert [f.stamp_ns for f in frames] == anchors()
    assert sync.counters["odometry/duplicate"] == len([m for m in drive() if isinstance(m, EgoPose)])
    assert sum(sync.counters[f"left/{r}"] for r in ("duplicate", "too_late")) == len(anchors())


@pytest.mark.parametrize("absent", [*OFFSETS, "near", "far"])
def test_sensor_absent_from_the_start(absent):
    sync = make_sync()
    frames = feed(sync, drive(3.0, without=(absent,)))
    late = [f for f in frames if f.stamp_ns > START + 1_500 * MS]
    assert len(late) >= 16
    for frame in late:
        assert frame.missing == {absent: "never_seen"}
    gaps = np.diff([f.stamp_ns for f in late])
    np.testing.assert_allclose(gaps, PERIOD, atol=5)  # also without the anchor: stamps from another camera
    assert sync.counters[f"{absent}/never_seen"] >= 16
    assert sync.taken.missing[absent] == "never_seen"


@pytest.mark.parametrize("lost", [*OFFSETS, "near", "far"])
def test_sensor_that_vanishes_and_comes_back(lost):
    gone_from, gone_to = START + 2_000 * MS, START + 5_000 * MS
    messages = [m for m in drive(8.0) if getattr(m, "sensor", "") != lost or not gone_from < m.stamp_ns < gone_to]
    sync = make_sync()
    frames = feed(sync, messages)
    gaps = np.diff([f.stamp_ns for f in frames])
    assert gaps.max() < 1.6 * PERIOD and gaps.min() > 0.4 * PERIOD  # never a stall, never a burst
    reasons = {f.missing.get(lost, "") for f in frames if gone_from + 1_700 * MS < f.stamp_ns < gone_to - 700 * MS}
    assert reasons == {"stale"}
    back = [f for f in frames if f.stamp_ns > gone_to + 200 * MS]
    assert back and all(f.missing == {} for f in back)
    assert [f.stamp_ns for f in back] == [t for t in anchors(8.0) if t >= back[0].stamp_ns]


def test_a_silent_sensor_costs_the_deadline_only_until_it_is_stale():
    gone_from = START + 2_000 * MS
    sync = make_sync()
    waited = {}
    for message in (m for m in drive(6.0) if getattr(m, "sensor", "") != "front" or m.stamp_ns < gone_from):
        add(sync, message)
        for frame in sync.poll(message.stamp_ns):
            waited[frame.stamp_ns] = message.stamp_ns - frame.stamp_ns
    first = [w for t, w in waited.items() if gone_from + 100 * MS < t < gone_from + 900 * MS]
    later = [w for t, w in waited.items() if t > gone_from + 1_200 * MS]
    assert min(first) >= CONFIG.deadline_ns and max(first) < CONFIG.deadline_ns + 25 * MS
    assert max(later) < 60 * MS


def test_all_cameras_lost_leaves_radar_frames():
    cut = START + 2_000 * MS
    messages = [m for m in drive(6.0) if not (isinstance(m, CameraFrame) and m.stamp_ns > cut)]
    frames = feed(make_sync(), messages)
    blind = [f for f in frames if f.stamp_ns > cut + 1_200 * MS]
    assert len(blind) > 20
    for frame in blind:
        assert set(frame.missing) == set(OFFSETS) and set(frame.missing.values()) == {"stale"}
        assert frame.cameras == (None,) * 4 and all(frame.radars)


def test_late_image_is_left_out_by_the_deadline_and_then_refused():
    held = START + 10 * PERIOD + OFFSETS["front"]
    messages = drive()
    late = next(m for m in messages if getattr(m, "sensor", "") == "front" and m.stamp_ns == held)
    messages.remove(late)
    # The same camera keeps silent meanwhile, so nothing proves that the image was lost: only the deadline helps.
    messages = [m for m in messages if getattr(m, "sensor", "") != "front" or m.stamp_ns < held]
    sync = make_sync()
    frames = feed(sync, messages)
    frame = next(f for f in frames if f.stamp_ns == START + 10 * PERIOD)
    assert frame.missing == {"front": "late"}
    assert sync.taken.add_camera(late) == "too_late"
    assert sync.counters["front/late"] >= 1 and sync.counters["front/too_late"] == 1


def test_dropped_image_does_not_wait_for_the_deadline():
    held = START + 10 * PERIOD + OFFSETS["front"]
    config = dataclasses.replace(CONFIG, deadline_ns=10_000 * MS)
    messages = [m for m in drive() if not (getattr(m, "sensor", "") == "front" and m.stamp_ns == held)]
    frames = feed(make_sync(config), messages, poll_after_s=0)
    frame = next(f for f in frames if f.stamp_ns == START + 10 * PERIOD)
    assert frame.missing == {"front": "out_of_tolerance"}


def test_a_lost_anchor_image_does_not_cost_its_frame():
    lost = START + 10 * PERIOD
    config = dataclasses.replace(CONFIG, deadline_ns=300 * MS)
    messages = [m for m in drive() if not (getattr(m, "sensor", "") == "back" and m.stamp_ns == lost)]
    frames = feed(make_sync(config), messages)
    assert [f.stamp_ns for f in frames] == anchors()
    assert frames[9].missing == {"back": "out_of_tolerance"}


def test_image_outside_the_tolerance_is_not_used():
    messages = [
        image("front", m.stamp_ns + 41 * MS) if getattr(m, "sensor", "") == "front" else m for m in drive(without=())
    ]
    frames = feed(make_sync(), sorted(messages, key=lambda m: m.stamp_ns))
    assert len(frames) >= 20
    assert {f.missing.get("front") for f in frames[1:-2]} == {"out_of_tolerance"}


def test_anchor_images_too_close_to_each_other_are_dropped():
    messages = drive() + [image("back", t + 20 * MS) for t in anchors()]
    sync = make_sync()
    frames = feed(sync, sorted(messages, key=lambda m: m.stamp_ns))
    assert [f.stamp_ns for f in frames] == anchors()
    assert sync.counters["back/too_close"] + sync.counters["back/too_late"] >= 20


def test_radar_only_and_camera_only_rigs():
    radar_only = SyncConfig((), ("near", "far"))
    frames = feed(make_sync(radar_only), drive(3.0, sensors=("near", "far", "odometry")))
    assert len(frames) > 20 and all(all(f.radars) for f in frames[5:])
    camera_only = dataclasses.replace(CONFIG, radars=())
    frames = feed(make_sync(camera_only), drive(sensors=(*OFFSETS, "odometry")))
    assert [f.stamp_ns for f in frames] == anchors() and frames[-1].radars == ()
