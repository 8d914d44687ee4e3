"""What a distillation loss is called with: a pair of features, the scene they belong to, the method's config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.models.detector import Prediction
from training.models.view.depth_bins import DepthBins


class Pair(NamedTuple):
    """The adapted student tensor, the teacher's (no gradient), the loss's own learnable part where it has one, and the
    student tensor as it was before an adapter, None where there was none."""

    student: Tensor
    teacher: Tensor
    part: nn.Module | None = None
    unadapted: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """One batch as both networks saw it.

    grid: the range that all BEV maps cover. batch: targets and inputs by name (heatmap (B, classes, X, Y), gt_boxes
    (B, M, 7), gt_valid (B, M), depth (B, N, h, w), lidar (P, 6), img_from_ego (B, N, 4, 4), camera_valid (B, N)).
    of_class: for each class its task in the student's and in the teacher's regression. bins: of a teacher that predicts
    depth; image_height: pixels of the teacher's images.
    """

    grid: BevGrid
    batch: dict[str, Tensor]
    student: Prediction
    teacher: Prediction
    student_of_class: tuple[int, ...] = ()
    teacher_of_class: tuple[int, ...] = ()
    bins: DepthBins | None = None
    image_height: int = 0

    def target(self, name: str) -> Tensor:
        """A tensor of the batch. Raises KeyError saying what the batch has."""
        if name not in self.batch:
            raise KeyError(
                f"the loss needs `{name}` in the batch, found {sorted(self.batch)}; switch it on in the data"
            )
        return self.batch[name]


def same_shape(pair: Pair, loss: str) -> None:
    """Raises ValueError when student and teacher differ in shape: an adapter is missing."""
    if pair.student.shape != pair.teacher.shape:
        raise ValueError(
            f"{loss}: the student's feature {tuple(pair.student.shape)} and the teacher's {tuple(pair.teacher.shape)} "
            "differ in shape; give the term an adapter ('conv1x1' for channels, 'upsample_3layer' for size as well)"
        )
