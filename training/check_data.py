"""Draw what the network sees, after augmentation.

    python -m training.check_data --data DIR --experiment training.experiments.demo:full --out DIR

One PNG per sample. Images: boxes as the network's projection has them, and below the depth targets,
near red to far blue; with history the earlier frames too. Bird's-eye views: LiDAR, also where it only gives the depth
targets (virtual points coloured by class); radar, in blue that of earlier frames brought here with prev_from_curr;
heatmap. On all of them the targets read back from their cells. `--split holdout`: the scenes that data.holdout keeps
back. `--files` looks instead at every file of the split, masks included where the run wants them: whether it is there
and whole, images to their end markers and points by their count and header. All that are not are listed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from bev_perception.colors import color_of
from bev_perception.decode import boxes_from_cells
from bev_perception.evaluation.draw import draw_bev, draw_boxes
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.geometry import transform_points
from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.preprocess.radar import SPEED_SCALE
from training.command_line import errors_as_text
from training.data.clips import IMAGE_TARGETS, ClipDataset
from training.data.config import DataConfig, for_evaluation
from training.data.database import default_workers
from training.data.file_checks import bad_files, needed_files
from training.data.nuscenes import Keyframes
from training.data.source import add_source, source_of
from training.experiments import load_run
from training.run import image_targets
from training.trainer.loading import open_keyframes

Item = dict[str, np.ndarray]
BEV_SIZE = 640
EARLIER_COLOR = (230, 150, 60)
FAR_M = 60.0  # blue in the depth pictures


def target_objects(item: Item, spec: ModelSpec) -> Objects:
    """The objects that the head is told, read back from cells and regression targets."""
    used = item["mask"][:, 0] > 0
    boxes, velocity = boxes_from_cells(item["cells"][used], item["boxes"][used], spec)
    names = tuple(spec.classes[k] for k in item["labels"][used])
    return make_objects(boxes.astype(np.float64), velocity, np.ones(len(names)), names)


def _of_pillars(arrays: Mapping[str, np.ndarray], spec: ModelSpec) -> np.ndarray:
    points = arrays["radar_points"]
    used = np.arange(points.shape[1]) < arrays["radar_counts"][:, None]
    return np.column_stack([points[used], np.zeros(used.sum())])


def _of_map(arrays: Mapping[str, np.ndarray], spec: ModelSpec) -> np.ndarray:
    planes = dict(zip(spec.radar.channels, arrays["radar_bev"]))
    occupied = np.any(arrays["radar_bev"] != 0, axis=0)
    returns = np.zeros((int(occupied.sum()), 7))
    returns[:, :2] = spec.grid.centers()[occupied]
    for column, name, scale in ((0, "dx", spec.grid.step), (1, "dy", spec.grid.step), (4, "vx", SPEED_SCALE),
                                (5, "vy", SPEED_SCALE)):  # fmt: skip
        if name in planes:
            returns[:, column] += planes[name][occupied] * scale
    return returns


# RadarSpec.format -> function (arrays by name, spec) -> (P, 7) returns to draw; a form that is not here is not drawn.
RETURNS: dict[str, Callable[[Mapping[str, np.ndarray], ModelSpec], np.ndarray]] = {
    "map": _of_map,
    "pillars": _of_pillars,
}


def radar_returns(item: Item, spec: ModelSpec, prefix: str = "", t: int | None = None) -> np.ndarray:
    """(P, 7) returns as the network has them: one per occupied cell of the map, or the points of the pillars."""
    names = [f"{prefix}{tensor.name}" for tensor in spec.inputs() if tensor.name.startswith("radar_")]
    arrays = {name.removeprefix(prefix): item[name] if t is None else item[name][t] for name in names}
    return RETURNS[spec.radar.format](arrays, spec)


def image_rows(item: Item, spec: ModelSpec, objects: Objects) -> list[np.ndarray]:
    """Rows of pictures: cameras with boxes, with depth targets, and of every earlier frame."""
    order = slice(None) if spec.image.color_order == "bgr" else slice(None, None, -1)
    pictures = [image[..., order].copy() for image in item["images"]]
    depths = [_depth_picture(picture, depth) for picture, depth in zip(pictures, item.get("depth", ()))]
    for picture, projection in zip(pictures, item["img_from_ego"]):
        draw_boxes(picture, projection.astype(np.float64), objects, labels=False)
    rows = [_row(pictures, "boxes")]
    if depths:
        rows.append(_row(depths, "depth"))
    age_s = 0.0
    for t in reversed(range(len(item.get("prev.images", ())))):
        age_s += item["prev_dt"][t]
        shown = [image[..., order].copy() for image in item["prev.images"][t]]
        state = f"{age_s:.2f} s earlier" if item["prev_valid"][t] else "no earlier frame"
        rows.append(_row(shown, state))
    return rows


def _row(pictures: list[np.ndarray], title: str) -> np.ndarray:
    row = np.concatenate(pictures, axis=1)
    cv2.putText(row, title, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return row


def _depth_picture(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Each patch that has a target is tinted: red is near, blue is far."""
    colors = cv2.applyColorMap((255 * (1 - np.clip(depth / FAR_M, 0, 1))).astype(np.uint8), cv2.COLORMAP_JET)
    size = image.shape[1::-1]
    known = cv2.resize((depth > 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)[..., None]
    tint = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    return np.where(known > 0, (0.45 * image + 0.55 * tint).astype(np.uint8), image)


def bev_panels(item: Item, spec: ModelSpec, objects: Objects) -> list[np.ndarray]:
    """Bird's-eye views: LiDAR (or `depth_points`, see `check`), radar where there are, heatmap."""
    grid, panels = spec.grid, []
    reach = max(abs(v) for v in (grid.x_min, grid.x_max, grid.y_min, grid.y_max))
    radar = radar_returns(item, spec) if spec.radars and spec.radar.format in RETURNS else None
    if "lidar" in item or "depth_points" in item:
        panel = draw_bev(BEV_SIZE, reach, objects)
        if "lidar" in item:
            ages = item["lidar"][:, 4:5]
            _dots(panel, reach, item["lidar"], np.where(ages > 0.01, 110, 200) * np.ones(3))
        else:
            _dots(panel, reach, item["depth_points"], np.full(3, 200))
        if "virtual" in item:
            palette = np.array([color_of(name) for name in CLASSES])
            _dots(panel, reach, item["virtual"], palette[item["virtual"][:, 4:14].argmax(axis=1)])
        panels.append(panel)
    if radar is not None:
        panel = draw_bev(BEV_SIZE, reach, objects, radar=radar)
        curr_from_prev = np.eye(4)
        for t in reversed(range(len(item.get("prev_valid", ())))):
            curr_from_prev = curr_from_prev @ np.linalg.inv(item["prev_from_curr"][t].astype(np.float64))
            if item["prev_valid"][t]:
                earlier = radar_returns(item, spec, "prev.", t)
                earlier[:, :3] = transform_points(curr_from_prev, earlier[:, :3])
                _dots(panel, reach, earlier, np.tile(EARLIER_COLOR, (len(earlier), 1)))
        panels.append(panel)
    panels.append(_heatmap_panel(item["heatmap"], spec, reach, objects))
    return panels


def _dots(panel: np.ndarray, reach: float, points: np.ndarray, colors: np.ndarray) -> None:
    scale = BEV_SIZE / (2 * reach)
    at = np.floor(BEV_SIZE / 2 - points[:, 1::-1] * scale).astype(int)
    seen = ((at >= 0) & (at < BEV_SIZE)).all(axis=1)
    rows = (at[seen, 1], at[seen, 0])
    panel[rows] = np.maximum(panel[rows], np.broadcast_to(colors, (len(points), 3))[seen].astype(np.uint8))


def _heatmap_panel(heatmap: np.ndarray, spec: ModelSpec, reach: float, objects: Objects) -> np.ndarray:
    grid, scale = spec.grid, BEV_SIZE / (2 * reach)
    palette = np.array([color_of(name) for name in spec.classes], dtype=np.float32)
    colored = (heatmap.max(axis=0)[..., None] * palette[heatmap.argmax(axis=0)]).astype(np.uint8)
    panel = draw_bev(BEV_SIZE, reach, objects)
    size = [round((grid.y_max - grid.y_min) * scale), round((grid.x_max - grid.x_min) * scale)]
    top, left = round((reach - grid.x_max) * scale), round((reach - grid.y_max) * scale)
    shown = cv2.resize(colored[::-1, ::-1], size, interpolation=cv2.INTER_NEAREST)
    part = panel[top : top + size[1], left : left + size[0]]
    np.maximum(part, shown[: part.shape[0], : part.shape[1]], out=part)
    return panel


def draw_item(item: Item, spec: ModelSpec) -> np.ndarray:
    """A BGR picture of one item of ClipDataset."""
    objects = target_objects(item, spec)
    rows = image_rows(item, spec, objects) if spec.cameras else []
    rows.append(np.concatenate(bev_panels(item, spec, objects), axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 2), (0, width - row.shape[1]), (0, 0))) for row in rows])


