"""From camera images to one feature map per camera: normalisation, backbone, neck."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bev_perception.model_spec import ImageSpec
from training.models.backbones import BACKBONES
from training.models.backbones.resnet import ResNet
from training.models.necks import FPN, SecondFPN

# ImageNet statistics in BGR order, 0..255.
IMAGE_MEAN = (103.53, 116.28, 123.675)
IMAGE_STD = (57.375, 57.12, 58.395)
STRIDES = (4, 8, 16, 32)  # of the backbone's maps


@dataclass(frozen=True)
class ImageConfig:
    """backbone: a key of BACKBONES; width: of its first stage, 0 for the original (which ImageNet weights fit).

    neck: "fpn" sums the maps of `stride` and coarser (BEVDet: 16 and 32), "second" brings all four to `stride` and
    concatenates them (BEVDepth). channels: of the result. levels: maps that `pyramid` gives, `stride` and coarser.
    Of a ResNet that starts from trained weights (mmdetection's frozen_stages and norm_eval): frozen_stages: the stem
    (0) and so many stages keep their weights, -1 for none; fixed_norms: all its batch norms keep theirs and their
    statistics. exchanged_statistics: blue is normalised as red and red as blue, for the released weights of BEVDepth,
    whose loader exchanges the two in images that are RGB already.
    """

    backbone: str = "resnet50"
    width: int = 0
    neck: str = "fpn"
    stride: int = 16
    channels: int = 512
    levels: int = 1
    frozen_stages: int = -1
    fixed_norms: bool = False
    exchanged_statistics: bool = False

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {sorted(BACKBONES)}, found {self.backbone!r}")
        if self.neck not in ("fpn", "second") or self.stride not in STRIDES:
            raise ValueError(f'neck must be "fpn" or "second" and stride one of {STRIDES}, found {self}')
        if not -1 <= self.frozen_stages <= len(STRIDES):
            raise ValueError(f"frozen_stages must be -1 (none), 0 (the stem) to 4, found {self.frozen_stages}")
        if (self.frozen_stages >= 0 or self.fixed_norms) and not self.backbone.startswith("resnet"):
            raise ValueError(f"frozen_stages and fixed_norms are for a ResNet, found {self.backbone!r}")
        most = len(STRIDES) - STRIDES.index(self.stride) if self.neck == "fpn" else 1
        if not 1 <= self.levels <= most:
            raise ValueError(f"{self.neck} from stride {self.stride} has 1 to {most} levels, found {self.levels}")


class ImageBranch(nn.Module):
    """(B, N, H, W, 3), 0..255 in the spec's colour order -> (B, N, channels, H / stride, W / stride).

    Raises ValueError when the image is no whole number of the coarsest stride.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, image: ImageSpec, config: ImageConfig = ImageConfig()) -> None:
        super().__init__()
        if image.height % STRIDES[-1] or image.width % STRIDES[-1]:
            raise ValueError(
                f"image height and width must be multiples of {STRIDES[-1]}, found {image.height} x {image.width}"
            )
        self.config, self.rgb = config, image.color_order == "rgb"
        self.channels, self.stride = config.channels, config.stride
        self.feature_shape = image.height // config.stride, image.width // config.stride
        self.backbone = BACKBONES[config.backbone](config.width or None)
        self.first = STRIDES.index(config.stride) if config.neck == "fpn" else 0
        maps = self.backbone.channels[self.first :]
        self.neck: nn.Module
        if config.neck == "fpn":
            self.neck = FPN(maps, config.channels, range(config.levels))
        else:
            self.neck = SecondFPN(maps, [s / config.stride for s in STRIDES], config.channels // len(STRIDES))
        order = -1 if config.exchanged_statistics else 1
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN[::order]), persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGE_STD[::order]), persistent=False)

        for module in self._fixed():
            module.requires_grad_(False)
        self.train()  # a new module is in training mode, with all that is in it

    def _fixed(self) -> list[nn.Module]:
        """What of the backbone never learns."""
        if not isinstance(self.backbone, ResNet):
            return []
        norms = [m for m in self.backbone.modules() if self.config.fixed_norms and isinstance(m, _BatchNorm)]
        return norms + self.backbone.first_stages(self.config.frozen_stages)

    def train(self, mode: bool = True) -> ImageBranch:
        """Statistics of what never learns stay, too."""
        super().train(mode)
        for module in self._fixed():
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(images)[0]

    def pyramid(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps of `stride`, twice `stride` ... : as many as config.levels."""
        b, n = images.shape[:2]
        x = images.float().flatten(0, 1)
        if self.rgb:  # backbones take BGR
            x = torch.stack([x[..., 2], x[..., 1], x[..., 0]], dim=-1)
        x = ((x - self.image_mean) / self.image_std).permute(0, 3, 1, 2)
        found = self.neck(self.backbone(x)[self.first :])
        maps = found if isinstance(found, tuple) else (found,)
        return tuple(m.reshape(b, n, *m.shape[1:]) for m in maps)
