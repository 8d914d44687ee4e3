"""The folder of a result of `evaluate` -> its report, with an earlier result, and with others beside it.

    python -m bev_perception.evaluation.report RESULT [--baseline RESULT] [--beside NAME=RESULT ...] [--out FILE]

`evaluate` writes a report by itself; this is for results of cameras alone or of radars alone, which are further runs of
`evaluate --without`.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_perception.bags.recording import open_bag
from bev_perception.bags.storage import BagError
from bev_perception.evaluation.baseline import compare
from bev_perception.evaluation.benchmark import curve
from bev_perception.evaluation.drive import FRAMES, STAGES, DriveResult, read_drive
from bev_perception.evaluation.look import LOOK, Look, read_look
from bev_perception.evaluation.metrics import Scores, Tally, add_tallies, score_tally
from bev_perception.evaluation.reliability import score_reliability
from bev_perception.evaluation.report_page.data import Comparison, Drive, FrameRow, Latency, Pace, ReportData
from bev_perception.evaluation.report_page.page import write_report
from bev_perception.evaluation.summary import DRIVES, RESULT, tallies, worth_of
from bev_perception.files import naming, read_text
from bev_perception.plain import parse_json

REPORT = "report.html"
LIMIT = 2**26  # bytes of result.json
TOLD_DRIFT = 0.01  # of 1, from which on it is worth a line
NOT_LOST = {"frame/closed_by_deadline"}  # of `frame/...`, which otherwise counts frames that were not made


def report_of(result: Path, baseline: Path | None = None, beside: Mapping[str, Path] | None = None) -> ReportData:
    """baseline: an earlier result, compared drive by drive; beside: name -> results over the same drives, such as one
    without cameras. Raises ValueError for a folder that has no such result, and OSError where it cannot be read."""
    data = _result(result)
    names = [str(name) for name in data["drives"]]
    folders = {name: result / DRIVES / name for name in names}
    results = {name: read_drive(folder) for name, folder in folders.items()}
    tallied = tallies(list(folders.values()))
    whole = add_tallies(list(tallied.values())) if tallied else None
    counters: Counter[str] = Counter()
    for one in results.values():
        counters.update(one.counters)
    gate = data["gate"]
    return ReportData(
        title=f"bev_perception: {data['model']} on {len(names)} drive{'s' * (len(names) != 1)}",
        remark="Every drive went through the vehicle's own code, straight from the recording.",
        facts={
            "model": f"{data['model']} (ONNX sha256 {str(data['model_sha256'])[:16]})",
            "drives": ", ".join(names),
            "recorded": f"{sum(r.seconds for r in results.values()):.0f} s",
        },
        scores=score_tally(whole) if whole else None,
        curves={name: curve(matched) for name, matched in whole.whole.items()} if whole else {},
        score_reliability=score_reliability(list(whole.whole.values())) if whole else None,
        worth=worth_of(list(results.values())),
        pace=_pace(list(results.values())),
        latencies=_latencies(list(results.values())),
        latency_note="of a step alone, on the machine that evaluated; of several drives the worst",
        counters=dict(counters),
        drives=[_drive(name, folders[name], results[name], tallied.get(name)) for name in names],
        gate=None if gate is None else [str(fault) for fault in gate["faults"]],
        failed={str(name): str(why) for name, why in data["failed"].items()},
        beside={name: _scores_on(folder, list(tallied)) for name, folder in (beside or {}).items()},
        comparison=_comparison(result, baseline, names, list(results.values())) if baseline else None,
        command=f"python -m bev_perception.evaluation.report {result.name}",
    )


def _result(folder: Path) -> dict[str, Any]:
    try:
        with naming(folder / RESULT):
            data = parse_json(read_text(folder / RESULT, LIMIT))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no {RESULT}: name the folder that `evaluate --out` wrote") from error
    wanted = {"model", "model_sha256", "drives", "failed", "gate"}
    if not isinstance(data, dict) or not wanted <= set(data):
        raise ValueError(f"{folder / RESULT} is no result of this version; evaluate again")
    return data


def _pace(results: Sequence[DriveResult]) -> Pace:
    seconds, frames = sum(r.seconds for r in results), sum(r.frames for r in results)
    dropped = sum(
        count
        for r in results
        for name, count in r.counters.items()
        if (name.startswith("frame/") and name not in NOT_LOST) or name == "step_failed"
    )
    # of each drive the first frame begins the time
    rate = (frames - len(results)) / seconds if seconds else math.nan
    speed = seconds / sum(r.wall_s for r in results) if results else math.nan
    note = (
        f"read offline, where none gives way to a newer one, at {speed:.2g} times real time; "
        f"{dropped} could not be made or processed"
    )
    return Pace(rate, dropped, frames + dropped, note)


def _latencies(results: Sequence[DriveResult]) -> list[Latency]:
    """The worst drive's, as a gate has them."""
    made = []
    for stage in STAGES:
        rows = [(r.latency_ms[stage], r.frames) for r in results if stage in r.latency_ms]
        if rows:
            p50, p95, p99, most = (max(row[name] for row, _ in rows) for name in ("p50", "p95", "p99", "max"))
            made.append(Latency(stage, p50, p95, p99, most, sum(frames for _, frames in rows)))
    return made


