"""How often a training sees each labelled frame, where the number of its steps is given.

    python -m training.data_engine.showing DATA --checkpoint DEPLOYED --by loss --shows 1600 \
        --new chosen.json --replay 0.5 --out OUT
    python -m training.train EXPERIMENT --data OUT --init DEPLOYED --out runs/next --set optim.steps=400

OUT is a data set by links into DATA whose frames.json has a frame as often as it is shown: steps times the batch in
all. --by: `even`; `loss` of the checkpoint on the frame; `forgotten`, by how much that is more than --before's; or one
of training.select's strategies that ask one network alone, such as `entropy`. Half of the shows are even, half in
proportion to the value. --new names what was labelled since the checkpoint was trained: with --replay so large a share
of the shows goes to all other frames, against forgetting them (0: none), without it as large a one as they have among
the frames.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.command_line import errors_as_text
from training.data.frames import labelled_frames
from training.data.nuscenes import open_nuscenes
from training.data.source import Source
from training.data_engine.chosen_list import read_list
from training.data_engine.looking import Networks
from training.data_engine.pool import survey
from training.data_engine.scoring import fill, open_store
from training.data_engine.store import Store
from training.data_engine.strategies import STRATEGIES, frame_scores
from training.data_engine.views import write_view
from training.data_engine.waits import without_number
from training.trainer.checkpoint import load_network
from training.trainer.loading import scenes_of

EVEN, LOSS, FORGOTTEN = "even", "loss", "forgotten"
OF_ONE = ("entropy", "entropy_sum", "flips", "sensors", "novelty", "rarity")  # of STRATEGIES, what one network can say
POLICIES = (EVEN, LOSS, FORGOTTEN, *OF_ONE)
EVEN_SHARE = 0.5  # of the shows, so that no frame is never seen
HIGHEST = 0.98  # quantile of the values beyond which all count alike: there are the frames whose labels are wrong


def times(values: np.ndarray, shows: int, seed: int) -> np.ndarray:
    """(n,) values >= 0 of frames -> (n,) how often each is shown, `shows` in all.

    Each number is the expected one, EVEN_SHARE of it the same for all and the rest in proportion to the value, rounded
    up or down by one draw for all (systematic resampling). Values that are all 0 are all the same.
    """
    capped = np.minimum(values, np.quantile(values, HIGHEST)) if len(values) else values
    total = capped.sum()
    share = capped / total if total > 0 else np.full(len(values), 1 / max(len(values), 1))
    expected = shows * (EVEN_SHARE / len(values) + (1 - EVEN_SHARE) * share)
    reached = np.append(np.cumsum(expected)[:-1], shows)  # in all exactly so many, however sums are rounded
    return np.diff(np.floor(reached + np.random.default_rng(seed).random()), prepend=0.0).astype(np.int64)


def shares(shows: int, new: int, old: int, replay: float | None) -> tuple[int, int]:
    """Shows of the new and of the old frames. replay: share of the old ones; None: as they are among the frames."""
    if not new or not old:
        return (shows, 0) if new else (0, shows)
    of_old = round(shows * (old / (new + old) if replay is None else replay))
    return shows - of_old, of_old


def values_of(by: str, stores: Sequence[Store], drives: Sequence[str], classes: int, seed: int) -> dict[str, float]:
    """Token -> what the policy (not `even`) makes of it. stores: of the checkpoint, and of the one before."""
    pool = survey(stores[0], drives, classes, {}, seed=seed) if by in OF_ONE else None
    found: dict[str, float] = {}
    for drive in drives:
        frames = [store.read(drive) for store in stores]
        if pool is not None:
            values = frame_scores(STRATEGIES[by], frames[0], pool, seed=seed)
        elif by == LOSS:
            values = frames[0].array("loss")
        else:
            values = np.maximum(frames[0].array("loss") - frames[1].array("loss"), 0.0)
        found |= dict(zip(frames[0].tokens, map(float, values), strict=True))
    return found


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data_engine.showing", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what the training is to begin with")
    parser.add_argument("--before", type=Path, help="an earlier one, for `forgotten`")
    parser.add_argument("--by", default=EVEN, choices=POLICIES, metavar="POLICY", help=", ".join(POLICIES))
    parser.add_argument("--shows", type=int, required=True, help="steps times batch size of the training")
    parser.add_argument("--new", type=Path, nargs="*", default=[], metavar="LIST", help="lists of training.select")
    parser.add_argument("--replay", type=float, help="share of the shows for all frames that are not new")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="folder of what networks said (default: OUT.frames)")
    parser.add_argument("--version", default=Source.version, help="folder of the tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="drives that are looked at at once")
    args = parser.parse_args(argv)
    if (args.by == FORGOTTEN) != (args.before is not None):
        parser.error("--by forgotten compares with an earlier checkpoint: give --before, and for no other policy")
    if args.shows < 1 or (args.replay is not None and not (args.new and 0 <= args.replay < 1)):
        parser.error("--shows is 1 or more, --replay from 0 to below 1 and with --new")

    source, network = Source(args.data, args.version), load_network(args.checkpoint)
    drives = scenes_of(network.run.data, source, "train")
    if args.by == EVEN:
        values = dict.fromkeys(open_nuscenes(source, drives, network.spec, network.run.data).tokens(), 1.0)
    else:
        folder = args.store or args.out.with_name(f"{args.out.name}.frames")
        views = ("base", *STRATEGIES[args.by].views) if args.by in OF_ONE else ("loss",)
        stores = []
        for checkpoint in filter(None, (args.checkpoint, args.before)):
            networks = Networks((checkpoint,))
            stores.append(open_store(folder, source, networks, views))
            fill(stores[-1], source, drives, networks, args.workers)
        values = values_of(args.by, stores, drives, len(network.spec.classes), args.seed)
    listed = labelled_frames(source.root, "train") or list(values)
    labelled = [token for token in listed if token in values]
    since = {without_number(frame.token) for path in args.new for frame in read_list(path).frames}
    if len(labelled) < len(listed):
        print(f"{len(listed) - len(labelled)} of {len(listed)} labelled frames are not of the scenes that are opened")
    new, old = ([t for t in dict.fromkeys(labelled) if (t in since) == is_new] for is_new in (True, False))
    if args.new and not new:
        raise ValueError(
            f"none of the frames of {', '.join(map(str, args.new))} is among those labelled in {args.data}"
        )
    if args.replay and not old:
        raise ValueError(f"--replay {args.replay:g}: all frames that are labelled in {args.data} are new; leave it out")
    shown: list[str] = []
    for tokens, shows in zip((new, old), shares(args.shows, len(new), len(old), args.replay), strict=True):
        if shows:
            counts = times(np.array([values[t] for t in tokens]), shows, args.seed)
            shown += [t for t, count in zip(tokens, counts, strict=True) for _ in range(count)]
    write_view(args.out, source, shown)
    often = Counter(shown)
    print(
        f"{args.out}: {len(shown)} shows of {len(often)} of {len(new) + len(old)} frames by {args.by}, each at most "
        f"{max(often.values())} times; {sum(often[t] for t in new)} of what is new"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
