"""Velocities at the objects' true cells."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN, SPEC  # noqa: E402
from torch import Tensor  # noqa: E402

from training.data.source import Source  # noqa: E402
from training.models.detector import Prediction  # noqa: E402
from training.trainer.loading import Batches, open_keyframes  # noqa: E402
from training.velocity import main, velocities, velocity_csv, velocity_table  # noqa: E402

TASKS = (SPEC.classes[:3], SPEC.classes[3:])


class Oracle:
    """Says what is true, each class in the maps of its task; the other task's maps say 99 m/s everywhere."""

    spec, data, device = SPEC, RUN.data, torch.device("cpu")
    detector = SimpleNamespace(tasks=TASKS)

    def eval(self) -> None:
        pass

    def predict(self, batch: dict[str, Tensor]) -> Prediction:
        count = len(batch["cells"])
        regression = torch.full((count, len(TASKS), 10, *SPEC.grid.shape), 99.0)
        for item, (cells, labels, boxes) in enumerate(zip(batch["cells"], batch["labels"], batch["boxes"])):
            for cell, label, box in zip(cells.tolist(), labels.tolist(), boxes):
                task = int(SPEC.classes[label] not in TASKS[0])
                regression[item, task].flatten(1)[:, cell] = box
        return Prediction(batch["heatmap"], regression)


def test_the_truth_is_read_back_for_every_object(tiny_dataset: Path) -> None:
    keyframes = open_keyframes(SPEC, RUN.data, Source(tiny_dataset), "val")
    true, predicted = velocities(Oracle(), keyframes, Batches(3, 0))  # type: ignore[arg-type]
    inside = [SPEC.grid.cells(k.boxes[:, :2])[1] for k in keyframes]
    wanted = np.concatenate([k.velocity[ok, :2] for k, ok in zip(keyframes, inside)])
    wanted = wanted[np.isfinite(wanted).all(axis=1)]
    assert len(wanted) > 20 and len(np.unique(np.concatenate([k.labels for k in keyframes]) < 3)) == 2
    np.testing.assert_allclose(np.sort(true, axis=0), np.sort(wanted, axis=0), atol=1e-5)
    # Two objects may share a cell; the one that comes later is then both objects' truth.
    same = np.isclose(true, predicted).all(axis=1)
    assert same.mean() > 0.9 and (np.abs(predicted) < 50).all()


def test_means_by_direction() -> None:
    true = np.array([[5.0, 0], [3, 0], [-4, 0], [0, 6], [2, -2], [0, 0], [0.05, 0.05]])
    predicted = np.array([[4.0, 9], [2, 9], [-1, 9], [9, 0.5], [9, 9], [3, 4], [0, 0]])
    assert velocity_table(true, predicted).splitlines()[2:] == [
        "| vx > 2 m/s | 2 | 4.00 | 3.00 |",
        "| vx < -2 m/s | 1 | -4.00 | -1.00 |",
        "| vy > 2 m/s | 1 | 6.00 | 0.50 |",
        "| vy < -2 m/s | 0 |  |  |",
        "| standing | 2 | 0 | 2.50 (mean speed) |",
    ]


def test_means_of_groups() -> None:
    true = np.array([[12.0, 0], [10, 1.9], [-4, 0], [0, 6], [-5, 8], [0, 0]])
    predicted = np.array([[10.0, 9], [9, 9], [-1, 9], [9, 0.5], [-4, 1.5], [3, 4]])
    assert velocity_csv(true, predicted).splitlines()[1:] == [
        "vx,-5,-2,2,-4.50,-2.50",
        "vx,10,,2,11.00,9.50",
        "vy,5,10,2,7.00,1.00",
        "speed,,0.1,1,0.00,5.00",
    ]


def test_the_command(
    tiny_dataset: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--workers", "0"]
    assert main([*command, "--scenes", "1", "--out", str(tmp_path / "velocity.csv")]) == 0
    assert (tmp_path / "velocity.csv").read_text().startswith("axis,low,high,objects,true_mean,predicted_mean\nv")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[0].startswith("| true velocity") and len(rows) == 7 and rows[-1].startswith("| standing | ")
    assert main([*command, "--split", "nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err
