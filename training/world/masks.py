"""Exact instance masks of a data set's key images, as COCO JSON in OUT/masks (see training.data.masks).

Rays are cast again, without shading: what a segmenter would find, without its errors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_perception.model_spec import CLASSES
from training.data.masks import mask_path, run_lengths
from training.tables.files import write_json
from training.world.camera import CameraImage, cast_camera
from training.world.generate import (
    Progress,
    Scan,
    epoch_ns,
    ordered_map,
    plan_drive,
    summary,
    take,
    world_of,
)
from training.world.lidar import LidarSweep
from training.world.nuscenes_writer import JPEG_QUALITY, scene_name, settings_of
from training.world.shot import Shot
from training.world.world import World

LEAST_PIXELS = 4
SAME_IMAGE = 1.0  # mean grey levels: 0 for the same JPEG encoder, little for another one, 6 and more for another world


def write_masks(out: str | Path, workers: int = 2) -> dict[str, Any]:
    """Masks of every finished scene below OUT that has none yet; returns the rates.

    Raises FileNotFoundError for a folder without synthetic scenes, and ValueError for images that this version of the
    world does not draw: its masks would show other objects.
    """
    stamps = sorted((Path(out) / ".scenes").glob("*.json"))
    if not stamps:
        raise FileNotFoundError(f"{out}: no synthetic scenes (.scenes/*.json); make them with the command nuscenes")
    todo = [str(path) for path in stamps if not _done(path).is_file()]
    progress = Progress("masks", len(todo), every_s=0.0)
    for images in ordered_map(_write_scene, todo, workers):
        progress.add(1, images=images)
    return summary(progress)


def _done(stamp: Path) -> Path:
    return stamp.parent.parent / "masks" / ".scenes" / stamp.name


def _write_scene(stamp: str) -> int:
    out = Path(stamp).parent.parent
    settings = settings_of(json.loads(Path(stamp).read_text()), Path(stamp))
    index = int(Path(stamp).stem.rpartition("-")[2])
    name, seed = scene_name(index), settings.scene_seed(index)
    world, images = world_of(seed, settings.duration_s, settings.style, settings.rig), 0
    for scan in plan_drive(settings.duration_s, settings.rates, world.rig.mounts):
        if scan.keyframe < 0 or world.rig.mounts[scan.channel].kind != "camera":
            continue
        stamp_us = (epoch_ns(seed) + scan.stamp_ns) // 1000
        image = out / "samples" / scan.channel / f"{name}__{scan.channel}__{stamp_us}.jpg"
        if images == 0:
            _require_same_world(image, take(world, scan, seed, settings.scale))
        path = mask_path(out / "masks", image)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, masks_document(world, scan, settings.scale))
        images += 1
    _done(Path(stamp)).parent.mkdir(parents=True, exist_ok=True)
    write_json(_done(Path(stamp)), {"images": images})
    return images


def _require_same_world(path: Path, drawn: CameraImage | LidarSweep | np.ndarray) -> None:
    stored = cv2.imread(str(path))
    assert isinstance(drawn, CameraImage)
    _, encoded = cv2.imencode(".jpg", drawn.bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR).astype(int)
    if stored is None or stored.shape != expected.shape or np.abs(stored - expected).mean() > SAME_IMAGE:
        raise ValueError(
            f"{path}: not what this version of the synthetic world draws, so its masks would be of other objects; make "
            "the set anew in another folder with `nuscenes OUT --masks`"
        )


def masks_document(world: World, scan: Scan, scale: float) -> dict[str, Any]:
    """The COCO document of one image: every object that shows at least LEAST_PIXELS pixels."""
    shot = Shot(world, world.rig.mounts[scan.channel], scan.stamp_ns, scale)
    hits, (height, width) = cast_camera(shot)[1], shot.size
    instance = hits.owner.reshape(height, width)
    names = {actor.track_id: actor.name for actor in world.actors}
    annotations: list[dict[str, Any]] = []
    for track_id, pixels in zip(*np.unique(instance[instance >= 0], return_counts=True)):
        if pixels >= LEAST_PIXELS:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1,
                    "category_id": CLASSES.index(names[int(track_id)]) + 1,
                    "score": 1.0,
                    "segmentation": run_lengths(instance == track_id),
                }
            )
    return {
        "images": [{"id": 1, "width": width, "height": height}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": annotations,
    }
