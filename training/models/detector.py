"""What every network here is to the trainer, the exporter and distillation: a plain nn.Module that is a Detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bev_perception.model_spec import CLASSES, ModelSpec
from training.models.view.depth_bins import DepthBins

# CenterPoint's six heads (Yin et al., CVPR 2021): classes of like shape share one.
SIX_TASKS = (
    ("car",), ("truck", "construction_vehicle"), ("bus", "trailer"), ("barrier",), ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)  # fmt: skip
ONE_TASK = (CLASSES,)


class Memory(NamedTuple):
    """An earlier frame: its state, the transform of current points into it, whether there is one, its age in s."""

    bev: Tensor  # (B, C, X, Y)
    from_curr: Tensor  # (B, 4, 4)
    valid: Tensor  # (B, 1)
    dt: Tensor  # (B, 1)


@dataclass
class Prediction:
    """heatmap (B, classes, X, Y) logits in spec.classes order; regression (B, T, 10, X, Y) of BOX_CHANNELS per task.

    state (B, C, X, Y) for later frames, None without memory. aux: what losses supervise besides, by name: depth
    (B, N, D, h, w) logits, semantic (B, N, classes + 1, h, w) logits, foreground (B, 1, X, Y) logits, iou (B, T, X, Y).
    features: BEV maps that distillation may name. images: (B, N, C, h, w) features of every image, of networks that can
    be exported with what the health of cameras is judged by.
    """

    heatmap: Tensor
    regression: Tensor
    state: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    images: Tensor | None = None


# scores (B, K), labels (B, K) int64, cells (B, K) int64 = ix * Y + iy, boxes (B, K, 10) in BOX_CHANNELS.
Candidates = tuple[Tensor, Tensor, Tensor, Tensor]


class Module(Protocol):
    """What of nn.Module is asked of a detector; there is no type for what is both."""

    training: bool

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def named_children(self) -> Iterator[tuple[str, nn.Module]]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object: ...
    def requires_grad_(self, requires_grad: bool) -> object: ...
    def train(self) -> object: ...
    def eval(self) -> object: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def to(self, device: torch.device | str) -> object: ...
    def _apply(self, fn: Callable[[Tensor], Tensor]) -> object: ...


class Detector(Module, Protocol):
    """A network built from (spec, config).

    `inputs` are ModelSpec.inputs() with a batch axis in front and without prev_*; LiDAR teachers read `lidar` instead:
    (P, 6) float32 of all items, batch index, x, y, z (m, ego frame), intensity in [0, 1], age (s); and `lidar_counts`
    (B,).
    """

    spec: ModelSpec

    @property
    def config(self) -> object:
        """A frozen dataclass."""

    @property
    def tasks(self) -> tuple[tuple[str, ...], ...]:
        """Groups of class names that share a regression branch."""

    @property
    def bins(self) -> DepthBins | None:
        """Of the depth that it predicts along the images' rays."""

    @property
    def training_only(self) -> tuple[str, ...]:
        """Prefixes of parameter names that the exported graph does not need."""

    def __call__(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction: ...

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        """The state alone, (B, C, X, Y): what the earlier frames of a clip are run through."""


@runtime_checkable
class SetDetector(Protocol):
    """A detector that finds a set of objects, not cells of a heatmap, and so brings what is done with its prediction.

    Its heatmap and regression are drawn for distillation alone.
    """

    def losses(self, prediction: Prediction, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms, instead of training.losses.detection."""

    def candidates(self, prediction: Prediction) -> Candidates: ...


@dataclass(frozen=True)
class Family:
    """An entry of STUDENTS or TEACHERS: `module(spec, config)`; `config` is a frozen dataclass, at paper size.

    image_targets: config -> what it predicts in the images for a loss to supervise, some of "depth" and "semantic".
    """

    module: Callable[[ModelSpec, Any], Detector]
    config: type
    image_targets: Callable[[Any], tuple[str, ...]] = lambda config: ()


def camera_targets(config: Any) -> tuple[str, ...]:
    """Family.image_targets of a network whose `camera` is a CameraBevConfig."""
    return tuple(config.camera.aux)


def empty_memory(spec: ModelSpec, like: Tensor, batch: int) -> Memory | None:
    """Memory of a first frame, on `like`'s device: zeros that are not valid; None for a spec without a state."""
    if spec.temporal.state_channels == 0:
        return None
    eye = torch.eye(4, device=like.device).expand(batch, 4, 4)
    flag = torch.zeros(batch, 1, device=like.device)
    bev = torch.zeros(batch, spec.temporal.state_channels, *spec.grid.shape, device=like.device)
    return Memory(bev, eye, flag, flag + spec.temporal.interval_s)


def task_index(tasks: tuple[tuple[str, ...], ...], classes: tuple[str, ...]) -> tuple[int, ...]:
    """For each class its task. Raises ValueError when the tasks do not cover the classes exactly once."""
    if sorted(name for task in tasks for name in task) != sorted(classes):
        raise ValueError(f"the tasks {tasks} must name each of the classes {classes} once")
    return tuple(next(t for t, task in enumerate(tasks) if name in task) for name in classes)
