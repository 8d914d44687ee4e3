"""The backbone of FCOS3D (Wang et al., ICCV workshops 2021), as mmdetection3d saves it, for BEVFormer to start from.

A Caffe ResNet-101 with modulated deformable convolutions (mmcv's DCNv2) in its last two stages; the rest of the file,
and of our network, is left as it is.
"""

from __future__ import annotations

import torch

from training.convert.layers import Change
from training.convert.reading import State
from training.convert.table import Table
from training.experiments import bevformer
from training.models.frame import Frame
from training.models.image_branch import IMAGE_STD
from training.run import Run, build_detector

OURS, THEIRS = "image.backbone", "img_backbone"
OFFSET = ".conv_offset."  # of a deformable convolution, beside its weight


def run(frame: Frame) -> Run:
    """BEVFormer's with such a backbone; a camera network computes in no LiDAR's frame."""
    return bevformer.r101_fcos3d()


def prepared(theirs: State) -> State:
    """The same names in FCOS3D's own file (`backbone.`) and in BEVFormer's copy (`img_backbone.`); biases of zero for
    deformable convolutions, which have none there."""
    state: State = {}
    for name, tensor in theirs.items():
        head, _, rest = name.partition(".")
        if head not in ("backbone", THEIRS):
            state[name] = tensor
            continue
        state[f"{THEIRS}.{rest}".replace(OFFSET, ".offset.")] = tensor
        if OFFSET in name and name.endswith(".bias"):
            conv = f"{THEIRS}.{rest.partition(OFFSET)[0]}"
            channels = theirs[name.partition(OFFSET)[0] + ".weight"].shape[0]
            state[f"{conv}.bias"] = torch.zeros(channels)
    return state


def of_scaled_images(weight: torch.Tensor) -> torch.Tensor:
    """Images are BGR less their mean there, divided by the deviation, too, here."""
    return weight * weight.new_tensor(IMAGE_STD).reshape(1, 3, 1, 1)


def table() -> Table:
    changed: dict[str, Change] = {f"{THEIRS}.conv1.weight": of_scaled_images}
    names = build_detector(bevformer.r101_fcos3d()).state_dict()
    fresh = tuple(name for name in names if not name.startswith(f"{OURS}."))
    return Table({THEIRS: OURS}, changed, fresh=fresh, whole=(f"{THEIRS}.",))
