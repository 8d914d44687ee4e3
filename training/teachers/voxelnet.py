"""CenterPoint on voxels (Yin et al., CVPR 2021): a sparse 3-D encoder, SECOND and its neck, six center heads.

Needs the optional package spconv: `pip install spconv-cu120` for the GPU. The CPU's `spconv` runs forward only, and on
one thread: on several its results change from call to call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ModelSpec
from training.models.bev_encoder import SecondConfig, SecondEncoder
from training.models.center_head import CenterHead, HeadConfig
from training.models.detector import Memory, Prediction
from training.models.pillar_encoder import Z_RANGE, group_mean, norm_rows
from training.teachers.centerpoint import POINT_CHANNELS
from training.teachers.clouds import LidarDetector, batch_size, pillar_grid

STRIDE = 8  # voxels along a side of one cell of the encoder's map


def voxel_second() -> SecondConfig:
    """SECOND as CenterPoint has it on voxels: the neck has the resolution of the encoder's map."""
    return SecondConfig((5, 5), (1, 2), (128, 256), (1.0, 2.0), 256)


@dataclass(frozen=True)
class VoxelNetConfig:
    """Voxels are an eighth of the spec's cell wide and `voxel_height` (m) high: 0.1 x 0.1 x 0.2 m under 0.8 m."""

    channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    blocks: int = 2
    voxel_height: float = 0.2
    z_range: tuple[float, float] = Z_RANGE
    second: SecondConfig = field(default_factory=voxel_second)
    head: HeadConfig = field(default_factory=HeadConfig)


def import_spconv() -> Any:
    """spconv.pytorch. Raises ImportError that says how to get it."""
    try:
        import spconv.pytorch as spconv
    except ImportError as error:
        raise ImportError(
            f"CenterPoint on voxels needs spconv, which does not load ({error}); `pip install spconv-cu120` (or "
            "the one for your CUDA), or take the teacher `centerpoint` or `pillarnet`, which need nothing"
        ) from error
    return spconv


@contextmanager
def one_thread() -> Iterator[None]:
    """Within: operators on the CPU use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _with_rows(x: Any, norm: nn.BatchNorm1d, shortcut: Tensor | None = None) -> Any:
    """Batch norm, the shortcut, ReLU on a sparse tensor's rows."""
    rows = norm_rows(norm, x.features)
    return x.replace_feature((rows if shortcut is None else rows + shortcut).relu())


class _Block(nn.Module):
    """ResNet's basic block on active voxels; blocks of one stage share their table of neighbours (`key`)."""

    def __init__(self, channels: int, key: str) -> None:
        super().__init__()
        spconv = import_spconv()
        self.conv1 = spconv.SubMConv3d(channels, channels, 3, bias=False, indice_key=key)
        self.conv2 = spconv.SubMConv3d(channels, channels, 3, bias=False, indice_key=key)
        self.norm1, self.norm2 = (nn.BatchNorm1d(channels, 1e-3, 0.01) for _ in range(2))

    def forward(self, x: Any) -> Any:
        return _with_rows(self.conv2(_with_rows(self.conv1(x), self.norm1)), self.norm2, x.features)


class _Down(nn.Module):
    """Strided sparse convolution, norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: Any, stride: Any, padding: Any) -> None:
        super().__init__()
        self.conv = import_spconv().SparseConv3d(in_channels, channels, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm1d(channels, 1e-3, 0.01)

    def forward(self, x: Any) -> Any:
        return _with_rows(self.conv(x), self.norm)


class VoxelEncoder(nn.Module):
    """Points (P, 6) -> BEV map (B, C, X / 8, Y / 8) over `grid` of voxels: means of voxels, sparse 3-D ResNet, heights
    stacked as channels. 40 voxels of height become 2, so C is twice the last stage's width."""

    def __init__(self, grid: BevGrid, config: VoxelNetConfig) -> None:
        super().__init__()
        spconv = import_spconv()
        c = config.channels
        self.grid, self.config = grid, config
        self.layers = round((config.z_range[1] - config.z_range[0]) / config.voxel_height)
        self.input = spconv.SubMConv3d(POINT_CHANNELS, c[0], 3, bias=False, indice_key="stage0")
        self.norm = nn.BatchNorm1d(c[0], 1e-3, 0.01)
        stages: list[nn.Module] = []
        for i, width in enumerate(c):
            down = [_Down(c[i - 1], width, 3, 2, (0, 1, 1) if i == 3 else 1)] if i else []
            stages.append(nn.Sequential(*down, *(_Block(width, f"stage{i}") for _ in range(config.blocks))))
        self.stages = nn.Sequential(*stages)
        self.flatten = _Down(c[3], c[3], (3, 1, 1), (2, 1, 1), 0)
        height = self.layers + 1  # one empty layer on top, as in SECOND
        for kernel, stride, padding in ((3, 2, 1), (3, 2, 1), (3, 2, 0), (3, 2, 0)):
            height = (height + 2 * padding - kernel) // stride + 1
        if height < 1:
            raise ValueError(f"VoxelEncoder: {self.layers} voxels of height are too few, 24 are the least")
        self.out_channels = c[3] * height

    def forward(self, points: Tensor, batch: int) -> Tensor:
        rows, index = self.voxels(points)
        x, y = self.grid.shape
        if not len(rows):  # spconv does not take an empty tensor
            return rows.new_zeros(batch, self.out_channels, x // STRIDE, y // STRIDE)
        sparse = import_spconv().SparseConvTensor(rows, index.int().contiguous(), [self.layers + 1, x, y], batch)
        with one_thread() if points.device.type == "cpu" else nullcontext():
            dense = self.flatten(self.stages(_with_rows(self.input(sparse), self.norm))).dense()
        return dense.flatten(1, 2)

    def voxels(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of each voxel's points (V, 5) and its index (V, 4): batch, z, x, y. Points outside are dropped."""
        low = points.new_tensor([self.grid.x_min, self.grid.y_min, self.config.z_range[0]]).double()
        step = points.new_tensor([self.grid.step, self.grid.step, self.config.voxel_height]).double()
        size = points.new_tensor([*self.grid.shape, self.layers]).double()
        cell = ((points[:, 1:4].double() - low) / step).floor()
        inside = ((cell >= 0) & (cell < size)).all(dim=1)
        ix, iy, iz = cell[inside].long().unbind(dim=1)
        index = torch.stack([points[inside, 0].long(), iz, ix, iy], dim=1)
        voxels, group = torch.unique(index, dim=0, return_inverse=True)
        return group_mean(points[inside, 1:], group, len(voxels)), voxels


class VoxelNet(LidarDetector):
    """inputs: lidar (P, 6), lidar_counts (B,) -> Prediction; features "encoder1", "encoder2" and "neck"."""

    def __init__(self, spec: ModelSpec, config: VoxelNetConfig = VoxelNetConfig()) -> None:
        super().__init__(spec)
        self.config = config
        self.voxels = VoxelEncoder(pillar_grid(spec.grid, STRIDE), config)
        self.encoder = SecondEncoder(self.voxels.out_channels, config.second)
        self.head = CenterHead(self.encoder.channels["neck"], spec.classes, config.head)
        self.tasks = self.head.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Prediction:
        maps = self.encoder(self.voxels(inputs["lidar"], batch_size(inputs)))
        heatmap, regression, aux = self.head(maps["neck"])
        return Prediction(heatmap, regression, aux=aux, features=maps)
