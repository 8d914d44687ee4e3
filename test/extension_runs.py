"""Uses what test_extending.py added to a copy of the repository, there: `python test/extension_runs.py NAME ARGUMENTS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

COPY = Path(__file__).resolve().parents[1]
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


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
