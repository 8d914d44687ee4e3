"""Published networks for tests: weights by the rule of ../shared/golden, which also made the results recorded there."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_perception.decode import Thresholds, decode
from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, NmsGroup
from training.models.center_head import BRANCHES, find_candidates, rectified_scores
from training.models.detector import Prediction, task_index
from training.models.frame import Frame

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
# The frame of LIDAR_TOP as the recordings place it: a quarter of a turn and a shift.
NOMINAL = Frame((0.94, 0.0, 1.84), mirrored=True)


needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")
# Of the largest value of a stage; what comes out of a head has passed most layers.
STAGE, HEAD = 1e-5, 5e-5
BOXES = 1e-4  # m, m/s, rad: float32 at 50 m, twice
SHIFT = 3e-5  # the recording's own rounding of places on noise: in float64 ours is 1.5e-5 off


def drawn(row: dict) -> np.ndarray:
    """The tensor of one row of a state file."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(row["key"].encode())))
    kind, shape = row["kind"], tuple(row["shape"])
    if kind == "zero":
        value = np.zeros(shape)
    elif kind in ("var", "norm"):
        value = rng.uniform(0.5, 1.5, shape)
    elif kind == "weight":
        value = rng.standard_normal(shape) * np.sqrt(2 / row["fan_in"])
    else:
        value = 0.1 * rng.standard_normal(shape)
    return np.asarray(value * np.asarray(row.get("gain", 1)) + np.asarray(row.get("add", 0))).astype(row["dtype"])


@cache
def published_state(network: str) -> dict[str, torch.Tensor]:
    """Names and tensors as the authors' file has them."""
    rows = json.loads((GOLDEN / f"{network}_state.json").read_text())["keys"]
    state = {row["key"]: torch.from_numpy(drawn(row)) for row in rows if row["kind"] != "constant"}
    return state | {row["key"]: geometry(row["key"]) for row in rows if row["kind"] == "constant"}


def geometry(key: str) -> torch.Tensor:
    """What BEVDet saves of its view transform, from the published configuration."""
    config = json.loads((GOLDEN / "bevdet_r50_config.json").read_text())
    axes = [config["grid"][axis] for axis in "xyz"]
    height, width = config["image_size_h_w"]
    depths = np.arange(*config["grid"]["depth"])
    points = np.empty((len(depths), height // 16, width // 16, 3), dtype=np.float32)
    points[..., 0] = np.arange(width // 16) * ((width - 1) / (width // 16 - 1))
    points[..., 1] = (np.arange(height // 16) * ((height - 1) / (height // 16 - 1)))[:, None]
    points[..., 2] = depths[:, None, None]
    found: dict[str, np.ndarray] = {
        "dx": np.float32([step for _, _, step in axes]), "bx": np.float32([low + step / 2 for low, _, step in axes]),
        "nx": np.int64([(high - low) / step for low, high, step in axes]), "frustum": points,
    }  # fmt: skip
    return torch.from_numpy(found[key.rpartition(".")[2]])


class Golden:
    """One recording: stages by name, whole arrays, inputs drawn by rule."""

    def __init__(self, name: str, path: Path | None = None) -> None:
        """path: of a recording that is elsewhere."""
        self.arrays = np.load(path or GOLDEN / f"{name}_golden.npz")

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[f"full/{name}"]

    def off(self, stage: str, ours: torch.Tensor) -> float:
        """The largest difference at the recorded places, in units of the largest value of the whole stage."""
        shape, place = tuple(self.arrays[f"{stage}|shape"]), self.arrays[f"{stage}|idx"]
        found = ours.detach().numpy().reshape(-1)
        assert tuple(ours.shape) == shape, f"{stage}: {tuple(ours.shape)}, recorded {shape}"
        difference = np.abs(found[place].astype(np.float64) - self.arrays[f"{stage}|val"])
        return float(difference.max() / self.arrays[f"{stage}|max"])

    @property
    def stages(self) -> list[str]:
        return [str(name) for name in self.arrays["stages"]]

    def drawn(self, stage: str, name: str) -> torch.Tensor:
        """Standard normal numbers of a stage's shape, drawn under `name`."""
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"small/{name}".encode())))
        return torch.from_numpy(rng.standard_normal(tuple(self.arrays[f"{stage}|shape"])).astype(np.float32))

    def input(self, stage: str, name: str, signed: bool = False, scale: float = 1.0) -> torch.Tensor:
        """An input of a small recording: negative values set to 0 unless `signed`."""
        value = self.drawn(stage, name) * scale
        value = value if signed else value.clamp(min=0)
        assert self.off(stage, value) == 0, f"{stage} is drawn otherwise"
        return value


def to_ego(xyz: np.ndarray, frame: Frame = NOMINAL) -> np.ndarray:
    """(P, 3) in LIDAR_TOP, x to the right -> the ego frame, float64."""
    matrix = frame.ego_from_network()
    return xyz[:, [1, 0, 2]].astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def lidar_inputs(points: np.ndarray) -> dict[str, torch.Tensor]:
    """(P, 5) in LIDAR_TOP: x y z, intensity 0..255, age -> a detector's inputs."""
    columns = (np.zeros((len(points), 1)), to_ego(points[:, :3]), points[:, 3:4] / 255, points[:, 4:5])
    lidar = torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))
    return {"lidar": lidar, "lidar_counts": torch.tensor([len(lidar)])}


