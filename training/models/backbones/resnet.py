"""ResNet (He et al., CVPR 2016). Parameter names are torchvision's, so its ImageNet weights load."""

from __future__ import annotations

from torch import Tensor, nn

from training.models.backbones.imagenet import load_torchvision
from training.models.deform_conv import DeformConv


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; (B, C_in, H, W) -> (B, channels, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = shortcut_convolution(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; (B, C_in, H, W) -> (B, 4 channels, H / stride, W / stride).

    The stride is in the 3x3 convolution, as in torchvision ("ResNet v1.5"); the paper has it in the first 1x1.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut_convolution(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class CaffeBottleneck(Bottleneck):
    """With the stride in the first 1x1 convolution, as the paper and networks that were trained in Caffe have it."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1.stride, self.conv2.stride = (stride, stride), (1, 1)


class DeformableBottleneck(CaffeBottleneck):
    """With a modulated deformable 3x3 convolution (Zhu et al., CVPR 2019)."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv2: nn.Module = DeformConv(channels, channels)  # type: ignore[assignment]


# Of a ResNet-50 or -101; FCOS3D's (Wang et al., ICCVW 2021), from whose weights BEVFormer starts.
FCOS3D = (CaffeBottleneck, CaffeBottleneck, DeformableBottleneck, DeformableBottleneck)


def shortcut_convolution(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where the shortcut changes its size, else none."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def make_layer(
    in_channels: int, channels: int, blocks: int, stride: int, block: type[BasicBlock] | type[Bottleneck] = BasicBlock
) -> nn.Sequential:
    """`blocks` blocks, the first with `stride`; the result has channels * block.expansion channels."""
    out = channels * block.expansion
    return nn.Sequential(block(in_channels, channels, stride), *(block(out, channels) for _ in range(blocks - 1)))


def make_plain_layer(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """As `make_layer` of basic blocks, but the first one's shortcut is a 3x3 convolution with bias and without norm,
    even where nothing changes its size: BEVDet's released code (mmdet3d/models/backbones/resnet.py)."""
    first = BasicBlock(in_channels, channels, stride)
    first.downsample = nn.Conv2d(in_channels, channels, 3, stride, 1)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """Blocks 2, 2, 2, 2: ResNet-18; 3, 4, 6, 3: -34; with `bottleneck` 3, 4, 6, 3: -50; 3, 4, 23, 3: -101.

    (B, 3, H, W) -> features of layer1 ... layer4: strides 4, 8, 16, 32 with `channels` channels. Width 64 is the
    original, 32 a quarter of its cost. kinds: of each stage's blocks, instead of what `bottleneck` says of all.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
        width: int = 64,
        bottleneck: bool = False,
        kinds: tuple[type[Bottleneck], ...] | None = None,
    ) -> None:
        super().__init__()
        stages = kinds or (Bottleneck if bottleneck else BasicBlock,) * 4
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.channels = tuple(w * stages[0].expansion for w in widths)
        c1, c2, c3 = self.channels[:3]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = make_layer(width, widths[0], blocks[0], 1, stages[0])
        self.layer2 = make_layer(c1, widths[1], blocks[1], 2, stages[1])
        self.layer3 = make_layer(c2, widths[2], blocks[2], 2, stages[2])
        self.layer4 = make_layer(c3, widths[3], blocks[3], 2, stages[3])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stride4 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        stride8 = self.layer2(stride4)
        stride16 = self.layer3(stride8)
        return stride4, stride8, stride16, self.layer4(stride16)

    def first_stages(self, count: int) -> list[nn.Module]:
        """The stem and the first `count` stages; none for a count of -1."""
        parts = [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)]
        return [module for part in parts[: count + 1] for module in part]

    def load_imagenet(self, path: str) -> None:
        """Load a torchvision ResNet state dict (without `fc.*`); errors as `load_torchvision`."""
        load_torchvision(self, path, "conv1.weight", "fc.")
