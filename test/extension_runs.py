"""What test_extending.py does with the additions of docs/extending.md, in the copy of the repository that has them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Smaller than `tiny`, and few steps: what is asked is whether everything runs, not how well.
SHORT = ("--set", "batch_size=2", "optim.steps=2", "optim.warmup_steps=1", "checkpoint_every=2", "precision=32-true")


@pytest.fixture(scope="module")
def data() -> str:
    """The tiny data set of the session that made the copy."""
    return os.environ["EXTENSION_DATA"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def train(experiment: str, data: str, out: Path, *more: str) -> Path:
    from training.train import main

    assert main([f"training.experiments.{experiment}:tiny", "--data", data, "--out", str(out), *more, *SHORT]) == 0
    return out / "last.ckpt"


def test_the_student_trains_and_drives_as_a_bundle(data: str, runs: Path) -> None:
    from training import evaluate, export

    checkpoint, bundle, scores = train("radar_cells", data, runs / "alone"), runs / "bundle", runs / "scores.json"
    assert export.main([str(checkpoint), str(bundle)]) == 0  # refuses where PyTorch and ONNX Runtime disagree
    assert evaluate.main([str(bundle), "--data", data, "--out", str(scores)]) == 0
    assert json.loads(scores.read_text())["all"]["frames"] == 4


def test_the_teacher_trains_and_teaches_by_the_loss(data: str, runs: Path) -> None:
    import torch

    teacher = train("lidar_cells", data, runs / "teacher")
    before = teacher.read_bytes()
    taught = train("radar_cells_taught", data, runs / "taught", "--teacher", f"lidar_cells={teacher}")
    checkpoint = torch.load(taught, weights_only=True)
    assert list(checkpoint["teachers"]) == ["lidar_cells"] and teacher.read_bytes() == before
    assert not [name for name in checkpoint["state_dict"] if "pillars" in name], "the teacher is in the checkpoint"
    (logged,) = (runs / "taught").rglob("metrics.csv")
    assert "train/cosine_feature_neck/feature" in logged.read_text().partition("\n")[0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny one, in the operators that the reference evaluator knows."""
    from onnx import version_converter
    from tiny_bundle import make_model, write_bundle

    return write_bundle(tmp_path_factory.mktemp("bundle"), version_converter.convert_version(make_model(), 20))


def drive(folder: Path, bundle: Any, monkeypatch: pytest.MonkeyPatch, image: Any, **parameters: Any) -> list[Any]:
    """Detections of the tiny drive. image(bgr) -> (encoding, (H, W) array) of what its cameras send."""
    import tiny_drive
    from replays import replay

    from bev_perception.parameters import load_config
    from training.world.bag_messages import Messages

    def make_image(self: Messages, stamp_ns: int, frame_id: str, bgr: np.ndarray) -> Any:
        encoding, pixels = image(bgr)
        height, width = pixels.shape
        return self.make(
            "sensor_msgs/Image", header=self.header(stamp_ns, frame_id), height=height, width=width, encoding=encoding,
            is_bigendian=0, step=width * pixels.itemsize, data=pixels.view(np.uint8).reshape(-1),
        )  # fmt: skip

    monkeypatch.setattr(Messages, "image", make_image)
    bag = tiny_drive.write_drive(folder / "drive", frames=4)
    params = tiny_drive.write_params(folder / "params.yaml", **parameters)
    result = replay(bag, bundle.path, load_config(bundle.path, params))
    assert not [reason for reason in result.counters if "image" in reason and not reason.endswith("_noise")]
    return [detections for _, detections in result.detections]


def grey(bgr: np.ndarray) -> tuple[str, np.ndarray]:
    return "mono8", np.ascontiguousarray(bgr[..., 0])


def thermal(bgr: np.ndarray) -> tuple[str, np.ndarray]:
    """The temperatures that look as grey as that."""
    kelvin = grey(bgr)[1] / 255 * 80 + 253.15
    return "thermal16", np.round(kelvin * 100).astype("<u2")


def test_the_camera_drives_as_one_of_a_known_encoding(bundle: Any, tmp_path: Path, monkeypatch: Any) -> None:
    wanted = drive(tmp_path / "grey", bundle, monkeypatch, grey)
    found = drive(tmp_path / "thermal", bundle, monkeypatch, thermal)
    assert len(wanted) == len(found) == 4
    for a, b in zip(wanted, found):
        assert {"cam_a", "cam_b"} <= set(b.sensors_used) and len(b) > 0
        assert np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)


def test_the_backend_drives_as_onnxruntime_does(bundle: Any, tmp_path: Path, monkeypatch: Any) -> None:
    wanted = drive(tmp_path / "onnxruntime", bundle, monkeypatch, grey)
    option = {"backend": "onnx_reference", "onnx_reference__verbose": 0}
    found = drive(tmp_path / "reference", bundle, monkeypatch, grey, **option)
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-4)


def test_the_node_runs_the_backend_and_publishes_the_message(bundle: Any, tmp_path: Path) -> None:
    for name in ("rclpy", "bev_perception_msgs"):
        pytest.importorskip(name, reason=f"needs {name}")
    from geometry_msgs.msg import PoseArray
    from lifecycle_msgs.msg import Transition
    from node_rig import running_node, stamp_ns

    values = {"backend": "onnx_reference", "publish.outputs": ["detections", "poses"]}
    with running_node(tmp_path, bundle.path, bundle.spec, **values) as (process, rig):
        poses: dict[int, PoseArray] = {}
        rig.node.create_subscription(
            PoseArray, "/perception/poses", lambda message: poses.update({stamp_ns(message.header): message}), 10
        )
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        both = rig.drive_until(
            lambda: next((d for d in rig.detections if stamp_ns(d.header) in poses), None), "a frame's two messages"
        )
    found, wanted = poses[stamp_ns(both.header)], [d.pose.pose for d in both.detections]
    assert found.header.frame_id == "base_link" and len(wanted) > 0
    assert [(p.position, p.orientation) for p in found.poses] == [(p.position, p.orientation) for p in wanted]
