"""3D labels beyond the range in which there are any, from 2D boxes (LR3D).

    python -m training.long_range teach --data DATA --labelled-to 25 --out runs/ip
    python -m training.long_range label --data DATA --model runs/ip/last.ckpt --out FARSET [--radar]
    python -m training.long_range measure --data DATA --model mine=runs/ip/last.ckpt --out long_range.csv

`teach` reads 3D boxes up to --labelled-to metres and goes on where it was stopped. `label` writes a data set whose
training split has true boxes up to there and pseudo boxes beyond, for `training.train --data FARSET`. `measure`
compares pseudo boxes of held-out drives with their true ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from bev_perception.files import sha256_of, write_atomic
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.index import open_index
from training.data.nuscenes import Keyframe, Keyframes
from training.data.source import Source, add_source, source_of
from training.long_range.checkpoint import TeachConfig, load_head
from training.long_range.far_objects import by_head, far_rows, made, radar_returns, seen_objects
from training.long_range.far_set import Labels, write_far_set
from training.long_range.measure import as_csv, measure
from training.long_range.near_objects import open_near_objects
from training.long_range.network import DYNAMIC, SHARED, HeadConfig, InverseHead
from training.processes import own_threads
from training.recipes.specs import spec
from training.scoring import level_boxes
from training.trainer.loading import open_keyframes
from training.trainer.teaching import paths_of

SURE = 0.15  # scale of the logarithm of a depth above which there is no label
SHOWN_EVERY_S = 10.0


def keyframes_of(source: Source, split: str, scenes: int | None = None) -> Keyframes:
    """With all cameras and radars that the set has. Raises ValueError for one without cameras, and as
    `open_keyframes` does."""
    channels = open_index(source.root, source.version, source.classes).channels
    cameras, radars = (tuple(c for c in channels if c.startswith(kind)) for kind in ("CAM", "RADAR"))
    if not cameras:
        raise ValueError(f"{source.root}: no camera among {list(channels)}; 2D boxes are those of images")
    return open_keyframes(spec("far", cameras=cameras, radars=radars), PLAIN, source, split, scenes, image_targets=())


def run_teach(args: argparse.Namespace) -> None:
    from training.long_range.teaching import teach  # Lightning takes seconds to load

    keyframes = keyframes_of(source_of(args), args.split, args.scenes)
    head = HeadConfig(weights=args.weights)
    digest = keyframes.data_index.digest
    config = TeachConfig(
        head, args.labelled_to, args.moves, steps=args.steps, batch_size=args.batch_size, lr=args.lr, seed=args.seed,
        data=digest,
    )  # fmt: skip
    near = open_near_objects(keyframes, config.labelled_to, head.crop)
    print(f"{len(near['label'])} looks at objects within {config.labelled_to:g} m, {config.steps} steps", flush=True)
    print(f"checkpoint: {teach(near, config, args.out)}")


def add_teach(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True, help="run directory; goes on from its last.ckpt")
    parser.add_argument("--split", default="train", help="scenes to learn from (%(default)s)")
    parser.add_argument("--scenes", type=int, help="only the first n of them")
    parser.add_argument("--labelled-to", type=float, default=TeachConfig.labelled_to, help="m (%(default)g)")
    parser.add_argument("--moves", type=int, default=TeachConfig.moves, help="depths that an object is moved to in a "
                        "step, 0 for none (%(default)d)")  # fmt: skip
    parser.add_argument("--weights", choices=(DYNAMIC, SHARED), default=DYNAMIC, help="of each object, or of all")
    parser.add_argument("--steps", type=int, default=TeachConfig.steps, help="(%(default)d)")
    parser.add_argument("--batch-size", type=int, default=TeachConfig.batch_size, help="(%(default)d)")
    parser.add_argument("--lr", type=float, default=TeachConfig.lr, help="(%(default)g)")
    parser.add_argument("--seed", type=int, default=TeachConfig.seed)
    parser.set_defaults(run=run_teach)


def with_progress(keyframes: Keyframes) -> Iterator[Keyframe]:
    started = shown = time.monotonic()
    for i, keyframe in enumerate(keyframes):
        yield keyframe
        if time.monotonic() - shown > SHOWN_EVERY_S:
            shown = time.monotonic()
            left = (shown - started) / (i + 1) * (len(keyframes) - i - 1)
            print(f"keyframes {(i + 1) / len(keyframes):4.0%}, {left:.0f} s left", flush=True)


def labels_by(
    head: InverseHead, keyframes: Keyframes, labelled_to: float, radar: bool, most: float
) -> dict[int, Labels]:
    """Row of each keyframe in the index -> its labels; a depth whose scale is above `most` gives none."""
    found = {}
    for number, keyframe in zip(keyframes.rows.tolist(), with_progress(keyframes), strict=True):
        rows = far_rows(keyframe, labelled_to)
        count = len(keyframe.labels)
        far, boxes, scale = np.zeros(count, bool), np.full((count, 7), np.nan), np.full(count, np.nan)
        far[rows] = True
        parts = seen_objects(keyframe, rows, keyframes.spec, head.config.crop)
        returns = radar_returns(keyframe, keyframes.spec) if radar else None
        labelled, pseudo = made(parts, by_head(head, returns))
        sure = pseudo.scale <= most
        boxes[labelled[sure]] = level_boxes(pseudo.boxes[sure], keyframe.global_from_ego)
        scale[labelled[sure]] = pseudo.scale[sure]
        found[number] = Labels(far, boxes, scale)
    return found


def run_label(args: argparse.Namespace) -> None:
    head, config = load_head(args.model)
    keyframes = keyframes_of(source_of(args), args.split)
    labels = labels_by(head, keyframes, config.labelled_to, args.radar, args.most_scale)
    facts = {"model": sha256_of(args.model), "labelled_to": config.labelled_to, "split": args.split,
             "radar": args.radar, "most_scale": args.most_scale}  # fmt: skip
    told = write_far_set(args.out, keyframes.data_index, config.labelled_to, labels, facts)
    print(f"{args.out}: " + ", ".join(f"{count} annotations {name}" for name, count in told.items()))


def add_label(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of `teach`")
    parser.add_argument("--out", type=Path, required=True, help="data root to write, with links into DATA")
    parser.add_argument("--split", default="train", help="whose far boxes are replaced (%(default)s); others stay")
    parser.add_argument("--radar", action="store_true", help="radar returns move the depths")
    parser.add_argument(
        "--most-scale", type=float, default=SURE, help="of log depth, above which there is no label (%(default)g)"
    )
    parser.set_defaults(run=run_label)


def run_measure(args: argparse.Namespace) -> None:
    loaded = {name: load_head(path) for name, path in paths_of(args.model).items()}
    labelled = {(config.labelled_to, config.head.crop) for _, config in loaded.values()}
    if len(labelled) > 1:
        raise ValueError(f"the models were taught with {sorted(labelled)} (range in m, crops in px); give alike ones")
    keyframes = keyframes_of(source_of(args), args.split, args.scenes)
    heads = {name: head for name, (head, _) in loaded.items()}
    rows = measure(with_progress(keyframes), keyframes.spec, heads, labelled.pop()[0], args.radar)
    write_atomic(args.out, as_csv(rows))
    print(as_csv(rows))


def add_measure(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME=CHECKPOINT", help="of `teach`")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--split", default="val", help="scenes that no model has learnt from (%(default)s)")
    parser.add_argument("--scenes", type=int, help="only the first n of them")
    parser.add_argument("--radar", action="store_true", help="each model also with radar returns")
    parser.set_defaults(run=run_measure)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.long_range", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="teach, label or measure")
    add_teach(commands.add_parser("teach", help="teach a head on the near objects"))
    add_label(commands.add_parser("label", help="write a data set with pseudo boxes beyond"))
    add_measure(commands.add_parser("measure", help="compare pseudo boxes with held-back ones"))
    args = parser.parse_args(argv)
    torch.set_num_threads(own_threads())
    cv2.setNumThreads(1)
    args.run(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
