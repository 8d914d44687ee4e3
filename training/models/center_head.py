"""CenterPoint's head (Yin et al., CVPR 2021), a compact form of it, and its candidates in the graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bev_perception.model_spec import BOX_CHANNELS
from training.models.detector import SIX_TASKS, Candidates, task_index
from training.models.spread_head import SpreadHost

HEATMAP_BIAS = -2.19  # sigmoid = 0.1: the focal loss starts calm
# Branches of one task in BOX_CHANNELS order: offset, height, log dimensions, sin and cos of yaw, velocity in m/s.
BRANCHES = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}


def conv_bn_relu(in_channels: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; keeps the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


@dataclass(frozen=True)
class HeadConfig:
    """tasks: groups of classes; shared: channels of the common convolution, hidden: of each branch's own."""

    tasks: tuple[tuple[str, ...], ...] = SIX_TASKS
    shared: int = 64
    hidden: int = 64
    iou: bool = False  # PillarNet's branch: 2 IoU - 1 of the box predicted at a cell


class CenterHead(SpreadHost):
    """(B, C, X, Y) -> heatmap logits (B, classes, X, Y), regression (B, T, 10, X, Y), aux {"iou": (B, T, X, Y)}.

    A shared 3x3 convolution, then per task one branch of two 3x3 convolutions for the heatmap and for each of BRANCHES.
    """

    def __init__(self, in_channels: int, classes: tuple[str, ...], config: HeadConfig = HeadConfig()) -> None:
        super().__init__()
        self.tasks = config.tasks
        task_index(config.tasks, classes)
        outputs = {"heatmap": 0} | BRANCHES | ({"iou": 1} if config.iou else {})
        self.shared = conv_bn_relu(in_channels, config.shared)
        self.branches = nn.ModuleList()
        for task in config.tasks:
            heads = nn.ModuleDict()
            for name, channels in outputs.items():
                last = nn.Conv2d(config.hidden, len(task) if name == "heatmap" else channels, 3, 1, 1)
                assert last.bias is not None
                nn.init.constant_(last.bias, HEATMAP_BIAS if name == "heatmap" else 0.0)
                heads[name] = nn.Sequential(conv_bn_relu(config.shared, config.hidden), last)
            self.branches.append(heads)
        # The tasks' heatmaps one after the other -> the order of `classes`.
        listed = [name for task in config.tasks for name in task]
        self.order = [listed.index(name) for name in classes]

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x = self.shared(bev)
        found = [{name: branch(x) for name, branch in heads.items()} for heads in self._tasks()]
        heatmaps = torch.cat([of_task["heatmap"] for of_task in found], dim=1)
        heatmap = torch.stack([heatmaps[:, i] for i in self.order], dim=1)
        boxes = [torch.cat([of_task[name] for name in BRANCHES], dim=1) for of_task in found]
        aux = {"iou": torch.cat([of_task["iou"] for of_task in found], dim=1)} if "iou" in found[0] else {}
        return heatmap, torch.stack(boxes, dim=1), aux | self.told(x)

    def reads(self) -> tuple[nn.Conv2d, ...]:
        """See SpreadHost."""
        return (_convolution(self.shared),)

    def _tasks(self) -> list[nn.ModuleDict]:
        return [heads for heads in self.branches if isinstance(heads, nn.ModuleDict)]


# The last layer gives velocity in units of 10 m/s, so that its weights are of the size of all others'.
VELOCITY_UNIT = 10.0


class CompactHead(SpreadHost):
    """One task for all classes and one hidden layer for all regression: (B, C, X, Y) -> as CenterHead without aux.

    One task as in RCBEVDet (Lin et al., CVPR 2024): six heads would cost more than the rest of a small student.
    """

    units: Tensor

    def __init__(self, in_channels: int, hidden: int, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = (classes,)
        self.heatmap = nn.Sequential(conv_bn_relu(in_channels, hidden), nn.Conv2d(hidden, len(classes), 1))
        self.regression = nn.Sequential(conv_bn_relu(in_channels, hidden), nn.Conv2d(hidden, len(BOX_CHANNELS), 1))
        last = self.heatmap[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, HEATMAP_BIAS)

        units = [VELOCITY_UNIT if name in ("vx", "vy") else 1.0 for name in BOX_CHANNELS]
        self.register_buffer("units", torch.tensor(units).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        looks, sizes = self.heatmap[0](bev), self.regression[0](bev)
        return self.heatmap[1](looks), (self.regression[1](sizes) * self.units)[:, None], self.told(looks, sizes)

    def reads(self) -> tuple[nn.Conv2d, ...]:
        """See SpreadHost."""
        return _convolution(self.heatmap[0]), _convolution(self.regression[0])


def _convolution(block: nn.Module) -> nn.Conv2d:
    """Of a `conv_bn_relu`."""
    assert isinstance(block, nn.Sequential) and isinstance(block[0], nn.Conv2d)
    return block[0]


def rectified_scores(heatmap_logits: Tensor, iou: Tensor | None, of_class: tuple[int, ...]) -> Tensor:
    """Scores (B, classes, X, Y): sigmoid, or with an IoU branch its root times the predicted IoU's root (PillarNet)."""
    scores = heatmap_logits.sigmoid()
    if iou is None:
        return scores
    expected = ((iou + 1) / 2).clamp(0, 1)
    per_class = torch.stack([expected[:, t] for t in of_class], dim=1)
    return (scores * per_class).clamp(min=1e-12).sqrt()


def find_candidates(scores: Tensor, regression: Tensor, of_class: tuple[int, ...], top_k: int) -> Candidates:
    """The top-K over classes and cells by score alone: local maxima would make one of two people in neighbouring cells.

    As released by CenterPoint, BEVDet, BEVDepth and CRN, which leave the rest to NMS; they take 500 of each task, so
    that K = 500 T holds theirs wherever fewer are above the threshold.

    scores (B, classes, X, Y), regression (B, T, 10, X, Y), of_class the task of each class -> scores (B, K), labels
    (B, K) int64, cells (B, K) int64 = ix * Y + iy, boxes (B, K, 10).
    """
    area = scores.shape[2] * scores.shape[3]
    top, index = scores.flatten(1).topk(top_k, dim=1)
    labels, cells = torch.div(index, area, rounding_mode="floor"), index % area
    where, flat = cells, regression[:, 0].flatten(2)
    if regression.shape[1] > 1:
        task = torch.tensor(of_class, device=labels.device)[labels]
        where, flat = task * area + cells, regression.transpose(1, 2).flatten(2)
    boxes = flat.gather(2, where[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
    return top, labels, cells, boxes
