"""LR3D's IP head: from the size of a 2D box to a depth, by a function that the object's own image makes.

"Improving Distant 3D Object Detection Using 2D Box Supervision" (Yang et al., CVPR 2024), section 3. Of one object,
size s and orientation o, the 2D box is a function of the depth; f is the inverse of it. The crop gives a feature F,
linear layers make all weights theta of a small MLP of F, and the MLP takes the 2D box:

    log d = f_theta(PE(w, h)) + log H_class - log h        theta = f_g(F)

Departures: w and h are over the focal length, so that other lenses are no other task; f says how much larger or smaller
than its class an object is, which leaves little to learn for what is beyond all labels; and it also gives the scale of
a Laplace distribution of log d, what the depth is worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.model_spec import CLASSES

DYNAMIC, SHARED = "dynamic", "shared"
WIDTHS = (16, 32, 64)  # of the convolutions, each with stride 2
ANGLES = (0.001, 2.0)  # from the smallest to the largest size of a 2D box, which PE knows as 0 and 1
SCALES = (math.log(0.003), math.log(1.0))  # limits of the Laplace scale of log d


@dataclass(frozen=True)
class HeadConfig:
    """crop: side of the crops, px. waves: of PE. weights: `dynamic`, each object has its own MLP; `shared`, all have
    the same one, which takes F beside the size (the ablation)."""

    crop: int = 32
    features: int = 64
    hidden: int = 16
    waves: int = 4
    weights: str = DYNAMIC

    def __post_init__(self) -> None:
        if self.weights not in (DYNAMIC, SHARED):
            raise ValueError(f"weights must be {DYNAMIC!r} or {SHARED!r}, found {self.weights!r}")
        if self.crop < 2 ** len(WIDTHS):
            raise ValueError(f"crop must be at least {2 ** len(WIDTHS)} px, found {self.crop}")


@dataclass(frozen=True)
class Guess:
    """Of N objects: log_depth and log_scale (N, K), of K sizes each; log_size (N, 3) length, width, height, log m;
    turn (N, 2) sine and cosine of the yaw relative to the ray."""

    log_depth: Tensor
    log_scale: Tensor
    log_size: Tensor
    turn: Tensor


class InverseHead(nn.Module):
    """crops (N, 3, side, side) in 0..1, labels (N,) into CLASSES, sizes (N, K, 2) -> Guess.

    class_height (C,) and class_size (C, 3): logarithms of what the classes measure in the middle; state of the module,
    set before it is taught.
    """

    class_height: Tensor
    class_size: Tensor

    def __init__(self, config: HeadConfig = HeadConfig()) -> None:
        super().__init__()
        self.config = config
        channels = (3, *WIDTHS)
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(channels)
        ]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        cells = math.ceil(config.crop / 2 ** len(WIDTHS)) ** 2
        self.of_class = nn.Embedding(len(CLASSES), config.features // 4)
        self.feature = nn.Linear(WIDTHS[-1] * cells + config.features // 4, config.features)
        takes = 2 * (1 + 2 * config.waves) + (config.features if config.weights == SHARED else 0)
        self.shapes = ((takes, config.hidden), (config.hidden,), (config.hidden, 2), (2,))
        first = torch.cat([_begin(shape).flatten() for shape in self.shapes])
        self.common = nn.Parameter(first)  # the bias of f_g, and all weights of an MLP that is shared
        self.make = nn.Linear(config.features, len(first), bias=False) if config.weights == DYNAMIC else None
        if self.make is not None:
            nn.init.normal_(self.make.weight, std=0.01)
        self.plain = nn.Linear(config.features, 5)  # size and turn
        self.register_buffer("class_height", torch.zeros(len(CLASSES)))
        self.register_buffer("class_size", torch.zeros(len(CLASSES), 3))

    def forward(self, crops: Tensor, labels: Tensor, sizes: Tensor) -> Guess:
        found = torch.cat([self.trunk(crops * 2 - 1), self.of_class(labels)], dim=1)
        feature = F.relu(self.feature(found))
        takes = encoded(sizes, self.config.waves)
        if self.make is None:
            theta = self.common.expand(len(crops), -1)
            takes = torch.cat([takes, feature[:, None].expand(-1, sizes.shape[1], -1)], dim=2)
        else:
            theta = self.common + self.make(feature)
        out = inverse(theta, takes, self.shapes)
        plain = self.plain(feature)
        return Guess(
            out[..., 0] + self.class_height[labels][:, None] - sizes[..., 1].log(),
            (out[..., 1] - 2).clamp(*SCALES),
            plain[:, :3] + self.class_size[labels],
            plain[:, 3:],
        )


def encoded(sizes: Tensor, waves: int) -> Tensor:
    """PE: (..., 2) angular sizes -> (..., 2 (1 + 2 waves)): each as x, the logarithm between ANGLES as 0..1, and sines
    and cosines of pi 2^k x."""
    low, high = (math.log(angle) for angle in ANGLES)
    x = (sizes.log() - low) / (high - low)
    phases = math.pi * x[..., None] * 2.0 ** torch.arange(waves, device=sizes.device)
    return torch.cat([x[..., None], phases.sin(), phases.cos()], dim=-1).flatten(-2)


def inverse(theta: Tensor, takes: Tensor, shapes: tuple[tuple[int, ...], ...]) -> Tensor:
    """f: theta (N, T) weights of N MLPs of two layers, takes (N, K, P) -> (N, K, 2)."""
    parts = theta.split([math.prod(shape) for shape in shapes], dim=1)
    w1, b1, w2, b2 = (part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))
    hidden = F.silu(torch.baddbmm(b1[:, None], takes, w1))
    return torch.baddbmm(b2[:, None], hidden, w2)


def _begin(shape: tuple[int, ...]) -> Tensor:
    """As nn.Linear begins; biases are 0."""
    return torch.randn(shape) / math.sqrt(shape[0]) if len(shape) > 1 else torch.zeros(shape)