def _drive(name: str, folder: Path, result: DriveResult, tally: Tally | None) -> Drive:
    recording: Path | None = Path(result.bag)
    start = 0
    try:
        with open_bag(result.bag, lambda text: None) as bag:
            start = bag.start_ns
    except (BagError, OSError):  # a result outlives its recording
        recording = None
    look = read_look(folder) if (folder / LOOK).exists() else Look((), None)
    scores = score_tally(tally) if tally else None
    return Drive(name, recording, start, result.used, _rows(folder / FRAMES), scores, look.scenes, look.followed)


def _rows(path: Path) -> list[FrameRow]:
    with open(path, newline="") as file:
        return [_row(row) for row in csv.DictReader(file)]


def _row(row: Mapping[str, str]) -> FrameRow:
    pairs = (part.partition(":") for part in row["missing"].split(";") if part)
    wrong = (int(row["true"]), int(row["false"]), int(row["missed"])) if row["missed"] else None
    return FrameRow(
        int(row["stamp_ns"]),
        {name: reason for name, _, reason in pairs},
        row["memory"] == "1",
        row["memory_reset"],
        float(row["total_ms"]) if row["total_ms"] else None,
        wrong,
    )


def _scores_on(folder: Path, names: Sequence[str]) -> Scores:
    """Of another result on the same drives. Raises ValueError where it lacks one."""
    found = tallies([folder / DRIVES / name for name in names])
    lacking = sorted(set(names) - set(found))
    if lacking or not names:
        raise ValueError(
            f"{folder} has no scores of {', '.join(lacking) or 'any drive'}; evaluate it on the same drives"
        )
    return score_tally(add_tallies(list(found.values())))


def _comparison(result: Path, baseline: Path, names: Sequence[str], results: Sequence[DriveResult]) -> Comparison:
    compared = compare(result, baseline, names, results)
    rows: list[tuple[str, float, float, int]] = []
    before, now = compared.before, compared.now
    if before is not None and now is not None:
        rows = [("NDS", before.nds, now.nds, 1), ("mAP", before.mean_ap, now.mean_ap, 1)]
        for name in ("ate", "ase", "aoe", "ave", "aae"):
            rows.append((f"m{name.upper()}", getattr(before.errors, name), getattr(now.errors, name), -1))
        for name, row in now.classes.items():
            if row.ground_truth:
                rows.append((f"AP {name.replace('_', ' ')}", before.classes[name].ap, row.ap, 1))
    head, *told = (line.strip() for line in compared.told)
    drifts = {name: value for name, value in compared.figures.items() if name.startswith("drift.")}
    known = {name: value for name, value in drifts.items() if not math.isnan(value)}
    most = max(known, key=lambda name: known[name], default="")
    if most and known[most] >= TOLD_DRIFT:
        told.append(f"scores moved most for {most.removeprefix('drift.').replace('_', ' ')}: by {known[most]:.2f} of 1")
    return Comparison(head.removeprefix("against ").rstrip(":"), rows, told)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bev_perception.evaluation.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("result", type=Path, help="folder that `evaluate --out` wrote")
    parser.add_argument("--baseline", type=Path, metavar="RESULT", help="folder of an earlier result")
    parser.add_argument("--beside", nargs="+", default=[], metavar="NAME=RESULT", help="results on the same drives")
    parser.add_argument("--out", type=Path, help=f"the file; default: RESULT/{REPORT}")
    args = parser.parse_args(argv)
    try:
        pairs = [_pair(text) for text in args.beside]
        path = write_report(args.out or args.result / REPORT, report_of(args.result, args.baseline, dict(pairs)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _pair(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--beside {text}: expected NAME=RESULT, such as cameras=out/cameras")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
