"""Is this model good enough, on these recordings? `ros2 run bev_perception evaluate BAG [BAG ...] --bundle DIR`.

Each drive goes through the vehicle's own intake, synchroniser, memory and pipeline, straight from the bag; --workers
drives at once. With ground truth it is scored by the official metric; without, it is held against itself and the
radars. --baseline compares with an earlier result on the same recordings, --gate says what must be reached.

A drive that was evaluated before with the same bundle, parameters and recording is not evaluated again: the same
command goes on where it was stopped. Exit status: 0; 1 where the gate does not hold or a drive could not be evaluated;
130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.evaluation.baseline import Compared, compare
from bev_perception.evaluation.drive import DriveResult, Job, evaluate_drive
from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.report import REPORT, report_of
from bev_perception.evaluation.report_page.page import write_report
from bev_perception.evaluation.score_gate import TEXT_LIMIT, Bound, faults_of, parse_score_gate
from bev_perception.evaluation.spread import RAY_HERE, spread
from bev_perception.evaluation.summary import DRIVES, RESULT, figures_of, scores_of, tallies
from bev_perception.files import naming, read_text, write_atomic
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import SHIPPED_PARAMETERS, load_config

SHOWN = 5  # reasons, those that were counted most


def drive_names(bags: Sequence[Path]) -> list[str]:
    """A folder's name for each recording. Raises ValueError where two have the same."""
    names = [_drive_name(bag) for bag in bags]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"recordings of the same name {twice} cannot be told apart; rename one, or evaluate it apart")
    return names


def _drive_name(bag: Path) -> str:
    return Path(os.path.abspath(bag)).name.removesuffix(".mcap").removesuffix(".db3")


def sensors_named(words: Sequence[str], spec: ModelSpec) -> tuple[str, ...]:
    """The model's sensors of these names; `cameras` and `radars` are all of a kind. Raises ValueError for others, and
    where nothing would be left."""
    groups = {"cameras": spec.cameras, "radars": spec.radars}
    every = (*spec.cameras, *spec.radars)
    unknown = sorted(set(words) - set(groups) - set(every))
    if unknown:
        raise ValueError(f"--without {' '.join(unknown)}: expected cameras, radars, or of {', '.join(every)}")
    off = {name for word in words for name in groups.get(word, (word,))}
    if off >= set(every):
        raise ValueError("--without leaves no sensor")
    return tuple(name for name in every if name in off)


