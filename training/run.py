"""What defines a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bev_perception import model_spec
from bev_perception.model_spec import ModelSpec
from bev_perception.plain import from_plain, to_plain
from training.data.augment import Augmentation
from training.data.config import EVERY_RETURN, DataConfig, PasteConfig
from training.data.view_change import STAYS
from training.distill.config import DistillConfig
from training.distill.losses import DISTILL_LOSSES
from training.losses.detection import LossConfig
from training.models import STUDENTS
from training.models.bev_encoder import BevEncoderConfig
from training.models.bevdet import BevDepthConfig, BevDet4DConfig, BevDetConfig
from training.models.bevformer import BevFormerConfig
from training.models.bevfusion import BevFusionConfig
from training.models.camera_bev import CameraBevConfig
from training.models.camera_radar import StudentConfig
from training.models.depth_net import DepthNetConfig
from training.models.detector import Detector, Family
from training.models.frame import EGO
from training.models.image_branch import ImageConfig
from training.models.pillar_backbone import PillarBackboneConfig
from training.models.radar_pillarnet import RadarPillarNetConfig
from training.models.spread_head import SpreadConfig, add_spread
from training.models.temporal_fusion import TemporalConfig
from training.models.widths import Cut, narrow
from training.schedules import OptimConfig
from training.teachers import TEACHERS
from training.teachers.centerpoint import CenterPointConfig
from training.teachers.pillarnet import PillarNetConfig

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Run:
    """An experiment. model: a key of STUDENTS or TEACHERS; config: that family's.

    batch_size: samples of a batch over all processes together, so that a run is the same on any number of them.
    checkpoint_every: steps between two checkpoints; what a killed run loses at most. validate_every: steps between
    two validations on `validate_frames` keyframes of the validation split, 0 for none; the best is kept as best.ckpt.
    distill: what is learnt from teachers; their checkpoints are given when training starts. backbone_from: the weights
    that the image backbone is to start from ("ImageNet"), for --backbone; a run that starts without is told so.
    cut: what training.prune cut out of the network of `config`; the spec has the state that is left. spread: of a head
    that says how far boxes may be off; the spec then has its parts.
    """

    model: str
    config: Any
    spec: ModelSpec
    optim: OptimConfig = field(default_factory=OptimConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch_size: int = 4
    seed: int = 0
    precision: str = "bf16-mixed"
    checkpoint_every: int = 200
    validate_every: int = 0
    validate_frames: int = 40
    distill: DistillConfig | None = None
    backbone_from: str = ""
    cut: Cut | None = None
    spread: SpreadConfig | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, found {self.precision!r}")


def family_of(model: str) -> Family:
    """Raises ValueError naming the models that there are."""
    families = STUDENTS | TEACHERS
    if model not in families:
        raise ValueError(f"there is no model {model!r}; students: {sorted(STUDENTS)}, teachers: {sorted(TEACHERS)}")
    return families[model]


def build_detector(run: Run) -> Detector:
    """The run's network with fresh weights.

    Raises ValueError for a config of another family, for a cut that the network of the config cannot have, and for a
    spread that it cannot say, or that the spec does not have.
    """
    if run.spread is None and run.spec.spread:
        raise ValueError(f"spec.spread is {run.spec.spread}, but the run has no spread: no head would say it")
    detector = _detector_of(run)
    if run.spread is not None:  # once all else has its widths: it is as wide as what it reads
        add_spread(detector, run.spread)
    return detector


def _detector_of(run: Run) -> Detector:
    family = family_of(run.model)
    if not isinstance(run.config, family.config):
        raise ValueError(f"{run.model} takes a {family.config.__name__}, found {type(run.config).__name__}")
    if run.cut is None:
        return family.module(run.spec, run.config)
    detector = family.module(with_state(run.spec, run.cut.state), run.config)
    narrow(detector, {name: width for name, width in run.cut.layers.items() if ".spread." not in name})
    detector.spec = run.spec
    return detector


def with_state(spec: ModelSpec, channels: int) -> ModelSpec:
    """The spec with a state of so many channels."""
    return dataclasses.replace(spec, temporal=dataclasses.replace(spec.temporal, state_channels=channels))


def image_targets(run: Run) -> tuple[str, ...]:
    """The targets in the images that a loss of this run looks at: some of "depth" (made from LiDAR) and "semantic"."""
    if not run.spec.cameras or not run.data.depth_stride or (run.spread and run.spread.alone):
        return ()
    of_network = family_of(run.model).image_targets(run.config)
    of_teachers = [name for term in (run.distill.terms if run.distill else ()) for name in _read_by(term.loss)]
    return tuple(sorted({*of_network, *of_teachers}))


def _read_by(loss: str) -> tuple[str, ...]:
    return DISTILL_LOSSES[loss].image_targets if loss in DISTILL_LOSSES else ()  # unknown ones are named later


def seen_by_network(run: Run) -> DataConfig:
    """The run's data without the points that only its teachers read."""
    return dataclasses.replace(run.data, lidar=None, virtual=None) if run.model in STUDENTS else run.data


