"""Official scores of a checkpoint or a bundle: `python -m training.evaluate CHECKPOINT_OR_BUNDLE --data DIR`.

`--sensors` scores the same network with inputs masked as the vehicle masks missing sensors. Several words may be given:
all, no_temporal, camera, radar, camera+temporal, radar+temporal, or one blanked camera, such as blank:CAM_FRONT.
Under torchrun the processes share the keyframes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.metrics import Scores
from bev_perception.files import write_atomic
from training.bundling.evaluation import evaluate_bundle
from training.bundling.model_card import class_table, range_table, score_table
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.source import add_source, source_of
from training.data.split_objects import require_objects
from training.processes import join_processes, own_device, own_threads, rank_and_world
from training.trainer.checkpoint import load_module
from training.trainer.detect import evaluate
from training.trainer.loading import Batches, open_keyframes


def scores_of(args: argparse.Namespace) -> dict[str, Scores]:
    """Of every word of --sensors: a bundle (a folder) is driven as the vehicle drives, a checkpoint runs in torch."""
    if args.model.is_dir():
        if args.history is not None:
            raise ValueError("--history is for checkpoints: a bundle's memory is the vehicle's own, over whole scenes")
        bundle = load_bundle(args.model)
        keyframes = open_keyframes(bundle.spec, PLAIN, source_of(args), args.split, args.scenes)
        require_objects(keyframes, args.split)
        return evaluate_bundle(bundle, keyframes, args.sensors)
    module = load_module(args.model).to(own_device())
    if args.history is not None:
        module.data = replace(module.data, history=args.history)
    print(f"{args.model}: each keyframe after {module.data.history} earlier frame(s)", flush=True)
    keyframes = open_keyframes(module.spec, module.data, source_of(args), args.split, args.scenes)
    require_objects(keyframes, args.split)
    return evaluate(module, keyframes, args.sensors, Batches(args.batch_size, args.workers))


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint of training.train, or bundle")
    add_source(parser)
    parser.add_argument("--split", default="val", help="val, train, or holdout: what the run's data.holdout kept back")
    parser.add_argument("--sensors", nargs="+", default=["all"])
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--history", type=int, help="earlier frames of a checkpoint's samples (default: the run's)")
    parser.add_argument("--batch-size", type=int, default=4, help="of a checkpoint")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of a checkpoint")
    parser.add_argument("--out", type=Path, help="write all scores as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(own_threads())
    join_processes()
    scores = scores_of(args)
    if rank_and_world()[0]:
        return 0
    plain = {word: s.to_dict() for word, s in scores.items()}
    first = args.sensors[0]
    print(f"{score_table(plain)}\n\nPer class with {first}:\n\n{class_table(plain[first])}")
    print(f"\nPer range with {first}:\n\n{range_table(plain[first])}")
    if args.out:
        write_atomic(args.out, json.dumps(plain, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
