"""From image features to BEV, weighted by predicted depth, in operators that every TensorRT parser accepts.

Lift as in LSS (Philion & Fidler, ECCV 2020), with the height of the image summed out before the splat: for a camera
that stands upright, all pixels of an image column look along one vertical plane, so softmax(depth) x context summed
over the rows gives a (depth, column) plane per camera (as in CRN's frustum, Kim et al., ICCV 2023). A BEV cell then
reads its own (depth, column) by bilinear sampling: no scatter, no sorting, no precomputed table, and calibration stays
an input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.models.precision import full_precision
from training.models.view.depth_bins import DepthBins
from training.models.view.warp import OUTSIDE


def depth_plane(context: Tensor, depth_probability: Tensor) -> Tensor:
    """(B, N, C, h, w), (B, N, D, h, w) -> (B, N, C, D, w): the lifted features of each image column, rows summed."""
    plane = torch.matmul(depth_probability.permute(0, 1, 4, 2, 3), context.permute(0, 1, 4, 3, 2))  # (B, N, w, D, C)
    return plane.permute(0, 1, 4, 3, 2)


class ColumnLift(nn.Module):
    """(B, N, C, h, w) context and (B, N, D, h, w) depth logits -> (B, C, X, Y) and the coverage (B, 1, X, Y).

    reference_height: metres above ground at which a cell is looked up. The image column of a cell depends on its height
    only through the camera's roll, which is small on vehicles.
    """

    cell_points: Tensor

    def __init__(self, grid: BevGrid, bins: DepthBins, reference_height: float = 0.8) -> None:
        super().__init__()
        self.bins = bins
        self.shape = grid.shape
        centers = torch.from_numpy(grid.centers().reshape(-1, 2)).float()
        points = torch.cat(
            [centers, torch.full((len(centers), 1), reference_height), torch.ones(len(centers), 1)], dim=1
        )
        self.register_buffer("cell_points", points, persistent=False)

    def forward(
        self, context: Tensor, depth_logits: Tensor, img_from_ego: Tensor, camera_valid: Tensor, image_width: int
    ) -> tuple[Tensor, Tensor]:
        """img_from_ego (B, N, 4, 4) into the network's image of `image_width` pixels, camera_valid (B, N)."""
        return self.read(depth_plane(context, depth_logits.softmax(dim=2)), img_from_ego, camera_valid, image_width)

    def read(
        self, plane: Tensor, img_from_ego: Tensor, camera_valid: Tensor, image_width: int
    ) -> tuple[Tensor, Tensor]:
        """The second half of `forward`, from each camera's (depth, column) plane (B, N, C, D, w)."""
        b, n, c = plane.shape[:3]
        with full_precision(plane):  # half precision is pixels off
            projected = torch.matmul(img_from_ego.flatten(0, 1)[:, :3], self.cell_points.t())  # (B*N, 3, X*Y)
        z = projected[:, 2]
        column = (projected[:, 0] / z.clamp(min=0.1) + 0.5) / image_width * 2 - 1
        row = (z - self.bins.start) / (self.bins.step * self.bins.count) * 2 - 1
        seen = (z > 0.5) & (column.abs() < 1) & (row.abs() < 1)
        seen = seen & (camera_valid.reshape(b * n, 1) > 0)
        # What a camera does not see is looked up outside its plane, where the padding is zero: cheaper than a product.
        where = torch.where(seen[..., None], torch.stack([column, row], dim=-1), OUTSIDE)
        where = where.reshape(b * n, *self.shape, 2)
        sampled = F.grid_sample(
            plane.flatten(0, 1).float(), where, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        bev = sampled.reshape(b, n, c, *self.shape).sum(dim=1)
        return bev, seen.reshape(b, n, 1, *self.shape).any(dim=1).to(bev.dtype)
