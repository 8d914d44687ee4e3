"""The table of distillation losses: each is one function of (pair, scene, config) -> weighted terms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from bev_perception.plain import from_plain
from training.distill.baselines import (
    ForegroundConfig,
    LogitConfig,
    PlainConfig,
    foreground_feature,
    logits,
    plain_feature,
)
from training.distill.bevdistill import (
    BevDistillConfig,
    BevDistillContrastConfig,
    BevDistillInstanceConfig,
    ContrastHead,
    bevdistill_contrast,
    bevdistill_dense,
    bevdistill_instances,
)
from training.distill.distillbev import DistillBevConfig, distillbev, spatial_projection
from training.distill.lgkd import (
    LgkdDepthConfig,
    LgkdFeatureConfig,
    LgkdResponseConfig,
    lgkd_depth,
    lgkd_feature,
    lgkd_response,
)
from training.distill.radardistill import AfdConfig, PfdConfig, radardistill_afd, radardistill_pfd
from training.distill.scene import Pair, Scene
from training.distill.unidistill import (
    UniFeatureConfig,
    UniRelationConfig,
    UniResponseConfig,
    unidistill_feature,
    unidistill_relation,
    unidistill_response,
)


class Loss(NamedTuple):
    """function(pair, scene, config) -> {name: weighted scalar}; config: its dataclass, published weights by default.

    part: builds what the loss itself learns, from the config, given to it as pair.part. needs: what it reads of the
    teacher besides the pair, the heatmap and the regression. lidar: whether it reads the batch's LiDAR points.
    image_targets: what it reads of the targets in the images.
    """

    function: Callable[..., dict[str, Tensor]]
    config: type
    part: Callable[[Any], nn.Module | None] = lambda config: None
    needs: tuple[str, ...] = ()
    lidar: bool = False
    image_targets: tuple[str, ...] = ()

    def __call__(self, pair: Pair, scene: Scene, config: Any = None) -> dict[str, Tensor]:
        return self.function(pair, scene, self.config() if config is None else config)

    def settings(self, given: Any, where: str) -> Any:
        """Term.config -> the loss's config, the published one for None. Raises ValueError for that of another loss."""
        return self.config() if given is None else from_plain(self.config, given, where)


DISTILL_LOSSES: dict[str, Loss] = {
    "plain_feature": Loss(plain_feature, PlainConfig),
    "foreground_feature": Loss(foreground_feature, ForegroundConfig),
    "logits": Loss(logits, LogitConfig),
    "distillbev": Loss(distillbev, DistillBevConfig, spatial_projection),
    "lgkd_feature": Loss(lgkd_feature, LgkdFeatureConfig, needs=("aux.depth",), lidar=True),
    "lgkd_depth": Loss(lgkd_depth, LgkdDepthConfig, image_targets=("depth",)),
    "lgkd_response": Loss(lgkd_response, LgkdResponseConfig),
    "radardistill_afd": Loss(radardistill_afd, AfdConfig),
    "radardistill_pfd": Loss(radardistill_pfd, PfdConfig),
    "unidistill_feature": Loss(unidistill_feature, UniFeatureConfig),
    "unidistill_relation": Loss(unidistill_relation, UniRelationConfig),
    "unidistill_response": Loss(unidistill_response, UniResponseConfig),
    "bevdistill_dense": Loss(bevdistill_dense, BevDistillConfig),
    "bevdistill_instances": Loss(bevdistill_instances, BevDistillInstanceConfig),
    "bevdistill_contrast": Loss(bevdistill_contrast, BevDistillContrastConfig, ContrastHead),
}
