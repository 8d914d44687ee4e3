"""BEVDistill (Chen et al., ICLR 2023): imitation of the map inside the ground truth's Gaussians, and of the instances
that the two heads find, which are assigned to each other: boxes, and a contrast of what the maps hold there.

The settings are those of the authors' repository (zehuichen123/BEVDistill), whose student and teacher have query
decoders. Here an instance is a local maximum of a head's heatmap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distill.instances import assign, instances
from training.distill.places import gaussians, read_at
from training.distill.scene import Pair, Scene, same_shape

PLACES = ("released", "matched")


@dataclass(frozen=True)
class BevDistillConfig:
    """weight: of the squared error; overlap, least_radius: of the Gaussians, drawn on the compared maps' cells: the
    released values. Targets of detection have a least radius of 2."""

    weight: float = 1e-2
    overlap: float = 0.1
    least_radius: int = 1


@dataclass(frozen=True)
class BevDistillInstanceConfig:
    """weight: of the boxes' L1 error, velocity: a factor on its part. match_box: weight of the boxes in the assignment.
    teacher, student: how many instances of each take part.

    The released class term has weight 0 in the shared configurations, and the IoU term; they are left out.
    """

    weight: float = 0.25
    velocity: float = 0.2
    match_box: float = 0.25
    teacher: int = 50
    student: int = 900


@dataclass(frozen=True)
class BevDistillContrastConfig:
    """InfoNCE. weight; temperature; student_channels, teacher_channels: of the compared maps; hidden: of the embedding.

    places: "released" reads both maps where the student sees objects, all of its instances, as the released code;
    "matched" reads each map where its own network sees the object, over the assigned instances. match_box, teacher,
    student: as for the boxes.
    """

    weight: float = 0.2
    temperature: float = 0.07
    student_channels: int = 256
    teacher_channels: int = 256
    hidden: int = 512
    places: str = "released"
    match_box: float = 0.25
    teacher: int = 50
    student: int = 900

    def __post_init__(self) -> None:
        if self.places not in PLACES:
            raise ValueError(f"places must be one of {PLACES}, found {self.places!r}")


class ContrastHead(nn.Module):
    """Rows of both maps (R, C) -> unit vectors (R, hidden), each network by layers of its own that learn with the
    student: as the released head a projection, then two layers with batch norm and ReLU between."""

    def __init__(self, config: BevDistillContrastConfig) -> None:
        super().__init__()
        self.student = _embedding(config.student_channels, config.hidden)
        self.teacher = _embedding(config.teacher_channels, config.hidden)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.student(student), dim=1), F.normalize(self.teacher(teacher), dim=1)


def _embedding(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, hidden),
        nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, hidden),
    )  # fmt: skip


def bevdistill_dense(pair: Pair, scene: Scene, config: BevDistillConfig = BevDistillConfig()) -> dict[str, Tensor]:
    """weight x sum of G (S - T)^2 / sum of G; G are the Gaussians of all boxes, channels are summed."""
    same_shape(pair, "bevdistill_dense")
    shape = (pair.student.shape[2], pair.student.shape[3])
    boxes, valid = scene.target("gt_boxes"), scene.target("gt_valid")
    gaussian = gaussians(boxes, valid, scene.grid, shape, config.overlap, config.least_radius)
    error = ((pair.student.float() - pair.teacher.float()) ** 2).sum(dim=1)
    return {"feature": config.weight * (error * gaussian).sum() / gaussian.sum().clamp(min=1)}


def bevdistill_instances(
    pair: Pair, scene: Scene, config: BevDistillInstanceConfig = BevDistillInstanceConfig()
) -> dict[str, Tensor]:
    """weight x sum of q^2 |S - T| over assigned boxes / sum of q, q the teacher's score; the pair: the `regression`s.

    q is squared because the released code multiplies by it twice.
    """
    student = instances(scene.student, scene.student_of_class, scene.grid, config.student)
    teacher = instances(scene.teacher, scene.teacher_of_class, scene.grid, config.teacher)
    mine, theirs = assign(student, teacher, config.match_box)
    quality = teacher.scores().gather(1, theirs)
    error = (_rows(student.boxes, mine) - _rows(teacher.boxes, theirs)).abs()
    of_channel = error.new_tensor([1.0] * 8 + [config.velocity] * 2)
    total = (quality[..., None] ** 2 * of_channel * error).sum()
    return {"box": config.weight * total / quality.sum().clamp(min=1e-6)}


def bevdistill_contrast(
    pair: Pair, scene: Scene, config: BevDistillContrastConfig = BevDistillContrastConfig()
) -> dict[str, Tensor]:
    """weight x mean over instances i of -log softmax_j(t_i s_j / temperature)_i, j over those of i's frame, t and s the
    embeddings of what the teacher's and the student's map hold; the pair: the maps, of any size over the grid's range.
    """
    found = (pair.student.shape[1], pair.teacher.shape[1])
    if found != (config.student_channels, config.teacher_channels):
        raise ValueError(
            f"bevdistill_contrast: the maps have {found[0]} and {found[1]} channels; set the term's "
            f"config.student_channels and config.teacher_channels, which are {config.student_channels} and "
            f"{config.teacher_channels}"
        )
    assert pair.part is not None
    student = instances(scene.student, scene.student_of_class, scene.grid, config.student)
    here = there = student.boxes[..., :2]
    if config.places == "matched":
        teacher = instances(scene.teacher, scene.teacher_of_class, scene.grid, config.teacher)
        mine, theirs = assign(student, teacher, config.match_box)
        here, there = _rows(here, mine), _rows(teacher.boxes[..., :2], theirs)
    rows = [
        read_at(feature, places.detach()[:, :, None], scene.grid).flatten(0, 2)
        for feature, places in ((pair.student, here), (pair.teacher, there))
    ]
    s, t = (embedded.unflatten(0, here.shape[:2]) for embedded in pair.part(*rows))
    likeness = t @ s.transpose(1, 2) / config.temperature
    same = torch.arange(likeness.shape[1], device=s.device).expand(likeness.shape[:2])
    return {"contrast": config.weight * F.cross_entropy(likeness.flatten(0, 1), same.flatten())}


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, K, n) at (B, L) -> (B, L, n)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
