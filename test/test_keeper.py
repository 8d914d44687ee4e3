"""The ring's thread, without a node: what is asked for while it writes, what waits for it, what its bags say."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rosbags", reason="bags are written with rosbags")

from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from bev_perception.ring.config import RingConfig
from bev_perception.ring.triggers import ASKED, Moment
from bev_perception.ros import keeper as module
from bev_perception.ros.keeper import Keeper
from bev_perception.ros.telemetry import Telemetry
from bev_perception.sensors.intake import IMAGE, Source

S = 1_000_000_000
TEXT = Source("/a", "a", "std_msgs/msg/String", lambda message: None)
CAMERA = Source("/image", "cam", IMAGE, lambda message: None)
MIB = 2**20


def raw_image(rows: int, columns: int) -> bytes:
    pixels = bytes(rows * columns * 3)
    return bytes(serialize_message(Image(height=rows, width=columns, step=3 * columns, encoding="bgr8", data=pixels)))


class Node:
    """As much of a node as the keeper uses. now_ns: of its clock."""

    def __init__(self) -> None:
        self.now_ns = 1000 * S
        self.log = SimpleNamespace(info=lambda text: None, error=lambda text: None)

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns))

    def get_logger(self) -> Any:
        return self.log

    def create_service(self, kind: Any, name: str, callback: Any) -> Any:
        return callback

    def destroy_service(self, service: Any) -> None:
        pass


class Written:
    """In the place of write_bag; each bag waits until it is let go."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.bags: list[tuple[Path, dict[str, str], str, list[Any]]] = []

    def __call__(self, target: Path, messages: Any, store: Any, facts: Any, params: str, pace: Any) -> None:
        self.bags.append((target, dict(facts), params, list(messages)))
        target.mkdir(parents=True)
        self.began.release()
        assert self.go_on.acquire(timeout=20)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    instead = Written()
    monkeypatch.setattr(module, "write_bag", instead)
    return instead


@contextmanager
def keeping(
    folder: Path, node: Node | None = None, params: Callable[[], dict[str, Any]] = dict, **more: Any
) -> Iterator[tuple[Keeper, Telemetry]]:
    telemetry = Telemetry()
    config = RingConfig(folder=str(folder), **{"after_s": 0.0, "pause_s": 3600.0, **more})
    keeper = Keeper(node or Node(), config, params, telemetry)  # type: ignore[arg-type]
    try:
        keeper.take(TEXT, b"one")
        yield keeper, telemetry
    finally:
        keeper.close()


def asked(keeper: Keeper) -> Any:
    return keeper._on_asked(Trigger.Request(), Trigger.Response())


def brake(keeper: Keeper) -> None:
    """A trigger begins; the one before has ended."""
    keeper.look(Moment(), None)
    keeper._braking = SimpleNamespace(add=lambda *pose: 9.0)  # type: ignore[assignment]
    keeper.look(Moment(), (1, 1.0))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_asks_while_a_bag_is_written_has_another(tmp_path: Path, written: Written) -> None:
    with keeping(tmp_path) as (keeper, telemetry):
        brake(keeper)
        assert written.began.acquire(timeout=20)
        assert asked(keeper).success
        written.go_on.release(2)
        assert written.began.acquire(timeout=20), "the bag that was promised"
        until(lambda: telemetry.snapshot().counters.get("ring_bag_written") == 2)
        assert [facts["trigger"] for _, facts, _, _ in written.bags] == ["hard_braking", ASKED]


def test_a_trigger_while_a_bag_is_written_is_counted_as_too_early(tmp_path: Path, written: Written) -> None:
    with keeping(tmp_path) as (keeper, telemetry):
        assert asked(keeper).success
        assert written.began.acquire(timeout=20)
        brake(keeper)
        assert telemetry.snapshot().counters.get("ring_rate_limited") == 1
        written.go_on.release(2)
        until(lambda: telemetry.snapshot().counters.get("ring_bag_written") == 1)
        assert not written.began.acquire(timeout=0.3)


def test_reasons_before_the_writing_begins_share_a_bag(tmp_path: Path, written: Written) -> None:
    with keeping(tmp_path, after_s=0.3) as (keeper, _):
        assert asked(keeper).success
        brake(keeper)
        written.go_on.release(2)
        assert written.began.acquire(timeout=20) and not written.began.acquire(timeout=0.6)
        assert written.bags[0][1]["trigger"].split(", ") == ["hard_braking", ASKED]


