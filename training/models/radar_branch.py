"""Radar inputs of the engine -> BEV maps: pillars of points through a small PointNet, or the rasterised map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import PILLAR_COLUMNS, ModelSpec
from training.models.center_head import conv_bn_relu
from training.models.pillar_encoder import Z_RANGE, norm_rows
from training.models.precision import full_precision


class PointLayer(nn.Module):
    """Linear, batch norm over the real points, ReLU, maximum over the pillar; the layer of PointPillars' PointNet
    (Lang et al., CVPR 2019). A layer that is not the last gives half its width to the point, half to the maximum."""

    def __init__(self, in_channels: int, channels: int, last: bool) -> None:
        super().__init__()
        if not last and channels % 2:
            raise ValueError(f"PointLayer: a layer before the last needs an even width, found {channels}")
        width = channels if last else channels // 2
        self.last = last
        self.linear = nn.Linear(in_channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)

    def forward(self, points: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """points (B, V, M, in), real (B, V, M) bool -> points (B, V, M, channels), maxima (B, V, width); 0 if empty."""
        x = self.linear(points)
        if self.training:
            x = torch.zeros_like(x).masked_scatter(real[..., None], norm_rows(self.norm, x[real]).to(x.dtype))
        else:
            x = norm_rows(self.norm, x.flatten(0, 2)).reshape(x.shape)
        x = torch.where(real[..., None], x.relu(), 0.0)
        highest = x.amax(dim=2)
        if self.last:
            return x, highest
        return torch.cat([x, highest[:, :, None].expand_as(x)], dim=-1), highest


class RadarPillars(nn.Module):
    """radar_points (B, V, M, 6), radar_counts (B, V), radar_cells (B, V) -> map (B, C, X, Y) and mask (B, 1, X, Y).

    PillarNet's pillar encoder (Shi et al., ECCV 2022) in operators that TensorRT's parser takes: a point is decorated
    with its offset from its pillar's mean (3) and centre (3; z from the middle of `z_range`). No point is dropped for
    its height, which radar hardly measures. The cells of a frame are all different, those of empty rows lie behind the
    grid, so a scatter without a reduction is enough.
    """

    def __init__(
        self, grid: BevGrid, channels: tuple[int, ...] = (32,), z_range: tuple[float, float] = Z_RANGE
    ) -> None:
        super().__init__()
        self.grid, self.z_range, self.channels = grid, z_range, channels[-1]
        widths = (len(PILLAR_COLUMNS) + 6, *channels)
        self.layers = nn.ModuleList(
            PointLayer(a, b, last=i == len(channels) - 1) for i, (a, b) in enumerate(zip(widths, channels))
        )

    def forward(self, points: Tensor, counts: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        b, rows, room, _ = points.shape
        x, y = self.grid.shape
        cells = cells.long()
        real = torch.arange(room, device=points.device) < counts[..., None]
        xyz = points[..., :3]
        mean = (xyz * real[..., None]).sum(dim=2, keepdim=True) / counts.clamp(min=1)[..., None, None]
        index = torch.stack([torch.div(cells, y, rounding_mode="floor"), cells % y], dim=-1)
        low = points.new_tensor([self.grid.x_min, self.grid.y_min])
        middle = F.pad(low + (index + 0.5) * self.grid.step, (0, 1), value=sum(self.z_range) / 2)
        features = torch.cat([points, xyz - mean, xyz - middle[:, :, None]], dim=-1)
        highest = features
        with full_precision(points):  # metres do not fit half precision
            for layer in self.layers:
                features, highest = layer(features, real)
        values = torch.cat([highest, (counts > 0)[..., None].to(highest.dtype)], dim=-1)
        # Room for the rows without points behind each frame's grid.
        where = cells + torch.arange(b, device=cells.device)[:, None] * (x * y + rows)
        canvas = values.new_zeros(b * (x * y + rows), values.shape[-1])
        canvas = canvas.index_put((where.flatten(),), values.flatten(0, 1))
        maps = canvas.reshape(b, x * y + rows, -1)[:, : x * y].transpose(1, 2).reshape(b, -1, x, y)
        return maps[:, :-1], maps[:, -1:]


def deafness(radar_valid: Tensor) -> Tensor:
    """(B, R) -> (B, 1, 1, 1), the share of radars that are dead: an empty map of deaf radars is no empty world."""
    return 1.0 - radar_valid.float().mean(dim=1).reshape(-1, 1, 1, 1)


class RadarBev(nn.Module):
    """The radar inputs of a spec -> BEV map (B, channels[-1], X, Y) on the spec's grid.

    Pillars of the grid's own size go through PointNet layers of `channels`; a rasterised map through 3x3 convolutions
    of `channels`. Both then see the share of dead radars and pass one more convolution.
    Raises ValueError for pillars of another size.
    """

    def __init__(self, spec: ModelSpec, channels: tuple[int, ...]) -> None:
        super().__init__()
        if not spec.radars:
            raise ValueError("this student takes radars, but the spec names none")
        self.shape, self.channels = spec.grid.shape, channels[-1]
        self.pillars: RadarPillars | None = None
        if spec.radar.format == "pillars":
            if spec.pillar_grid().shape != spec.grid.shape:
                raise ValueError(
                    f"radar pillars must be as large as the grid's cells here: radar.pillar_step = {spec.grid.step}, "
                    f"found {spec.radar.pillar_step}"
                )
            self.pillars = RadarPillars(spec.grid, channels)
            self.map = nn.Sequential()
        else:
            widths = (len(spec.radar.channels), *channels)
            self.map = nn.Sequential(*(conv_bn_relu(a, b) for a, b in zip(widths, channels)))
        self.out = conv_bn_relu(channels[-1] + 1, channels[-1])

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.pillars is not None:
            x, _ = self.pillars(inputs["radar_points"], inputs["radar_counts"], inputs["radar_cells"])
        else:
            x = self.map(inputs["radar_bev"])
        deaf = deafness(inputs["radar_valid"]).to(x.dtype).expand(-1, 1, *self.shape)
        return self.out(torch.cat([x, deaf], dim=1))
