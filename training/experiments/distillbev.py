r"""DistillBEV (Wang et al., ICCV 2023): camera students that learn from a LiDAR network.

    python -m training.train training.experiments.distillbev:bevdepth_r50_from_centerpoint --data NUSCENES \
        --out runs/distilled --backbone resnet50.pth \
        --teacher centerpoint=runs/centerpoint/last.ckpt

The recipe of the released code: weights 6e-3 (foreground), 4e-2 (background), 6e-2 (the teacher's false positives),
2.5e-3 (attention); second and third stage and the map before the head; the student starts with the teacher's task
heads. AdamW 2e-4, batch 64, 24 epochs with class balance (8 x 8 V100 in the paper), BEVDet's augmentation. Expected
scores are the paper's on nuScenes val with ResNet-50; students alone have 30.5 / 37.8 (BEVDet), 32.8 / 45.9
(BEVDet4D), 36.4 / 48.4 (BEVDepth) and 32.3 / 43.4 (BEVFormer) mAP / NDS there. None was run here: nuScenes was not at
hand. Core-hours are seconds of a sample, measured on one core of a CPU, times the schedule (docs/benchmarks.md).
"""

from __future__ import annotations

import dataclasses

from training.data.config import LidarConfig, VirtualConfig
from training.distill.config import DistillConfig
from training.experiments import bevdepth, bevdet, bevdet4d, bevformer, camera_radar
from training.experiments.mvp import VIRTUAL
from training.models.bev_encoder import BevEncoderConfig
from training.recipes import camera
from training.recipes.distillation import distillbev, distillbev_bevformer, radardistill, together
from training.recipes.specs import lidar_over
from training.run import Run

# The compact student has two stages; BEVDet's and BEVDepth's three match the teacher's by number.
COMPACT_LAYERS = (("encoder1", "encoder2"), ("encoder2", "encoder3"), ("neck", "neck"))


def taught(
    run: Run, distill: DistillConfig, virtual: VirtualConfig | None = None, sweeps: LidarConfig | None = None
) -> Run:
    """`run` with teachers that read LiDAR (ten sweeps without `sweeps`), and virtual points where `virtual` says so."""
    data = dataclasses.replace(run.data, lidar=sweeps or lidar_over(run.spec.grid), virtual=virtual)
    return dataclasses.replace(run, data=data, distill=distill)


def with_neck_norm(run: Run) -> Run:
    """The student's map before its head ends in batch norm and ReLU, as in the published scripts."""
    if not isinstance(getattr(run.config, "encoder", None), BevEncoderConfig):
        return run  # BEVDepth's neck ends in ReLU anyway
    encoder = dataclasses.replace(run.config.encoder, neck_norm=True)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, encoder=encoder))


def as_released(run: Run) -> Run:
    """With the optimiser, images and code weights of the released script, BEVDet's for every student, BEVDepth too; all
    of the backbone learns."""
    image = camera.frozen(run.config.camera.image, stages=-1)
    config = dataclasses.replace(run.config, camera=dataclasses.replace(run.config.camera, image=image))
    data = dataclasses.replace(run.data, augmentation=camera.paper_data().augmentation)
    facts = dataclasses.replace(run.spec, image=camera.BEVDET_IMAGE)
    losses = dataclasses.replace(run.losses, velocity=1.0)
    return with_neck_norm(
        dataclasses.replace(run, config=config, spec=facts, optim=camera.BEVDET_OPTIM, losses=losses, data=data)
    )


def bevformer_r50() -> Run:
    """BEVFormer-R50 as DistillBEV trains it: three earlier frames, and all of the backbone learns."""
    run = bevformer.r50()
    config = dataclasses.replace(run.config, image=camera.frozen(run.config.image, stages=-1))
    return dataclasses.replace(run, config=config, data=dataclasses.replace(run.data, history=3))