def test_two_bags_of_one_second_are_two(tmp_path: Path, written: Written) -> None:
    with keeping(tmp_path) as (keeper, _):
        for _ in range(2):
            assert asked(keeper).success
            written.go_on.release()
            assert written.began.acquire(timeout=20)
        assert len({target for target, *_ in written.bags}) == 2


def test_images_that_waited_while_a_bag_was_written_leave_the_ring_as_it_is(tmp_path: Path, written: Written) -> None:
    node = Node()
    with keeping(tmp_path, node, jpeg_quality=80, seconds=2.0, pause_s=0.0) as (keeper, _):
        assert asked(keeper).success
        assert written.began.acquire(timeout=20)
        keeper.take(CAMERA, raw_image(8, 8))
        node.now_ns += 5 * S  # the writing takes longer than the ring is long
        keeper.take(TEXT, b"two")
        keeper._budget.spend(-1e9)
        keeper.take(CAMERA, raw_image(8, 8))
        written.go_on.release()
        until(lambda: keeper._waiting == 0)
        assert next((m.topic, m.data[:3]) for m in keeper._ring.taken()) == ("/a", b"two")
        assert [m.stamp_ns for m in keeper._ring.taken()] == [node.now_ns] * 2


def test_images_that_wait_have_their_part_of_the_memory(tmp_path: Path, written: Written) -> None:
    with keeping(tmp_path, jpeg_quality=80, mib=4) as (keeper, telemetry):
        assert asked(keeper).success
        assert written.began.acquire(timeout=20)
        for _ in range(10):
            keeper.take(CAMERA, raw_image(256, 400))  # 0.3 MB
            assert sum(len(image.data) for image in keeper._images) <= MIB
        assert len(keeper._images) == 3 and keeper._ring._most + keeper._most_waiting == 4 * MIB
        assert telemetry.snapshot().counters["ring_image_left_out"] == 7
        written.go_on.release()
        until(lambda: keeper._waiting == 0)


def test_a_bag_has_the_parameters_of_its_time(tmp_path: Path, written: Written) -> None:
    values = {"score_thresholds": (0.1,)}
    with keeping(tmp_path, params=lambda: values) as (keeper, _):
        values["score_thresholds"] = (0.4,)
        assert asked(keeper).success
        written.go_on.release()
        assert written.began.acquire(timeout=20)
    assert json.loads(written.bags[0][2])["/**"]["ros__parameters"] == {"score_thresholds": [0.4]}


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_short_bag_too_is_of_the_share_that_images_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(target: Path, *more: Any) -> None:
        compute(0.3)  # within one slice: nobody asks whether to rest

    monkeypatch.setattr(module, "write_bag", write)
    with keeping(tmp_path, jpeg_quality=80) as (keeper, telemetry):
        assert asked(keeper).success
        until(lambda: telemetry.snapshot().counters.get("ring_bag_written") == 1)
        assert keeper._budget.owed_s() > 0.3 / module.SHARE - 5.0
        keeper.take(CAMERA, raw_image(8, 8))
        assert telemetry.snapshot().counters["ring_image_left_out"] == 1 and not keeper._waiting


def test_images_become_jpeg_as_far_as_the_share_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, taken_s = Node(), 0.005
    compressed: list[int] = []

    def compress(keeper: Keeper, image: Any) -> None:
        compressed.append(image.stamp_ns)
        compute(taken_s)

    monkeypatch.setattr(Keeper, "_compress", compress)
    with keeping(tmp_path, node, jpeg_quality=80) as (keeper, telemetry):
        image, begun, sent = raw_image(8, 8), time.monotonic(), 0
        while time.monotonic() < begun + 2.0:
            node.now_ns += module.WINDOW_NS // 2  # two of each sweep
            keeper.take(CAMERA, image)
            sent += 1
            time.sleep(0.004)
        until(lambda: keeper._waiting == 0)
        allowed = module.SHARE * (time.monotonic() - begun) / taken_s
        assert 4 <= len(compressed) <= allowed + 4, "one sweep, and what its budget was asked for in between"
        assert telemetry.snapshot().counters["ring_image_left_out"] == sent - len(compressed) > 100
        whole = Counter(stamp_ns // module.WINDOW_NS for stamp_ns in compressed)
        assert set(list(whole.values())[1:]) == {2}, "both images of a sweep, or none"
