"""BEVDet4D (Huang & Huang, 2022), as github.com/HuangJunJie2017/BEVDet of version 1.0 saves it: BEVDet and more.

Its configuration is configs/bevdet4d/bevdet4d-r50.py.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from bev_perception.model_spec import TemporalSpec
from training.convert import bevdet as single
from training.convert.table import Table
from training.experiments import bevdet4d
from training.models.frame import Frame
from training.models.temporal_fusion import TemporalConfig
from training.run import Run

# In tests the earlier frame is 1.5 s old, in training 0.75 to 2.25 s.
TEMPORAL = TemporalSpec(state_channels=64, interval_s=1.5, min_age_s=0.7, max_age_s=2.3)


def run(frame: Frame) -> Run:
    """The network, and what it is shown: the experiment `r50` as released, with an earlier frame 1.5 s back."""
    published = single.released(bevdet4d.r50(), frame)
    temporal = TemporalConfig("concat", alignment="corners")
    config = dataclasses.replace(published.config, temporal=temporal, displacement=True)
    return dataclasses.replace(published, config=config, spec=dataclasses.replace(published.spec, temporal=TEMPORAL))


def without_age(weight: Tensor) -> Tensor:
    """Besides both maps ours reads where the earlier one was seen and its age: two inputs without weight."""
    return F.pad(weight, (0, 0, 0, 0, 0, 2))


def table() -> Table:
    frames = single.table()
    first = "img_bev_encoder_backbone.layers.0.0"
    return dataclasses.replace(
        frames,
        modules={**frames.modules, "pre_process_net.layers.0": "before"},
        changed={**frames.changed, f"{first}.conv1.weight": without_age, f"{first}.downsample.weight": without_age},
        whole=(*frames.whole, "pre_process_net."),
    )
