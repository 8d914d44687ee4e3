"""Official scores of a checkpoint or a bundle: `python -m training.evaluate CHECKPOINT_OR_BUNDLE --data DIR`.

`--sensors` scores the same network with inputs masked as the vehicle masks missing sensors. Several words may be given:
all, no_temporal, camera, radar, camera+temporal, radar+temporal, or one blanked camera, such as blank:CAM_FRONT.
`--results FILE` writes what is found as the benchmark's server takes it; `--split test`, whose annotations are not
published, is only written and never scored. Under torchrun the processes share the keyframes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.nuscenes_format import result_rows, results_meta, write_results
from bev_perception.evaluation.objects import Objects
from bev_perception.files import write_atomic
from bev_perception.inference.backend import BACKENDS
from bev_perception.model_spec import ModelSpec
from training.bundling.evaluation import detect_by_bundle
from training.bundling.model_card import class_table, range_table, score_table
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.nuscenes import Keyframes
from training.data.source import add_source, source_of
from training.data.split_objects import has_annotations, require_objects
from training.processes import join_processes, own_device, own_threads, rank_and_world
from training.scoring import score_found
from training.sensor_masks import kept_by
from training.trainer.checkpoint import load_network
from training.trainer.detect import detect
from training.trainer.loading import Batches, open_keyframes


@dataclass(frozen=True)
class Found:
    """objects: word of --sensors -> row of the keyframes -> detections. lidar: whether the network saw LiDAR."""

    spec: ModelSpec
    keyframes: Keyframes
    objects: dict[str, dict[int, Objects]]
    lidar: bool


def find(args: argparse.Namespace) -> Found:
    """A bundle (a folder) is driven as the vehicle drives, a checkpoint runs in torch.

    Raises ValueError where there is nothing to score, unless the split has no annotations and results are written.
    """
    if args.model.is_dir():
        if args.history is not None:
            raise ValueError("--history is for checkpoints: a bundle's memory is the vehicle's own, over whole scenes")
        bundle = load_bundle(args.model)
        keyframes = open_keyframes(bundle.spec, PLAIN, source_of(args), args.split, args.scenes)
        _check_scored(args, keyframes)
        return Found(
            bundle.spec, keyframes, detect_by_bundle(bundle, keyframes, args.sensors, args.backend), lidar=False
        )
    network = load_network(args.model, own_device())
    if args.history is not None:
        data = replace(network.run.data, history=args.history)
        network = replace(network, run=replace(network.run, data=data))
    print(f"{args.model}: each keyframe after {network.data.history} earlier frame(s)", flush=True)
    keyframes = open_keyframes(network.spec, network.data, source_of(args), args.split, args.scenes)
    _check_scored(args, keyframes)
    with torch.inference_mode():
        batches = Batches(args.batch_size, args.workers)
        objects = detect(network, keyframes, range(len(keyframes)), args.sensors, batches)
    return Found(network.spec, keyframes, objects, network.data.lidar is not None)


def _check_scored(args: argparse.Namespace, keyframes: Keyframes) -> None:
    if args.results is None or has_annotations(keyframes):
        require_objects(keyframes, args.split)
    elif args.out:
        raise ValueError(f"--out is for scores, and the split {args.split!r} has no annotations: leave it out")


def write_submission(path: Path, found: Found, word: str) -> None:
    """What was found with `word` of --sensors in every keyframe, in the global frame."""
    kept, objects = kept_by(word, found.spec), found.objects[word]
    frames = ((keyframe, objects[row]) for row, keyframe in enumerate(found.keyframes))
    results = {k.token: result_rows(k.token, of_frame, k.global_from_ego) for k, of_frame in frames}
    write_results(path, results, results_meta("cameras" in kept, found.lidar, "radars" in kept))
    print(f"{path}: {sum(map(len, results.values()))} detections in {len(results)} samples")


def show_scores(found: Found, out: Path | None) -> None:
    """Tables of all words; per class and range of the first."""
    rows = range(len(found.keyframes))
    scores = {word: score_found(found.keyframes, found.spec, objects, rows) for word, objects in found.objects.items()}
    plain = {word: s.to_dict() for word, s in scores.items()}
    first = next(iter(plain))
    print(f"{score_table(plain)}\n\nPer class with {first}:\n\n{class_table(plain[first])}")
    print(f"\nPer range with {first}:\n\n{range_table(plain[first])}")
    if out:
        write_atomic(out, json.dumps(plain, indent=1))


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint of training.train, or bundle")
    add_source(parser)
    parser.add_argument(
        "--split", default="val", help="val, train, test, or holdout: what the run's data.holdout kept back"
    )
    parser.add_argument("--sensors", nargs="+", default=["all"])
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--history", type=int, help="earlier frames of a checkpoint's samples (default: the run's)")
    parser.add_argument("--batch-size", type=int, default=4, help="of a checkpoint")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of a checkpoint")
    parser.add_argument("--out", type=Path, help="write all scores as JSON")
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime", help="engine of a bundle")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write detections as the benchmark's server takes")
    args = parser.parse_args(argv)
    if args.results and len(args.sensors) > 1:
        parser.error("--results takes one word of --sensors: a results file is of one set of inputs")
    for folder in (path for path in (args.results, args.out) if path and path.is_dir()):
        parser.error(f"{folder} is a folder, expected the name of a file to write")
    torch.set_num_threads(own_threads())
    join_processes()
    found = find(args)
    if rank_and_world()[0]:
        return 0
    if args.results:
        write_submission(args.results, found, args.sensors[0])
    if has_annotations(found.keyframes):
        show_scores(found, args.out)
    else:
        print(f"the split {args.split!r} has no annotations: it is not scored")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
