"""A keyframe's files through the vehicle's preprocessing: what augmentation then changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bev_perception.model_spec import ImageSpec, ModelSpec
from bev_perception.preprocess.images import (
    in_color_order,
    network_image,
    prepare_images,
    received_image,
    resample_received,
    samples_per_pixel,
)
from bev_perception.preprocess.radar import accumulate
from bev_perception.structures import CameraView
from training.data.augment import moves_pixels
from training.data.config import PLAIN, DataConfig, LidarConfig
from training.data.lidar import sweep_clouds
from training.data.masks import read_masks
from training.data.nuscenes import Keyframe
from training.data.resample import Source
from training.data.sensor_frame import sensor_frame, sensor_from_ego
from training.data.virtual_points import VIRTUAL_CHANNELS, virtual_points


@dataclass(frozen=True)
class Prepared:
    """images (N, H, W, 3) uint8, img_from_ego (N, 4, 4) float64, camera_valid (N,) and radar_valid (R,) float32; per
    radar the accumulated points (P, 7) float32. sources: camera -> what its image was made of, where augmentation is to
    make another one of that."""

    images: np.ndarray
    img_from_ego: np.ndarray
    camera_valid: np.ndarray
    radars: tuple[np.ndarray, ...]
    radar_valid: np.ndarray
    sources: Mapping[str, Source]

    @property
    def nbytes(self) -> int:
        kept = (*self.radars, *(source.image for source in self.sources.values()))
        return self.images.nbytes + sum(array.nbytes for array in kept)


@dataclass(frozen=True)
class Clouds:
    """lidar (P, 5) float32 of all sweeps (see `sweep_clouds`), of which the first `newest` belong to the newest sweep;
    virtual (Q, 15) float32."""

    lidar: np.ndarray
    newest: int
    virtual: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.lidar.nbytes + self.virtual.nbytes


def prepare(keyframe: Keyframe, spec: ModelSpec, config: DataConfig = PLAIN) -> Prepared:
    """Read and preprocess a keyframe. Raises ValueError naming the sample and the sensor whose file is broken."""
    frame = sensor_frame(keyframe, spec, config.returns)
    sources: dict[str, Source] = {}

    def make_and_keep(view: CameraView, image: ImageSpec) -> np.ndarray:
        received = received_image(view, image)
        sources[view.frame.sensor] = Source(received, samples_per_pixel(view.calibration.width, image))
        return in_color_order(resample_received(received, view.calibration, image), image)

    make = make_and_keep if moves_pixels(config.augmentation) else network_image
    images, img_from_ego, camera_valid, problems = prepare_images(frame, spec, make)
    if problems:
        faults = {name: f"{fault.reason}: {fault.detail}" for name, fault in problems.items()}
        files = {name: keyframe.cameras[name].path for name in problems}
        raise ValueError(f"sample {keyframe.token} of {keyframe.scene}: {faults}; mend these files: {files}")
    radars = []
    for i in range(len(spec.radars)):
        alone = tuple(sweeps if i == j else () for j, sweeps in enumerate(frame.radars))
        radars.append(accumulate(dataclasses.replace(frame, radars=alone), spec))
    radar_valid = np.array([bool(sweeps) for sweeps in frame.radars], dtype=np.float32)
    return Prepared(images, img_from_ego.astype(np.float64), camera_valid, tuple(radars), radar_valid, sources)


def prepare_clouds(keyframe: Keyframe, config: DataConfig, dataroot: Path | None = None) -> Clouds:
    """LiDAR (one sweep where it only serves as depth target) and virtual points.

    dataroot: where `config.virtual.masks` lies. Raises FileNotFoundError and ValueError naming the sample of a missing
    or broken file of points or masks.
    """
    lidar = config.lidar or LidarConfig(sweeps=1)
    virtual = np.zeros((0, VIRTUAL_CHANNELS), dtype=np.float32)
    if config.virtual is not None and dataroot is None:
        raise ValueError("virtual points need keyframes that know their data root: open them with open_nuscenes")
    try:
        sweeps = sweep_clouds(keyframe, lidar)
        points = np.concatenate([np.zeros((0, 5), dtype=np.float32), *sweeps])
        newest = len(sweeps[0]) if sweeps else 0
        if config.virtual is not None and dataroot is not None:
            virtual = _virtual(keyframe, points[:newest], config, dataroot)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"sample {keyframe.token} of {keyframe.scene}: {error}") from error
    return Clouds(points, newest, virtual)


def _virtual(keyframe: Keyframe, points: np.ndarray, config: DataConfig, dataroot: Path) -> np.ndarray:
    """In the images as stored: masks are of them, and augmentation comes later."""
    assert config.virtual is not None
    masks, labels, scores, projections = [], [], [], []
    for name in config.virtual.cameras:
        file = keyframe.cameras.get(name)
        if file is None or file.K is None:
            continue
        found = read_masks(dataroot / config.virtual.masks, file.path, (file.height, file.width))
        sure = found.scores >= config.virtual.min_score
        masks.append(found.masks[sure])
        labels.append(found.labels[sure])
        scores.append(found.scores[sure])
        img_from_cam = np.eye(4)
        img_from_cam[:3, :3] = file.K
        projections.append(img_from_cam @ sensor_from_ego(keyframe, file))
    rng = np.random.default_rng(keyframe.stamp_ns // 1000)  # the same points whenever the frame is read
    limits = {"per_mask": config.virtual.per_mask, "max_pixels": config.virtual.max_pixels}
    return virtual_points(points, masks, labels, scores, projections, rng, **limits)  # type: ignore[arg-type]
