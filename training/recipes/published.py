"""What the authors' released settings say, for training.compare_recipes to lay beside ours.

Values were read from the files that `source` names. Where a recipe here differs, `reasons` says why; a docstring in
training/experiments says it to who trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """source: repository and files; values: setting, a key of training.compare_recipes.SETTINGS -> what is published;
    reasons: setting -> why ours differs. None as a value: nothing is published, or there is no such thing."""

    source: str
    values: Values
    reasons: Mapping[str, str] = field(default_factory=dict)


THRESHOLD = "average precision is scored on the whole curve here; a vehicle's thresholds are in its spec"
RATE = "the same curve, read at every step"
TEST = {"score threshold": THRESHOLD}

ROTATED, SCALED = "rotated IoU of 0.2", "rotated IoU of 0.2 to 0.5 of scaled boxes, circles for barriers"
NO_IMAGE = {"colours": "none", "GridMask": 0.0}
LEARNS = {"frozen stages": -1, "norms fixed": False}
IMAGENET = {"backbone starts from": "ImageNet (torchvision)"}
NOT_DROPPED = {"sensors dropped": "none"}

# torch.optim.AdamW over all parameters, as mmcv and Lightning build it.
ADAMW: Values = {"momentum": (0.9, 0.9), "beta2": 0.999, "decay of norms and biases": True, "backbone rate": 1.0}
ONE_CYCLE: Values = {
    "lr": 1e-3, "momentum": (0.95, 0.85), "beta2": 0.99, "weight decay": 0.01, "decay of norms and biases": True,
    "schedule": "one_cycle", "last rate": 1e-5, "epochs": 20, "warm-up steps": 0, "averaged weights": 0.0,
}  # fmt: skip
BEV_22: Values = {
    "BEV flips": (0.5, 0.5), "BEV rotation": 22.5, "BEV scale": (0.95, 1.05), "BEV shift": 0.0, **NOT_DROPPED
}  # fmt: skip
BEV_45: Values = BEV_22 | {"BEV rotation": 45.0, "BEV scale": (0.9, 1.1), "BEV shift": 0.5}
CIRCLE_NMS = "circles of 0.42 to 3.46 m"

CENTERPOINT: Values = {
    **ONE_CYCLE, **BEV_22, "gradient clip": 35.0, "batch": 16, "class balance": True, "objects pasted": True,
    "pasting ends after epoch": 0, "velocity weight": 0.2, "rotation weight": 1.0, "LiDAR sweeps": 10,
    "boxes kept": 83, "score threshold": 0.1, "suppression": ROTATED,
}  # fmt: skip
PILLARNET: Values = CENTERPOINT | BEV_45 | {"gradient clip": 10.0, "velocity weight": 1.0, "rotation weight": 0.2}
RADAR = {name: value for name, value in PILLARNET.items() if name != "LiDAR sweeps"} | {"radar sweeps": 6}

BEVDET_OPTIM: Values = {
    **ADAMW, "lr": 2e-4, "weight decay": 0.01, "schedule": "step", "falls after epochs": (16, 22), "falls to": 0.1,
    "epochs": 24, "gradient clip": 0.0, "warm-up steps": 500, "warm-up from": 1e-3, "averaged weights": 0.0,
    "batch": 64, "class balance": True,
}  # fmt: skip
BEVDET_IMAGE: Values = {
    **NO_IMAGE, "image scale": (0.38, 0.55), "image rotation": 5.4, "image flip": 0.5, "test image scale": 0.48
}  # fmt: skip
BEVDET: Values = {
    **BEVDET_OPTIM, **BEVDET_IMAGE, **BEV_22, **IMAGENET, **LEARNS, "velocity weight": 0.2, "rotation weight": 1.0,
    "earlier frames": 0, "boxes kept": 83, "score threshold": 0.1, "suppression": SCALED,
}  # fmt: skip
BEVDEPTH: Values = {
    **BEVDET, "weight decay": 1e-7, "falls after epochs": (16, 19), "epochs": 20, "gradient clip": 5.0,
    "warm-up steps": 0, "warm-up from": None, "averaged weights": 0.999, "averaging ramps over": 0,
    "image scale": (0.386, 0.55),
    "test image scale": 0.44, "frozen stages": 0, "velocity weight": 1.0, "depth weight": 3.0, "earlier frames": 1,
    "suppression": CIRCLE_NMS, "depth network knows the camera": True,
}  # fmt: skip
BEVDEPTH_24: Values = BEVDEPTH | {"falls after epochs": (19, 23), "epochs": 24, "class balance": False}
RAMP = {
    "averaging ramps over": "an average that begins at once would remember the start; after the ramp both are the same"
}
NO_AVERAGE: Values = {"averaged weights": 0.0, "averaging ramps over": None}

BEVFORMER: Values = {
    **ADAMW, **NO_IMAGE, **NOT_DROPPED, "backbone rate": 0.1, "lr": 2e-4, "weight decay": 0.01, "schedule": "cosine",
    "last rate": 1e-3, "rate changes": "each epoch", "epochs": 24, "gradient clip": 35.0, "warm-up steps": 500,
    "warm-up from": 1 / 3, "averaged weights": 0.0, "batch": 8, "class balance": False, "image scale": (1.0, 1.0),
    "image rotation": 0.0, "image flip": 0.0, "colours": "photometric", "GridMask": 0.7, "BEV flips": (0.0, 0.0),
    "BEV rotation": 0.0, "BEV scale": (1.0, 1.0), "BEV shift": 0.0, "velocity weight": 0.2, "rotation weight": 1.0,
    "earlier frames": 3, "earlier frames are": "all but one of as many and one more, at random",
    "backbone starts from": "FCOS3D", "frozen stages": 1, "norms fixed": True, "test image scale": 1.0,
    "boxes kept": 300, "score threshold": 0.0, "suppression": "none",
}  # fmt: skip
BEVFORMER_REASONS = TEST | {
    "rate changes": RATE,
    "earlier frames are": "the keyframes before, as the vehicle has them",
    "boxes kept": "a heatmap head, whose boxes overlap, where the original's queries do not",
    "suppression": "a heatmap head, whose boxes overlap, where the original's queries do not",
}
SMALLER = "the other students' image, 256 x 704, with which it is compared"

# Key: module:function in training.experiments.
PUBLISHED: dict[str, Published] = {
    "centerpoint:pillar": Published(
        "tianweiy/CenterPoint configs/nusc/pp/nusc_centerpoint_pp_02voxel_two_pfn_10sweep.py, det3d/torchie/apis/"
        "train.py (optimiser), det3d/datasets/pipelines/preprocess.py; four GPUs: configs/nusc/README.md",
        CENTERPOINT, TEST,
    ),
    "centerpoint_voxel:voxel01": Published(
        "tianweiy/CenterPoint configs/nusc/voxelnet/nusc_centerpoint_voxelnet_01voxel.py", CENTERPOINT, TEST
    ),
    "mvp:pillar": Published(
        "tianweiy/CenterPoint configs/mvp/nusc_centerpoint_pp_fix_bn_z_scale_virtual.py", CENTERPOINT | BEV_45,
        TEST | {"objects pasted": "pasted objects would have no masks, and so no virtual points"},
    ),
    "pillarnet:lidar18": Published(
        "geonhobang/RadarDistill tools/cfgs/nuscenes_models/pillarnet.yaml, tools/train_utils/optimization",
        PILLARNET, TEST,
    ),
    "lidar_transformer:lidar18": Published(
        "qcraftai/distill-bev configs/teacher_transformer/lidarformer.py, configs/_base_/schedules/cyclic_20e.py",
        {
            **ONE_CYCLE, **BEV_22, "lr": 5e-4, "beta2": 0.999, "backbone rate": 0.1, "gradient clip": 35.0, "batch": 16,
            "class balance": True, "objects pasted": False, "LiDAR sweeps": 10, "boxes kept": 300,
            "score threshold": 0.0, "suppression": "none",
        },
        TEST | {
            "backbone rate": "the published encoder is trained before and of voxels; this one starts afresh",
            "suppression": "queries are few and apart: nearly all that lie within these circles are one object",
        },
    ),
    "bevdet:r50": Published(
        "HuangJunJie2017/BEVDet configs/bevdet/bevdet-r50.py, mmdet3d/datasets/pipelines/loading.py", BEVDET, TEST
    ),
    "bevdet4d:r50": Published(
        "HuangJunJie2017/BEVDet configs/bevdet4d/bevdet4d-r50.py",
        BEVDET | {"epochs": 25, "velocity weight": 1.0, "earlier frames": 1, "time between frames": (0.75, 2.25),
                  "displacement": True},
        TEST | {
            "time between frames": "tested with a frame half a second back, as a vehicle has it; there 1.5 s",
            "displacement": "a vehicle's frames have no fixed distance, so velocity itself is regressed",
        },
    ),
    "bevdepth:r50": Published(
        "Megvii-BaseDetection/BEVDepth bevdepth/exps/nuscenes/mv/bev_depth_lss_r50_256x704_128x128_20e_cbgs_2key_da_ema"
        ".py, ..._20e_cbgs_2key_da.py, ..._24e_2key.py, bevdepth/exps/nuscenes/base_exp.py, bevdepth/exps/base_cli.py",
        BEVDEPTH, TEST | RAMP,
    ),
    "bevdepth:r50_keyframes": Published(
        "Megvii-BaseDetection/BEVDepth bevdepth/exps/nuscenes/mv/bev_depth_lss_r50_256x704_128x128_24e_2key_ema.py",
        BEVDEPTH_24, TEST | RAMP,
    ),
    "bevdepth_large:convnext_base": Published(
        "NorthSummer/LGKD lgkd/bevdepth/exps/nuscenes/mv/bev_depth_lss_r50_256x704_128x128_24e_2key.py (first commit)",
        BEVDEPTH_24 | NO_AVERAGE | {"frozen stages": -1}, TEST,
    ),
    "bevformer:r101": Published(
        "fundamentalvision/BEVFormer projects/configs/bevformer/bevformer_base.py, projects/mmdet3d_plugin/bevformer/"
        "detectors/bevformer.py (GridMask), datasets/nuscenes_dataset.py (frames)",
        BEVFORMER, BEVFORMER_REASONS
        | {"backbone starts from": "its backbone has deformable convolutions, which r101_fcos3d has, too"},
    ),
    "bevformer:r101_fcos3d": Published(
        "fundamentalvision/BEVFormer projects/configs/bevformer/bevformer_base.py", BEVFORMER, BEVFORMER_REASONS
    ),
    "bevformer:r50": Published(
        "fundamentalvision/BEVFormer projects/configs/bevformer/bevformer_tiny.py",
        BEVFORMER | IMAGENET | {"earlier frames": 2, "image scale": (0.5, 0.5), "test image scale": 0.5},
        BEVFORMER_REASONS | {"image scale": SMALLER, "test image scale": SMALLER},
    ),
    "fbbev:r50": Published(
        "NVlabs/FB-BEV occupancy_configs/fb_occ/fbocc-r50-cbgs_depth_16f_16x4_20e.py",
        BEVDET | {
            "falls after epochs": (), "epochs": 20, "gradient clip": 5.0, "warm-up steps": 200,
            "averaged weights": 0.999, "class balance": False, "BEV scale": (1.0, 1.0), "test image scale": 0.44,
            "depth weight": 1.0, "earlier frames": 16, "backbone starts from": "depth pre-training",
            "depth network knows the camera": True, "velocity weight": None, "suppression": None,
            "score threshold": None, "boxes kept": None, "rotation weight": None,
        },
        {
            "class balance": "drives are streamed there, for as many steps as class balance would have",
            "depth weight": "beside occupancy there, beside BEVDepth's head here: its weight",
            "earlier frames": "clips of eight; drives are streamed there",
            "backbone starts from": "those weights were trained on depth; --backbone runs/bevdepth/last.ckpt is alike",
        },
    ),
    "radar_pillarnet:radar18": Published(
        "geonhobang/RadarDistill tools/cfgs/nuscenes_models/pillarnet_radar.yaml", RADAR | {"class balance": False},
        TEST,
    ),
    "bevfusion:r50": Published(
        "mit-han-lab/bevfusion configs/nuscenes/det/centerhead/lssfpn/camera+radar/resnet50/default.yaml and those "
        "above it",
        {
            **ADAMW, **BEVDET_IMAGE, **BEV_45, **IMAGENET, **LEARNS, "BEV rotation": 0.0, "lr": 2e-4,
            "weight decay": 0.01, "schedule": "cosine", "last rate": 1e-3, "rate changes": "each epoch", "epochs": 20,
            "gradient clip": 35.0, "warm-up steps": 500, "warm-up from": 1 / 3, "averaged weights": 0.0, "batch": 32,
            "class balance": True, "objects pasted": True, "velocity weight": 1.0, "rotation weight": 1.0,
            "earlier frames": 0, "radar sweeps": 6, "boxes kept": 83, "score threshold": 0.1,
            "suppression": "rotated IoU of 0.2 and circles",
        },
        TEST | {
            "rate changes": RATE,
            "objects pasted": "boxes whose objects are in the LiDAR's cloud alone: no image and no radar shows them",
            "suppression": "as BEVDet, whose factors it scales by for people and cones alone, with circles for cars",
        },
    ),
    "crn:r50": Published(
        "youngskkim/CRN exps/det/CRN_r50_256x704_128x128_4key.py, exps/base_exp.py, exps/base_cli.py; README.md: -b 4 "
        "--gpus 4",
        BEVDEPTH_24 | {
            **NO_AVERAGE, "weight decay": 1e-4, "batch": 16, "image rotation": 0.0, "BEV scale": (0.9, 1.1),
            "earlier frames": 3, "seconds between frames": 1.0, "radar sweeps": 6, "score threshold": 0.01,
            "sensors dropped": "one radar sweep of six, a tenth of the points",
            "depth network knows the camera": False, "boxes kept": 200,
        },
        TEST | {
            "seconds between frames": "the vehicle's memory goes from keyframe to keyframe",
            "radar sweeps": "all eight that scripts/gen_radar_bev.py gathers, which the paper names",
            "sensors dropped": "a sweep that is absent is no case that a vehicle's window has",
        },
    ),
    "radardistill:radar18": Published(
        "geonhobang/RadarDistill tools/cfgs/radar_distill/radar_distill_train.yaml",
        RADAR | {"epochs": 40, "pasting ends after epoch": 30, "starts as": "its teacher"}, TEST,
    ),
    "lgkd:bevdepth_r50_from_convnext": Published(
        "NorthSummer/LGKD lgkd/bevdepth/exps/nuscenes/mv/bev_depth_lss_r50_256x704_128x128_24e_2key.py (first commit)",
        BEVDEPTH_24 | NO_AVERAGE, TEST,
    ),
    "distillbev:bevdepth_r50_from_centerpoint": Published(
        "qcraftai/distill-bev configs/lidar2camera_bev_distillation/centerpoint_pillar_to_bevdepth4d_r50/"
        "centerpoint_02pillar_second_secfpn_circlenms_8x4_cyclic_20e_nus_to_bevdepth4d_r50.py",
        BEVDET | {"velocity weight": 1.0, "earlier frames": 1, "LiDAR sweeps": 10, "depth weight": 100.0,
                  "displacement": True},
        TEST | {
            "depth weight": "the student is BEVDepth's own, with its loss; the published one is BEVDet's variant",
            "suppression": "the student is BEVDepth's own",
            "displacement": "a vehicle's frames have no fixed distance, so velocity itself is regressed",
        },
    ),
    "distillbev:bevformer_r50_from_centerpoint": Published(
        "qcraftai/distill-bev configs/lidar2camera_bev_distillation/teacher_to_bevformer/"
        "lidarformer_to_bevformer_nus_1x1conv_r50.py",
        BEVFORMER | IMAGENET | LEARNS,
        BEVFORMER_REASONS | {"image scale": SMALLER, "test image scale": SMALLER},
    ),
}  # fmt: skip
