"""How the cameras were mounted on the drives that a student learnt from: what its bundle accepts on a vehicle."""

from __future__ import annotations

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.mounts import CameraMount, accepted, mount_of
from training.data.config import PLAIN
from training.data.nuscenes import Keyframe
from training.data.source import Source
from training.trainer.loading import open_keyframes


def accepted_mounts(spec: ModelSpec, source: Source) -> dict[str, CameraMount]:
    """Camera -> the range of its mounts in the split `train`, a keyframe of each scene, wider by the margins of
    `bev_perception.mounts`. Raises ValueError where a camera of the spec is on none of them."""
    keyframes = open_keyframes(spec, PLAIN, source, "train")
    scenes = keyframes.data_index.arrays["frame_scene"][keyframes.rows]
    firsts = [keyframes[int(i)] for i in np.unique(scenes, return_index=True)[1]]
    return {name: _of_camera(name, firsts, source) for name in spec.cameras}


def _of_camera(name: str, keyframes: list[Keyframe], source: Source) -> CameraMount:
    files = [keyframe.cameras[name] for keyframe in keyframes if name in keyframe.cameras]
    seen = [mount_of(file.ego_from_sensor, file.K, file.width) for file in files if file.K is not None]
    if not seen:
        raise ValueError(f"{source.root}: no scene of the split `train` has images of {name}: where is it mounted?")
    return accepted(seen)