def boxes_to_ego(boxes: np.ndarray, frame: Frame = NOMINAL) -> np.ndarray:
    """(M, 9) x y z (centre) l w h yaw vx vy in LIDAR_TOP -> the ego frame, for a frame without pitch."""
    turned = boxes.astype(np.float64).copy()
    turned[:, :3] = to_ego(boxes[:, :3], frame)
    turned[:, 6] = boxes[:, 6] - np.pi / 2
    turned[:, 7], turned[:, 8] = boxes[:, 8], -boxes[:, 7]
    return turned


TASKS = (("car",), ("truck", "construction_vehicle"), ("bus", "trailer"), ("barrier",), ("motorcycle", "bicycle"))
TASKS += (("pedestrian", "traffic_cone"),)


def branch(name: str, task: int, heatmap: torch.Tensor, regression: torch.Tensor, pcdet: bool = False) -> torch.Tensor:
    """What the published head calls `name`, from our head's output before it is turned: (1, channels, X, Y)."""
    if name in ("hm", "heatmap"):
        first = sum(len(names) for names in TASKS[:task])
        order = [n for names in TASKS for n in names]
        ours = [CLASSES.index(n) for n in order[first : first + len(TASKS[task])]]
        return heatmap[:, ours]
    dx, dy, z, length, width, height, sine, cosine, vx, vy = regression[:, task].unbind(dim=1)
    theirs = {
        "reg": (dy, dx), "height": (z,), "dim": (width, length, height), "rot": (-sine, -cosine), "vel": (vy, vx)
    }  # fmt: skip
    if pcdet:
        theirs = {
            "center": (dy, dx), "center_z": (z,), "dim": (length, width, height), "rot": (sine, cosine), "vel": (vy, vx)
        }  # fmt: skip
    return torch.stack(theirs[name], dim=1)


def branch_in_ego(name: str, task: int, heatmap: torch.Tensor, regression: torch.Tensor) -> torch.Tensor:
    """As `branch`, of a head whose boxes are those of the ego frame: BEVDepth's."""
    if name == "heatmap":
        return branch(name, task, heatmap, regression)
    first = list(BRANCHES).index(name)
    low = sum(list(BRANCHES.values())[:first])
    return regression[:, task, low : low + BRANCHES[name]]


def heads(
    golden: Golden, head: str, names: tuple[str, ...], found: tuple[torch.Tensor, ...], pcdet: bool
) -> Iterator[tuple[str, float]]:
    heatmap, regression, aux = found
    for task in range(len(TASKS)):
        for name in names:
            stage = f"{head}.{task}.{name}"
            if name == "iou":
                yield stage, golden.off(stage, aux["iou"][:, task : task + 1])
            else:
                yield stage, golden.off(stage, branch(name, task, heatmap, regression, pcdet))


def candidates(prediction: Prediction, grid: BevGrid, task: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every cell and class of a task: boxes (M, 9) x y z l w h yaw vx vy in the ego frame, raw heatmap probability
    (M,), class index (M,); M = classes x cells."""
    probability = prediction.heatmap[0].double().sigmoid().numpy()
    dx, dy, z, length, width, height, sine, cosine, vx, vy = prediction.regression[0, task].double().numpy()
    ix, iy = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    x, y = grid.x_min + (ix + dx) * grid.step, grid.y_min + (iy + dy) * grid.step
    sizes = np.exp(np.stack([length, width, height]))
    boxes = np.stack([x, y, z, *sizes, np.arctan2(sine, cosine), vx, vy], axis=-1).reshape(-1, 9)
    labels = [CLASSES.index(name) for name in TASKS[task]]
    scores = np.concatenate([probability[label].ravel() for label in labels])
    return np.tile(boxes, (len(labels), 1)), scores, np.repeat(labels, len(boxes))


def decoded(network: torch.nn.Module, prediction: Prediction, nms: tuple[NmsGroup, ...] | None = None) -> np.ndarray:
    """The product's own way from a prediction to boxes (M, 10) x y z l w h yaw vx vy label, above a score of 0.1.

    nms: another than the recipe's. A network with drawn weights sees objects in more cells than a recipe's `top_k`,
    which the published decoders do not have in all: all that are above the score are taken.
    """
    spec = network.spec if nms is None else dataclasses.replace(network.spec, nms=nms)
    of_class = task_index(network.tasks, spec.classes)
    scores = rectified_scores(prediction.heatmap, prediction.aux.get("iou"), of_class)
    above = int((scores > 0.1).sum())
    outputs = (tensor[0].numpy() for tensor in find_candidates(scores, prediction.regression, of_class, above))
    found = decode(
        dict(zip(("scores", "labels", "cells", "boxes"), outputs, strict=True)),
        spec,
        Thresholds(dict.fromkeys(CLASSES, 0.1), spec.nms_radius),
    )
    return np.column_stack([found.boxes, found.velocity, found.labels]).astype(np.float64)


def matched(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Boxes (M, 9), each with the nearest of the others -> the largest difference of any number, angles round the
    circle. Not in their order: two scores may be equal but for rounding. Further columns (labels) must be equal."""
    assert ours.shape == theirs.shape, f"{len(ours)} boxes, recorded {len(theirs)}"
    if not len(ours):
        return 0.0
    same = [*range(6), *range(9, ours.shape[1])]
    nearest = np.linalg.norm(ours[:, None, same] - theirs[None, :, same], axis=-1).argmin(axis=1)
    assert len(set(nearest.tolist())) == len(ours), "two boxes for one"
    difference = ours - theirs[nearest]
    difference[:, 6] = (difference[:, 6] + np.pi) % (2 * np.pi) - np.pi
    return float(np.abs(difference).max())
