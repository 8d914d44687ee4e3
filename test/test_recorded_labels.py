"""Objects of a recorded drive: ground truth, or the detections of a replay as pseudo labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
import tiny_drive
from replays import write_detections

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from recorded_sets import (
    STORE,
    changed,
    convert,
    make_drive,
    refused,
    tables_of,
)

from bev_perception.evaluation.objects import make_objects
from bev_perception.evaluation.result_json import open_detection_json
from bev_perception.geometry import (
    make_transform,
    transform_boxes,
)
from bev_perception.structures import Detections, EgoPose
from training.data.nuscenes import open_nuscenes
from training.data.source import Source
from training.recorded.drive import Moment
from training.recorded.scene import make_scene
from training.recorded.tracks import link


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_drive(tmp_path_factory.mktemp("drive"))


def write_found(folder: Path, stamps: list[int], frame_id: str = "base_link") -> Path:
    """Results of a replay: detections.json and the bag `found`, with a strong car and a weak pedestrian in each."""
    boxes = np.array([[5.0, 1.0, 0.5, 4.0, 2.0, 1.5, 0.25], [8.0, -1.0, 0.9, 0.6, 0.6, 1.8, 0.0]], np.float32)
    velocity, scores = np.array([[5.0, 0.0], [0.0, 0.0]], np.float32), np.array([0.75, 0.125], np.float32)
    found = [(t, Detections(t, boxes, velocity, scores, np.array([0, 8]))) for t in stamps]
    with open_detection_json(folder / "detections.json", tiny_bundle.SPEC, frame_id) as file:
        for record_ns, detections in found:
            file.add(record_ns, detections)
        file.finish({})
    write_detections(folder / "found", found, tiny_bundle.SPEC, frame_id)
    return folder / "detections.json"


@pytest.mark.parametrize("name", ["detections.json", "found"])
def test_pseudo_labels_of_a_replay(drive, tmp_path, name):
    stamps = tiny_drive.anchor_stamps(16)[2:]
    write_found(tmp_path, stamps)
    assert convert(drive, tmp_path / "out", "--labels", str(tmp_path / name), "--least-score", "0.5") == 0
    frames = open_nuscenes(Source(tmp_path / "out"), "train", tiny_bundle.SPEC)
    assert [frame.stamp_ns for frame in frames] == stamps[::5]
    for frame in frames:
        in_ego = transform_boxes(
            make_transform(np.eye(3), -tiny_drive.ego_pose(frame.stamp_ns)[:3, 3]),
            transform_boxes(frame.global_from_ego, frame.boxes),
        )
        np.testing.assert_allclose(in_ego, [[5.0, 1.0, 0.5, 4.0, 2.0, 1.5, 0.25]], rtol=0, atol=1e-6)
        assert frame.attributes == ("vehicle.moving",), "by the speed"
        np.testing.assert_allclose(frame.velocity, [[3.0, 0.0, 0.0]], atol=1e-5)
    both = tmp_path / "both"
    assert convert(drive, both, "--labels", str(tmp_path / name), "--least-score", "0.1") == 0
    tables = tables_of(both)
    assert len(tables["sample_annotation"]) == 2 * len(frames) and len(tables["instance"]) == 2, "linked without ids"


def test_labels_beside_the_frames_of_the_node_are_the_moments_of_the_keyframes(drive, tmp_path):
    """As of a LiDAR that is annotated: the boxes are placed by the pose at their own stamp."""
    stamps = [stamp + 30 * tiny_drive.MS for stamp in tiny_drive.anchor_stamps(16)[1::5]]
    labels = write_found(tmp_path, stamps)
    assert convert(drive, tmp_path / "out", "--labels", str(labels)) == 0
    tables = tables_of(tmp_path / "out")
    samples = [row["timestamp"] * 1000 for row in tables["sample"].values()]
    assert samples == stamps
    for row in tables["sample_annotation"].values():
        stamp = tables["sample"][row["sample_token"]]["timestamp"] * 1000
        assert row["translation"][0] == pytest.approx(5.0 + tiny_drive.ego_pose(stamp)[0, 3], abs=1e-9)


def test_objects_without_ids_are_linked_by_their_velocity():
    """The rule as loops: of all pairs of one class the nearest first, each object once."""
    rng = np.random.default_rng(3)
    linked = 0
    for _ in range(50):
        now, then = rng.uniform(0, 6, (rng.integers(0, 7), 2)), rng.uniform(0, 6, (rng.integers(0, 7), 2))
        names, before = (tuple(rng.choice(["car", "bus"], len(places))) for places in (now, then))
        pairs = [(np.hypot(*(a - b)), i, k) for i, a in enumerate(now) for k, b in enumerate(then)]
        expected, used = [-1] * len(now), set()
        for apart, i, k in sorted(pairs):
            if apart <= 2.0 and names[i] == before[k] and expected[i] < 0 and k not in used:
                expected[i] = k
                used.add(k)
        assert link(now, names, then, before) == expected
        linked += len(used)
    assert linked > 20


def test_cars_that_follow_each_other_keep_their_identity():
    """At 20 m/s and 10 m apart, each is after half a second where the one before it was."""
    here = EgoPose(0, np.eye(4))
    moments = []
    for k in range(4):
        boxes = np.array([[10.0 * k + 10.0 * n, 0, 1, 4, 2, 1.5, 0] for n in range(3)])
        objects = make_objects(boxes, np.tile([20.0, 0.0], (3, 1)), np.ones(3), ("car",) * 3, num_points=np.ones(3))
        moments.append(Moment(k * 500_000_000, here, (0, 0), {}, objects))
    tables, _ = make_scene("s", {"token": "log"}, moments, [], lambda *lost: None)
    assert [row["nbr_annotations"] for row in tables["instance"]] == [4, 4, 4]
    for row in tables["sample_annotation"]:
        if row["next"]:
            (after,) = [a for a in tables["sample_annotation"] if a["token"] == row["next"]]
            assert after["translation"][0] - row["translation"][0] == pytest.approx(10.0)


def test_labels_of_another_drive_are_refused(drive, tmp_path, capsys):
    labels = write_found(tmp_path, [t + 10**12 for t in tiny_drive.anchor_stamps(16)])
    said = refused(drive, tmp_path, capsys, "--labels", str(labels))
    assert "are they of another drive?" in said


def test_labels_in_another_frame_or_cut_off_are_refused(drive, tmp_path, capsys):
    labels = write_found(tmp_path, tiny_drive.anchor_stamps(16), "map")
    for name in ("detections.json", "found"):
        assert "boxes in 'map', expected 'base_link'" in refused(
            drive, tmp_path, capsys, "--labels", str(tmp_path / name)
        )
    labels = write_found(tmp_path, tiny_drive.anchor_stamps(16))
    for text, says in (
        (labels.read_text().rpartition("\n")[0].rpartition("\n]")[0], "is cut off"),
        (labels.read_text()[:-200], "is cut off"),
        (labels.read_text().replace('"names"', '"nomes"', 1), "line 3 is no frame"),
        ("[]", "is no detections.json of a replay"),
    ):
        labels.write_text(text)
        assert says in refused(drive, tmp_path, capsys, "--labels", str(labels))
        labels = write_found(tmp_path, tiny_drive.anchor_stamps(16))
    assert "has neither" in refused(drive, tmp_path, capsys, "--labels", str(no_truth(drive, tmp_path)))


def no_truth(drive: dict[str, Path], folder: Path) -> Path:
    return changed(
        drive["bag"], folder / "bare", {"bev_perception_msgs/msg/Detection3DArray": lambda message, topic: None}
    )


def test_without_labels_nothing_is_annotated(drive, tmp_path):
    assert convert(drive, tmp_path / "out", bag=no_truth(drive, tmp_path)) == 0
    tables = tables_of(tmp_path / "out")
    assert len(tables["sample"]) == 4 and not tables["sample_annotation"] and not tables["instance"]
    frames = open_nuscenes(Source(tmp_path / "out"), "train", tiny_bundle.SPEC)
    assert [len(frame.boxes) for frame in frames] == [0] * 4
    assert "not annotated" in next(iter(tables["scene"].values()))["description"]


def test_objects_that_cannot_be_annotated_are_counted(drive, tmp_path, capsys):
    def spoil(message: Any, topic: str) -> Any:
        for name, length in (("spaceship", 1.0), ("car", 0.0), ("car", np.nan)):
            row = STORE.deserialize_cdr(*serialised(message.detections[0]))
            row.class_name, row.dimensions.x, row.id = name, length, f"{name} {length}"
            message.detections.append(row)
        return message

    def serialised(row: Any) -> tuple[bytes, str]:
        kind = "bev_perception_msgs/msg/Detection3D"
        return bytes(STORE.serialize_cdr(row, kind)), kind

    bag = changed(drive["bag"], tmp_path / "bag", {"bev_perception_msgs/msg/Detection3DArray": spoil})
    assert convert(drive, tmp_path / "out", bag=bag) == 0
    said = capsys.readouterr().out
    assert "4 x label/unknown_class" in said and "8 x label/no_box" in said
    assert len(tables_of(tmp_path / "out")["sample_annotation"]) == 4
