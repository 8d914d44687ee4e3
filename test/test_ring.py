"""The ring: bounded in time and memory, triggers that begin once, a share of a core, bags that explain themselves."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are written with rosbags")

from rosbags.typesys import Stores, get_typestore

from bev_perception.bags.metadata import read_metadata
from bev_perception.bags.recording import open_bag
from bev_perception.ring import bag as ring_bag
from bev_perception.ring.bag import PARAMS, free_bytes, size_of, write_bag
from bev_perception.ring.buffer import LASTING, OVERHEAD, Kept, Ring
from bev_perception.ring.config import RingConfig
from bev_perception.ring.triggers import ASKED, LEAST, TRIGGERS, Braking, Edges, Moment
from bev_perception.worker import Budget

S = 1_000_000_000


def message(at_s: float, size: int = 10, topic: str = "/a") -> Kept:
    return Kept(topic, "std_msgs/msg/String", round(at_s * S), bytes(size))


def test_the_ring_forgets_what_is_older_than_it_is_long() -> None:
    ring = Ring(2.0, 10**9)
    for k in range(100):
        ring.add(message(0.1 * k))
    stamps = [kept.stamp_ns for kept in ring.taken()]
    assert stamps == sorted(stamps) and stamps[0] == round(7.9 * S) and len(stamps) == 21
    assert ring.bytes == 21 * (10 + OVERHEAD)


def test_memory_is_bounded_whatever_comes() -> None:
    ring, rng, most = Ring(1e6, 50_000), np.random.default_rng(0), 50_000
    for k in range(2000):
        ring.add(message(k, int(rng.integers(0, 20_000))))
        assert ring.bytes <= most and sum(len(m.data) + OVERHEAD for m in ring.taken()) == ring.bytes
    ring.add(message(3000, 10**6))  # one that does not fit is all that is there
    assert [len(kept.data) for kept in ring.taken()] == [10**6]
    ring.add(message(3001))
    assert ring.bytes <= most


def test_what_is_said_once_begins_every_recording_and_time_that_went_back_empties_the_ring() -> None:
    ring = Ring(2.0, 10**9)
    ring.add(message(0, topic="/tf_static"), lasting=True)
    assert ring.taken() == [], "alone it is no recording"
    for k in range(10):
        ring.add(message(k))
    assert [(m.topic, m.stamp_ns) for m in ring.taken()][:2] == [("/tf_static", 7 * S), ("/a", 7 * S)]
    ring.add(message(1))
    assert [m.stamp_ns for m in ring.taken()] == [1 * S, 1 * S]


def test_what_lasts_is_kept_once_however_often_it_is_said() -> None:
    ring = Ring(2.0, 10**9)
    ring.add(message(0, 7, topic="/tf_static"), lasting=True)
    for k in range(2 * LASTING):
        ring.add(message(k, 8, topic="/tf_static"), lasting=True)
    ring.add(message(0))
    assert [len(m.data) for m in ring.taken()] == [7, 8, 10]
    ring.add(message(1, 7, topic="/tf_static"), lasting=True)
    assert [len(m.data) for m in ring.taken()] == [8, 7, 10], "the last word comes last"


def test_what_has_waited_says_nothing_of_the_time() -> None:
    ring = Ring(2.0, 10**9)
    for k in range(10):
        ring.add(message(k))
    ring.add_late(message(8.5, topic="/late"))
    ring.add_late(message(1, topic="/too_late"))
    assert [(m.topic, m.stamp_ns) for m in ring.taken()] == [
        ("/a", 7 * S), ("/a", 8 * S), ("/a", 9 * S), ("/late", 8.5 * S),
    ]  # fmt: skip
    ring.pass_time(1 * S)
    assert ring.taken() == [] and ring.bytes == 0, "time went back"
    ring.add_late(message(9, topic="/of_the_drive_before"))
    assert ring.taken() == []
    ring.add_late(message(1))
    assert [m.stamp_ns for m in ring.taken()] == [1 * S]


def test_triggers_say_why() -> None:
    even, sure = np.full(LEAST, 0.5), np.full(LEAST, 0.99)
    fires = {
        "uncertainty": Moment(even),
        "health": Moment(signals={"novelty": 1.2}),
        "sensor_fault": Moment(faults={"CAM_FRONT": "stale"}),
        "hard_braking": Moment(deceleration=4.5),
        ASKED: Moment(asked="by the service"),
    }
    assert set(fires) == set(TRIGGERS) == set(RingConfig().triggers)
    for name, moment in fires.items():
        assert [other for other in TRIGGERS if TRIGGERS[other](moment)] == [name]
    assert TRIGGERS["uncertainty"](Moment(even)) == f"mean entropy 0.69 of {LEAST} detections"
    assert TRIGGERS["health"](fires["health"]) == "novelty 1.20 times its limit"
    for quiet in (Moment(), Moment(sure), Moment(even[:-1]), Moment(deceleration=3.9)):
        assert not any(trigger(quiet) for trigger in TRIGGERS.values())


def test_a_trigger_fires_when_it_begins() -> None:
    edges = Edges(("sensor_fault", "hard_braking"))
    broken = Moment(faults={"CAM_FRONT": "stale"})
    assert edges.look(Moment()) == {} and edges.look(broken) == {"sensor_fault": "CAM_FRONT stale"}
    assert edges.look(broken) == {}
    assert edges.look(Moment(faults=broken.faults, deceleration=5.0)) == {"hard_braking": "5.0 m/s2"}
    assert edges.look(Moment()) == {} and edges.look(broken) == {"sensor_fault": "CAM_FRONT stale"}
    assert Edges(("hard_braking",)).look(broken) == {}, "what was not asked for"


def test_an_alarm_that_lasts_is_one_drive_worth_keeping() -> None:
    """Its score goes to and fro about the limit; the alarm has said that it has not ended."""
    edges = Edges(("health",))
    began = [edges.look(Moment(signals={"novelty": value})) for value in (1.1, 0.9, 1.1, 0.85, 1.3)]
    assert began == [{"health": "novelty 1.10 times its limit"}, {}, {}, {}, {}]
    assert edges.look(Moment()) == {} and edges.look(Moment(signals={"novelty": 1.1}))


@pytest.mark.parametrize("rate_hz", [5, 10, 50])
def test_the_deceleration_is_that_of_the_drive(rate_hz: int) -> None:
    braking, told = Braking(), []
    for k in range(4 * rate_hz):
        t = k / rate_hz
        told.append(braking.add(round(t * S), 20.0 - 6.0 * max(0.0, t - 2.0)))
    half = math.ceil(rate_hz / 2)
    assert all(math.isnan(value) for value in told[:half])
    assert max(told[half : 2 * rate_hz]) == pytest.approx(0.0) and told[-1] == pytest.approx(6.0)
    assert math.isnan(braking.add(0, 3.0)), "another drive"
    assert math.isnan(braking.add(0, 3.0)), "the same pose again"


def test_no_more_than_the_share_is_spent() -> None:
    now = [0.0]
    budget = Budget(0.03, clock=lambda: now[0])
    spent = 0.0
    while now[0] < 100.0:
        if budget.owed_s() == 0.0:
            budget.spend(0.004)
            spent += 0.004
        now[0] += 0.01
    assert 0.025 * 100 <= spent <= 0.03 * 100 + 0.004


def test_work_is_spent_even_where_it_fails_and_what_lasts_is_spent_as_it_goes() -> None:
    used = [0.0]
    budget = Budget(0.1, used_s=lambda: used[0], clock=lambda: 0.0)
    with pytest.raises(ValueError, match="half way"), budget.work() as spend:
        used[0] += 0.2
        spend()
        assert budget.owed_s() == pytest.approx(2.0)
        used[0] += 0.1
        raise ValueError("half way")
    assert budget.owed_s() == pytest.approx(3.0)


def strings(count: int) -> list[Kept]:
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "std_msgs/msg/String"
    make = store.types[kind]
    return [Kept(f"/t{k % 2}", kind, k * S, bytes(store.serialize_cdr(make(data=f"{k}"), kind))) for k in range(count)]


def test_a_bag_holds_the_messages_and_the_reason(tmp_path: Path) -> None:
    target, sent = tmp_path / "bags" / "20260101_asked", strings(9)
    write_bag(target, sent, get_typestore(Stores.ROS2_JAZZY), {"trigger": "asked", "reason": "asked: x"}, "params")
    with open_bag(target) as recording:
        found = [(channel.topic, stamp, bytes(raw)) for channel, stamp, raw in recording.messages()]
        assert found == [(m.topic, m.stamp_ns, m.data) for m in sent]
        assert recording.deserialize(found[3][2], recording.connections[1]).data == "3"
    assert read_metadata(target)["custom_data"] == {"trigger": "asked", "reason": "asked: x"}
    assert (target / PARAMS).read_text() == "params" and size_of(tmp_path) > 500 and size_of(tmp_path / "no") == 0
    assert free_bytes(tmp_path / "not" / "there") > 0
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_files_that_go_while_they_are_counted_have_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "stays").write_bytes(bytes(30))
    (tmp_path / "bag" / "goes").write_bytes(bytes(500))
    stat = Path.stat

    def going(path: Path, **more: bool) -> os.stat_result:
        found = stat(path, **more)
        if path.name == "goes":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "stat", going)
    assert size_of(tmp_path) in (30, 530)
    assert size_of(tmp_path) == 30


def test_a_bag_that_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_bag, "PAUSE_BYTES", 1)

    def pace() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        write_bag(tmp_path / "bag", strings(5), get_typestore(Stores.ROS2_JAZZY), {}, "", pace)
    assert caught.value.filename == str(tmp_path / "bag") and list(tmp_path.iterdir()) == []
