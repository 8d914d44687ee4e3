"""The replay: every frame once, bit for bit again in another process, the live run's frames, and what is compared."""

from __future__ import annotations

import copy
import dataclasses
import json
import operator
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import tiny_bundle
import tiny_drive
from replays import replay, write_detections

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.bag import (
    BagError,
    bag_topics,
    read_bag,
    read_detection_arrays,
    read_ground_truth,
)
from bev_perception.evaluation.compare import UNEXPLAINED, Difference, compare_runs
from bev_perception.evaluation.frames import read_frames
from bev_perception.evaluation.message_maker import MessageMaker
from bev_perception.evaluation.objects import objects_from_detections, objects_from_message
from bev_perception.evaluation.result_bag import ARRAY_TYPE, detection_message, make_typestore
from bev_perception.evaluation.result_json import open_detection_json
from bev_perception.model_spec import CLASSES
from bev_perception.parameters import load_config
from bev_perception.replay import main
from bev_perception.structures import Detections
from training.world.bag_messages import Messages

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drive")
    tiny_bundle.write_bundle(folder / "bundle")
    tiny_drive.write_drive(folder / "bag")
    return {
        "bag": folder / "bag",
        "bundle": folder / "bundle",
        "params": tiny_drive.write_params(folder / "params.yaml"),
    }


def arguments(drive: dict[str, Path], out: Path, *more: str) -> list[str]:
    names = ["--bundle", str(drive["bundle"]), "--params", str(drive["params"]), "--out", str(out)]
    return [str(drive["bag"]), *names, *more]