def check(
    keyframes: Keyframes,
    spec: ModelSpec,
    config: DataConfig,
    seed: int,
    count: int,
    out: Path,
    image_targets: tuple[str, ...] = IMAGE_TARGETS,
) -> list[Path]:
    """Write pictures of `count` items spread over the set; returns their paths."""
    dataset = ClipDataset(keyframes, spec, config, seed, image_targets)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, count).astype(int)).tolist():
        item = {name: value.numpy() for name, value in dataset[index].items()}
        if "depth" in item and "lidar" not in item:
            item["depth_points"] = dataset.depth_points(index)
        keyframe = keyframes[int(item["index"])]
        path = out / f"{keyframe.scene}_{keyframe.token[:8]}.png"
        cv2.imwrite(str(path), draw_item(item, spec))
        objects = int(item["gt_valid"].sum())
        clouds = {"lidar": "lidar points", "depth_points": "points for depth", "virtual": "virtual points"}
        sizes = ", ".join(f"{len(item[name])} {words}" for name, words in clouds.items() if name in item)
        print(f"{path}: {objects} objects{', ' if sizes else ''}{sizes}", flush=True)
        paths.append(path)
    return paths


def look_at_files(keyframes: Keyframes, lidar: bool, workers: int) -> int:
    """Print each file that is missing or damaged; the exit status. lidar: whether anything reads LiDAR."""
    files = needed_files(keyframes, lidar)
    lines = bad_files(files, workers)
    if lines:
        print("\n".join(lines))
        print(f"{len(lines)} of {len(files)} files of {len(keyframes)} keyframes cannot be used; copy them again")
        return 1
    print(f"every file of {len(keyframes)} keyframes is there and whole: {len(files)} files")
    return 0


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.check_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source(parser)
    parser.add_argument(
        "--experiment", required=True, help="package.module:function, such as training.experiments.demo:full"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--plain", action="store_true", help="without augmentation, as evaluation sees it")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--files", action="store_true", help="only look whether every file of the split is whole")
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes that look at files (default: one for a core)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/check_data"))
    args = parser.parse_args(argv)
    run = load_run(args.experiment)
    config = for_evaluation(run.data) if args.plain else run.data
    targets = image_targets(run)
    keyframes = open_keyframes(run.spec, config, source_of(args), args.split, image_targets=targets)
    if args.files:
        return look_at_files(keyframes, config.lidar is not None or "depth" in targets, args.workers)
    check(keyframes, run.spec, config, run.seed, args.samples, args.out, targets)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
