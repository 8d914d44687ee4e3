"""What candidates bring, of maps that say what is true."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from tiny_run import RUN, SPEC  # noqa: E402
from torch import Tensor  # noqa: E402

from training.data.source import Source  # noqa: E402
from training.decoding import circles_of, decode_each_way, decoding_csv, local_maxima, maps  # noqa: E402
from training.models.detector import ONE_TASK, Prediction  # noqa: E402
from training.recipes.specs import PAPER_NMS_RADIUS  # noqa: E402
from training.scoring import score_found  # noqa: E402
from training.trainer.loading import Batches, open_keyframes  # noqa: E402


class Oracle:
    """The targets' maps; between the objects' cells boxes of no size."""

    spec, data, device, run = SPEC, RUN.data, torch.device("cpu"), RUN
    detector = SimpleNamespace(tasks=ONE_TASK)

    def eval(self) -> None:
        pass

    def predict(self, batch: dict[str, Tensor]) -> Prediction:
        regression = torch.zeros(len(batch["cells"]), 1, 10, *SPEC.grid.shape)
        for item, (cells, boxes) in enumerate(zip(batch["cells"], batch["boxes"], strict=True)):
            regression[item, 0].flatten(1)[:, cells] = boxes.T
        heatmap = (0.9 * batch["heatmap"]).clamp(1e-4, 1 - 1e-4).logit()
        return Prediction(heatmap, regression)


def test_each_way_is_scored(tiny_dataset: Path) -> None:
    keyframes = open_keyframes(SPEC, RUN.data, Source(tiny_dataset), "val")
    found = decode_each_way(Oracle(), keyframes, [5, 100], Batches(2, 0))
    assert set(found) == {
        (rule, count, circles)
        for rule in ("local maxima", "by score")
        for count in (5, 100)
        for circles in ("its own", "the papers'")
    }
    for (_, count, _), objects in found.items():
        assert sorted(objects) == list(range(len(keyframes))) and max(map(len, objects.values())) <= count
    rows = range(len(keyframes))
    scores = {way: score_found(keyframes, SPEC, objects, rows) for way, objects in found.items()}
    assert scores["local maxima", 100, "its own"].mean_ap > scores["local maxima", 5, "its own"].mean_ap > 0
    table = decoding_csv({"all": scores}).splitlines()
    assert len(table) == 9 and table[1].startswith("all,local maxima,5,its own,0.")


def test_local_maxima_are_those_of_the_eight_cells_around() -> None:
    scores = torch.rand(1, 2, 7, 9)
    kept = local_maxima(scores)
    for c in range(2):
        for i in range(7):
            for j in range(9):
                around = scores[0, c, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                highest = bool(scores[0, c, i, j] == around.max())
                assert kept[0, c, i, j] == (scores[0, c, i, j] if highest else 0)


def test_the_papers_circles_and_networks_without_maps() -> None:
    own, papers = circles_of(SPEC).values()
    assert own == SPEC and papers.nms_radius == PAPER_NMS_RADIUS != SPEC.nms_radius
    queries = SimpleNamespace(detector=SimpleNamespace(), run=SimpleNamespace(model="lidar_transformer"))
    with pytest.raises(ValueError, match="lidar_transformer gives queries"):
        next(maps(queries, [], Batches(1, 0), "all"))
