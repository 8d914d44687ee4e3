"""What networks say of a drive: each view is one function of a batch, and one row in VIEWS.

A drive is looked at by one process, which keeps its networks for the next; `spread` runs many (look_at).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bev_perception.evaluation.matching import greedy
from bev_perception.evaluation.objects import Objects
from training.data.augment import NO_AUGMENTATION
from training.data.clips import IMAGE_TARGETS, ClipDataset, collate
from training.data.config import for_evaluation
from training.data.nuscenes import Keyframes, open_nuscenes
from training.data.source import Source
from training.data_engine.peaks import entropy, mutual_information, peak_values
from training.data_engine.pool import FOUND
from training.data_engine.store import Column, Frames, Ragged, Store
from training.losses.detection import detection_losses
from training.models.center_head import rectified_scores
from training.models.detector import Prediction, SetDetector, task_index
from training.processes import own_device
from training.scoring import floor_thresholds
from training.sensor_masks import mask_sensors
from training.trainer.checkpoint import load_network
from training.trainer.network import Network

Batch = dict[str, Tensor]
MATCH_M = 2.0  # what is the same object: nuScenes' middle match
FLIP = dataclasses.replace(NO_AUGMENTATION, bev_flip_y=1.0)
BRANCHES = ("camera", "radar")  # words of training.sensor_masks


@dataclass(frozen=True)
class Networks:
    """checkpoints: the student first, then the other members of an ensemble; teacher: of `missed`, None without."""

    checkpoints: tuple[Path, ...]
    teacher: Path | None = None

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("no network to look with: give a checkpoint")


@dataclass(frozen=True)
class Look:
    """One drive's work: which views of which scene go where. threads: of torch, in the process that does it."""

    networks: Networks
    source: Source
    drive: str
    views: tuple[str, ...]
    store: Store
    batch: int = 4
    threads: int = 1


@dataclass(frozen=True)
class Eye:
    """A network that is loaded, and the keyframes of one drive with the files of its own sensors."""

    network: Network
    keyframes: Keyframes


@dataclass(frozen=True)
class Eyes:
    """student, then the other members of an ensemble, and a teacher: of the same frames, each with its own sensors."""

    student: Eye
    others: tuple[Eye, ...] = ()
    teacher: Eye | None = None


def look_at(look: Look) -> int:
    """Make the views of a drive and store them -> how many frames it has. One file a view, each whole or not there."""
    torch.set_num_threads(look.threads)
    eyes = _eyes(look)
    tokens = eyes.student.keyframes.tokens()
    with torch.inference_mode():
        for view in look.views:
            look.store.write(view, Frames(look.drive, {"token": tokens, **VIEWS[view](eyes, look.batch)}))
    return len(tokens)


def _eyes(look: Look) -> Eyes:
    student, *others = (_eye(path, look) for path in look.networks.checkpoints)
    own = student.network.spec
    for path, other in zip(look.networks.checkpoints[1:], others, strict=True):
        if (other.network.spec.grid, other.network.spec.classes) != (own.grid, own.classes):
            raise ValueError(
                f"{path} has another grid or other classes than {look.networks.checkpoints[0]}: no ensemble"
            )
    return Eyes(student, tuple(others), None if look.networks.teacher is None else _eye(look.networks.teacher, look))


def _eye(path: Path, look: Look) -> Eye:
    network = _network(path)
    return Eye(network, open_nuscenes(look.source, [look.drive], network.spec, network.data))


@lru_cache(maxsize=8)
def _network(path: Path) -> Network:
    network = load_network(path, own_device())
    if isinstance(network.detector, SetDetector):
        raise ValueError(f"{path}: {network.run.model} gives queries, no heatmap; scores are of heatmaps' peaks")
    return network


# ---- the views: eyes, frames of a batch -> columns


def base(eyes: Eyes, size: int) -> dict[str, Column]:
    """Where each frame is, what the network makes of it, and what it is unsure of.

    stamp_ns; place (n, 3): x, y (m), yaw (rad) in the global frame; embedding (n, 2 C): mean and deviation over the
    cells of the deepest BEV map; entropy: of each peak; of each detection label, score, metres, speed (m/s).
    """
    rows: list[tuple[np.ndarray, np.ndarray, Objects]] = []
    network = eyes.student.network
    thresholds = floor_thresholds(network.spec)
    for batch in _batches(eyes.student, size):
        prediction = network.predict(batch)
        found = network.decoded(prediction, thresholds)
        values = peak_values(_probabilities(network, prediction)[None])
        rows += zip(_embedding(prediction), (entropy(v[0]) for v in values), found, strict=True)
    frames = list(eyes.student.keyframes)
    labels = {name: float(i) for i, name in enumerate(network.spec.classes)}
    objects = [found for *_, found in rows]
    columns: dict[str, Column] = {
        "stamp_ns": np.array([frame.stamp_ns for frame in frames], dtype=np.int64),
        "place": np.array([_place(frame.global_from_ego) for frame in frames], dtype=np.float64).reshape(-1, 3),
        "embedding": np.array([embedding for embedding, *_ in rows], dtype=np.float32),
        "entropy": Ragged.of(values for _, values, _ in rows),
        "label": Ragged.of(np.array([labels[n] for n in o.names]) for o in objects),
        "score": Ragged.of(o.scores for o in objects),
        "metres": Ragged.of(np.hypot(o.boxes[:, 0], o.boxes[:, 1]) for o in objects),
        "speed": Ragged.of(np.hypot(o.velocity[:, 0], o.velocity[:, 1]) for o in objects),
    }
    return columns


