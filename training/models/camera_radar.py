"""The compact camera + radar student with temporal BEV fusion.

images    -> ResNet + FPN -> depth, context -> ColumnLift ┐
radar_bev -> two convolutions ----------------------------┴-> fuse
fused map, memory -> temporal fusion (gated, one frame deep, by default) -> BEV encoder -> head
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models.backbones.resnet import ResNet, make_layer
from training.models.center_head import CompactHead, conv_bn_relu
from training.models.detector import Memory, Prediction
from training.models.temporal_fusion import TemporalConfig, fusion_over
from training.models.view.column_lift import ColumnLift
from training.models.view.depth_bins import DepthBins

# ImageNet statistics in BGR order, 0..255.
IMAGE_MEAN = (103.53, 116.28, 123.675)
IMAGE_STD = (57.375, 57.12, 58.395)


@dataclass(frozen=True)
class StudentConfig:
    """Sizes of the student; the spec fixes grid, image size and sensors. channels: of the fused map."""

    backbone_blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    backbone_width: int = 32
    neck_channels: int = 64
    radar_channels: int = 32
    encoder_channels: int = 72
    head_channels: int = 48
    bins: DepthBins = field(default_factory=DepthBins)
    channels: int = 64
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig("gated"))


class CameraRadarStudent(nn.Module):
    """A detector (training.models.detector). aux: depth and, in training, semantic logits of features at stride 8."""

    training_only = ("semantic.",)

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, spec: ModelSpec, config: StudentConfig = StudentConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.bins
        width, neck, channels = config.backbone_width, config.neck_channels, config.channels
        self.backbone = ResNet(config.backbone_blocks, width)
        self.lateral = nn.ModuleList([nn.Conv2d(width * k, neck, 1) for k in (2, 4, 8)])
        self.smooth = conv_bn_relu(neck, neck)
        self.depth = nn.Conv2d(neck, config.bins.count, 1)
        self.context = nn.Conv2d(neck, channels, 1)
        self.semantic = nn.Conv2d(neck, len(spec.classes) + 1, 1)  # training only: not in the exported graph
        self.lift = ColumnLift(spec.grid, config.bins)
        self.radar = nn.Sequential(
            conv_bn_relu(len(spec.radar.channels) + 1, config.radar_channels),
            conv_bn_relu(config.radar_channels, config.radar_channels),
        )
        self.fuse = conv_bn_relu(channels + 1 + config.radar_channels, channels)
        self.temporal = fusion_over(channels, config.temporal, spec)
        enc, fused = config.encoder_channels, self.temporal.out_channels
        self.down1 = make_layer(fused, enc, 2, 2)
        self.down2 = make_layer(enc, 2 * enc, 2, 2)
        self.up1 = conv_bn_relu(3 * enc, enc, kernel=1)
        self.up2 = conv_bn_relu(enc + fused, config.head_channels)
        self.head = CompactHead(config.head_channels, config.head_channels, spec.classes)
        self.tasks = self.head.tasks
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN), persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGE_STD), persistent=False)

    def image_features(self, images: Tensor) -> Tensor:
        """(B, N, H, W, 3), 0..255 -> (B * N, neck, H / 8, W / 8); normalisation is part of the network."""
        x = (images.float() - self.image_mean) / self.image_std
        x = x.flatten(0, 1).permute(0, 3, 1, 2)
        _, x8, x16, x32 = self.backbone(x)
        y = self.lateral[1](x16) + F.interpolate(self.lateral[2](x32), scale_factor=2.0, mode="nearest")
        y = self.lateral[0](x8) + F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.smooth(y)

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Tensor | None:
        """What the next frame reads, (B, state channels, X, Y)."""
        return self.temporal(self._fused(inputs)[0], memory)[1]

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        fused, features, aux, images = self._fused(inputs)
        x, state = self.temporal(fused, memory)
        half = self.down1(x)
        quarter = self.down2(half)
        upper = self.up1(torch.cat([half, F.interpolate(quarter, scale_factor=2.0, mode="nearest")], dim=1))
        neck = self.up2(torch.cat([x, F.interpolate(upper, scale_factor=2.0, mode="nearest")], dim=1))
        heatmap, regression, told = self.head(neck)
        features |= {"fused": fused, "encoder1": half, "encoder2": quarter, "neck": neck}
        return Prediction(heatmap, regression, state, aux | told, features, images)

    def _fused(self, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The map of all sensors, what cameras and radars gave to it, the auxiliary logits, features of the images."""
        images, radar_bev = inputs["images"], inputs["radar_bev"]
        b, n = images.shape[:2]
        features = self.image_features(images)
        split = (b, n, -1, *features.shape[2:])
        depth, context = self.depth(features).reshape(split), self.context(features).reshape(split)
        camera_bev, coverage = self.lift(
            context, depth, inputs["img_from_ego"], inputs["camera_valid"], images.shape[3]
        )
        # An empty radar map means something else when the radars are dead: tell the network how many live.
        alive = inputs["radar_valid"].mean(dim=1).reshape(b, 1, 1, 1).expand(-1, 1, *self.spec.grid.shape)
        radar = self.radar(torch.cat([radar_bev, alive.to(radar_bev.dtype)], dim=1))
        fused = self.fuse(torch.cat([camera_bev.to(radar.dtype), coverage.to(radar.dtype), radar], dim=1))
        aux = {"depth": depth}
        if self.training:
            aux["semantic"] = self.semantic(features).reshape(split)
        return fused, {"lift": camera_bev, "radar": radar}, aux, features.reshape(split)
