"""From camera images to one BEV map: image branch, depth, forward view transform."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models.depth_net import DepthNetConfig, PlaneRefinement, depth_network
from training.models.image_branch import ImageBranch, ImageConfig
from training.models.view.column_lift import ColumnLift, depth_plane
from training.models.view.depth_bins import DepthBins
from training.models.view.lift_splat import FRUSTUMS, LiftSplat

AUX = ("depth", "semantic")


@dataclass(frozen=True)
class CameraBevConfig:
    """bins, context: depth bins and BEV channels. depth_net: BEVDepth's network; None for one 1x1 convolution.

    refine: BEVDepth's convolutions over each camera's (depth, column) plane; rows: over that of each of its rows, as
    released. aux: what training supervises in the image, "depth" from LiDAR, "semantic" the class of the object at a
    pixel (a training-only convolution). frustum: a key of FRUSTUMS, where LiftSplat puts the points of a ray; z_range:
    the heights that it keeps, m.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    bins: DepthBins = field(default_factory=lambda: DepthBins(1.0, 1.0, 59))
    context: int = 64
    depth_net: DepthNetConfig | None = None
    refine: bool = False
    aux: tuple[str, ...] = ()
    frustum: str = "centres"
    z_range: tuple[float, float] = (-10.0, 10.0)
    rows: bool = False

    def __post_init__(self) -> None:
        if self.rows and not self.refine:
            raise ValueError("rows says how to refine: it needs refine")
        if self.frustum not in FRUSTUMS or (self.refine and not self.rows and self.frustum != "centres"):
            raise ValueError(
                f'frustum must be one of {FRUSTUMS}, "centres" with refine but without rows, found {self.frustum!r}'
            )
        if set(self.aux) - set(AUX):
            raise ValueError(f"aux must be some of {AUX}, found {self.aux}")


class Lifted(NamedTuple):
    """bev (B, C, X, Y), context (B, N, C, h, w), depth (B, N, D, h, w) probabilities, aux as Prediction.aux."""

    bev: Tensor
    context: Tensor
    depth: Tensor
    aux: dict[str, Tensor]


class CameraBev(nn.Module):
    """inputs (images, img_from_ego, camera_valid) -> Lifted.

    Without `refine` the view transform is the exact lift-splat. With it, features are summed over the image rows before
    the refinement, and cells read the refined plane (ColumnLift; CRN, Kim et al., ICCV 2023, sums there as well): all
    rows of an upright camera's column fall into the same cells. With `rows` every row is refined on its own, as in
    BEVDepth's released code, and all its points are summed exactly: h times the work, and 80 000 points of a camera.
    """

    def __init__(self, spec: ModelSpec, config: CameraBevConfig = CameraBevConfig()) -> None:
        super().__init__()
        self.config, self.channels = config, config.context
        self.image_size = spec.image.height, spec.image.width
        self.image = ImageBranch(spec.image, config.image)
        features, bins = config.image.channels, config.bins
        self.depth = depth_network(features, bins.count, config.context, config.depth_net)
        self.semantic = nn.Conv2d(features, len(spec.classes) + 1, 1) if "semantic" in config.aux else None
        self.refine = PlaneRefinement(config.context) if config.refine else nn.Identity()
        self.lift = (
            ColumnLift(spec.grid, bins)
            if config.refine and not config.rows
            else LiftSplat(spec.grid, bins, config.image.stride, config.z_range, config.frustum)
        )

    def forward(self, inputs: dict[str, Tensor]) -> Lifted:
        img_from_ego, valid = inputs["img_from_ego"], inputs["camera_valid"]
        features = self.image(inputs["images"])
        logits, context = self.depth(features, img_from_ego, valid, self.image_size)
        depth = logits.float().softmax(dim=2)
        bev = self.lifted(context, depth, img_from_ego, valid)
        aux = {"depth": logits} if "depth" in self.config.aux else {}
        if self.semantic is not None and self.training:
            aux["semantic"] = self.semantic(features.flatten(0, 1)).unflatten(0, valid.shape)
        return Lifted(bev.to(context.dtype), context, depth, aux)

    def lifted(self, context: Tensor, depth: Tensor, img_from_ego: Tensor, camera_valid: Tensor) -> Tensor:
        """Context (B, N, C, h, w) and depth (B, N, D, h, w), which sums to 1 -> (B, C, X, Y)."""
        if isinstance(self.lift, ColumnLift):
            plane = depth_plane(context, depth.to(context.dtype)).flatten(0, 1)
            plane = self.refine(plane).unflatten(0, camera_valid.shape)
            return self.lift.read(plane, img_from_ego, camera_valid, self.image_size[1])[0]
        if not self.config.rows:
            return self.lift(context, depth, img_from_ego, camera_valid, self.image_size)
        # Camera after camera: the points of one are large enough.
        views = [
            self._rows_lifted(context[:, i], depth[:, i], img_from_ego[:, i : i + 1], camera_valid[:, i : i + 1])
            for i in range(context.shape[1])
        ]
        return torch.stack(views).sum(dim=0)

    def _rows_lifted(self, context: Tensor, depth: Tensor, img_from_ego: Tensor, camera_valid: Tensor) -> Tensor:
        """`lifted` of one camera, (B, C, h, w) and (B, D, h, w), every row refined on its own."""
        assert isinstance(self.lift, LiftSplat)
        volume = context[:, :, None] * depth.to(context.dtype)[:, None]  # (B, C, D, h, w)
        rows = volume.permute(0, 3, 1, 2, 4)
        refined = self.refine(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).permute(0, 2, 3, 1, 4)
        return self.lift.points(refined[:, None], img_from_ego, camera_valid, self.image_size)
