"""The compact student: its own operators against slow references, and its masks."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from references import candidates_by_loops
from tiny_networks import CONFIGS

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, TemporalSpec
from training.bundling.pattern import pattern_inputs
from training.models.camera_radar import CameraRadarStudent
from training.models.center_head import find_candidates
from training.models.exported import ExportedDetector
from training.models.view.column_lift import ColumnLift
from training.models.view.depth_bins import DepthBins
from training.models.view.warp import warp_bev

GRID = BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8)
SPEC = ModelSpec(
    "tiny", ("a", "b"), ("r",), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=GRID,
    image=ImageSpec(32, 64), temporal=TemporalSpec(state_channels=8), top_k=20,
)  # fmt: skip
CONFIG = CONFIGS["camera_radar"]


def tiny_student() -> CameraRadarStudent:
    torch.manual_seed(0)
    student = CameraRadarStudent(SPEC, CONFIG).eval()
    for module in student.modules():  # statistics of a trained network are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return student


def test_lift_equals_a_loop_over_cells() -> None:
    torch.manual_seed(1)
    bins, lift = DepthBins(1.0, 1.0, 12), ColumnLift(GRID, DepthBins(1.0, 1.0, 12))
    context, logits = torch.randn(1, 2, 3, 4, 8), torch.randn(1, 2, 12, 4, 8)
    img_from_ego = torch.from_numpy(pattern_inputs(SPEC)["img_from_ego"])[None]
    valid = torch.tensor([[1.0, 0.0]])
    bev, coverage = lift(context, logits, img_from_ego, valid, SPEC.image.width)
    depth = logits.softmax(2)
    plane = torch.einsum("dhw,chw->cdw", depth[0, 0], context[0, 0])  # camera 1 is switched off

    def at(d: int, w: int) -> torch.Tensor:
        return plane[:, d, w] if 0 <= d < 12 and 0 <= w < 8 else torch.zeros(3)

    seen = 0
    for ix, iy in np.ndindex(*GRID.shape):
        x, y = GRID.centers()[ix, iy]
        u, _, z, _ = img_from_ego[0, 0].double().numpy() @ [x, y, 0.8, 1.0]
        column, row = (u / z + 0.5) / 8 - 0.5, (z - bins.start) / bins.step - 0.5  # feature coordinates, stride 8
        expected = torch.zeros(3)
        if z > 0.5 and -0.5 < column < 7.5 and -0.5 < row < 11.5:
            seen += 1
            w0, d0 = int(np.floor(column)), int(np.floor(row))
            for w, fw in ((w0, 1 - column + w0), (w0 + 1, column - w0)):
                for d, fd in ((d0, 1 - row + d0), (d0 + 1, row - d0)):
                    expected = expected + at(d, w) * float(fw * fd)
            assert coverage[0, 0, ix, iy] == 1
        torch.testing.assert_close(bev[0, :, ix, iy], expected, atol=2e-4, rtol=1e-3)
    assert 20 < seen == int(coverage.sum())


def test_warp_moves_a_map_by_whole_cells_and_knows_its_edge() -> None:
    prev = torch.randn(1, 2, *GRID.shape)
    centers = torch.from_numpy(GRID.centers().reshape(-1, 2)).float()
    prev_from_curr = torch.eye(4)[None].clone()
    prev_from_curr[0, 0, 3], prev_from_curr[0, 1, 3] = 1.6, -0.8  # drove 2 cells forward, 1 to the right
    warped, seen = warp_bev(prev, prev_from_curr, torch.ones(1, 1), GRID, centers)
    torch.testing.assert_close(warped[0, :, :-2, 1:], prev[0, :, 2:, :-1], atol=1e-4, rtol=1e-4)
    assert seen[0, 0, -2:].sum() == 0 and seen[0, 0, :, 0].sum() == 0 and seen[0, 0, :-2, 1:].all()
    warped, seen = warp_bev(prev, prev_from_curr, torch.zeros(1, 1), GRID, centers)
    assert warped.abs().max() == 0 and seen.max() == 0


def test_warp_turns_the_right_way() -> None:
    prev = torch.zeros(1, 1, *GRID.shape)
    cells, _ = GRID.cells(np.array([[8.0 + 0.4, 0.4]]))
    prev[0, 0, cells[0, 0], cells[0, 1]] = 1.0
    turn = torch.eye(4)[None].clone()
    turn[0, :2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # ego turned left by 90 degrees since
    warped, _ = warp_bev(
        prev, turn.transpose(1, 2), torch.ones(1, 1), GRID, torch.from_numpy(GRID.centers().reshape(-1, 2)).float()
    )
    ix, iy = np.unravel_index(int(warped.argmax()), GRID.shape)
    # prev_from_curr = R^T: a point ahead of the earlier ego, p_prev = (8.4, 0.4), is now at R p_prev = (-0.4, 8.4).
    np.testing.assert_allclose(GRID.centers()[ix, iy], [-0.4, 8.4], atol=1e-6)


def test_candidates_in_the_graph_equal_the_loops() -> None:
    torch.manual_seed(2)
    logits, regression, of_class = torch.randn(1, 3, 9, 11), torch.randn(1, 2, 10, 9, 11), (0, 1, 0)
    scores, labels, cells, boxes = find_candidates(logits.sigmoid(), regression, of_class, 12)
    expected = candidates_by_loops(logits[0].sigmoid().numpy(), 12)
    np.testing.assert_allclose(scores[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(labels[0], expected[1])
    np.testing.assert_array_equal(cells[0], expected[2])
    for box, label, cell in zip(boxes[0], labels[0], cells[0], strict=True):
        torch.testing.assert_close(box, regression[0, of_class[label]].flatten(1)[:, cell])


def test_a_blanked_camera_and_an_invalid_memory_change_nothing_else() -> None:
    exported = ExportedDetector(tiny_student())

    def student(**inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return exported(*(inputs[t.name] for t in SPEC.inputs()))

    inputs = {k: torch.from_numpy(v) for k, v in pattern_inputs(SPEC).items()}
    off = inputs | {"camera_valid": torch.tensor([1.0, 0.0]), "prev_valid": torch.zeros(1)}
    garbage = off | {
        "images": torch.cat([off["images"][:1], torch.randint_like(off["images"][1:], 255)]),
        "prev_bev": torch.randn_like(off["prev_bev"]) * 100,
        "prev_from_curr": torch.randn(4, 4),
        "prev_dt": torch.ones(1) * 9,
    }
    with torch.no_grad():
        for a, b in zip(student(**off), student(**garbage), strict=True):
            torch.testing.assert_close(a, b)
        seen, forgotten = student(**inputs), student(**(inputs | {"prev_valid": torch.zeros(1)}))
        assert not torch.allclose(student(**off)[4], seen[4]), "the second camera must matter when it is valid"
        assert not torch.allclose(seen[0], forgotten[0]), "memory must matter"
