"""Training samples: a keyframe with earlier ones of its scene, through the vehicle's own preprocessing."""

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
from bev_perception.preprocess.radar import accumulate, radar_arrays
from training.data.augment import augment_image, draw_bev, drop_sensors
from training.data.config import PLAIN, DataConfig
from training.data.nuscenes import Keyframe, lidar_points, sensor_frame
from training.data.targets import bev_targets, depth_target, semantic_target

POINT_INPUTS = ("lidar", "virtual")  # of different length in every item


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

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + self.lidar.nbytes + sum(points.nbytes for points in self.radars)


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
    """Item i: keyframe i's inputs (ModelSpec.inputs() without prev_bev), `history` = T earlier frames, and targets.

    Earlier frames, oldest first: `prev.<input>` (T, ...), prev_from_curr (T, 4, 4; row t maps points of the frame after
    frame t into frame t), prev_valid (T,), prev_dt (T,) seconds to the frame after it. An invalid frame has no valid
    one before it; it repeats the frame after it. With T = 0 there are none of these names.
    Targets: those of `bev_targets`, depth and semantic (N, h, w), index.

    Indices beyond the length are later epochs of the same keyframes: the augmentation of an item is drawn from
    (seed, index) alone, so that a resumed run sees what an uninterrupted one would have seen.
    """

    def __init__(
        self, keyframes: Sequence[Keyframe], spec: ModelSpec, config: DataConfig = PLAIN, seed: int = 0
    ) -> None:
        self.keyframes, self.spec, self.config, self.seed = keyframes, spec, config, seed
        self._cache: dict[int, Prepared] = {}

    def __len__(self) -> int:
        return len(self.keyframes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, index])
        index %= len(self.keyframes)
        current = self.keyframes[index]
        aug_from_ego = draw_bev(rng, self.config.augmentation)
        item = self._sensors(index, aug_from_ego, rng, with_targets=True)
        if self.config.history:
            item |= self._history(index, item, aug_from_ego, rng)
        item |= self._objects(current, aug_from_ego)
        item["index"] = np.array(index)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in item.items()}

    def _history(
        self, index: int, item: dict[str, np.ndarray], aug_from_ego: np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The earlier frames of the clip: walk back frame by frame, then turn around."""
        following = self.keyframes[index]
        names = [t.name for t in self.spec.inputs() if not t.name.startswith("prev_")]
        sensors = {name: item[name] for name in names}
        steps: list[dict[str, np.ndarray]] = []
        alive = True
        for _ in range(self.config.history):
            earlier = self._earlier(following, rng) if alive else -1
            alive = earlier >= 0
            prev_from_curr, dt = np.eye(4), self.spec.temporal.interval_s
            if alive:
                frame = self.keyframes[earlier]
                sensors = self._sensors(earlier, aug_from_ego, rng, with_targets=False)
                prev_from_curr = invert(frame.global_from_ego) @ following.global_from_ego
                dt = (following.stamp_ns - frame.stamp_ns) * 1e-9
                following = frame
            step = {f"prev.{name}": sensors[name] for name in names}
            # All frames are augmented alike: aug(prev) from aug(curr).
            step["prev_from_curr"] = (aug_from_ego @ prev_from_curr @ invert(aug_from_ego)).astype(np.float32)
            step["prev_valid"] = np.array(alive, dtype=np.float32)
            step["prev_dt"] = np.array(dt, dtype=np.float32)
            steps.append(step)
        return {name: np.stack([step[name] for step in reversed(steps)]) for name in steps[0]}

    def _earlier(self, following: Keyframe, rng: np.random.Generator) -> int:
        """Index of the keyframe that lies the drawn interval before `following`; -1 for none, or a dropped one."""
        interval = self.config.interval
        wanted_s = rng.uniform(*interval) if interval else self.spec.temporal.interval_s
        if rng.random() < self.config.augmentation.drop_prev:
            return -1
        best, best_error, index = -1, np.inf, following.prev
        while index >= 0:
            frame = self.keyframes[index]
            age_s = (following.stamp_ns - frame.stamp_ns) * 1e-9
            if abs(age_s - wanted_s) >= best_error or age_s > self.spec.temporal.max_age_s:
                break
            best, best_error, index = index, abs(age_s - wanted_s), frame.prev
        return best

    def _prepared(self, index: int) -> Prepared:
        """Files are read and decoded once per process and keyframe, as far as the cache goes."""
        if index in self._cache:
            return self._cache[index]
        prepared = prepare(self.keyframes[index], self.spec)
        if (len(self._cache) + 1) * prepared.nbytes <= self.config.cache_mb * 1e6:
            self._cache[index] = prepared
        return prepared

    def _sensors(
        self, index: int, aug_from_ego: np.ndarray, rng: np.random.Generator, with_targets: bool
    ) -> dict[str, np.ndarray]:
        """One frame's network inputs in the augmented ego frame, and its image-space targets."""
        prepared, keyframe, augmentation = self._prepared(index), self.keyframes[index], self.config.augmentation
        images, img_from_ego = prepared.images.copy(), prepared.img_from_ego @ invert(aug_from_ego)
        for i in range(len(images)):
            images[i], img_from_ego[i] = augment_image(images[i], img_from_ego[i], rng, augmentation)
        camera_valid, radar_valid = drop_sensors(prepared.camera_valid, prepared.radar_valid, rng, augmentation)
        images[camera_valid == 0] = 0
        sensors: dict[str, np.ndarray] = {}
        if self.spec.cameras:
            sensors |= {
                "images": images,
                "img_from_ego": img_from_ego.astype(np.float32),
                "camera_valid": camera_valid,
            }
        if self.spec.radars:
            sensors |= self._radar(prepared, radar_valid, aug_from_ego) | {"radar_valid": radar_valid}
        if with_targets and self.spec.cameras:
            size, stride = (self.spec.image.height, self.spec.image.width), self.config.depth_stride
            points = transform_points(aug_from_ego, prepared.lidar)
            boxes = transform_boxes(aug_from_ego, keyframe.boxes)
            sensors["depth"] = np.stack([depth_target(points, p, size, stride) for p in img_from_ego])
            sensors["semantic"] = np.stack(
                [semantic_target(boxes, keyframe.labels, p, size, stride) for p in img_from_ego]
            )
        return sensors

    def _radar(self, prepared: Prepared, radar_valid: np.ndarray, aug_from_ego: np.ndarray) -> dict[str, np.ndarray]:
        alive = [points for points, ok in zip(prepared.radars, radar_valid) if ok]
        points = np.concatenate(alive) if alive else prepared.radars[0][:0].copy()
        points[:, :3] = transform_points(aug_from_ego, points[:, :3])
        points[:, 4:6] = points[:, 4:6] @ aug_from_ego[:2, :2].T
        return radar_arrays(points, self.spec)[0]

    def _objects(self, keyframe: Keyframe, aug_from_ego: np.ndarray) -> dict[str, np.ndarray]:
        boxes = transform_boxes(aug_from_ego, keyframe.boxes)
        velocity = keyframe.velocity @ aug_from_ego[:2, :2].T
        return bev_targets(boxes, velocity, keyframe.labels, self.spec.grid, len(self.spec.classes))


def collate(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Items of ClipDataset -> a batch. Point clouds (`lidar`, `virtual`) of different lengths are joined, with the
    item's number as a new first column: (P, C) each -> (sum of P, 1 + C)."""
    batch = {}
    for name in items[0]:
        values = [item[name] for item in items]
        if name in POINT_INPUTS:
            numbered = [torch.cat([torch.full((len(v), 1), float(i)), v], dim=1) for i, v in enumerate(values)]
            batch[name] = torch.cat(numbered)
        else:
            batch[name] = torch.stack(values)
    return batch


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
