"""Ground truth that is read while a drive is gives what all of it at once gives, whatever is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

pytest.importorskip("rosbags", reason="rosbags is not installed")
pytest.importorskip("tiny_bundle", reason="onnx is not installed")
import tiny_drive

from bev_perception.bags.storage import BagError
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC, read_ground_truth
from bev_perception.evaluation.ground_truth import GroundTruth
from bev_perception.evaluation.result_bag import make_typestore
from training.world.actors import ActorState
from training.world.bag_messages import DETECTION_ARRAY, Messages


def write(path: Path, stamps: Sequence[int]) -> Path:
    """A recording of ground truth alone: at each stamp one car, whose x says which stamp it is."""
    shutil.rmtree(path, ignore_errors=True)
    store = make_typestore()
    make = Messages(store)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(GROUND_TRUTH_TOPIC, DETECTION_ARRAY, typestore=store)
        for number, stamp in enumerate(stamps):
            car = ActorState(
                1, "vehicle.car", "car", "vehicle.moving", np.array([stamp, 0.0, 0.0]), np.ones(3), 0.0, np.zeros(3)
            )  # fmt: skip
            message = make.ground_truth(stamp, [make.true_box(car, 0, np.eye(4), 5)])
            writer.write(connection, number, store.serialize_cdr(message, DETECTION_ARRAY))
    return path


def places(truth: GroundTruth, asked: Sequence[int]) -> list[float | None]:
    return [None if found is None else float(found.boxes[0, 0]) for found in map(truth.at, asked)]


@pytest.mark.parametrize("stamps", [[1, 3, 5, 9], [5, 1, 9, 3]], ids=["rising", "in any order"])
def test_each_stamp_finds_its_own_and_no_other(stamps: list[int], tmp_path: Path) -> None:
    truth = GroundTruth(write(tmp_path / "bag", stamps))
    assert truth.count == 4
    assert places(truth, [0, 1, 2, 5, 5, 7, 9, 10, 11]) == [None, 1, None, 5, 5, None, 9, None, None]
    assert places(truth, [3, 9, 1]) == [3, 9, 1]  # back, on, and back


def test_only_what_rises_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(*given: Any) -> dict[int, Any]:
        raise AssertionError("everything was read at once")

    monkeypatch.setattr("bev_perception.evaluation.ground_truth.read_detection_arrays", held)
    assert places(GroundTruth(write(tmp_path / "bag", [1, 2, 3])), [1, 2, 3]) == [1, 2, 3]
    with pytest.raises(AssertionError, match="at once"):
        GroundTruth(write(tmp_path / "bag", [1, 2, 2]))


def test_of_a_drive_it_is_the_same_as_all_at_once(tmp_path: Path) -> None:
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=4)
    whole, truth = read_ground_truth(bag), GroundTruth(bag)
    for stamp in tiny_drive.anchor_stamps(4):
        found = truth.at(stamp)
        assert found is not None and found.names == whole[stamp].names and found.ids == whole[stamp].ids
        np.testing.assert_array_equal(found.boxes, whole[stamp].boxes)
        np.testing.assert_array_equal(found.num_points, whole[stamp].num_points)


def test_none_and_another_type(tmp_path: Path) -> None:
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=2)
    nothing = GroundTruth(bag, "/nowhere")
    assert nothing.count == 0 and nothing.at(tiny_drive.anchor_stamps(1)[0]) is None
    with pytest.raises(BagError, match="/odometry is nav_msgs/msg/Odometry, expected bev_perception_msgs"):
        GroundTruth(bag, "/odometry")
    with pytest.raises(BagError, match="does not exist"):
        GroundTruth(tmp_path / "nowhere")
