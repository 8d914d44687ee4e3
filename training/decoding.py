"""What the choice of candidates brings: `python -m training.decoding CHECKPOINT --data DIR --candidates 200 500 1000`.

One network, whose maps are made once, decoded by so many candidates by score alone and, for comparison, by as many
local maxima of 3x3 cells, with the circles of its spec and with the papers'. Official scores of each way.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.objects import Objects
from bev_perception.files import write_atomic
from bev_perception.model_spec import ModelSpec
from training.command_line import errors_as_text
from training.data.nuscenes import Keyframe
from training.data.source import add_source, source_of
from training.models.center_head import find_candidates, rectified_scores
from training.models.detector import task_index
from training.processes import own_device, own_threads
from training.recipes.specs import PAPER_NMS_RADIUS
from training.scoring import floor_thresholds, score_found
from training.sensor_masks import mask_sensors
from training.trainer.checkpoint import load_network
from training.trainer.loading import Batches, evaluation_loader, open_keyframes
from training.trainer.network import CANDIDATES, Network, objects_of

Way = tuple[str, int, str]  # rule of RULES, number of candidates, circles of CIRCLES


def local_maxima(scores: Tensor) -> Tensor:
    """(B, classes, X, Y) -> the same, 0 wherever one of the eight cells around is higher."""
    return scores * (F.max_pool2d(scores, 3, 1, 1) == scores).to(scores.dtype)


RULES = {"local maxima": local_maxima, "by score": lambda scores: scores}


def circles_of(spec: ModelSpec) -> dict[str, ModelSpec]:
    """Name -> the spec with these radii."""
    papers = {name: PAPER_NMS_RADIUS.get(name, radius) for name, radius in spec.nms_radius.items()}
    return {"its own": spec, "the papers'": dataclasses.replace(spec, nms_radius=papers)}


def decode_each_way(
    network: Network, keyframes: Sequence[Keyframe], counts: Sequence[int], batches: Batches, sensors: str = "all"
) -> dict[Way, dict[int, Objects]]:
    """Way -> row of the keyframe -> detections. sensors: a word of `mask_sensors`."""
    specs = circles_of(network.spec)
    found: dict[Way, dict[int, Objects]] = {
        (rule, count, circles): {} for rule in RULES for count in counts for circles in specs
    }
    for rows, (scores, regression) in maps(network, keyframes, batches, sensors):
        of_class = task_index(network.detector.tasks, network.spec.classes)
        for rule, keep in RULES.items():
            tensors = find_candidates(keep(scores), regression, of_class, max(counts))
            for (of_rule, count, circles), objects in found.items():
                if of_rule == rule:
                    spec = specs[circles]
                    for row, *arrays in zip(rows, *(t[:, :count].cpu().numpy() for t in tensors), strict=True):
                        named = dict(zip(CANDIDATES, arrays, strict=True))
                        objects[row] = objects_of(named, spec, floor_thresholds(spec))
    return found


def maps(
    network: Network, keyframes: Sequence[Keyframe], batches: Batches, sensors: str
) -> Iterator[tuple[list[int], tuple[Tensor, Tensor]]]:
    """Rows of a batch; scores (B, classes, X, Y) and regression of its keyframes. Raises ValueError for queries."""
    if not hasattr(network.detector, "tasks"):
        raise ValueError(f"{network.run.model} gives queries, no maps: there are no candidates to choose")
    of_class = task_index(network.detector.tasks, network.spec.classes)
    for batch in evaluation_loader(keyframes, range(len(keyframes)), network.spec, network.data, batches):
        batch = mask_sensors(batch, sensors, network.spec)
        with torch.inference_mode():
            prediction = network.predict({name: tensor.to(network.device) for name, tensor in batch.items()})
            scores = rectified_scores(prediction.heatmap.float(), prediction.aux.get("iou"), of_class)
            yield batch["index"].flatten().tolist(), (scores, prediction.regression.float())


def decoding_csv(scores: dict[str, dict[Way, Scores]]) -> str:
    """sensors,rule,candidates,circles,mAP,NDS,pedestrian,traffic_cone: the last two are the AP of what comes in groups.
    scores: word of the sensors -> way -> scores."""
    lines = ["sensors,rule,candidates,circles,mAP,NDS,pedestrian,traffic_cone"]
    for sensors, ways in scores.items():
        for way, of in ways.items():
            figures = [of.mean_ap, of.nds, *(of.classes[name].ap for name in ("pedestrian", "traffic_cone"))]
            lines.append(",".join([sensors, *map(str, way), *(f"{figure:.3f}" for figure in figures)]))
    return "\n".join(lines) + "\n"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.decoding", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    add_source(parser)
    parser.add_argument("--split", default="val", help="val, train, or holdout")
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--candidates", type=int, nargs="+", default=[200, 500, 1000])
    parser.add_argument("--sensors", nargs="+", default=["all"], help="as in training.evaluate")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    args = parser.parse_args(argv)
    torch.set_num_threads(own_threads())
    network = load_network(args.checkpoint, own_device())
    keyframes = open_keyframes(network.spec, network.data, source_of(args), args.split, args.scenes)
    batches, rows = Batches(args.batch_size, args.workers), range(len(keyframes))
    scores: dict[str, dict[Way, Scores]] = {}
    for word in args.sensors:
        found = decode_each_way(network, keyframes, args.candidates, batches, word)
        scores[word] = {way: score_found(keyframes, network.spec, objects, rows) for way, objects in found.items()}
        print(decoding_csv({word: scores[word]}), flush=True)
    table = decoding_csv(scores)
    if args.out:
        write_atomic(args.out, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