def test_two_processes_give_the_same_bytes(drive, tmp_path):
    printed = []
    for name in ("a", "b"):
        done = subprocess.run(
            [sys.executable, "-m", "bev_perception.replay", *arguments(drive, tmp_path / name)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append([line.split()[1] for line in done.stdout.splitlines() if line.startswith("sha256")])
    assert printed[0] == printed[1] and len(printed[0]) == 2
    for file in ("detections.json", "detections/detections.mcap", "detections/metadata.yaml", "scores.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    frames = json.loads((tmp_path / "a" / "detections.json").read_text())["frames"]
    assert [f["stamp_ns"] for f in frames] == tiny_drive.anchor_stamps()
    assert sum(len(f["names"]) for f in frames) > 10
    assert frames[-1]["sensors_used"] == ["cam_a", "cam_b", "radar_a"]
    assert not frames[0]["temporal_used"] and frames[-1]["temporal_used"]


def test_frames_hold_what_the_bag_holds(drive):
    config = load_config(drive["bundle"], drive["params"])
    frames = [frame for _, frame in read_frames(drive["bag"], tiny_bundle.SPEC, config)]
    assert [f.stamp_ns for f in frames] == tiny_drive.anchor_stamps()
    for frame in frames:
        assert not frame.missing
        assert frame.cameras[0].frame.stamp_ns == frame.stamp_ns + tiny_drive.OFFSETS["cam_a"]
        np.testing.assert_allclose(frame.ego.odom_from_ego, tiny_drive.ego_pose(frame.stamp_ns), atol=1e-9)
        np.testing.assert_allclose(frame.cameras[1].calibration.ego_from_cam, tiny_drive.EGO_FROM_CAM, atol=1e-12)
    image = next(m for m in read_bag(drive["bag"], {"/camera/cam_a/image_raw"})).message
    np.testing.assert_array_equal(frames[0].cameras[0].frame.data, image.data.reshape(16, 32, 3))


def test_json_and_mcap_hold_what_the_pipeline_gave(drive, tmp_path, capsys):
    assert main(arguments(drive, tmp_path)) == 0
    result = replay(drive["bag"], drive["bundle"], load_config(drive["bundle"], drive["params"]))
    messages = read_detection_arrays(tmp_path / "detections")
    recorded = {stamp: objects_from_message(m) for stamp, m in messages.items()}
    frames = json.loads((tmp_path / "detections.json").read_text())["frames"]
    assert list(recorded) == [d.stamp_ns for _, d in result.detections]
    for (_, given), frame in zip(result.detections, frames):
        expected = objects_from_detections(given, CLASSES)
        found = recorded[given.stamp_ns]
        assert found.names == expected.names == tuple(frame["names"])
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-6)
        np.testing.assert_array_equal(found.velocity, expected.velocity)
        np.testing.assert_array_equal(np.float32(frame["boxes_xyzlwh_yaw"]), given.boxes)
    with open_detection_json(tmp_path / "other.json", tiny_bundle.SPEC, "rear_axle") as file:
        file.finish({"cam_a/late": 3})
    empty = json.loads((tmp_path / "other.json").read_text())
    assert empty["header"]["frame_id"] == "rear_axle" and empty["counters"] == {"cam_a/late": 3}
    assert "10 frames scored" in capsys.readouterr().out


def test_only_the_live_frames(drive, tmp_path, capsys):
    """A live run that dropped every other frame: the replay of its frames agrees, a changed box is found out."""
    config = load_config(drive["bundle"], drive["params"])
    kept = dict.fromkeys(tiny_drive.anchor_stamps()[::2])
    live = replay(drive["bag"], drive["bundle"], config, only=kept)
    write_detections(tmp_path / "live", live.detections, tiny_bundle.SPEC)
    assert live.skipped == 5
    # the bundle on disk states its hash, which belongs into the comparison: write with that spec
    write_detections(tmp_path / "live", live.detections, load_bundle(drive["bundle"]).spec)
    assert main(arguments(drive, tmp_path / "out", "--stamps-from", str(tmp_path / "live"))) == 0
    assert "identical: all 5 frames, bit for bit" in capsys.readouterr().out

    messages = read_detection_arrays(tmp_path / "live")
    others = copy.deepcopy(messages)
    stamps = sorted(others)
    others[stamps[0]].detections[0].pose.pose.position.x += 0.25
    others[stamps[1]].detections.clear()
    others[stamps[2]].sensors_used = ["cam_a"]
    del others[stamps[3]]
    agreement = compare_runs(messages, others)
    assert not agreement.agrees and not agreement.explained
    assert agreement.identical == 1 and set(agreement.differing) == set(stamps[:3])
    moved, lost, masked = (agreement.differing[stamp] for stamp in stamps[:3])
    assert moved == Difference(UNEXPLAINED, pytest.approx(0.25), 0.0, 0)
    assert (lost.metres, lost.score, lost.unmatched) == (0.0, 0.0, len(messages[stamps[1]].detections))
    assert masked.cause == f"{UNEXPLAINED}: cam_b, radar_a used in one run only", "whatever the memory held"
    assert agreement.only_first == (stamps[3],)
    assert "3 of 4 frames differ, boxes by at most 0.25 m" in agreement.sentence()
    assert "1 frames only live" in agreement.sentence()


BOX_NUMBERS = [
    *(f"{part}.{axis}" for part in ("pose.pose.position", "dimensions") for axis in "xyz"),
    "pose.pose.orientation.z", "pose.pose.orientation.w", "twist.twist.linear.x", "twist.twist.linear.y",
]  # fmt: skip


def test_each_number_of_a_box_is_compared(drive, tmp_path):
    config, spec = load_config(drive["bundle"], drive["params"]), load_bundle(drive["bundle"]).spec
    write_detections(tmp_path / "live", replay(drive["bag"], drive["bundle"], config).detections, spec)
    messages = read_detection_arrays(tmp_path / "live")
    stamp = max(messages)  # no later frame has a memory of it
    for name in BOX_NUMBERS:
        others = copy.deepcopy(messages)
        part, _, axis = name.rpartition(".")
        changed = operator.attrgetter(part)(others[stamp].detections[-1])
        setattr(changed, axis, getattr(changed, axis) + 0.125)
        assert set(compare_runs(messages, others).differing) == {stamp}, name


def test_a_difference_that_nothing_explains_is_an_error(drive, tmp_path, capsys):
    config = load_config(drive["bundle"], drive["params"])
    live = replay(drive["bag"], drive["bundle"], config).detections
    found = live[4][1]
    higher = found.boxes + np.float32([0, 0, 0.25, 0, 0, 0, 0])
    live[4] = (live[4][0], dataclasses.replace(found, boxes=higher))
    write_detections(tmp_path / "live", live, load_bundle(drive["bundle"]).spec)
    assert main(arguments(drive, tmp_path / "out", "--stamps-from", str(tmp_path / "live"))) == 1
    said = capsys.readouterr()
    assert "1 of 10 frames differ, boxes by at most 0.25 m" in said.out and UNEXPLAINED in said.out
    assert "the runs differ without a cause" in said.err


def with_composition(messages, stamp, **changes):
    """The same, with another composition of one frame."""
    others = copy.deepcopy(messages)
    for name, value in changes.items():
        setattr(others[stamp], name, value)
    others[stamp].detections[0].score += 0.125
    return others


def test_each_difference_has_its_cause(drive, tmp_path):
    config, spec = load_config(drive["bundle"], drive["params"]), load_bundle(drive["bundle"]).spec
    write_detections(tmp_path / "live", replay(drive["bag"], drive["bundle"], config).detections, spec)
    messages = read_detection_arrays(tmp_path / "live")
    stamps = sorted(messages)

    def cause(at, **changes):
        agreement = compare_runs(messages, with_composition(messages, stamps[at], **changes))
        assert agreement.differing[stamps[at]].score == pytest.approx(0.125)
        return agreement.differing[stamps[at]].cause

    assert cause(0, model_sha256="ab" * 32) == "another model"
    assert cause(0, poses_crc32=1) == "other poses of the odometry were known"
    assert cause(0, temporal_used=True) == "the memory holds a frame here that was not recorded"
    assert cause(0) == UNEXPLAINED
    for at, changes, symptom in (
        (2, {"temporal_used": not messages[stamps[2]].temporal_used}, "the memory used in one run only"),
        (0, {"sensors_used": ["cam_b"]}, "cam_a, radar_a used in one run only"),
    ):
        agreement = compare_runs(messages, with_composition(messages, stamps[at], **changes))
        assert agreement.differing[stamps[at]].cause == f"{UNEXPLAINED}: {symptom}"
        assert not agreement.explained, "the same measurements in both runs: what came of them is no cause"
    fewer = copy.deepcopy(messages[stamps[2]].inputs)
    fewer[0].stamps, fewer[0].missing = [], "late"
    assert cause(2, inputs=fewer) == "cam_a was used there and is not here (late)"
    back = compare_runs(with_composition(messages, stamps[2], inputs=fewer), messages).differing[stamps[2]]
    assert back.cause == "cam_a is used here and was not there (late)"

    both = with_composition(messages, stamps[2], inputs=fewer)
    both[stamps[3]].detections[0].score += 0.125
    agreement = compare_runs(messages, both)
    expected = "the memory holds a frame that differed" if messages[stamps[3]].temporal_used else UNEXPLAINED
    assert agreement.differing[stamps[3]].cause == expected
    assert agreement.explained == (expected != UNEXPLAINED)


def test_filtering_by_score_is_decoding_with_that_threshold(drive):
    """What --score-floor writes is what the node publishes: the boxes below the thresholds change nothing above."""
    config = load_config(drive["bundle"], drive["params"])
    everything = replay(drive["bag"], drive["bundle"], config, score_floor=0.01).candidates
    middle = float(np.median(np.concatenate([d.scores for _, d in everything])))
    config = dataclasses.replace(config, score_threshold=dict.fromkeys(CLASSES, middle))
    plain = replay(drive["bag"], drive["bundle"], config)
    floored = replay(drive["bag"], drive["bundle"], config, score_floor=0.01)
    dropped = 0
    for (_, a), (_, b), (_, all_boxes) in zip(plain.detections, floored.detections, floored.candidates):
        for name in ("boxes", "velocity", "scores", "labels"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        dropped += len(all_boxes) - len(b)
    assert dropped > 10 and sum(len(d) for _, d in plain.detections) > 5


def test_ground_truth(drive):
    truth = read_ground_truth(drive["bag"])
    assert list(truth) == tiny_drive.anchor_stamps()
    car = truth[tiny_drive.anchor_stamps()[4]]
    assert car.names == ("car",) and car.ids == ("7",) and car.attributes == ("vehicle.moving",)
    np.testing.assert_allclose(car.boxes[0], [2.0, 1.0, 0.8, 1.5, 0.8, 1.2, 0.3], atol=1e-9)
    np.testing.assert_allclose(car.velocity[0], [1.0, 0.2])
    assert car.num_points[0] == 5


def test_message_is_the_one_the_node_publishes():
    """The writer without ROS and the node's converter serialise to the same bytes."""
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("bev_perception_msgs", reason="needs the built messages")
    from rclpy.serialization import serialize_message

    from bev_perception.messages import Context, detection_array

    rng = np.random.default_rng(1)
    detections = Detections(
        1_700_000_001_234_567_890,
        rng.normal(0, 20, (6, 7)).astype(np.float32),
        rng.normal(0, 5, (6, 2)).astype(np.float32),
        rng.random(6).astype(np.float32),
        rng.integers(0, 10, 6),
        ("cam_a", "radar_a"),
        {"cam_b": "late"},
        True,
    )
    store = make_typestore()
    ours = detection_message(MessageMaker(store), detections, tiny_bundle.SPEC, "base_link")
    theirs = serialize_message(detection_array(detections, Context(tiny_bundle.SPEC, "base_link", 1.0)))
    again = store.serialize_cdr(store.deserialize_cdr(theirs, ARRAY_TYPE), ARRAY_TYPE)
    assert bytes(store.serialize_cdr(ours, ARRAY_TYPE)) == bytes(again)


def test_missing_camera_is_masked_and_counted(drive, tmp_path):
    params = tiny_drive.write_params(tmp_path / "p.yaml", cameras__cam_a__topic="/camera/nowhere")
    result = replay(drive["bag"], drive["bundle"], load_config(drive["bundle"], params))
    assert len(result.detections) > 0
    assert all("cam_a" in d.missing and "cam_a" not in d.sensors_used for _, d in result.detections)
    assert any(reason.startswith("cam_a/") for reason in result.counters)


def spoiled_drive(tmp_path, monkeypatch, image=None, info=None):
    """A drive in which cam_a's images (stamp, bgr) -> bgr and camera_info messages are changed."""
    make_image, make_info = Messages.image, Messages.camera_info

    def changed_image(self, stamp_ns, frame_id, bgr):
        return make_image(self, stamp_ns, frame_id, image(bgr) if image and frame_id == "cam_a" else bgr)

    def changed_info(self, stamp_ns, frame_id, *arguments):
        message = make_info(self, stamp_ns, frame_id, *arguments)
        if info and frame_id == "cam_a":
            info(message)
        return message

    monkeypatch.setattr(Messages, "image", changed_image)
    monkeypatch.setattr(Messages, "camera_info", changed_info)
    return tiny_drive.write_drive(tmp_path / "bag")


BLOCKS = np.kron(np.arange(128).reshape(8, 16) % 11 * 25, np.ones((2, 2)))[..., None].repeat(3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "reason", "frames"),
    [(np.zeros_like, "image_black", 10), (np.ones_like, "image_black", 10)]
    + [(lambda bgr: np.full_like(bgr, 200), "image_uniform", 10), (lambda bgr: BLOCKS, "image_frozen", 9)],
    ids=["black", "almost black", "uniform", "frozen"],
)
def test_a_blind_camera_is_masked_counted_and_explained(drive, tmp_path, monkeypatch, capsys, image, reason, frames):
    bag = spoiled_drive(tmp_path, monkeypatch, image=image)
    result = replay(bag, drive["bundle"], load_config(drive["bundle"], drive["params"]))
    assert result.counters[f"cam_a/{reason}"] == frames == sum("cam_a" in d.missing for _, d in result.detections)
    assert all(d.missing.get("cam_a") in (None, reason) and "cam_b" in d.sensors_used for _, d in result.detections)
    assert len(result.detections) == 10
    main([str(bag), *arguments(drive, tmp_path / "out")[1:]])
    assert f"{frames:5d} x cam_a/{reason}: {result.details[f'cam_a/{reason}']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"d": np.full(3, 0.1)}, "camera_info_distortion"),
        ({"d": np.full(7, 0.1), "distortion_model": "rational_polynomial"}, "camera_info_distortion"),
        ({"d": np.full(2, 0.1), "distortion_model": "equidistant"}, "camera_info_distortion"),
        ({"k": np.array([0.2, 0, 15.5, 0, 0.2, 7.5, 0, 0, 1])}, "camera_info_field_of_view"),
    ],
)
def test_the_calibration_of_one_camera_silences_no_other(drive, tmp_path, monkeypatch, change, reason):
    bag = spoiled_drive(tmp_path, monkeypatch, info=lambda message: vars(message).update(change))
    result = replay(bag, drive["bundle"], load_config(drive["bundle"], drive["params"]))
    assert result.counters[f"cam_a camera_info/{reason}"] == 1  # said once, as all say the same
    assert [d.missing for _, d in result.detections] == [{"cam_a": "no_calibration"}] * 10
    assert all({"cam_b", "radar_a"} <= set(d.sensors_used) for _, d in result.detections)