def bevdet_r50_from_centerpoint() -> Run:
    """BEVDet-R50, expected 32.7 mAP, 40.7 NDS (DistillBEV, main table); 3,600 core-hours."""
    return taught(as_released(bevdet.r50()), distillbev(source="centerpoint"))


def bevdet_r50_from_mvp() -> Run:
    """BEVDet-R50, expected 34.0 mAP, 41.6 NDS (DistillBEV, main table); 3,500 core-hours. Wants MVP's masks."""
    return taught(as_released(bevdet.r50()), distillbev(source="mvp"), VIRTUAL)


def bevdet4d_r50_from_centerpoint() -> Run:
    """BEVDet4D-R50, expected 36.3 mAP, 48.4 NDS (DistillBEV, main table); 5,800 core-hours."""
    return taught(as_released(bevdet4d.r50()), distillbev(source="centerpoint"))


def bevdet4d_r50_from_mvp() -> Run:
    """BEVDet4D-R50, expected 37.0 mAP, 48.8 NDS (DistillBEV, main table); 5,800 core-hours. Wants MVP's masks."""
    return taught(as_released(bevdet4d.r50()), distillbev(source="mvp"), VIRTUAL)


def bevdepth_r50_from_centerpoint() -> Run:
    """BEVDepth-R50, expected 38.9 mAP, 49.8 NDS (DistillBEV, main table; 39.0 and 50.6 in its repository).

    The student is BEVDepth's own; the paper's is the variant in BEVDet's repository, with BEVDet's encoder.
    7,200 core-hours.
    """
    return taught(as_released(bevdepth.r50()), distillbev(source="centerpoint"))


def bevdepth_r50_from_mvp() -> Run:
    """BEVDepth-R50, expected 40.3 mAP, 51.0 NDS (DistillBEV, main table); 7,200 core-hours. Wants MVP's masks."""
    return taught(as_released(bevdepth.r50()), distillbev(source="mvp"), VIRTUAL)


def bevformer_r50_from_centerpoint() -> Run:
    """BEVFormer-R50 from the LiDAR transformer, which is what the paper calls CenterPoint here.

    Weights 5e-3 and 4e-3, attention 5e-4 of the teacher's alone, no false positives, the BEV map only. Expected 35.5
    mAP, 46.8 NDS (DistillBEV, main table) at the full image and 200 x 200 cells; this student sees 256 x 704, has 128 x
    128 cells and a heatmap head, so that no decoder is inherited: expect less. 5,600 core-hours.
    """
    return taught(bevformer_r50(), distillbev_bevformer("lidar_transformer"))


def bevformer_r50_from_mvp() -> Run:
    """BEVFormer-R50, expected 36.7 mAP, 47.6 NDS (DistillBEV, main table) at the size and with the head that
    `bevformer_r50_from_centerpoint` names; the teacher is MVP on pillars, not the paper's transformer.
    4,100 core-hours.
    """
    return taught(bevformer_r50(), distillbev_bevformer("mvp", inherit=True), VIRTUAL)


def bevformer_r101_from_centerpoint() -> Run:
    """BEVFormer-base from the LiDAR transformer: 37.4 mAP, 48.2 NDS against 34.9 and 46.0 alone (DistillBEV's
    repository, with a query decoder)."""
    return taught(bevformer.r101(), distillbev_bevformer("lidar_transformer"))


def camera_radar_from_centerpoint() -> Run:
    """The compact camera + radar student; not in the paper."""
    return taught(camera_radar.small(), distillbev(COMPACT_LAYERS, source="centerpoint", inherit=False))


def camera_radar_from_both() -> Run:
    """The same with RadarDistill on its radar branch, --teacher centerpoint=... pillarnet=...; not in either paper."""
    radar = radardistill(("radar",), (("radar", "high"),), adapter="conv1x1", source="pillarnet")
    run = camera_radar_from_centerpoint()
    assert run.distill is not None
    return dataclasses.replace(run, distill=together(run.distill, radar))
