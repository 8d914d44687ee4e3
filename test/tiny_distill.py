"""A small student, two frozen teachers and a batch, shared by the tests of distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tiny_networks import CONFIGS
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec
from training.distill import DistillConfig, Distiller
from training.distill.cache import TeacherCache
from training.distill.module import take_over
from training.models.center_head import CenterHead, HeadConfig, conv_bn_relu
from training.models.detector import ONE_TASK, Detector, Memory, Prediction, empty_memory
from training.recipes.distillation import distillbev, radardistill, together
from training.teachers.centerpoint import CenterPoint
from training.teachers.frozen import FrozenTeacher
from training.teachers.pillarnet import PillarNet

GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, 1.0)
SCORES = dict.fromkeys(CLASSES, 0.1)
SPEC = ModelSpec("tiny", (), (), SCORES, SCORES, grid=GRID, temporal=TemporalSpec(state_channels=0), top_k=5)


class Student(nn.Module):
    """A stand-in for a camera + radar student: two encoder stages, a radar branch, CenterPoint's head."""

    bins, training_only = None, ()

    def __init__(self, spec: ModelSpec = SPEC) -> None:
        super().__init__()
        self.spec, self.config = spec, None
        self.stem = conv_bn_relu(2, 8)
        self.encoder1, self.encoder2 = conv_bn_relu(8, 12, stride=2), conv_bn_relu(12, 16, stride=2)
        self.radar = conv_bn_relu(2, 6)
        self.neck = conv_bn_relu(8 + 6, 10)
        self.head = CenterHead(10, spec.classes, HeadConfig(ONE_TASK, shared=32, hidden=32))
        self.tasks = self.head.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        x = inputs.get("sensed", torch.zeros(1, 2, *self.spec.grid.shape))
        lifted, radar = self.stem(x), self.radar(x)
        half = self.encoder1(lifted)
        neck = self.neck(torch.cat([lifted, radar], dim=1))
        maps = {"lift": lifted, "radar": radar, "encoder1": half, "encoder2": self.encoder2(half), "neck": neck}
        heatmap, regression, aux = self.head(neck)
        return Prediction(heatmap, regression, None, aux, maps)


def student() -> Student:
    torch.manual_seed(0)
    return Student()


def centerpoint() -> FrozenTeacher:
    torch.manual_seed(1)
    return FrozenTeacher(CenterPoint(SPEC, CONFIGS["centerpoint"]))


def pillarnet() -> FrozenTeacher:
    torch.manual_seed(2)
    return FrozenTeacher(PillarNet(SPEC, CONFIGS["pillarnet"]))


def batch_of(samples: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    points = torch.rand(200 * samples, 6, generator=g) * torch.tensor([1, 16, 16, 2, 1, 0.5])
    points -= torch.tensor([0, 8.0, 8.0, 1.0, 0, 0])
    points[:, 0] = torch.arange(len(points)) // 200
    target = torch.zeros(samples, len(CLASSES), *GRID.shape)
    target[:, 0, 8:11, 8:11] = 0.4
    target[:, 0, 9, 9] = 1.0
    return {
        "sensed": torch.randn(samples, 2, *GRID.shape, generator=g),
        "lidar": points,
        "lidar_counts": torch.full((samples,), 200),
        "heatmap": target,
        "gt_boxes": torch.tensor([[[1.5, 1.5, 0.0, 4.0, 2.0, 1.5, 0.4]]]).repeat(samples, 1, 1),
        "gt_valid": torch.ones(samples, 1),
    }


LAYERS = (("encoder1", "encoder2"), ("encoder2", "encoder3"), ("neck", "neck"))
BEV = distillbev(LAYERS, source="lidar")
RADAR = radardistill(("radar",), (("radar", "high"), ("neck", "neck")), adapter="conv1x1", source="pillars")
BOTH = together(BEV, RADAR)


def single_frame(detector: Detector, batch: dict[str, Tensor]) -> Prediction:
    """The prediction without earlier frames."""
    return detector(batch, empty_memory(detector.spec, batch["heatmap"], len(batch["heatmap"])))


class Taught(nn.Module):
    """A student beside its Distiller, as the trainer has them: forward(batch) -> (prediction, losses, diagnostics)."""

    def __init__(
        self,
        student: Detector,
        teachers: Mapping[str, FrozenTeacher],
        config: DistillConfig,
        predict: Callable[[Detector, dict[str, Tensor]], Prediction] = single_frame,
        caches: Mapping[str, TeacherCache] | None = None,
        diagnose: bool = False,
    ) -> None:
        super().__init__()
        self.student, self._predict = student, predict
        self.distiller = Distiller(student, teachers, config, predict, caches, diagnose)
        self.inherited = take_over(student, config, teachers)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Prediction, dict[str, Tensor], dict[str, Tensor]]:
        prediction = self._predict(self.student, batch)
        return prediction, *self.distiller(prediction, batch)


def both(**options: Any) -> Taught:
    torch.manual_seed(4)
    return Taught(student(), {"lidar": centerpoint(), "pillars": pillarnet()}, BOTH, **options)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()