def test_jitter_of_camera_info_keeps_the_memory(drive, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shaken = spoiled_drive(tmp_path, monkeypatch, info=lambda message: message.k.__iadd__(jitter(rng)))
    result = replay(shaken, drive["bundle"], load_config(drive["bundle"], drive["params"]))
    assert not [reason for reason in result.counters if "calibration_changed" in reason]
    assert result.detections[-1][1].temporal_used


def jitter(rng):
    """Of K, a thousandth of a pixel; nothing where K is constant."""
    return rng.uniform(-1e-3, 1e-3, 9) * np.array([1, 0, 1, 0, 1, 1, 0, 0, 0])


def test_clear_errors(drive, tmp_path, capsys):
    assert main(arguments({**drive, "bag": tmp_path / "no_bag"}, tmp_path)) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(arguments(drive, tmp_path, "--stamps-from", str(drive["bag"]))) == 1
    assert "has no topic /perception/detections" in capsys.readouterr().err
    params = tiny_drive.write_params(
        tmp_path / "p.yaml",
        odometry__topic="/o",
        **{f"cameras__{c}__{t}": f"/{c}/{t}" for c in tiny_drive.CAMERAS for t in ("topic", "info_topic")},
    )
    drive_with = {**drive, "params": params}
    assert main(arguments(drive_with, tmp_path)) == 1
    assert "none of the topics" in capsys.readouterr().err


def test_topics(drive):
    found = bag_topics(drive["bag"])
    assert found["/odometry"] == "nav_msgs/msg/Odometry"
    with pytest.raises(BagError, match="not a readable"):
        (drive["bag"].parent / "text.mcap").write_text("no bag")
        bag_topics(drive["bag"].parent / "text.mcap")
