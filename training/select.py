"""Which frames of a pool to label next.

    python -m training.select POOL --checkpoint C --budget 200 --by entropy --out chosen.json

POOL is a data set in nuScenes' format, with labels or without, a recording, or a folder of recordings, such as those
that a vehicle has kept. What networks say of it is stored beside OUT (or in --store), drive by drive, so that the same
command goes on where it was stopped and another strategy costs seconds. --checkpoint several times is an ensemble.

In this order: what is labelled goes, then near duplicates of that and of what scores more (not with --keep-duplicates);
then --quota by --quota, and at last without one, frames are taken until the budget is full, none of a drive that has
given --per-drive. Limits come before any shortlist, so that a budget is only left over where the pool has no more
within them. `--budget 20%` is a share of what is not labelled. --scenes takes whole drives with their near duplicates,
by the mean score of what is not labelled; --per-drive, --quota, --sampler and strategies with a sampler or a shortlist
are of single frames, and refused with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bev_perception.bundle import load_bundle
from bev_perception.model_spec import ModelSpec
from bev_perception.uncertainty import Estimator, read_uncertainty
from training.command_line import errors_as_text
from training.data.source import Source
from training.data_engine.choosing import Request, choose
from training.data_engine.chosen_list import by_drive, list_of, read_list, write_list
from training.data_engine.duplicates import Likeness
from training.data_engine.looking import Networks
from training.data_engine.opening import open_pool
from training.data_engine.pool import survey
from training.data_engine.samplers import SAMPLERS
from training.data_engine.scoring import fill, open_store
from training.data_engine.strategies import AGGREGATES, STRATEGIES
from training.trainer.checkpoint import load_network


def quotas_of(words: Sequence[str]) -> dict[str, float]:
    """`class=share` each. Raises ValueError for others."""
    try:
        return {name: float(share) for name, share in (word.split("=") for word in words)}
    except ValueError as error:
        raise ValueError(f"--quota {' '.join(words)}: expected CLASS=SHARE each, such as pedestrian=0.3") from error


def budget_of(text: str) -> tuple[float, bool]:
    """`200` or `20%` -> (200, False) or (0.2, True). Raises ValueError for others."""
    try:
        return (float(text[:-1]) / 100, True) if text.endswith("%") else (float(int(text)), False)
    except ValueError as error:
        raise ValueError(
            f"--budget {text}: expected a number of frames, such as 200, or a share, such as 20%"
        ) from error


def estimator_in(bundle: Path | None, spec: ModelSpec) -> Estimator | None:
    """Raises ValueError for a bundle without the table, of other classes, or whose table counts on what the network
    says of its own errors."""
    if bundle is None:
        return None
    loaded = load_bundle(bundle)
    table = read_uncertainty(loaded)
    if table is None or loaded.spec.classes != spec.classes:
        raise ValueError(
            f"{bundle} has no uncertainty.json of the classes of {spec.name}: write it with training.calibrate"
        )
    if table.head:
        raise ValueError(
            f"{bundle}: its uncertainty.json multiplies what the network itself says of {', '.join(table.head)}, which "
            "is not stored of a pool; give a bundle whose network has no head for the spread, or choose --by entropy"
        )
    return Estimator(table, spec.classes)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.select", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", type=Path)
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="the network; several: an ensemble")
    parser.add_argument("--budget", required=True, metavar="N", help="frames, or a share of those without labels: 20%%")
    parser.add_argument("--by", default="entropy", choices=STRATEGIES, metavar="STRATEGY", help=", ".join(STRATEGIES))
    parser.add_argument("--out", type=Path, required=True, metavar="LIST", help="file to write")
    parser.add_argument(
        "--store", type=Path, help="folder of what networks said (default: LIST without .json, .frames)"
    )
    parser.add_argument("--labelled", type=Path, nargs="*", default=[], metavar="LIST", help="lists of earlier rounds")
    parser.add_argument("--aggregate", default="", choices=["", *AGGREGATES], help="of peaks, to one value a frame")
    parser.add_argument("--sampler", default="", choices=["", *SAMPLERS], help="instead of the strategy's")
    parser.add_argument("--per-drive", type=int, default=0, help="frames of a drive at most")
    parser.add_argument("--quota", nargs="+", default=[], metavar="CLASS=SHARE", help="filled first")
    parser.add_argument("--scenes", action="store_true", help="whole drives, by their mean; the budget counts these")
    parser.add_argument("--keep-duplicates", action="store_true", help="leave near duplicates in")
    parser.add_argument("--teacher", type=Path, help="checkpoint of a teacher, for `missed`")
    parser.add_argument(
        "--bundle", type=Path, help="with uncertainty.json, for `variance`; whose sensors recordings have"
    )
    parser.add_argument("--params", type=Path, help="the node's parameters, where POOL is of recordings")
    parser.add_argument("--split", default="train", help="of a data set")
    parser.add_argument("--version", default=Source.version, help="folder of its tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="drives that are looked at at once")
    parser.add_argument("--ray", default="", metavar="ADDRESS", help="on a Ray cluster, or `local`")
    args = parser.parse_args(argv)
    like = None if args.keep_duplicates else Likeness()
    budget, share = budget_of(args.budget)
    request = Request(
        args.by, budget, args.aggregate, args.sampler, args.per_drive, quotas_of(args.quota), like, args.scenes,
        args.seed, share,
    )  # fmt: skip
    networks = Networks(tuple(args.checkpoint), args.teacher)
    folder = args.store or args.out.with_name(f"{args.out.stem}.frames")
    spec = load_network(args.checkpoint[0]).spec
    estimator = estimator_in(args.bundle, spec) if args.by == "variance" else None
    source, drives = open_pool(args.pool, args.version, args.split, folder / "data", args.params, args.bundle)
    labelled = by_drive(map(read_list, args.labelled))
    store = open_store(folder, source, networks, request.views)
    fill(store, source, drives, networks, args.workers, args.ray)
    pool = survey(store, drives, len(spec.classes), labelled, estimator, args.seed)
    chosen = choose(store, drives, spec.classes, pool, request, labelled)
    write_list(args.out, list_of(source.root, source.version, request, chosen))
    print(
        f"{args.out}: {len(chosen.frames)} of {chosen.frames_of_pool} frames of {len(drives)} drives by {args.by}; "
        f"{chosen.near_duplicates} near duplicates left out, {chosen.labelled} labelled before"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