def evaluate_all(jobs: Sequence[Job], workers: int, ray: str = "") -> tuple[list[DriveResult], dict[str, str]]:
    """-> (results in the order of the jobs, name -> what went wrong). Progress goes to stderr. workers and ray: see
    `spread`, which raises what this does."""
    done: dict[int, DriveResult] = {}
    failed: dict[str, str] = {}
    cores = max((job.threads for job in jobs), default=1)
    for drive in spread(evaluate_drive, jobs, workers, ray, cores):
        name, result = jobs[drive.index].out.name, drive.result
        if result is None:  # one drive is no reason to leave the others
            failed[name] = text = f"{type(drive.error).__name__}: {drive.error}"
        else:
            done[drive.index] = result
            rate = result.seconds / result.wall_s if result.wall_s else math.nan
            text = f"{result.frames} frames, {rate:.1f} times real time"
        print(
            f"[{drive.count}/{len(jobs)}] {name}: {text}; about {drive.left_s:.0f} s left", file=sys.stderr, flush=True
        )
    return [done[index] for index in sorted(done)], failed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="rosbag2 folder or file, MCAP or sqlite3")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's YAML; default: the shipped")
    parser.add_argument("--ground-truth", default=GROUND_TRUTH_TOPIC, metavar="TOPIC")
    parser.add_argument("--backend", default="", help="overrides the parameter `backend`")
    parser.add_argument("--without", nargs="+", default=[], metavar="SENSOR", help="left out; also: cameras, radars")
    parser.add_argument("--baseline", type=Path, metavar="RESULT", help="folder of an earlier result")
    parser.add_argument("--gate", type=Path, metavar="YAML", help="what must be reached; names as in OUT/result.json")
    parser.add_argument("--score-floor", type=float, default=0.03, help="where the scores' whole curve begins")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="drives at once; default: cores of this machine, all that a cluster has",
    )
    parser.add_argument(
        "--ray", default="", metavar="ADDRESS", help=f"drives on a Ray cluster; `{RAY_HERE}`: on a Ray of this machine"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each drive's engine")
    parser.add_argument("--out", type=Path, default=Path("out/evaluate"))
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    with naming(args.gate or "gate"):
        gate = parse_score_gate(read_text(args.gate, TEXT_LIMIT)) if args.gate else ()
    load_config(args.bundle, args.params, args.backend or None)  # what is wrong with it is said once, and at once
    without = sensors_named(args.without, load_bundle(args.bundle).spec)
    names = drive_names(args.bags)
    jobs = [
        Job(
            bag, args.bundle, args.params, args.out / DRIVES / name, args.ground_truth, args.backend,
            args.score_floor, args.threads, without,
        )
        for bag, name in zip(args.bags, names)
    ]  # fmt: skip
    try:
        results, failed = evaluate_all(jobs, _workers(args), args.ray)
    except KeyboardInterrupt:
        print("interrupted: drives that are whole are kept, the same command goes on", file=sys.stderr, flush=True)
        os._exit(130)  # the workers end with this process
    whole = [job.out for job in jobs if job.out.name not in failed]
    scores = scores_of(tallies(whole))
    figures = figures_of(results, scores)
    compared = compare(args.out, args.baseline, [folder.name for folder in whole], results) if args.baseline else None
    if compared is not None:
        figures |= compared.figures
    faults = faults_of(gate, figures) if results else []
    _write(args, results, failed, scores, figures, gate, faults)
    if results:
        write_report(args.out / REPORT, report_of(args.out, args.baseline))
    _tell(args.out, results, failed, scores, figures, compared)
    for fault in faults:
        print(f"gate: {fault}")
    if gate:
        print("gate: held" if not faults and not failed else "gate: NOT held")
    return int(bool(faults or failed or not sum(result.frames for result in results)))


def _workers(args: argparse.Namespace) -> int:
    if args.workers is not None:
        return int(args.workers)
    on_cluster = args.ray not in ("", RAY_HERE)
    return len(args.bags) if on_cluster else len(os.sched_getaffinity(0))


def _write(
    args: argparse.Namespace,
    results: Sequence[DriveResult],
    failed: Mapping[str, str],
    scores: Scores | None,
    figures: Mapping[str, float],
    gate: Sequence[Bound],
    faults: Sequence[str],
) -> None:
    data: dict[str, Any] = {
        "model": results[0].model if results else "",
        "model_sha256": results[0].model_sha256 if results else "",
        "drives": [_drive_name(Path(result.bag)) for result in results],
        "failed": dict(failed),
        "figures": {name: None if math.isnan(value) else value for name, value in figures.items()},
        "gate": None if not gate else {"held": not faults and not failed, "faults": list(faults)},
        "scores": scores.to_dict() if scores else None,
    }
    write_atomic(args.out / RESULT, json.dumps(data, indent=1) + "\n")


def _tell(
    out: Path,
    results: Sequence[DriveResult],
    failed: Mapping[str, str],
    scores: Scores | None,
    figures: Mapping[str, float],
    compared: Compared | None,
) -> None:
    def shown(*names: str) -> str:
        return ", ".join(f"{name.rpartition('.')[2]} {figures[name]:.3g}" for name in names if name in figures)

    print(f"{len(results)} drives, {shown('frames', 'boxes_per_frame', 'annotated', 'scored')}")
    if scores is not None:
        e = scores.errors
        print(
            f"mAP {scores.mean_ap:.3f} NDS {scores.nds:.3f} mATE {e.ate:.3f} m mASE {e.ase:.3f} mAOE {e.aoe:.3f} rad "
            f"mAVE {e.ave:.3f} m/s mAAE {e.aae:.3f}"
        )
        present = {name: row.ap for name, row in scores.classes.items() if row.ground_truth}
        print(f"  AP: {', '.join(f'{name} {ap:.3f}' for name, ap in present.items())}")
    for group in ("consistency", "latency_ms.total"):
        print(f"{group}: {shown(*(name for name in figures if name.startswith(group + '.')))}")
    lost = {name: value for name, value in figures.items() if name.startswith("lost.")}
    for name, value in sorted(lost.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"  {value:6.0f} x {name.removeprefix('lost.')}")
    for name, why in failed.items():
        print(f"  {name} could not be evaluated: {why}")
    for line in compared.told if compared else ():
        print(line)
    print(
        f"everything by name: {out / RESULT}; frame by frame: {out / DRIVES}/*/frames.csv; to look at: {out / REPORT}"
    )


if __name__ == "__main__":
    sys.exit(main())