def parameter_groups(module: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """AdamW's groups: weights and the rest (no decay, unless optim.decay_norms), each outside and inside of a module
    called `backbone`.

    Raises ValueError when optim.backbone_lr is set for a network without one.
    """
    groups: list[dict[str, Any]] = []
    for inside, factor in ((False, 1.0), (True, optim.backbone_lr)):
        named = module.named_parameters()
        chosen = [p for n, p in named if p.requires_grad and _in_backbone(n.split("."), optim) == inside]
        for decay, parameters in (
            (optim.weight_decay, [p for p in chosen if p.ndim > 1]),
            (optim.weight_decay * optim.decay_norms, [p for p in chosen if p.ndim <= 1]),
        ):
            groups.append({"params": parameters, "weight_decay": decay, "lr": optim.lr * factor})
    if optim.backbone_lr != 1 and not any("backbone" in name.split(".") for name, _ in module.named_parameters()):
        raise ValueError(f"optim.backbone_lr is {optim.backbone_lr}, but the network has no module called `backbone`")
    return [group for group in groups if group["params"]]


def _in_backbone(names: Sequence[str], optim: OptimConfig) -> bool:
    return optim.backbone_lr != 1 and "backbone" in names


def run_to_plain(run: Run) -> dict[str, Any]:
    """What a checkpoint and run.json hold."""
    plain: dict[str, Any] = to_plain(run)
    return plain


# Fields that runs stored since 2026-11-21 may lack -> what was done before there was a choice.
ADDED_LATER: dict[type, dict[str, Any]] = model_spec.ADDED_LATER | {
    Run: {"validate_every": 0, "validate_frames": 40, "distill": None, "backbone_from": "", "cut": None,
          "spread": None},
    OptimConfig: {
        "epochs": None, "schedule": "cosine", "milestones": (16 / 24, 22 / 24), "gamma": 0.1, "lr_end": 0.0,
        "accumulate": 1, "backbone_lr": 1.0, "ema": 0.0, "beta2": 0.999, "decay_norms": False, "warmup_start": 0.0,
    },
    LossConfig: {"diou": 0.0, "rotation": 1.0},
    DataConfig: {
        "virtual": None, "returns": EVERY_RETURN, "paste": None, "cbgs": False, "scored_ranges": False, "holdout": 0,
        "train_scenes": 0,
    },
    Augmentation: {
        "bev_scale": (1.0, 1.0), "bev_shift_m": 0.0, "photometric": False, "grid_mask": 0.0, "view": STAYS,
    },
    PasteConfig: {"epochs": 0},
    DistillConfig: {"start_from": "", "start_into": "", "pull": 0.0},
    ImageConfig: {"levels": 1, "frozen_stages": -1, "fixed_norms": False, "exchanged_statistics": False},
    DepthNetConfig: {"camera_aware": True, "camera": "projection"},
    BevEncoderConfig: {"steps": (2, 2, 2), "neck_norm": False, "plain_shortcuts": False},
    CameraBevConfig: {"frustum": "centres", "z_range": (-10.0, 10.0), "rows": False},
    PillarBackboneConfig: {"strides": (2, 2, 2)},
    StudentConfig: {"channels": 64, "temporal": TemporalConfig("gated")},
    BevDetConfig: {"before_blocks": 0, "frame": EGO},
    BevDet4DConfig: {"frame": EGO, "displacement": False},
    TemporalConfig: {"alignment": "centres", "unseen": "zeros"},
    BevDepthConfig: {"before_blocks": 0, "frame": EGO},
    BevFormerConfig: {"temporal": TemporalConfig("none"), "beside": "own"},
    BevFusionConfig: {"pillarnet": None},
    RadarPillarNetConfig: {"cma": True, "conv5_from": "conv4", "frame": EGO},
    CenterPointConfig: {"room": 0, "frame": EGO},
    PillarNetConfig: {"frame": EGO},
}  # fmt: skip


def run_from_plain(data: Mapping[str, Any], where: str) -> Run:
    """The reverse of `run_to_plain`; where: the file. Raises ValueError naming keys that this version does not have,
    and those that are missing and not in ADDED_LATER."""
    try:
        run: Run = from_plain(Run, data, f"{where}:", ADDED_LATER)
        config = from_plain(family_of(run.model).config, run.config, f"{where}: config", ADDED_LATER)
    except ValueError as error:
        named = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise ValueError(f"{named}; a run of another version cannot be read: train it with this one") from error
    return dataclasses.replace(run, config=config)
