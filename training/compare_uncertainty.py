r"""What says best how sure a detection is: `python -m training.compare_uncertainty HEADS --data DIR --out FOLDER`.

HEADS is a checkpoint with a head for the spread (training.experiments.uncertainty). Held against it, on the same drives
and each measured with a fit to other ones: the score as it is, divided by a temperature, by isotonic regression of each
class; the table by class, distance and score; with --ensemble the mean of several checkpoints, with --dropout that of
--passes of the same network with dropout.

Writes uncertainty_ways.csv (calibration, likelihood and scores of each), uncertainty_coverage.csv (intervals of each
channel) and uncertainty_reliability.csv (what was said and what was right), which docs/uncertainty.md is made of. Which
of head and table each channel takes is chosen without the drives that it is judged on: three scenes at least.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.evaluation.reliability import reliability
from bev_perception.files import write_atomic
from bev_perception.model_spec import ModelSpec
from bev_perception.uncertainty import CHANNELS, LEVELS
from training.bundling.engines import TorchEngine
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.nuscenes import Keyframes
from training.data.source import add_source, source_of
from training.data.split_objects import require_objects
from training.models.spread_head import spread_head
from training.processes import own_device
from training.scoring import score_found
from training.trainer.checkpoint import load_network
from training.trainer.loading import open_keyframes
from training.trainer.network import Network
from training.uncertainty.driving import Frame, drive, pairs_in
from training.uncertainty.measures import Claim
from training.uncertainty.members import dropout, fused_drive
from training.uncertainty.pairs import Pairs
from training.uncertainty.ways import USES, chosen_within, everywhere, folds_of, held_out, measured, ways_of

FOLDS = 5
WAYS, COVERAGE, RELIABILITY = "uncertainty_ways.csv", "uncertainty_coverage.csv", "uncertainty_reliability.csv"
OWN = "head and table, the best of each channel"


def compare(pairs: Pairs, classes: Sequence[str], folds: int, title: str = "") -> Iterator[tuple[str, Claim]]:
    """(name, what it says of each detection by a fit to other drives) of each way. title: of pairs that several
    networks agreed on, of which the deviations between them are used as a head's would be; then that alone.

    What each channel is made of is chosen on the drives of the fit, without those it is judged on. Raises ValueError
    for fewer than three drives, and as `folds_of`.
    """
    fold = folds_of(pairs, folds)
    ways = {} if title else ways_of(classes, {name: everywhere(use) for name, use in USES.items()})
    for name, way in (ways | {title or OWN: chosen_within(classes, USES, folds)}).items():
        yield name, held_out(pairs, way, fold)


def reliability_rows(name: str, claim: Claim, pairs: Pairs) -> list[dict[str, str]]:
    """A row for each bin of what was said that holds a detection."""
    return [
        {"way": name, "detections": str(count), "said": f"{said:.4f}", "right": f"{right:.4f}"}
        for said, right, count in reliability(claim.probability, pairs.right).points()
    ]


def coverage_rows(name: str, row: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"way": name, "channel": channel}
        | {f"inside_{level:g}": f"{row['coverage'][channel][f'{level:g}']:.4f}" for level in LEVELS}
        | {key: f"{row['coverage'][channel][key]:.4f}" for key in ("deviation", "nll")}
        for channel in CHANNELS
    ]


def _way(name: str, row: Mapping[str, Any], pairs: Pairs, runs: int, scores: Any, frames: int) -> dict[str, str]:
    nll = np.nanmean([row["coverage"][channel]["nll"] for channel in CHANNELS])
    return {
        "way": name, "runs": str(runs), "keyframes": str(frames), "detections": str(len(pairs.scores)),
        "mAP": f"{scores.mean_ap:.4f}", "NDS": f"{scores.nds:.4f}", "ece": f"{row['ece']:.5f}",
        "brier": f"{row['brier']:.5f}", "log_loss": f"{row['log_loss']:.5f}", "nll": f"{nll:.4f}",
        "worst_90": f"{row['worst']['0.9']:.4f}",
    }  # fmt: skip


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def drives(
    network: Network, others: Sequence[Path], seen_by: Callable[[ModelSpec], Keyframes], share: float, passes: int
) -> Iterator[tuple[str, int, list[Frame]]]:
    """(title, times that a network ran, what was found): of the network alone, without a title; of the ensemble; with
    dropout. seen_by: the same keyframes for each, with the files of its sensors."""

    def driven(own: Network, seed: int | None = None) -> list[Frame]:
        with nullcontext() if seed is None else dropout(own.detector, share, seed):
            return drive(TorchEngine(own.detector), seen_by(own.spec))

    alone = driven(network)
    yield "", 1, alone
    if others:
        members = [alone, *(driven(_like(network, load_network(path, own_device()), path)) for path in others)]
        yield f"ensemble of {len(members)}", len(members), fused_drive(members)
    if passes:
        found = [driven(network, seed) for seed in range(passes)]
        yield f"dropout {share:g}, {passes} passes", passes, fused_drive(found)


def _like(network: Network, other: Network, path: Path) -> Network:
    """Raises ValueError for one of other classes."""
    if other.spec.classes != network.spec.classes:
        raise ValueError(f"{path} knows {other.spec.classes}, the network {network.spec.classes}; take one like it")
    return other


def run(
    network: Network, keyframes: Keyframes, folds: int, found: Callable[[], Iterator[tuple[str, int, list[Frame]]]]
) -> dict[str, str]:
    """File -> what it holds. Raises ValueError as `compare`."""
    rows: dict[str, list[dict[str, str]]] = {WAYS: [], COVERAGE: [], RELIABILITY: []}
    spec = network.spec
    for title, runs, frames in found():
        pairs = pairs_in(keyframes, spec, frames)
        scores = score_found(keyframes, spec, dict(enumerate(f.objects for f in frames)), range(len(keyframes)))
        for name, claim in compare(pairs, spec.classes, folds, title):
            row = measured(claim, pairs)
            rows[WAYS].append(_way(name, row, pairs, runs, scores, len(keyframes)))
            rows[COVERAGE] += coverage_rows(name, row)
            rows[RELIABILITY] += reliability_rows(name, claim, pairs)
            told = rows[WAYS][-1]
            print(f"{name}: ECE {told['ece']}, Brier score {told['brier']}, NLL {told['nll']}", flush=True)
    return {name: _csv(of) for name, of in rows.items()}


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.compare_uncertainty", description=__doc__)
    parser.add_argument("heads", type=Path, help="checkpoint with a head for the spread")
    add_source(parser)
    parser.add_argument("--split", default="val", help="scenes that the networks have not learnt from")
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the scenes, at least two (%(default)s)")
    parser.add_argument("--ensemble", type=Path, nargs="+", default=[], help="checkpoints to agree with HEADS")
    parser.add_argument("--dropout", type=float, default=0.1, help="share of the head's channels (%(default)s)")
    parser.add_argument("--passes", type=int, default=0, help="with dropout; 0: none (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    args = parser.parse_args(argv)
    if not 0 < args.dropout < 1:
        parser.error(f"--dropout is a share between 0 and 1, found {args.dropout}")
    network = load_network(args.heads, own_device())
    if spread_head(network.detector) is None:
        raise ValueError(
            f"{args.heads} has no head for the spread: train one upon it (training.experiments.uncertainty:heads)"
        )
    source = source_of(args)

    def seen_by(spec: ModelSpec) -> Keyframes:
        return open_keyframes(spec, PLAIN, source, args.split, args.scenes)

    keyframes = seen_by(network.spec)
    require_objects(keyframes, args.split)
    tables = run(
        network, keyframes, args.folds, lambda: drives(network, args.ensemble, seen_by, args.dropout, args.passes)
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        write_atomic(args.out / name, text)
        print(f"written: {args.out / name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
