"""Do the outlines of boxes lie on edges of the image? And would they, were the camera turned or moved a little?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np

from bev_perception.evaluation.objects import Objects
from bev_perception.geometry import box_corners, invert, project, transform_boxes
from bev_perception.preprocess.images import img_from_cam
from bev_perception.rig.pairs import picture_of, picture_spec
from bev_perception.rig.perturb import MOVES, TURNS, perturbed
from bev_perception.rig.thinned import Thinned
from bev_perception.structures import CameraView, SensorFrame
from bev_perception.sync_config import NS

KEPT = 24  # pictures of each camera, evenly spread over the drive
NEAREST_M, FARTHEST_M = 2.5, 35.0
LEAST_BOX_M, LEAST_PX = 1.3, (10.0, 18.0)  # the longest side; narrow and wide side of the picture of a box
HIDDEN_SHARE = 0.15  # of its picture behind nearer ones: what is hidden more has other edges
BLUR_PX = 3.0  # an edge is seen from so far
ALONG = np.linspace(0.08, 0.92, 11)  # where on a line it is looked at
LONGEST_PX = 80.0  # a line counts by its length, and not more than this
LEAST_OBJECTS = 16  # different ones, however often each is seen
STEP_M = 1.5  # driven from one picture to the next: a vehicle that stands sees the same again and again
CELL_M = 3.0  # boxes without an id are of one object where they are of one such cell
# The changes that are tried, one at a time: degrees and metres.
TRIED = dict.fromkeys(TURNS, (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)) | dict.fromkeys(
    MOVES, (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2)
)
SURE_GAIN = 0.035  # boxes that are right but for how cars are rounded gain less by any change
SURE_ERRORS = 3.5  # standard errors, over the objects: one that is labelled badly moves no camera
LIKE_SHARE = 0.85  # of the best gain: which of such changes it is cannot be told


@dataclass(frozen=True)
class Outlined:
    """A grey picture (H, W) uint8 with the outlines of boxes in it: lines from a to b, (L, 3) in the vehicle's frame at
    the image. owners (L,): the object of each line. boxes: how many."""

    picture: np.ndarray
    img_from_cam: np.ndarray
    a: np.ndarray
    b: np.ndarray
    owners: tuple[str, ...]
    boxes: int


@dataclass(frozen=True)
class OutlineFit:
    """boxes: that were looked at, of so many objects. here: the score as it is, 0 to 1. changes: of those that fit
    clearly better, the best first, name of a turn or move -> how much; which of them it is cannot be told. gain: of the
    best."""

    boxes: int
    objects: int = 0
    here: float = 0.0
    changes: Mapping[str, float] = field(default_factory=dict)
    gain: float = 0.0

    @property
    def tells(self) -> bool:
        return self.objects >= LEAST_OBJECTS

    def words(self) -> str:
        parts = (f"{n} {v:+.1f} {'degrees' if n in TURNS else 'm'}" for n, v in self.changes.items())
        return " or ".join(parts)


class OutlinesHeard:
    """Give it every frame that has boxes. Pictures are made of those that are kept alone."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self._cameras = cameras
        self._kept: dict[str, Thinned[Outlined | None]] = {name: Thinned(KEPT) for name in cameras}
        self._poses: dict[str, np.ndarray] = {}
        self._places: dict[str, np.ndarray] = {}

    def add(self, frame: SensorFrame, objects: Objects) -> None:
        for name, view in zip(self._cameras, frame.cameras):
            if view is None or view.ego.epoch != frame.ego.epoch:
                continue
            place = view.ego.odom_from_ego[:3, 3]
            if name in self._places and np.linalg.norm(place - self._places[name]) < STEP_M:
                continue
            moved = objects.later((view.frame.stamp_ns - frame.stamp_ns) / NS)
            boxes = transform_boxes(invert(view.ego.odom_from_ego) @ frame.ego.odom_from_ego, moved.boxes)
            seen = objects.num_points != 0
            lines = outlines(boxes[seen], [key for key, known in zip(_keys(frame, objects), seen) if known], view)
            if lines is not None:
                self._places[name] = place
                self._poses[name] = view.calibration.ego_from_cam
                self._kept[name].offer(partial(_outlined, view, *lines))

    def finish(self) -> dict[str, OutlineFit]:
        kept = {name: [o for o in found.values if o is not None] for name, found in self._kept.items()}
        return {name: fit_outlines(found, self._poses[name]) for name, found in kept.items() if found}


def _keys(frame: SensorFrame, objects: Objects) -> list[str]:
    """What tells objects apart: their ids, or where they are."""
    cells = np.floor(transform_boxes(frame.ego.odom_from_ego, objects.boxes)[:, :2] / CELL_M).astype(int).tolist()
    return [known or f"{name} {cell}" for known, name, cell in zip(objects.ids, objects.names, cells)]


