"""The published methods as lists of terms, for the feature names that our networks give."""

from __future__ import annotations

import dataclasses

from training.distill.bevdistill import BevDistillContrastConfig
from training.distill.config import DistillConfig, Term
from training.distill.distillbev import BEVFORMER, DistillBevConfig
from training.distill.radardistill import AfdConfig

RELEASED = DistillBevConfig()
# DistillBEV's layers are the second and third stage of both BEV encoders and the maps before the heads.
LAYERS = (("encoder2", "encoder2"), ("encoder3", "encoder3"), ("neck", "neck"))


def distillbev(
    layers: tuple[tuple[str, str], ...] = LAYERS,
    config: DistillBevConfig = RELEASED,
    weight: float = 1.0,
    source: str = "teacher",
    inherit: bool = True,
) -> DistillConfig:
    """DistillBEV's released recipe for BEVDet, BEVDet4D, BEVDepth (Wang et al., ICCV 2023).

    layers: pairs of (student, teacher) features; the last one is the map before the head: it alone has the teacher's
    false positives as a region, and a 1x1 convolution for an adapter. Stages before the second make a student worse.
    """
    *stages, head = layers
    terms = [Term("distillbev", s, t, weight, config, "upsample_3layer", source) for s, t in stages]
    at_head = dataclasses.replace(config, false_positives=True)
    terms.append(Term("distillbev", *head, weight, at_head, "upsample_conv1x1", source))
    return DistillConfig(tuple(terms), source if inherit else "")


def distillbev_bevformer(source: str = "teacher", inherit: bool = False) -> DistillConfig:
    """DistillBEV's recipe for BEVFormer: the BEV embedding only, no false positives, attention of the teacher's.

    inherit: for a teacher with a heatmap head, as our BEVFormer has; a query decoder has nothing that fits.
    """
    term = Term("distillbev", "neck", "neck", config=BEVFORMER, adapter="upsample_conv1x1", source=source)
    return DistillConfig((term,), source if inherit else "")


def radardistill(
    low: tuple[str, ...] = ("low1", "low2"),
    high: tuple[tuple[str, str], ...] = (("high1", "high"), ("high2", "neck")),
    mask: float = 0.0,
    adapter: str = "identity",
    source: str = "teacher",
    start: bool = False,
) -> DistillConfig:
    """RadarDistill (Bang et al., CVPR 2024): AFD of `low` against the LiDAR network's conv4, PFD of the `high` pairs,
    each averaged. mask: weight of the released code's extra mask term (1 there, 0 in the paper). start: the student
    starts from the teacher's weights, as published."""
    afd = [Term("radardistill_afd", name, "conv4", 1 / len(low), AfdConfig(mask=mask), adapter, source) for name in low]
    pfd = [Term("radardistill_pfd", s, t, 1 / len(high), None, adapter, source) for s, t in high]
    return DistillConfig((*afd, *pfd), start_from=source if start else "")


def lgkd(source: str = "teacher") -> DistillConfig:
    """BEV-LGKD (arXiv 2212.00623): masked imitation of the lifted map, depth distributions and soft labels."""
    return DistillConfig(
        (
            Term("lgkd_feature", "lift", "lift", source=source),
            Term("lgkd_depth", "aux.depth", "aux.depth", source=source),
            Term("lgkd_response", "heatmap", "heatmap", source=source),
        )
    )


def bevdistill(student_channels: int, teacher_channels: int, source: str = "teacher") -> DistillConfig:
    """BEVDistill (Chen et al., ICLR 2023) on the maps before the heads, of so many channels: the map in the boxes'
    Gaussians, the boxes of the assigned instances, and the contrast of what the maps hold there."""
    embedding = BevDistillContrastConfig(student_channels=student_channels, teacher_channels=teacher_channels)
    return DistillConfig(
        (
            Term("bevdistill_dense", "neck", "neck", adapter="upsample_conv1x1", source=source),
            Term("bevdistill_instances", "regression", "regression", source=source),
            Term("bevdistill_contrast", "neck", "neck", config=embedding, source=source),
        )
    )


def together(*configs: DistillConfig) -> DistillConfig:
    """Several methods at once, for example DistillBEV on the fused map and RadarDistill on the radar branch.

    At most one of them may have the student inherit a head, start from a teacher or be given a pull.
    """
    heads = [c.inherit_head for c in configs if c.inherit_head]
    starts = [c.start_from for c in configs if c.start_from]
    if len(heads) > 1:
        raise ValueError(f"a student inherits one head, found {heads}; pass inherit=False to all but one")
    if len(starts) > 1:
        raise ValueError(f"a student starts from one teacher, found {starts}")
    pulls = {c.pull for c in configs} - {0.0}
    if len(pulls) > 1:
        raise ValueError(f"the terms have one pull, found {sorted(pulls)}; give them weights instead")
    terms = tuple(t for c in configs for t in c.terms)
    into = "".join(c.start_into for c in configs)  # of the one that starts
    return DistillConfig(terms, heads[0] if heads else "", starts[0] if starts else "", into, max(pulls, default=0.0))
