"""Forward projection: lift image features along their rays by predicted depth, splat them into the BEV grid.

LSS (Philion & Fidler, ECCV 2020), as in BEVDet (Huang et al., 2021) and BEVDepth (Li et al., AAAI 2023):
    BEV(cell) = sum over cameras, pixels (u, v) and bins d with p_ego(u, v, d) in cell of depth_d(u, v) * context(u, v)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.models.precision import full_precision
from training.models.view.depth_bins import DepthBins
from training.models.view.splat import splat, splat_dense, splat_points, splat_points_dense


def inverse_3x3(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> its inverse by cofactors: TensorRT's parser knows no matrix inverse."""
    a, b, c = matrix.unbind(dim=-2)
    adjugate = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-1)
    return adjugate / (a * adjugate[..., 0]).sum(dim=-1)[..., None, None]


# Where the points of a ray stand, and which cell they fall into; see LiftSplat.
FRUSTUMS = ("centres", "lss")


class LiftSplat(nn.Module):
    """(B, N, C, h, w) context and (B, N, D, h, w) depth probability -> (B, C, X, Y).

    stride: image pixels per feature. z_range: metres, half open; points above or below it are dropped.
    frustum: "centres": a feature stands for the centre of its stride x stride pixels and a bin for its middle, where
    LiDAR depth supervises them. "lss", for weights that were trained with the code of LSS and BEVDet v1.0
    (mmdet3d/models/necks/view_transformer.py): a bin stands at its near edge; features are spread from the first pixel
    to the last; cells are cut off toward zero, so that what lies up to one cell below the grid counts into its first
    one, in z, whose one cell is z_range, as well: -30 to 10 m instead of -10 to 10.
    """

    def __init__(
        self,
        grid: BevGrid,
        bins: DepthBins,
        stride: int,
        z_range: tuple[float, float] = (-10.0, 10.0),
        frustum: str = "centres",
    ) -> None:
        super().__init__()
        self.lss = frustum == "lss"
        self.grid, self.bins, self.stride, self.z_range = grid, bins, stride, z_range

    def forward(
        self,
        context: Tensor,
        depth_probability: Tensor,
        img_from_ego: Tensor,
        camera_valid: Tensor,
        image_size: tuple[int, int],
    ) -> Tensor:
        """img_from_ego (B, N, 4, 4) into the network's image of image_size (height, width), camera_valid (B, N).

        Raises ValueError when the feature maps do not have image_size / stride, or depth not bins.count channels.
        """
        b, n, c, h, w = context.shape
        if (h * self.stride, w * self.stride) != tuple(image_size) or depth_probability.shape[2:] != (
            self.bins.count, h, w,
        ):  # fmt: skip
            raise ValueError(
                f"LiftSplat wants features of {tuple(image_size)} / {self.stride} and {self.bins.count} depth bins, "
                f"found context {tuple(context.shape)} and depth {tuple(depth_probability.shape)}"
            )
        count = self.grid.shape[0] * self.grid.shape[1]
        with torch.no_grad(), full_precision(context):
            cells = self.cells(img_from_ego, camera_valid, h, w)  # (B, N, h * w, D)
        depth = depth_probability.flatten(3).transpose(2, 3)  # (B, N, h * w, D)
        if torch.compiler.is_exporting():
            # Camera after camera: the matrix of weights is the largest tensor, and one camera's is enough at a time.
            views = [
                splat_dense(context[i, j].flatten(1), depth[i, j], cells[i, j], count)
                for i in range(b)
                for j in range(n)
            ]
            maps = [sum(views[i * n + 1 : (i + 1) * n], views[i * n]) for i in range(b)]
            return torch.stack(maps).reshape(b, c, *self.grid.shape)
        # Rows of the batch share one splat: cells of frame i start at i * count, and what is outside stays so.
        offset = torch.arange(b, device=cells.device).reshape(b, 1, 1, 1) * count
        cells = torch.where(cells < count, cells + offset, b * count)
        rays = context.flatten(3).transpose(2, 3).flatten(0, 2)
        exact = torch.promote_types(context.dtype, torch.float32)  # half precision sums would lose small weights
        bev = splat(rays.to(exact), depth.flatten(0, 2).to(exact), cells.flatten(0, 2), b * count)
        return bev.reshape(b, *self.grid.shape, c).permute(0, 3, 1, 2).to(context.dtype)

    def points(self, volume: Tensor, img_from_ego: Tensor, camera_valid: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The same sum of points that have features of their own: volume (B, N, C, D, h, w) -> (B, C, X, Y).

        Raises ValueError when the volume does not have image_size / stride and bins.count.
        """
        b, n, c, d, h, w = volume.shape
        if (h * self.stride, w * self.stride, d) != (*image_size, self.bins.count):
            raise ValueError(
                f"LiftSplat wants features of {tuple(image_size)} / {self.stride} and {self.bins.count} depth bins, "
                f"found points {tuple(volume.shape)}"
            )
        count = self.grid.shape[0] * self.grid.shape[1]
        with torch.no_grad(), full_precision(volume):
            cells = self.cells(img_from_ego, camera_valid, h, w).reshape(b, n, h, w, d)
        if torch.compiler.is_exporting():
            rows = [
                splat_points_dense(volume[i, j, :, :, row].transpose(1, 2), cells[i, j, row], self.grid.shape)
                for i in range(b)
                for j in range(n)
                for row in range(h)
            ]
            maps = [sum(rows[i * n * h + 1 : (i + 1) * n * h], rows[i * n * h]) for i in range(b)]
            return torch.stack(maps).reshape(b, c, *self.grid.shape)
        offset = torch.arange(b, device=cells.device).reshape(b, 1, 1, 1, 1) * count
        cells = torch.where(cells < count, cells + offset, b * count)
        values = volume.permute(0, 1, 4, 5, 3, 2).flatten(0, 4)
        exact = torch.promote_types(volume.dtype, torch.float32)
        bev = splat_points(values.to(exact), cells.flatten(), b * count)
        return bev.reshape(b, *self.grid.shape, c).permute(0, 3, 1, 2).to(volume.dtype)

    def cells(self, img_from_ego: Tensor, camera_valid: Tensor, h: int, w: int) -> Tensor:
        """(B, N, h * w, D) int64: ix * Y + iy of each frustum point, or X * Y where it is outside or its camera off.

        p_ego = A^-1 ([u, v, 1] d - t) with [A | t] the upper rows of img_from_ego. Written as origin + d * direction:
        each coordinate is then monotone in d even in rounded arithmetic, and a ray meets a cell in one run of bins.
        """
        device, (x, y), grid = img_from_ego.device, self.grid.shape, self.grid
        dtype = torch.float64 if img_from_ego.dtype == torch.float64 else torch.float32
        img_from_ego = img_from_ego.to(dtype)
        # Along x and y in cells from the grid's corner, along z in metres from the lower end of the range.
        lowest = torch.tensor([[grid.x_min], [grid.y_min], [self.z_range[0]]], device=device, dtype=dtype)
        unit = torch.tensor([[grid.step], [grid.step], [1.0]], device=device, dtype=dtype)
        ego_from_pixel = inverse_3x3(img_from_ego[..., :3, :3])
        origin = (-torch.matmul(ego_from_pixel, img_from_ego[..., :3, 3:]) - lowest) / unit  # (B, N, 3, 1)
        u = (torch.arange(w, device=device, dtype=dtype) + 0.5) * self.stride - 0.5
        v = (torch.arange(h, device=device, dtype=dtype) + 0.5) * self.stride - 0.5
        if self.lss:
            u, v = (torch.linspace(0, n * self.stride - 1, n, device=device, dtype=dtype) for n in (w, h))
        pixels = torch.stack([u.repeat(h), v.repeat_interleave(w), torch.ones(h * w, device=device, dtype=dtype)])
        direction = torch.matmul(ego_from_pixel, pixels) / unit  # (B, N, 3, h * w)
        bins = torch.arange(self.bins.count, device=device, dtype=dtype) + (0.0 if self.lss else 0.5)
        points = origin[..., None] + direction[..., None] * (self.bins.start + self.bins.step * bins)
        px, py, pz = points.unbind(dim=2)
        # Floor, not truncation: what lies just below the range must not enter cell 0.
        ix, iy = px.floor(), py.floor()
        height = self.z_range[1] - self.z_range[0]
        if self.lss:
            inside = (px > -1) & (ix < x) & (py > -1) & (iy < y) & (pz > -height) & (pz < height)
            ix, iy = ix.clamp(min=0), iy.clamp(min=0)
        else:
            inside = (ix >= 0) & (ix < x) & (iy >= 0) & (iy < y) & (pz >= 0) & (pz < height)
        inside = inside & (camera_valid[..., None, None] > 0)
        return torch.where(inside, ix * y + iy, x * y).long()  # NaN of a broken camera is outside, too
