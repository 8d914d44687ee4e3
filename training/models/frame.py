"""The frame that a network computes in, where it is not the ego frame.

Published networks of nuScenes compute in the frame of LIDAR_TOP (x right, y ahead, z up), with the rows of their maps
along y and the columns along x. Laid out as maps here, (X, Y), that is a frame whose first axis points ahead and whose
second points to the right: a mirror image of the ego frame, in which kernels, strides and deformable offsets stay as
they were published. Convolutions of stride 2 do not commute with the mirror, so the network runs in its own frame:
what goes in is turned there, what comes out is turned back.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ModelSpec
from training.models.detector import Memory, Prediction
from training.models.precision import full_precision
from training.models.spread_head import READS


@dataclass(frozen=True)
class Frame:
    """A network's frame as the ego frame sees it: ahead, sideways, up.

    origin: of the network's frame in the ego frame, m. pitch_deg: how far its first axis points down. mirrored: its
    second axis points to the right instead of to the left. The default is the ego frame itself.
    """

    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pitch_deg: float = 0.0
    mirrored: bool = False

    def ego_from_network(self) -> np.ndarray:
        """(4, 4) float64; its determinant is -1 where the frame is mirrored."""
        sine, cosine = math.sin(math.radians(self.pitch_deg)), math.cos(math.radians(self.pitch_deg))
        matrix = np.eye(4)
        matrix[:3, :3] = [[cosine, 0.0, sine], [0.0, -1.0 if self.mirrored else 1.0, 0.0], [-sine, 0.0, cosine]]
        matrix[:3, 3] = self.origin
        return matrix


EGO = Frame()
# LIDAR_TOP of nuScenes' two vehicles: 0.944 and 0.986 m ahead of the rear axle, 1.840 m up, leaning 1.39 and 2.65
# degrees forward (their calibrated_sensor records). This is between the two.
LIDAR_TOP = Frame((0.965, 0.0, 1.84), 2.0, mirrored=True)


def grid_in(frame: Frame, grid: BevGrid) -> BevGrid:
    """The same cells in the network's frame; what the pitch does to them is left to the boxes."""
    x, y, _ = frame.origin
    sides = (y - grid.y_max, y - grid.y_min) if frame.mirrored else (grid.y_min - y, grid.y_max - y)
    low, high, left, right = (round(edge, 9) for edge in (grid.x_min - x, grid.x_max - x, *sides))
    return BevGrid(low, high, left, right, grid.step)


def spec_in(frame: Frame, spec: ModelSpec) -> ModelSpec:
    """The spec that parts of a network in `frame` are built for."""
    return spec if frame == EGO else dataclasses.replace(spec, grid=grid_in(frame, spec.grid))


