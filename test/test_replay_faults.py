"""The replay of drives that go wrong: counted as the node counts, explained, no traceback and no silent success."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import tiny_bundle
import tiny_drive
from bag_copies import Row, copy_bag, cut, the_file
from replays import replay, write_detections

from bev_perception import replay as replay_module
from bev_perception.bundle import GOLDEN_FRAME
from bev_perception.evaluation import result_bag, telling
from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.evaluation.result_json import open_detection_json
from bev_perception.files import open_atomic
from bev_perception.parameters import load_config
from bev_perception.pipeline import BevPipeline
from bev_perception.replay import Replay, main
from bev_perception.structures import Detections

FRAMES = 5
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drive")
    tiny_bundle.write_bundle(folder / "bundle")
    tiny_drive.write_drive(folder / "bag", frames=FRAMES)
    return {
        "bag": folder / "bag",
        "bundle": folder / "bundle",
        "params": tiny_drive.write_params(folder / "params.yaml"),
    }


class Run:
    """What a run of the command did."""

    def __init__(self, drive: dict[str, Path], bag: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str):
        capsys.readouterr()
        names = ["--bundle", str(drive["bundle"]), "--params", str(drive["params"]), "--out", str(out)]
        self.status = main([str(bag), *names, *more])
        self.out, self.err = capsys.readouterr()
        self.last = (self.err.splitlines() or [""])[-1]
        path = out / "detections.json"
        self.json = json.loads(path.read_text()) if path.is_file() and path.read_text().startswith('{"header"') else {}

    @property
    def counters(self) -> dict[str, int]:
        return self.json["counters"]


def changed(drive: dict[str, Path], tmp_path: Path, topic: str, change) -> Path:
    """The drive with the messages of a topic changed: change(index, row) -> rows."""
    seen: list[Row] = []

    def each(row: Row) -> Iterable[Row]:
        if row[0] != topic:
            return [row]
        seen.append(row)
        return change(len(seen) - 1, row)

    return copy_bag(drive["bag"], tmp_path / "changed", change=each)


def edited(row: Row, edit) -> Row:
    store = make_typestore()
    message = store.deserialize_cdr(row[3], row[1])
    edit(message)
    return (*row[:3], bytes(store.serialize_cdr(message, row[1])))


def test_odometry_in_map_is_explained_and_no_success(drive, tmp_path, capsys) -> None:
    def in_map(message) -> None:
        message.header.frame_id = "map"

    bag = changed(drive, tmp_path, "/odometry", lambda i, row: [edited(row, in_map)])
    run = Run(drive, bag, tmp_path / "out", capsys)
    assert run.status == 1
    assert run.last.startswith(f"error: {bag}: no frame came out of it; most often: ")
    assert "x odometry/wrong_frame: " in run.last and "'map'" in run.last and "odom" in run.last
    assert run.counters["odometry/wrong_frame"] == max(run.counters.values()) > 20
    assert run.counters["frame/no_pose"] >= FRAMES - 1 and run.json["frames"] == []
    printed = [line for line in run.out.splitlines() if " x " in line]
    assert "odometry/wrong_frame: " in printed[-1], "the reason that cost most comes last, with what is known of it"
    assert "odometry/wrong_frame: " in run.err.splitlines()[0], "and is told when it is met first"


def test_a_topic_that_the_recording_lacks_is_named_before_the_first_frame(drive, tmp_path, capsys) -> None:
    params = tiny_drive.write_params(tmp_path / "p.yaml", odometry__topic="/odom", cameras__cam_a__topic="/cam")
    run = Run({**drive, "params": params}, drive["bag"], tmp_path / "out", capsys)
    assert run.status == 1 and "no frame came out" in run.last
    told = [line for line in run.err.splitlines() if line.startswith("warning")]
    assert told[0].startswith(f"warning: cam_a: /cam is not in the recording; of its type, {IMAGE}, it has ")
    assert "/camera/cam_a/image_raw" in told[0] and "/camera/cam_b" not in told[0], "which another camera takes"
    assert "odometry: /odom is not in the recording; of its type, nav_msgs/msg/Odometry, it has /odometry" in told[1]


def test_a_topic_of_another_type_is_counted_with_its_mend(drive, tmp_path, capsys) -> None:
    def compressed(index: int, row: Row) -> list[Row]:
        return [(row[0], COMPRESSED, *row[2:])]

    bag = changed(drive, tmp_path, "/camera/cam_a/image_raw", compressed)
    run = Run(drive, bag, tmp_path / "out", capsys)
    assert run.status == 0 and run.counters["cam_a/wrong_type"] == FRAMES
    assert "cam_b" in run.json["frames"][-1]["sensors_used"] and "cam_a" in run.json["frames"][-1]["missing"]
    assert f"is {COMPRESSED} in the recording, {IMAGE} is expected; set cameras.*.compressed: true" in run.err

    long = tiny_drive.write_drive(tmp_path / "long", frames=16)
    bag = copy_bag(long, tmp_path / "both", change=lambda r: [(r[0], COMPRESSED if r[1] == IMAGE else r[1], *r[2:])])
    run = Run(drive, bag, tmp_path / "out", capsys)
    assert run.status == 1 and f"no camera was used in any of its {len(run.json['frames'])} frames" in run.last
    assert "set cameras.*.compressed: true" in run.last and run.json["frames"], "radars were used"


def test_damaged_messages_cost_themselves_alone(drive, tmp_path, capsys) -> None:
    def shortened(index: int, row: Row) -> list[Row]:
        return [(*row[:3], row[3][:30])] if index == 2 else [row]

    bag = changed(drive, tmp_path, "/camera/cam_b/image_raw", shortened)
    run = Run(drive, bag, tmp_path / "out", capsys)
    assert run.status == 0 and run.counters["cam_b/message_damaged"] == 1
    missing = [frame["missing"] for frame in run.json["frames"]]
    assert len(missing) == FRAMES and [i for i, m in enumerate(missing) if m] == [2] and "cam_b" in missing[2]
    assert "/camera/cam_b/image_raw: 30 bytes are no sensor_msgs/msg/Image" in run.err


def test_a_step_that_fails_costs_its_frame_as_in_the_node(drive, tmp_path, capsys, monkeypatch) -> None:
    step, second = BevPipeline._step, tiny_drive.anchor_stamps()[1]

    def failing(self, frame):
        if frame.stamp_ns == second:
            raise RuntimeError("the engine has a bad moment")
        return step(self, frame)

    monkeypatch.setattr(BevPipeline, "_step", failing)
    run = Run(drive, drive["bag"], tmp_path / "out", capsys)
    assert run.status == 0 and run.counters["step_failed"] == 1 and len(run.json["frames"]) == FRAMES - 1
    assert "step_failed: RuntimeError: the engine has a bad moment" in run.err
    assert run.json["frames"][1]["memory_reset"] == "step_failed"


def test_a_bundle_that_does_not_prove_its_golden_frame_detects_nothing(drive, tmp_path, capsys) -> None:
    """Files and facts are those of the export, what it makes of sensor data is not."""
    with np.load(tiny_bundle.write_bundle(tmp_path / "bundle").path / GOLDEN_FRAME) as data:
        arrays = dict(data)
    arrays["later.points"][:, 1] *= -1
    np.savez(tmp_path / "bundle" / GOLDEN_FRAME, **arrays)
    run = Run(drive | {"bundle": tmp_path / "bundle"}, drive["bag"], tmp_path / "out", capsys)
    assert run.status == 1 and run.last.startswith("error: golden frame of 'tiny' with onnxruntime") and not run.json


def test_a_cut_recording_gives_the_frames_up_to_the_cut(drive, tmp_path, capsys) -> None:
    bag = copy_bag(drive["bag"], tmp_path / "cut")
    cut(the_file(bag), the_file(bag).stat().st_size * 3 // 4)
    whole = Run(drive, drive["bag"], tmp_path / "whole", capsys)
    run = Run(drive, bag, tmp_path / "out", capsys)
    count = len(run.json["frames"])
    assert run.status == 0 and 0 < count < FRAMES and run.json["frames"] == whole.json["frames"][:count]
    assert run.err.count("mcap recover") == 1, "said once, however often the file is opened"


def test_stamps_of_another_drive_are_no_success(drive, tmp_path, capsys) -> None:
    config = load_config(drive["bundle"], drive["params"])
    found = replay(drive["bag"], drive["bundle"], config).detections
    moved = [(ns, Detections(d.stamp_ns + 10**10, *list(vars(d).values())[1:])) for ns, d in found]
    write_detections(tmp_path / "live", moved, tiny_bundle.SPEC)
    run = Run(drive, drive["bag"], tmp_path / "out", capsys, "--stamps-from", str(tmp_path / "live"))
    assert run.status == 1 and "none of its 5 frames is one of those asked for" in run.last


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


FOREIGN = {
    "files in detections": lambda out: (
        (out / "detections").mkdir(),
        (out / "detections" / "thesis.txt").write_text("x"),
    ),
    "a bag of others": lambda out: copy_bag(out.parent / "drive", out / "detections"),
    "a result with more in it": lambda out: (
        write_detections(out / "detections", [], tiny_bundle.SPEC),
        (out / "detections" / "notes.txt").write_text("x"),
    ),
    "a file detections": lambda out: (out / "detections").write_text("x"),
    "a foreign json": lambda out: (out / "detections.json").write_text('{"boxes": []}'),
    "foreign scores": lambda out: (out / "scores.json").write_text("[1, 2]"),
    "nested scores": lambda out: (out / "scores.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_out_deletes_nothing_that_is_not_its_own(drive, tmp_path, capsys, what) -> None:
    (tmp_path / "drive").symlink_to(drive["bag"])
    out = tmp_path / "out"
    out.mkdir()
    FOREIGN[what](out)
    before = tree(out)
    run = Run(drive, drive["bag"], out, capsys)
    assert run.status == 1 and "was not written by a replay and is not replaced" in run.last
    assert tree(out) == before and "frames" not in run.out, "known before the first frame"


def test_out_replaces_its_own_and_leaves_no_scores_of_another_run(drive, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert Run(drive, drive["bag"], out, capsys).status == 0
    assert (out / "scores.json").is_file()
    (out / "mine.txt").write_text("mine")
    bag = changed(drive, tmp_path, "/ground_truth/detections", lambda i, row: [])
    assert Run(drive, bag, out, capsys).status == 0
    assert sorted(p.name for p in out.iterdir()) == ["detections", "detections.json", "mine.txt"]


def test_results_that_cannot_be_written_are_known_before_the_first_frame(drive, tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    run = Run(drive, drive["bag"], tmp_path / "file" / "out", capsys)
    assert run.status == 1 and "cannot be written" in run.last and "--out" in run.last and "frames" not in run.out
    monkeypatch.setattr(result_bag, "_message_dir", lambda: (_ for _ in ()).throw(result_bag.BagError("no .msg")))
    run = Run(drive, drive["bag"], tmp_path / "out", capsys)
    assert run.status == 1 and run.last == "error: no .msg" and "frames" not in run.out


def test_an_interrupted_run_keeps_what_was_found(drive, tmp_path, capsys, monkeypatch) -> None:
    class Impatient(telling.Progress):
        def __call__(self, share: float) -> None:
            if share > 0.7:
                raise KeyboardInterrupt

    monkeypatch.setattr(replay_module, "Progress", Impatient)
    run = Run(drive, drive["bag"], tmp_path / "out", capsys)
    assert run.status == 130 and "interrupted" in run.last
    assert 0 < len(run.json["frames"]) < FRAMES and (tmp_path / "out" / "detections" / "metadata.yaml").is_file()


def test_progress_is_told(drive, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(telling, "PROGRESS_S", 0.0)
    run = Run(drive, drive["bag"], tmp_path / "out", capsys)
    told = [line for line in run.err.splitlines() if "% of the recording" in line]
    assert len(told) > 50 and told[-1].split(" s: ")[1].startswith("100%")


def test_nothing_of_a_frame_is_kept(drive, tmp_path) -> None:
    """Memory does not grow with the length of a drive: when a frame comes, the ones before are gone."""
    config = load_config(drive["bundle"], drive["params"])
    seen: list[weakref.ref] = []
    run = Replay(drive["bag"], drive["bundle"], config)
    for found in run:
        assert not [ref for ref in seen if ref() is not None], "an earlier frame is still there"
        seen.append(weakref.ref(found.published))
        del found
    assert run.frames == len(seen) == FRAMES


def test_results_are_written_as_they_come_and_appear_whole(drive, tmp_path) -> None:
    config = load_config(drive["bundle"], drive["params"])
    frames = replay(drive["bag"], drive["bundle"], config, score_floor=0.001).candidates
    sizes = []
    with open_detection_json(tmp_path / "d.json", tiny_bundle.SPEC, "base_link") as file:
        for _ in range(10):
            for record_ns, detections in frames:
                file.add(record_ns, detections)
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
        file.finish({})
        assert not (tmp_path / "d.json").exists()
    assert sizes[0] < sizes[4] < sizes[9] and [path.name for path in tmp_path.iterdir()] == ["d.json"]
    assert len(json.loads((tmp_path / "d.json").read_text())["frames"]) == 10 * FRAMES
    with pytest.raises(RuntimeError), open_atomic(tmp_path / "d.json") as raw:
        raw.write(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["d.json"] and len((tmp_path / "d.json").read_text()) > 100


def test_the_order_of_reasons() -> None:
    counters = {"radar/points_over_limit": 900, "frame/no_pose": 50, "cam_a/late": 30, "odometry/too_old": 7, "x": 99}
    lines = telling.reason_lines(counters, {"odometry/too_old": "2 s behind"})
    assert [line.split(" x ")[1] for line in lines] == [
        "frame/no_pose", "x", "radar/points_over_limit", "cam_a/late", "odometry/too_old: 2 s behind",
    ]  # fmt: skip
    assert telling.main_reason(counters, {}, ["cam_a"]) == "30 x cam_a/late: docs/reasons.md explains it"
    assert telling.reason_lines({}, {}) == [] and telling.main_reason({}, {}) == ""


def test_images_are_the_same_in_sqlite3(drive, tmp_path) -> None:
    from rosbags.rosbag2 import StoragePlugin

    config = load_config(drive["bundle"], drive["params"])
    bag = copy_bag(drive["bag"], tmp_path / "sqlite", StoragePlugin.SQLITE3, foreign=("json",))
    one, other = (replay(b, drive["bundle"], config).detections for b in (drive["bag"], bag))
    assert len(one) == FRAMES and [ns for ns, _ in one] == [ns for ns, _ in other]
    for (_, a), (_, b) in zip(one, other):
        np.testing.assert_array_equal(a.boxes, b.boxes)
