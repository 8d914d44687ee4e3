"""What two networks' heads find, object by object, and which of it belongs together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bev_perception.grid import BevGrid
from bev_perception.model_spec import BOX_CHANNELS
from training.models.detector import Prediction
from training.models.footprints import cell_steps

SHAPE = BOX_CHANNELS.index("vx")  # what a box is compared by: its channels before the velocity


class Instances(NamedTuple):
    """logits (B, K, classes) and boxes (B, K, 10): x, y, z (m, ego frame), then as BOX_CHANNELS from log_l on."""

    logits: Tensor
    boxes: Tensor

    def scores(self) -> Tensor:
        """(B, K) of each instance's likeliest class."""
        return self.logits.sigmoid().amax(dim=-1)


def instances(prediction: Prediction, of_class: tuple[int, ...], grid: BevGrid, count: int) -> Instances:
    """The `count` strongest local maxima of a prediction's heatmap and the boxes there; float32.

    Where there are fewer maxima the next strongest cells, all of them on a map of fewer cells. A query decoder's
    queries are drawn into its maps, one a cell: they are found like any other object.
    """
    heatmap = prediction.heatmap.float()
    surest, label = heatmap.max(dim=1)
    peak = surest == F.max_pool2d(surest[:, None], 3, stride=1, padding=1)[:, 0]
    cells = (surest.sigmoid() + peak).flatten(1).topk(min(count, surest[0].numel())).indices
    task = torch.tensor(of_class, device=cells.device)[label.flatten(1).gather(1, cells)]
    item = torch.arange(len(cells), device=cells.device)[:, None]
    coded = prediction.regression.float().flatten(3)[item, task, :, cells]
    shape = (heatmap.shape[2], heatmap.shape[3])
    corner = torch.stack([torch.div(cells, shape[1], rounding_mode="floor"), cells % shape[1]], dim=-1)
    low, step = coded.new_tensor([grid.x_min, grid.y_min]), coded.new_tensor(cell_steps(grid, shape))
    centre = low + (corner + coded[..., :2]) * step
    return Instances(heatmap.flatten(2)[item, :, cells], torch.cat([centre, coded[..., 2:]], dim=-1))


@torch.no_grad()
def assign(student: Instances, teacher: Instances, box: float) -> tuple[Tensor, Tensor]:
    """Instances that belong together at the least cost: indices (B, K) into each network's, K the smaller number.

    BEVDistill's cost: binary cross entropy of the student's classes with the teacher's probabilities, summed over
    classes, and `box` times L1 of the boxes without velocity, metres as in `Instances`.
    Raises FloatingPointError when a cost is not finite.
    """
    wanted = teacher.logits.sigmoid().transpose(1, 2)
    cost = -F.logsigmoid(student.logits) @ wanted - F.logsigmoid(-student.logits) @ (1 - wanted)
    cost = cost + box * torch.cdist(student.boxes[..., :SHAPE], teacher.boxes[..., :SHAPE], p=1)
    if not torch.isfinite(cost).all():
        raise FloatingPointError("an instance's score or box is not finite: train anew with a lower lr or clip_norm")
    pairs = np.array([linear_sum_assignment(item) for item in cost.cpu().numpy()])  # (B, 2, K)
    rows, columns = torch.from_numpy(pairs).to(cost.device).unbind(dim=1)
    return rows, columns