class Turn(nn.Module):
    """Between the ego frame and the network's: inputs and memory in, the prediction out. Nothing for the ego frame.

    Images' depth and classes, and the state, which only the network itself reads, stay as they are. A radar's return
    stays at its place in its cell, mirrored: of the pitch it has the height alone, as the cells are the vehicle's.
    """

    ego_from_network: Tensor
    network_from_ego: Tensor
    sides: Tensor
    places: Tensor

    def __init__(self, frame: Frame, spec: ModelSpec) -> None:
        super().__init__()
        self.frame, self.step = frame, spec.grid.step
        self.pillars = spec.pillar_grid().shape if spec.radars and spec.radar.format == "pillars" else None
        matrix = frame.ego_from_network()
        self.register_buffer("ego_from_network", torch.from_numpy(matrix).float(), persistent=False)
        self.register_buffer("network_from_ego", torch.from_numpy(np.linalg.inv(matrix)).float(), persistent=False)
        sides = torch.tensor([1.0, -1.0 if frame.mirrored else 1.0])
        self.register_buffer("sides", sides, persistent=False)
        self.register_buffer("places", torch.from_numpy(_places(frame, spec.grid)).float(), persistent=False)

    def inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a detector (training.models.detector) with points, cells and projections in this frame."""
        if self.frame == EGO:
            return inputs
        turned = dict(inputs)
        rotation, origin = self.ego_from_network[:3, :3], self.ego_from_network[:3, 3]
        like = next(iter(inputs.values()))
        with full_precision(like):
            if "lidar" in inputs:
                points = inputs["lidar"]
                turned["lidar"] = torch.cat([points[:, :1], (points[:, 1:4] - origin) @ rotation, points[:, 4:]], dim=1)
            if "radar_points" in inputs:
                points = inputs["radar_points"]
                place = points[..., :3] - origin
                height = (place @ rotation)[..., 2:]
                level = torch.cat([place[..., :2] * self.sides, height, points[..., 3:4]], dim=-1)
                turned["radar_points"] = torch.cat([level, points[..., 4:6] * self.sides], dim=-1)
                turned["radar_cells"] = self._cells(inputs["radar_cells"])
            if "img_from_ego" in inputs:
                turned["img_from_ego"] = inputs["img_from_ego"].float() @ self.ego_from_network
        return turned

    def _cells(self, cells: Tensor) -> Tensor:
        """Cells of pillars seen in the mirror; what lies behind the grid stays there."""
        if not self.frame.mirrored or self.pillars is None:
            return cells
        x, y = self.pillars
        row = torch.div(cells, y, rounding_mode="floor")
        return torch.where(cells < x * y, 2 * row * y + (y - 1) - cells, cells)

    def memory(self, memory: Memory | None) -> Memory | None:
        """The earlier state lies in the network's frame already; the vehicle's motion is said there."""
        if self.frame == EGO or memory is None:
            return memory
        with full_precision(memory.from_curr):
            moved = self.network_from_ego @ memory.from_curr.float() @ self.ego_from_network
        return memory._replace(from_curr=moved)

    def prediction(self, prediction: Prediction) -> Prediction:
        """Heatmap, boxes and BEV features on the spec's grid, in the ego frame."""
        if self.frame == EGO:
            return prediction
        maps = {n for n in prediction.aux if n in ("iou", "foreground") or n.startswith(READS)}
        aux = {n: self._map(t) if n in maps else t for n, t in prediction.aux.items()}
        return dataclasses.replace(
            prediction,
            heatmap=self._map(prediction.heatmap),
            regression=self._boxes(prediction.regression),
            aux=aux,
            features={name: self._map(feature) for name, feature in prediction.features.items()},
        )

    def _map(self, maps: Tensor) -> Tensor:
        return maps.flip(-1) if self.frame.mirrored else maps

    def _boxes(self, regression: Tensor) -> Tensor:
        """(B, T, 10, X, Y) in the network's frame -> the same boxes in the ego frame, against the ego grid's cells."""
        dx, dy, z, length, width, height, sine, cosine, vx, vy = regression.float().unbind(dim=2)
        (xx, _, xz), (_, yy, _), (zx, _, zz) = self.frame.ego_from_network()[:3, :3].tolist()
        turned = [
            xx * dx + xz / self.step * z + self.places[0],
            yy * dy + self.places[1],
            zx * self.step * dx + zz * z + self.places[2],
            length, width, height,
            yy * sine, xx * cosine,
            xx * vx, yy * vy,
        ]  # fmt: skip
        return self._map(torch.stack(turned, dim=2))


def _places(frame: Frame, grid: BevGrid) -> np.ndarray:
    """(3, X, Y) float64: the lower corners of the network's cells in the ego frame, along x and y in cells from the
    corner of the ego cell that each becomes, along z in metres. Small numbers: they survive half precision."""
    own, (x, y) = grid_in(frame, grid), grid.shape
    index = np.stack(np.meshgrid(np.arange(x), np.arange(y), indexing="ij"))
    corner = np.stack([own.x_min + index[0] * own.step, own.y_min + index[1] * own.step, np.zeros((x, y))])
    matrix = frame.ego_from_network()
    corner = np.einsum("ij,jxy->ixy", matrix[:3, :3], corner) + matrix[:3, 3, None, None]
    column = y - 1 - index[1] if frame.mirrored else index[1]
    cells = [(corner[0] - grid.x_min) / grid.step - index[0], (corner[1] - grid.y_min) / grid.step - column]
    return np.stack([*cells, corner[2]])
