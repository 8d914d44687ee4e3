"""Training samples: a keyframe with earlier ones of its scene, through the vehicle's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from bev_perception.geometry import invert, transform_points
from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.preprocess.radar import radar_arrays
from training.data.augment import augment_boxes, augment_image, changes, cover, draw_bev, drop_sensors
from training.data.balance import balanced_items
from training.data.config import PLAIN, SCORED_RANGE_M, DataConfig
from training.data.database import open_database
from training.data.lidar import within
from training.data.moved_images import moved_images
from training.data.nuscenes import Keyframe, Keyframes
from training.data.paste import Objects, without_points_in
from training.data.prepared import Clouds, Prepared, prepare, prepare_clouds
from training.data.targets import bev_targets, depth_target, semantic_target
from training.data.view_change import Move, draw_move

POINT_INPUTS = ("lidar", "virtual")  # of different length in every item
IMAGE_TARGETS = ("depth", "semantic")


class ClipDataset(Dataset[dict[str, torch.Tensor]]):
    """Item i: keyframe i's inputs (ModelSpec.inputs() without prev_bev), `history` = T earlier frames, and targets.

    Earlier frames, oldest first: `prev.<input>` (T, ...), prev_from_curr (T, 4, 4; row t maps points of the frame after
    frame t into frame t), prev_valid (T,), prev_dt (T,) seconds to the frame after it. An invalid frame has no valid
    one before it; it repeats the frame after it. With T = 0 there are none of these names.
    Targets: those of `bev_targets`, index; with cameras and data.depth_stride the `image_targets`, some of depth, for
    which LiDAR is read, and semantic, both (N, h, w).
    Inputs of teachers, of the current frame alone: lidar (P, 5) and lidar_counts, virtual (Q, 15) and virtual_counts.

    rows: of the keyframes, which are items, also several times; None: each once. The others only come before them.
    Indices beyond the length are later epochs of the same keyframes: the augmentation of an item is drawn from
    (seed, index) alone, so that a resumed run sees what an uninterrupted one would have seen. Where nothing is drawn
    items are kept whole: making one costs half as much as a small network's step.
    """

    def __init__(
        self,
        keyframes: Sequence[Keyframe],
        spec: ModelSpec,
        config: DataConfig = PLAIN,
        seed: int = 0,
        image_targets: tuple[str, ...] = IMAGE_TARGETS,
        rows: np.ndarray | None = None,
    ) -> None:
        """Raises ValueError for a configuration that the spec's sensors do not allow."""
        self.keyframes, self.spec, self.config, self.seed = keyframes, spec, config, seed
        self.image_targets = image_targets if spec.cameras and config.depth_stride else ()
        oldest, max_age_s = (config.interval or (0.0, 0.0))[1], spec.temporal.max_age_s
        if config.history and spec.temporal.state_channels and oldest > max_age_s:
            raise ValueError(
                f"data.interval reaches {oldest} s, spec.temporal.max_age_s is {max_age_s}: nothing older than that is "
                "used, and what is drawn beyond it would all become the oldest frame allowed. Lower the one or raise "
                f"the other (--set spec.temporal.max_age_s={oldest})"
            )
        self.items = np.arange(len(keyframes)) if rows is None else rows
        if config.cbgs:
            labels = _labels(keyframes)
            self.items = self.items[balanced_items([labels[row] for row in self.items], len(spec.classes))]
        self.database = None
        if config.paste is not None:
            if spec.cameras or not isinstance(keyframes, Keyframes):
                raise ValueError(
                    f"data.paste: objects cannot be pasted into images, and {spec.name} has cameras {spec.cameras}; "
                    "set data.paste to none (and open the keyframes with open_nuscenes)"
                )
            self.database = open_database(keyframes, spec, config)
        self._cache = Cache(config.cache_mb, len(keyframes))
        drawn = config.interval is not None and config.history > 0 and spec.temporal.state_channels > 0
        self._alike = not changes(config.augmentation) and not drawn and config.paste is None

    def __len__(self) -> int:
        """Items of an epoch: keyframes, or more with class-balanced resampling."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = int(self.items[index % len(self.items)])
        if self._alike:
            return dict(self._cache.get(("item", row), lambda: Item(self._item(index, row))).tensors)
        return self._item(index, row)

    def _item(self, index: int, row: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, index])
        current = self.keyframes[row]
        aug_from_ego = draw_bev(rng, self.config.augmentation)
        change = self.config.augmentation.view
        move = draw_move(rng, change) if change.share and self.spec.cameras else None
        item, img_from_ego = self._sensors(current, aug_from_ego, rng, move)
        if self.config.history and self.spec.temporal.state_channels:
            item |= self._history(current, item, aug_from_ego, rng, move)
        if self.spec.cameras and self.config.augmentation.grid_mask:
            item["images"] = cover(item["images"], self.spec.image, rng, self.config.augmentation)
        pasted = self._pasted(current, index // len(self.items), rng)
        if pasted is not None and self.spec.radars:
            item |= self._radar(current, item["radar_valid"], aug_from_ego, pasted.radar)
        item |= self._clouds(current, aug_from_ego, img_from_ego, pasted)
        item |= self._objects(current, aug_from_ego, pasted)
        item["index"] = np.array(row)
        return {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in item.items()}

    def depth_points(self, index: int) -> np.ndarray:
        """(P, 3) m in the augmented ego frame: the LiDAR points that the depth targets of item `index` come from."""
        aug_from_ego = draw_bev(np.random.default_rng([self.seed, index]), self.config.augmentation)
        keyframe = self.keyframes[int(self.items[index % len(self.items)])]
        return _newest_sweep(self._points(keyframe), aug_from_ego)

    def _history(
        self,
        current: Keyframe,
        item: dict[str, np.ndarray],
        aug_from_ego: np.ndarray,
        rng: np.random.Generator,
        move: Move | None,
    ) -> dict[str, np.ndarray]:
        """The earlier frames of the clip: walk back frame by frame, then turn around."""
        following = current
        sensors = dict(item)
        steps: list[dict[str, np.ndarray]] = []
        alive = True
        for _ in range(self.config.history):
            earlier = self._earlier(following, rng) if alive else None
            alive = earlier is not None
            prev_from_curr, dt = np.eye(4), self.spec.temporal.interval_s
            if earlier is not None:
                sensors, _ = self._sensors(earlier, aug_from_ego, rng, move)
                prev_from_curr = invert(earlier.global_from_ego) @ following.global_from_ego
                dt = (following.stamp_ns - earlier.stamp_ns) * 1e-9
                following = earlier
            step = {f"prev.{name}": array for name, array in sensors.items()}
            # All frames are augmented alike: aug(prev) from aug(curr).
            prev_from_curr = aug_from_ego @ prev_from_curr @ np.linalg.inv(aug_from_ego)
            step["prev_from_curr"] = prev_from_curr.astype(np.float32)
            step["prev_valid"] = np.array(alive, dtype=np.float32)
            step["prev_dt"] = np.array(dt, dtype=np.float32)
            steps.append(step)
        return {name: np.stack([step[name] for step in reversed(steps)]) for name in steps[0]}

    def _earlier(self, following: Keyframe, rng: np.random.Generator) -> Keyframe | None:
        """The frame that lies the drawn interval before `following`; None for none, or a dropped one."""
        interval, longest = self.config.interval, self.spec.temporal.max_age_s
        wanted_s = rng.uniform(*interval) if interval else self.spec.temporal.interval_s
        if rng.random() < self.config.augmentation.drop_prev:
            return None
        if interval and isinstance(self.keyframes, Keyframes):
            return self.keyframes.earlier(following, wanted_s, longest)
        best, best_error, index = None, np.inf, following.prev
        while index >= 0:
            frame = self.keyframes[index]
            age_s, index = (following.stamp_ns - frame.stamp_ns) * 1e-9, frame.prev
            if age_s <= 0 or age_s > longest or abs(age_s - wanted_s) >= best_error:
                break
            if age_s < self.spec.temporal.min_age_s:  # the vehicle does not use it either
                continue
            best, best_error = frame, abs(age_s - wanted_s)
        return best

    def _sensors(
        self, keyframe: Keyframe, aug_from_ego: np.ndarray, rng: np.random.Generator, move: Move | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One frame's camera and radar inputs in the augmented ego frame, and img_from_ego (N, 4, 4) float64."""
        prepared, augmentation = self._prepared(keyframe), self.config.augmentation
        ego_from_aug = np.linalg.inv(aug_from_ego)
        images, img_from_ego = prepared.images.copy(), prepared.img_from_ego @ ego_from_aug
        if move is None:
            for i, name in enumerate(self.spec.cameras):
                source = prepared.sources.get(name)
                images[i], img_from_ego[i] = augment_image(
                    images[i], source, img_from_ego[i], self.spec.image, rng, augmentation
                )
        else:
            cloud = self._points(keyframe)
            points = cloud.lidar[: cloud.newest, :3].astype(np.float64)
            images, projections = moved_images(prepared, self.spec, move, points, keyframe.boxes, rng, augmentation)
            img_from_ego = projections @ ego_from_aug
        camera_valid, radar_valid = drop_sensors(prepared.camera_valid, prepared.radar_valid, rng, augmentation)
        images[camera_valid == 0] = 0
        sensors: dict[str, np.ndarray] = {}
        if self.spec.cameras:
            sensors["images"] = images
            sensors["img_from_ego"] = img_from_ego.astype(np.float32)
            sensors["camera_valid"] = camera_valid
        if self.spec.radars:
            sensors |= self._radar(keyframe, radar_valid, aug_from_ego)
            sensors["radar_valid"] = radar_valid
        return sensors, img_from_ego

    def _radar(
        self, keyframe: Keyframe, valid: np.ndarray, aug_from_ego: np.ndarray, pasted: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The radar inputs of the spec, from the radars that are `valid`."""
        prepared = self._prepared(keyframe)
        alive = [points for points, ok in zip(prepared.radars, valid) if ok]
        if alive and pasted is not None:
            alive.append(pasted)
        points = np.concatenate(alive) if alive else prepared.radars[0][:0].copy()
        points[:, :3] = transform_points(aug_from_ego, points[:, :3])
        points[:, 4:6] = points[:, 4:6] @ aug_from_ego[:2, :2].T
        return radar_arrays(points, self.spec)[0]

    def _clouds(
        self, keyframe: Keyframe, aug_from_ego: np.ndarray, img_from_ego: np.ndarray, pasted: Objects | None
    ) -> dict[str, np.ndarray]:
        """LiDAR and virtual points as inputs, LiDAR and boxes as targets in the images."""
        lidar_config = self.config.lidar
        size, stride = (self.spec.image.height, self.spec.image.width), self.config.depth_stride
        arrays: dict[str, np.ndarray] = {}
        if "semantic" in self.image_targets:
            boxes = augment_boxes(aug_from_ego, keyframe.boxes)
            drawn = [semantic_target(boxes, keyframe.labels, p, size, stride) for p in img_from_ego]
            arrays["semantic"] = np.stack(drawn)
        if lidar_config is None and "depth" not in self.image_targets:
            return arrays
        clouds = self._points(keyframe)
        if "depth" in self.image_targets:
            points = _newest_sweep(clouds, aug_from_ego)
            arrays["depth"] = np.stack([depth_target(points, p, size, stride) for p in img_from_ego])
        if lidar_config is not None:
            inputs = {"lidar": clouds.lidar}
            if pasted is not None:
                inputs["lidar"] = np.concatenate([without_points_in(clouds.lidar, pasted.boxes), pasted.lidar])
            if self.config.virtual is not None:
                inputs["virtual"] = clouds.virtual
            for name, points in inputs.items():
                moved = points.copy()
                moved[:, :3] = transform_points(aug_from_ego, points[:, :3].astype(np.float64))
                arrays[name] = moved[within(moved, lidar_config.bounds)]
                arrays[f"{name}_counts"] = np.array(len(arrays[name]))
        return arrays

    def _pasted(self, keyframe: Keyframe, epoch: int, rng: np.random.Generator) -> Objects | None:
        paste = self.config.paste
        if self.database is None or paste is None or (paste.epochs and epoch >= paste.epochs):
            return None
        to_class = np.array([CLASSES.index(name) for name in self.spec.classes])
        return self.database.draw(keyframe.boxes, to_class[keyframe.labels], paste.counts, rng)

    def _objects(
        self, keyframe: Keyframe, aug_from_ego: np.ndarray, pasted: Objects | None = None
    ) -> dict[str, np.ndarray]:
        boxes, velocity, labels = keyframe.boxes, keyframe.velocity[:, :2], keyframe.labels
        if pasted is not None:
            own = [self.spec.classes.index(CLASSES[k]) for k in pasted.labels]
            boxes, velocity = np.concatenate([boxes, pasted.boxes]), np.concatenate([velocity, pasted.velocity])
            labels = np.concatenate([labels, np.array(own, dtype=np.int64)])
        if self.config.scored_ranges:
            reach = np.array([SCORED_RANGE_M[name] for name in self.spec.classes])[labels]
            near = np.hypot(boxes[:, 0], boxes[:, 1]) <= reach
            boxes, velocity, labels = boxes[near], velocity[near], labels[near]
        boxes, velocity = augment_boxes(aug_from_ego, boxes), velocity @ aug_from_ego[:2, :2].T
        return bev_targets(boxes, velocity, labels, self.spec.grid, len(self.spec.classes))

    def _prepared(self, keyframe: Keyframe) -> Prepared:
        key = ("sensors", keyframe.scene, keyframe.stamp_ns)
        return self._cache.get(key, lambda: prepare(keyframe, self.spec, self.config))

    def _points(self, keyframe: Keyframe) -> Clouds:
        root = self.keyframes.data_index.dataroot if isinstance(self.keyframes, Keyframes) else None
        key = ("clouds", keyframe.scene, keyframe.stamp_ns)
        return self._cache.get(key, lambda: prepare_clouds(keyframe, self.config, root))


@dataclass(frozen=True)
class Item:
    """What ClipDataset gives; it is read, never written: `collate` copies."""

    tensors: dict[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Cache:
    """Files are read and decoded once per process and keyframe, as far as the room goes.

    count: keyframes of the set. Where not even a quarter of them would fit nothing is kept: at the size of nuScenes all
    processes would fill their memory with what they hardly ever see again.
    """

    def __init__(self, megabytes: int, count: int) -> None:
        self.room, self.largest = megabytes * 1e6, 4 * megabytes * 1e6 / max(count, 1)
        self.kept: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives; it has an attribute nbytes."""
        if key in self.kept:
            return self.kept[key]
        value = make()
        if value.nbytes <= min(self.room, self.largest):
            self.room -= value.nbytes
            self.kept[key] = value
        return value


def _newest_sweep(clouds: Clouds, aug_from_ego: np.ndarray) -> np.ndarray:
    return transform_points(aug_from_ego, clouds.lidar[: clouds.newest, :3].astype(np.float64))


def _labels(keyframes: Sequence[Keyframe]) -> list[np.ndarray]:
    if isinstance(keyframes, Keyframes):
        return [keyframes.labels(i) for i in range(len(keyframes))]
    return [keyframe.labels for keyframe in keyframes]


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
