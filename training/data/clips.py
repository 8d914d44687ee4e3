"""Training samples: a keyframe with an earlier one of its scene, through the vehicle's own preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from bev_perception.geometry import invert, transform_boxes, transform_points
from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.images import prepare_images
from bev_perception.preprocess.radar import accumulate, rasterise
from training.data.augment import NO_AUGMENTATION, Augmentation, augment_image, draw_bev, drop_sensors
from training.data.nuscenes import Keyframe, lidar_points, sensor_frame
from training.data.targets import bev_targets, depth_target, semantic_target

STRIDE = 8  # of the image features that depth and class supervision look at
SENSOR_INPUTS = ("images", "img_from_ego", "camera_valid", "radar_bev", "radar_valid")


@dataclass(frozen=True)
class Prepared:
    """A keyframe after the vehicle's preprocessing, before augmentation.

    images (N, H, W, 3) uint8, img_from_ego (N, 4, 4) float64, camera_valid (N,) and radar_valid (R,) float32; per radar
    the accumulated points (P, 7) float32; lidar (P, 3) float32 in the ego frame.
    """

    images: np.ndarray
    img_from_ego: np.ndarray
    camera_valid: np.ndarray
    radars: tuple[np.ndarray, ...]
    radar_valid: np.ndarray
    lidar: np.ndarray


def prepare(keyframe: Keyframe, spec: ModelSpec) -> Prepared:
    """Read and preprocess a keyframe. Raises ValueError naming the sample and the sensor whose file is broken."""
    frame = sensor_frame(keyframe, spec)
    images, img_from_ego, camera_valid, problems = prepare_images(frame, spec)
    if problems:
        raise ValueError(f"sample {keyframe.token} of {keyframe.scene}: {problems}; mend or remove these files")
    radars = []
    for i in range(len(spec.radars)):
        alone = tuple(sweeps if i == j else () for j, sweeps in enumerate(frame.radars))
        radars.append(accumulate(dataclasses.replace(frame, radars=alone), spec))
    radar_valid = np.array([bool(sweeps) for sweeps in frame.radars], dtype=np.float32)
    lidar = lidar_points(keyframe).astype(np.float32)
    return Prepared(images, img_from_ego.astype(np.float64), camera_valid, tuple(radars), radar_valid, lidar)


class ClipDataset(Dataset[dict[str, torch.Tensor]]):
    """Item i: keyframe i's inputs (ModelSpec.inputs() without prev_bev), the earlier frame's sensor inputs under
    `prev.*`, and targets: heatmap, cells, boxes, mask, depth (N, h, w), semantic (N, h, w), index.

    Indices beyond the length are later epochs of the same keyframes: the augmentation of an item is drawn from
    (seed, index) alone, so that a resumed run sees what an uninterrupted one would have seen. With augmentation the
    earlier frame is one or two keyframes back.
    """

    def __init__(
        self,
        keyframes: Sequence[Keyframe],
        spec: ModelSpec,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
    ) -> None:
        self.keyframes, self.spec, self.augmentation, self.seed = keyframes, spec, augmentation, seed
        self._cache: dict[int, Prepared] = {}

    def __len__(self) -> int:
        return len(self.keyframes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, index])
        index %= len(self.keyframes)
        current = self.keyframes[index]
        aug_from_ego = draw_bev(rng, self.augmentation)
        item = self._sensors(index, aug_from_ego, rng, with_targets=True)
        item |= self._objects(current, aug_from_ego)

        prev_index = self._previous(current, rng)
        previous = self.keyframes[prev_index] if prev_index >= 0 else None
        prev = self._sensors(index if previous is None else prev_index, aug_from_ego, rng, with_targets=False)
        item |= {f"prev.{name}": prev[name] for name in SENSOR_INPUTS}
        prev_from_curr = np.eye(4)
        if previous is not None:
            prev_from_curr = invert(previous.global_from_ego) @ current.global_from_ego
        # Both frames are augmented alike: aug(prev) from aug(curr).
        item["prev_from_curr"] = (aug_from_ego @ prev_from_curr @ invert(aug_from_ego)).astype(np.float32)
        item["prev_valid"] = np.array([previous is not None], dtype=np.float32)
        dt = (current.stamp_ns - previous.stamp_ns) * 1e-9 if previous else self.spec.temporal.interval_s
        item["prev_dt"] = np.array([dt], dtype=np.float32)
        item["index"] = np.array(index)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in item.items()}

    def _previous(self, current: Keyframe, rng: np.random.Generator) -> int:
        """Index of the keyframe half a second back, -1 for none; in training sometimes a second, sometimes none."""
        drop, double = rng.random() < self.augmentation.drop_prev, rng.random() < 0.2
        if current.prev < 0 or drop:
            return -1
        before = self.keyframes[current.prev].prev
        return before if double and self.augmentation.drop_prev > 0 and before >= 0 else current.prev

    def _prepared(self, index: int) -> Prepared:
        """Files are read and decoded once per process and keyframe; about 1.3 MB each at the demo's image size."""
        if index not in self._cache:
            self._cache[index] = prepare(self.keyframes[index], self.spec)
        return self._cache[index]

    def _sensors(
        self, index: int, aug_from_ego: np.ndarray, rng: np.random.Generator, with_targets: bool
    ) -> dict[str, np.ndarray]:
        """One frame's network inputs in the augmented ego frame, and its image-space targets."""
        prepared, keyframe = self._prepared(index), self.keyframes[index]
        images, img_from_ego = prepared.images.copy(), prepared.img_from_ego @ invert(aug_from_ego)
        for i in range(len(images)):
            images[i], img_from_ego[i] = augment_image(images[i], img_from_ego[i], rng, self.augmentation)
        camera_valid, radar_valid = drop_sensors(prepared.camera_valid, prepared.radar_valid, rng, self.augmentation)
        images[camera_valid == 0] = 0
        sensors = {
            "images": images,
            "img_from_ego": img_from_ego.astype(np.float32),
            "camera_valid": camera_valid,
            "radar_bev": self._radar(prepared, radar_valid, aug_from_ego),
            "radar_valid": radar_valid,
        }
        if with_targets:
            size = (self.spec.image.height, self.spec.image.width)
            points = transform_points(aug_from_ego, prepared.lidar)
            boxes = transform_boxes(aug_from_ego, keyframe.boxes)
            sensors["depth"] = np.stack([depth_target(points, p, size, STRIDE) for p in img_from_ego])
            sensors["semantic"] = np.stack(
                [semantic_target(boxes, keyframe.labels, p, size, STRIDE) for p in img_from_ego]
            )
        return sensors

    def _radar(self, prepared: Prepared, radar_valid: np.ndarray, aug_from_ego: np.ndarray) -> np.ndarray:
        alive = [points for points, ok in zip(prepared.radars, radar_valid) if ok]
        points = np.concatenate(alive) if alive else prepared.radars[0][:0].copy()
        points[:, :3] = transform_points(aug_from_ego, points[:, :3])
        points[:, 4:6] = points[:, 4:6] @ aug_from_ego[:2, :2].T
        return rasterise(points, self.spec.grid, self.spec.radar.channels)

    def _objects(self, keyframe: Keyframe, aug_from_ego: np.ndarray) -> dict[str, np.ndarray]:
        boxes = transform_boxes(aug_from_ego, keyframe.boxes)
        velocity = keyframe.velocity @ aug_from_ego[:2, :2].T
        return bev_targets(boxes, velocity, keyframe.labels, self.spec.grid, len(self.spec.classes))


class EndlessShuffle(Sampler[int]):
    """Indices for ClipDataset without end: a seeded shuffle of `length` items per epoch, as epoch * length + item.

    first: how many indices to leave out at the start. It has no length on purpose: Lightning then sees a single epoch
    and a resumed run goes on in the middle of a shuffle, where it stopped.
    """

    def __init__(self, length: int, seed: int, first: int = 0) -> None:
        self.length, self.seed, self.first = length, seed, first

    def __iter__(self) -> Iterator[int]:
        epoch, skip = divmod(self.first, self.length)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
            yield from (epoch * self.length + int(i) for i in order[skip:])
            epoch, skip = epoch + 1, 0
