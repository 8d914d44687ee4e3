"""What test_extending.py does with its additions, in the copy that has them: `extension_runs.py FUNCTION ARGUMENTS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bev_perception.model_spec import Bundle

# Smaller than `tiny`, and few steps: what is asked is whether everything runs, not how well.
SHORT = ("--set", "batch_size=2", "optim.steps=2", "optim.warmup_steps=1", "checkpoint_every=2", "precision=32-true")


def training(data: str, out: str) -> None:
    """The student alone, to a bundle that is scored as the vehicle drives; the teacher; the student taught by it."""
    import torch

    from training import evaluate, export, train

    def run(experiment: str, name: str, *more: str) -> Path:
        folder = Path(out) / name
        command = [f"training.experiments.{experiment}:tiny", "--data", data, "--out", str(folder), *more]
        assert train.main([*command, *SHORT]) == 0
        return folder / "last.ckpt"

    alone = run("radar_cells", "alone")
    assert export.main([str(alone), f"{out}/bundle"]) == 0  # refuses where PyTorch and ONNX Runtime disagree
    assert evaluate.main([f"{out}/bundle", "--data", data, "--out", f"{out}/bundle.json"]) == 0
    assert evaluate.main([str(alone), "--data", data, "--out", f"{out}/checkpoint.json", "--workers", "0"]) == 0
    scores = [json.loads(Path(f"{out}/{name}.json").read_text())["all"] for name in ("bundle", "checkpoint")]
    assert scores[0]["frames"] == scores[1]["frames"] > 0

    teacher = run("lidar_cells", "teacher")
    before = torch.load(teacher, weights_only=True)["state_dict"]
    taught = run("radar_cells_taught", "taught", "--teacher", f"lidar_cells={teacher}")
    after = torch.load(teacher, weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    checkpoint = torch.load(taught, weights_only=True)
    assert list(checkpoint["teachers"]) == ["lidar_cells"]
    assert not [name for name in checkpoint["state_dict"] if "pillars" in name]
    logged = Path(out, "taught").rglob("metrics.csv")
    assert "train/cosine_feature_neck/feature" in next(iter(logged)).read_text().partition("\n")[0]
    assert export.main([str(taught), f"{out}/bundle_taught"]) == 0


def bundle_in(folder: str) -> Bundle:
    """The tiny bundle in the operators of today, which the reference evaluator knows."""
    from onnx import version_converter
    from tiny_bundle import make_model, write_bundle

    return write_bundle(Path(folder) / "bundle", version_converter.convert_version(make_model(), 20))


def runtime(folder: str) -> None:
    """The backend and its option by parameters, the thermal camera, and the message, over a recorded drive."""
    import numpy as np
    import tiny_drive

    from bev_perception.messages import PUBLISHERS, Context
    from bev_perception.parameters import load_config
    from bev_perception.replay import replay
    from training.world.bag_messages import Messages

    class Grey(Messages):
        """One channel instead of three."""

        def image(self, stamp_ns: int, frame_id: str, bgr: np.ndarray) -> Any:
            message = super().image(stamp_ns, frame_id, bgr)
            message.encoding, message.step = "mono8", bgr.shape[1]
            message.data = np.ascontiguousarray(bgr[..., 0]).reshape(-1)
            return message

    class Thermal(Grey):
        """The temperatures that look as grey as that."""

        def image(self, stamp_ns: int, frame_id: str, bgr: np.ndarray) -> Any:
            message = super().image(stamp_ns, frame_id, bgr)
            counts = np.round((message.data / 255 * 80 + 253.15) * 100).astype("<u2")
            message.encoding, message.step, message.data = "mono16", 2 * bgr.shape[1], counts.view(np.uint8)
            return message

    bundle = bundle_in(folder)
    found = {}
    for name, messages, parameters in (
        ("grey", Grey, {}),
        ("thermal", Thermal, {}),
        ("reference", Grey, {"backend": "onnx_reference", "onnx_reference__verbose": 0}),
    ):
        tiny_drive.Messages = messages
        bag = tiny_drive.write_drive(Path(folder) / name, frames=4)
        params = tiny_drive.write_params(Path(folder) / f"{name}.yaml", publish__outputs=["poses"], **parameters)
        result = replay(bag, bundle.path, load_config(bundle.path, params))
        assert not [reason for reason in result.counters if "image" in reason], result.counters
        found[name] = [detections for _, detections in result.detections]
        assert len(found[name]) == 4 and all("cam_a" in d.sensors_used and len(d) for d in found[name])
    for grey, thermal, reference in zip(*found.values(), strict=True):
        assert np.array_equal(grey.boxes, thermal.boxes) and np.array_equal(grey.scores, thermal.scores)
        np.testing.assert_allclose(grey.scores, reference.scores, atol=1e-5)

    detections = found["grey"][-1]
    message = PUBLISHERS["poses"].convert(detections, Context(bundle.spec, "base_link", 1.0))
    assert [p.position.y for p in message.poses] == detections.boxes[:, 1].tolist()


def node(folder: str) -> None:
    """The node with the backend publishes the message."""
    from geometry_msgs.msg import PoseArray
    from lifecycle_msgs.msg import Transition
    from node_rig import running_node

    bundle = bundle_in(folder)
    values = {"backend": "onnx_reference", "publish.outputs": ["detections", "poses"]}
    with running_node(Path(folder), bundle.path, bundle.spec, **values) as (process, rig):
        poses: list[PoseArray] = []
        rig.node.create_subscription(PoseArray, "/perception/poses", poses.append, 10)
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        rig.drive_until(lambda: poses and rig.detections, "poses")
        assert poses[-1].header.frame_id == "base_link"


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
