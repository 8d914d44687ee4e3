r"""RadarDistill (Bang et al., CVPR 2024): a radar student learns from PillarNet on LiDAR.

    python -m training.train training.experiments.radardistill:radar18 --data NUSCENES \
        --out runs/radardistill --teacher pillarnet=runs/pillarnet/last.ckpt

AFD weighs 5 (3e-4 on cells that both see, 5e-5 rho on the radar's alone), PFD 25. The student starts from the teacher.
"""

from __future__ import annotations

import dataclasses

from training.data.config import PasteConfig
from training.experiments import bevfusion, centerpoint, radar_pillarnet
from training.experiments.distillbev import taught
from training.experiments.pillarnet import EVERY_HEIGHT, of_every_height
from training.models.frame import LIDAR_TOP
from training.recipes.distillation import distillbev, radardistill, together
from training.recipes.specs import GRID_54, lidar_over
from training.run import Run


def radar18() -> Run:
    """PillarNet-18 on radar, 40 epochs, batch 16, class-balanced, objects pasted into both clouds in the first 30.

    Expected on nuScenes test: 20.5 mAP, 43.7 NDS, against 8.6 and 34.7 of radar alone (the paper's Table 1). On val
    with a seventh of the training data: 11.2 and 34.7 (its ablation). Not run here: 36,000 hours on one CPU core
    (docs/benchmarks.md).
    """
    run = radar_pillarnet.radar18()
    data = dataclasses.replace(run.data, paste=PasteConfig(epochs=30), cbgs=True)
    run = dataclasses.replace(run, data=data, optim=dataclasses.replace(run.optim, epochs=40))
    return taught(run, radardistill(source="pillarnet", start=True))


def radar18_from_published() -> Run:
    r"""`radar18` with the LiDAR teacher that the authors released (docs/checkpoints.md), in its frame, points of
    every height with it:

    python -m training.train training.experiments.radardistill:radar18_from_published --data NUSCENES \
        --out runs/radardistill --teacher pillarnet=runs/pillarnet_published/last.ckpt
    Expected: as `radar18`. Not run here.
    """
    run = radar18()
    assert run.data.lidar is not None
    config = dataclasses.replace(run.config, frame=LIDAR_TOP, z_range=EVERY_HEIGHT)
    data = dataclasses.replace(run.data, lidar=of_every_height(run.data.lidar))
    return dataclasses.replace(run, config=config, data=data)


def radar18_with_mask() -> Run:
    """With the mask term of the released code, which the paper does not have."""
    run = radar18()
    return dataclasses.replace(run, distill=radardistill(mask=1.0, source="pillarnet", start=True))


def bevfusion_r50() -> Run:
    r"""Camera + radar with a PillarNet for a radar branch, started from `radar18`:

    python -m training.train training.experiments.radardistill:bevfusion_r50 --data NUSCENES --out runs/fusion \
        --init-branch radar=runs/radardistill/last.ckpt
    Expected on nuScenes val: 39.6 mAP, 46.4 NDS, against 38.3 and 45.3 (the paper). No teacher in this step.
    """
    return bevfusion.r50_pillarnet()


def centerpoint_54() -> Run:
    """CenterPoint on the range of the radar networks: the LiDAR teacher of the fused map below."""
    run = centerpoint.pillar()
    facts = dataclasses.replace(run.spec, name="centerpoint_pillar_54", grid=GRID_54)
    data = dataclasses.replace(run.data, lidar=lidar_over(GRID_54))
    return dataclasses.replace(run, spec=facts, data=data)


def bevfusion_r50_from_both() -> Run:
    """The same student, distilled by DistillBEV on its fused map and by RadarDistill on its radar branch at once.

    --teacher centerpoint=... pillarnet=..., the first one trained by `centerpoint_54`; not in either paper.
    """
    radar = radardistill(
        ("radar_low1", "radar_low2"), (("radar_high1", "high"), ("radar_high2", "neck")), adapter="upsample_conv1x1",
        source="pillarnet",
    )  # fmt: skip
    return taught(bevfusion.r50_pillarnet(), together(distillbev(source="centerpoint"), radar))