def ensemble(eyes: Eyes, size: int) -> dict[str, Column]:
    """`ensemble`: mutual information of the members at each peak; `ensemble_entropy`: H of their mean."""
    if not eyes.others:
        raise ValueError("mutual information is of several networks: give --checkpoint more than once")
    members = (eyes.student, *eyes.others)
    several = zip(*(_batches(member, size) for member in members), strict=True)
    values = [
        v for of in several for v in _disagreeing(*((m.network, batch) for m, batch in zip(members, of, strict=True)))
    ]
    return {
        "ensemble": Ragged.of(map(mutual_information, values)),
        "ensemble_entropy": Ragged.of(entropy(v.mean(axis=0)) for v in values),
    }


def flips(eyes: Eyes, size: int) -> dict[str, Column]:
    """`flips`: disagreement at each peak between the scene and its mirror image, left for right, as training augments
    it: positions, projections and radar points are mirrored, pixels are not."""
    network = eyes.student.network
    grid = network.spec.grid
    if not np.isclose(grid.y_min, -grid.y_max):
        raise ValueError(
            f"a grid from y = {grid.y_min} to {grid.y_max} has no mirror image; choose by another strategy"
        )
    mirrored = _batches(eyes.student, size, mirror=True)
    values = []
    for plain, flipped in zip(_batches(eyes.student, size), mirrored, strict=True):
        maps = [_probabilities(network, network.predict(batch)) for batch in (plain, flipped)]
        values += peak_values(torch.stack([maps[0], maps[1].flip(-1)]))
    return {"flips": Ragged.of(map(mutual_information, values))}


def sensors(eyes: Eyes, size: int) -> dict[str, Column]:
    """`sensors`: disagreement at each peak between what the network finds with its cameras and with its radars alone,
    neither with memory."""
    network, values = eyes.student.network, []
    for batch in _batches(eyes.student, size):
        values += _disagreeing(*((network, mask_sensors(batch, word, network.spec)) for word in BRANCHES))
    return {"sensors": Ragged.of(map(mutual_information, values))}


def teacher(eyes: Eyes, size: int) -> dict[str, Column]:
    """`missed` (n,): how many of the teacher's objects the student has not."""
    if eyes.teacher is None:
        raise ValueError("what a student misses is told by a teacher: give --teacher")
    found = [
        [o for b in _batches(eye, size) for o in eye.network.detect_batch(b, floor_thresholds(eye.network.spec))]
        for eye in (eyes.teacher, eyes.student)
    ]
    return {"missed": np.array([missed(*pair) for pair in zip(*found, strict=True)], dtype=np.float32)}


def loss(eyes: Eyes, size: int) -> dict[str, Column]:
    """`loss` (n,): of heatmap and boxes, of each frame alone, weighed as the student was trained; not of the images."""
    student, values = eyes.student.network, []
    for batch in _batches(eyes.student, 1):
        prediction = student.predict(batch)
        seen = {name: value for name, value in prediction.aux.items() if name not in IMAGE_TARGETS}
        terms = detection_losses(dataclasses.replace(prediction, aux=seen), batch, student.detector, student.run.losses)
        values.append(float(torch.stack(list(terms.values())).sum()))
    return {"loss": np.array(values, dtype=np.float32)}


VIEWS: dict[str, Callable[[Eyes, int], dict[str, Column]]] = {
    "base": base,
    "ensemble": ensemble,
    "flips": flips,
    "sensors": sensors,
    "teacher": teacher,
    "loss": loss,
}


def missed(teacher: Objects, student: Objects) -> int:
    """How many of the teacher's objects of at least FOUND have none of the student's, of their class and within MATCH_M
    on the ground. An object of the student is used once, by falling score of the teacher's."""
    count = 0
    for name in set(teacher.names):
        sides = [o.select((np.array(o.names) == name) & (o.scores >= FOUND)) for o in (teacher, student)]
        apart = np.linalg.norm(sides[0].boxes[:, None, :2] - sides[1].boxes[None, :, :2], axis=2)
        order = np.argsort(-sides[0].scores, kind="stable")
        count += len(sides[0]) - (len(greedy(apart, order, MATCH_M)) if apart.size else 0)
    return count


def _disagreeing(*seen: tuple[Network, Batch]) -> list[np.ndarray]:
    return peak_values(torch.stack([_probabilities(network, network.predict(batch)) for network, batch in seen]))


def _batches(eye: Eye, size: int, mirror: bool = False) -> Iterator[Batch]:
    """Each keyframe once, as in evaluation, on the network's device."""
    network = eye.network
    config = for_evaluation(network.data)
    if mirror:
        config = dataclasses.replace(config, augmentation=FLIP)
    dataset = ClipDataset(eye.keyframes, network.spec, dataclasses.replace(config, cache_mb=0), image_targets=())
    for batch in DataLoader(dataset, size, collate_fn=collate):
        yield {name: tensor.to(network.device) for name, tensor in batch.items()}


def _probabilities(network: Network, prediction: Prediction) -> Tensor:
    of_class = task_index(network.detector.tasks, network.spec.classes)
    return rectified_scores(prediction.heatmap.float(), prediction.aux.get("iou"), of_class)


def _embedding(prediction: Prediction) -> np.ndarray:
    """(B, 2 C) float32."""
    maps = [m for m in (prediction.state, *prediction.features.values()) if m is not None]
    if not maps:
        raise ValueError("the network names no BEV map, so frames cannot be compared; take one that has")
    flat = maps[-1].float().flatten(2)
    return torch.cat([flat.mean(dim=2), flat.std(dim=2)], dim=1).cpu().numpy()


def _place(global_from_ego: np.ndarray) -> tuple[float, float, float]:
    forward = global_from_ego[:2, 0]
    return float(global_from_ego[0, 3]), float(global_from_ego[1, 3]), float(np.arctan2(forward[1], forward[0]))
