"""ROS ends after somebody has looked whether it is up: in the wait for messages rclpy raises an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("rosbags", reason="rosbags is not installed")
import rclpy

from bev_perception.ros import record_bag
from bev_perception.ros.start import spins


class Late:
    """An executor whose wait begins when ROS has just ended."""

    def __init__(self, ends: bool = True) -> None:
        self.ends = ends

    def add_node(self, node: Any) -> None:
        pass

    def spin_once(self, timeout_sec: float) -> None:
        if self.ends:
            rclpy.shutdown()
        raise RuntimeError("failed to initialize wait set: the given context is not valid")


@pytest.fixture
def node() -> Iterator[Any]:
    rclpy.init()
    node = rclpy.create_node("late")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_the_recording_is_there(node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_bag, "SingleThreadedExecutor", Late)
    assert record_bag.record(node, tmp_path / "bag", ["/nothing"]) == {"/nothing": 0}
    assert (tmp_path / "bag" / "metadata.yaml").is_file()


def test_what_a_callback_raises_is_raised(node: Any) -> None:
    with pytest.raises(RuntimeError, match="wait set"):
        spins(Late(ends=False))  # type: ignore[arg-type]
    assert spins(Late()) is False  # type: ignore[arg-type]
