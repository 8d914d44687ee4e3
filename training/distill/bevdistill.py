"""BEVDistill's dense part (Chen et al., ICLR 2023): imitation inside the ground truth's Gaussians.

Its sparse part (contrasting the instance features of two query decoders) needs details that are not published in the
paper's shared configuration and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from training.distill.masks import resize_map
from training.distill.scene import Pair, Scene, same_shape


@dataclass(frozen=True)
class BevDistillConfig:
    """weight: of the squared error, from the released configuration."""

    weight: float = 1e-2


def bevdistill_dense(pair: Pair, scene: Scene, config: BevDistillConfig = BevDistillConfig()) -> dict[str, Tensor]:
    """weight x sum of G (S - T)^2 / sum of G; G is the highest class' Gaussian, channels are summed."""
    same_shape(pair, "bevdistill_dense")
    gaussian = resize_map(scene.target("heatmap").amax(dim=1), (pair.student.shape[2], pair.student.shape[3]))
    error = ((pair.student.float() - pair.teacher.float()) ** 2).sum(dim=1)
    return {"feature": config.weight * (error * gaussian).sum() / gaussian.sum().clamp(min=1)}