def outlines(
    boxes: np.ndarray, keys: Sequence[str], view: CameraView
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], int] | None:
    """Boxes (M, 7) in the vehicle's frame at the image and what their objects are called -> lines a, b (L, 3), the
    object of each line and how many boxes they outline: those wholly in the picture that nearer ones do not hide; None
    where there is none."""
    spec = picture_spec(view.calibration)
    img_from_ego = img_from_cam(view.calibration, spec) @ view.calibration.cam_from_ego
    corners = box_corners(boxes)
    pixels, depth = project(img_from_ego, corners.reshape(-1, 3))
    pixels, depth = pixels.reshape(-1, 8, 2), depth.reshape(-1, 8)
    ahead = depth.min(axis=1) > 0.5
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    size, middle = high - low, depth.mean(axis=1)
    whole = (low >= 0).all(axis=1) & (high <= [spec.width - 1, spec.height - 1]).all(axis=1)
    large = (size.min(axis=1) > LEAST_PX[0]) & (size.max(axis=1) > LEAST_PX[1])
    near = (
        (depth.min(axis=1) > NEAREST_M) & (middle < FARTHEST_M) & (boxes[:, 3:6].max(axis=1, initial=0) > LEAST_BOX_M)
    )
    a, b, owners, count = [], [], [], 0
    for k in np.flatnonzero(ahead & whole & large & near):
        others = ahead & (middle < middle[k] - 0.3)
        common = np.minimum(high[k], high[others]) - np.maximum(low[k], low[others])
        if np.maximum(common, 0).prod(axis=1).sum() > HIDDEN_SHARE * size[k].prod():
            continue
        hull = cv2.convexHull(pixels[k].astype(np.float32), returnPoints=False).reshape(-1)
        a.append(corners[k][hull])
        b.append(corners[k][np.roll(hull, -1)])
        owners += [keys[k]] * len(hull)
        count += 1
    return (np.concatenate(a), np.concatenate(b), tuple(owners), count) if count else None


def _outlined(view: CameraView, a: np.ndarray, b: np.ndarray, owners: tuple[str, ...], boxes: int) -> Outlined | None:
    image = picture_of(view)
    if image is None:
        return None
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    return Outlined(grey, img_from_cam(view.calibration, picture_spec(view.calibration)), a, b, owners, boxes)


def fit_outlines(seen: Sequence[Outlined], pose: np.ndarray) -> OutlineFit:
    """Of a camera at ego_from_cam (4, 4): whether any one change fits clearly better, for most of the objects."""
    boxes = sum(one.boxes for one in seen)
    names = sorted({owner for one in seen for owner in one.owners})
    if len(names) < LEAST_OBJECTS:
        return OutlineFit(boxes, len(names))
    number = {name: k for k, name in enumerate(names)}
    owners = np.array([number[owner] for one in seen for owner in one.owners])
    edges = [_edges(one.picture) for one in seen]

    def scores(change: Mapping[str, float]) -> np.ndarray:
        """(2, objects): the sum over an object's lines of how much lies on edges, and of their lengths."""
        cam_from_ego = invert(perturbed(pose, change))
        lines = np.concatenate([_scores(one, edge, cam_from_ego) for one, edge in zip(seen, edges)])
        return np.stack([np.bincount(owners, column) for column in lines.T])

    here = scores({})
    best = {}
    for name, steps in TRIED.items():
        tried = [(*_gain(here, scores({name: value})), value) for value in (*steps, *(-step for step in steps))]
        best[name] = max(tried)
    sure = {name: (gain, value) for name, (gain, error, value) in best.items() if gain > SURE_ERRORS * error}
    gain = max((found for found, _ in sure.values()), default=0.0)
    start = float(here[0].sum() / here[1].sum())
    if gain < SURE_GAIN:
        return OutlineFit(boxes, len(names), start, {}, gain)
    alike = sorted(((g, n, v) for n, (g, v) in sure.items() if g >= LIKE_SHARE * gain), reverse=True)
    return OutlineFit(boxes, len(names), start, {n: v for _, n, v in alike}, gain)


def _gain(here: np.ndarray, there: np.ndarray) -> tuple[float, float]:
    """(what the score gains, its standard error over the objects), each object by the length of its lines."""
    weight = (here[1] + there[1]) / 2
    gains = there[0] / np.maximum(there[1], 1e-9) - here[0] / np.maximum(here[1], 1e-9)
    gain = float((weight * gains).sum() / weight.sum())
    return gain, float(np.sqrt(((weight * (gains - gain)) ** 2).sum()) / weight.sum())


def _edges(picture: np.ndarray) -> np.ndarray:
    """(H, W, 2): the gradient of the blurred picture by its own length and what is usual, so that a faint edge counts
    nearly as much as a strong one."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), BLUR_PX)
    gradient = np.stack([cv2.Sobel(blurred, cv2.CV_32F, *axis, ksize=3) / 8 for axis in ((1, 0), (0, 1))], axis=-1)
    length = np.linalg.norm(gradient, axis=-1, keepdims=True)
    return np.asarray(gradient / (length + np.median(length) + 1.0 / BLUR_PX))


def _scores(one: Outlined, edges: np.ndarray, cam_from_ego: np.ndarray) -> np.ndarray:
    """(L, 2): how much the edges on a line run along it, 0 to 1, times its length; its length."""
    img_from_ego = one.img_from_cam @ cam_from_ego
    (a, _), (b, _) = project(img_from_ego, one.a), project(img_from_ego, one.b)
    line = b - a
    length = np.linalg.norm(line, axis=1)
    across = np.stack([-line[:, 1], line[:, 0]], axis=1) / np.maximum(length, 1e-6)[:, None]
    pixels = np.round(a[:, None] + line[:, None] * ALONG[None, :, None])
    height, width = edges.shape[:2]
    columns = np.clip(pixels[..., 0], 0, width - 1).astype(int)
    rows = np.clip(pixels[..., 1], 0, height - 1).astype(int)
    along = np.abs(np.einsum("lkc,lc->lk", edges[rows, columns], across)).mean(axis=1)
    weight = np.minimum(length, LONGEST_PX)
    return np.column_stack([along * weight, weight])
