"""What the model reaches: at a glance, by class, by distance, by drive, beside other runs and an earlier result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bev_perception.colors import color_of
from bev_perception.evaluation.metrics import Errors, Scores
from bev_perception.evaluation.report_page.data import Comparison, Drive, ReportData
from bev_perception.evaluation.report_page.markup import DASH, bar, number, percent, swatch, table, text, words

ERRORS = (("ate", "ATE", "m"), ("ase", "ASE", ""), ("aoe", "AOE", "rad"), ("ave", "AVE", "m/s"), ("aae", "AAE", ""))
WHAT_ERRORS_ARE = (
    "Errors of what is found: ATE place, ASE size, AOE heading, AVE velocity, AAE attribute; less is better. "
    f"{DASH}: the class has no such error."
)


def cards(data: ReportData) -> str:
    """The figures that decide, at the top."""
    found: list[tuple[str, str, str]] = []
    if data.scores:
        found += [("NDS", number(data.scores.nds), ""), ("mAP", number(data.scores.mean_ap), "")]
    if data.pace:
        found.append(("frames a second", number(data.pace.rate_hz, 1), "Hz"))
        found.append(
            ("frames dropped", percent(data.pace.dropped, data.pace.due), f"{data.pace.dropped} of {data.pace.due}")
        )
    total = next((row for row in data.latencies if row.stage == "total"), None)
    if total:
        found.append(("latency, median", f"{total.p50:.0f}", "ms"))
        found.append(("latency, 95 %", f"{total.p95:.0f}", "ms"))
    errors = data.scores.errors if data.scores else None
    means = [(f"m{label}", number(getattr(errors, name), 2), unit) for name, label, unit in ERRORS] if errors else []
    return _cards(found) + _cards(means)


def _cards(rows: Sequence[tuple[str, str, str]]) -> str:
    items = "".join(
        f'<div class="card"><span>{text(name)}</span><b>{text(value)}</b> <small>{text(unit)}</small></div>'
        for name, value, unit in rows
    )
    return f'<div class="cards">{items}</div>' if items else ""


def verdicts(data: ReportData) -> str:
    """Sentences that say whether something held."""
    told = []
    if data.gate is not None:
        said = "held" if not data.gate else "not held: " + "; ".join(data.gate)
        told.append(("Gate", said, not data.gate))
    if data.agreement:
        told.append(("Live and offline", *data.agreement))
    told += [(f"{name} could not be evaluated", why, False) for name, why in data.failed.items()]
    if data.pace and data.pace.note:
        told.append(("Frames", data.pace.note, not data.pace.dropped))
    return "".join(
        f'<p class="{"good" if good else "bad"}"><b>{text(what)}:</b> {text(said)}</p>' for what, said, good in told
    )


def score_tables(scores: Scores, published: Scores | None) -> str:
    compared = ""
    if published:
        compared = run_table(
            {"whole score curve": scores, "as published, with the bundle's thresholds": published}, "What is scored"
        )
    return f'{compared}<div class="columns">{_by_class(scores)}{_by_range(scores)}</div>{_note(scores)}'


def run_table(runs: Mapping[str, Scores], caption: str) -> str:
    """Runs over the same frames beside each other."""
    rows = [
        [text(name), number(s.nds), number(s.mean_ap), *_errors(s.errors)] for name, s in runs.items()
    ]  # fmt: skip
    return table(["run", "NDS", "mAP", *_error_heads("m")], rows, caption=caption, kind="runs")


def comparison(found: Comparison) -> str:
    rows = []
    for name, before, now, sign in found.rows:
        change = now - before
        mark = "better" if change * sign > 0 else "worse" if change * sign < 0 else ""
        rows.append([text(name), number(before), number(now), f'<span class="{mark}">{change:+.3f}</span>'])
    told = "".join(f"<li>{text(line)}</li>" for line in found.told)
    made = table(["figure", "before", "now", "change"], rows, caption=f"Against {found.name}")
    return f'<div class="columns"><div>{made}</div><ul>{told}</ul></div>'


def by_drive(drives: Sequence[Drive]) -> str:
    """The worst drive first: where conditions differ from drive to drive, so do the scores."""
    rows = []
    for drive in sorted(drives, key=lambda d: d.scores.nds if d.scores else 0.0):
        wrong = [row.wrong for row in drive.frames if row.wrong]
        hits, false, missed = (sum(column) for column in zip(*wrong)) if wrong else (0, 0, 0)
        whole = [number(drive.scores.nds), number(drive.scores.mean_ap)] if drive.scores else [DASH, DASH]
        shares = [percent(hits, hits + false), percent(hits, hits + missed)]
        rows.append([text(drive.name), *whole, *shares, str(false), str(missed), str(len(drive.frames))])
    head = ["drive", "NDS", "mAP", "right", "found", "false", "missed", "frames"]
    note = (
        "As published, at 2 m: the share of boxes that are right (precision), of objects that are found (recall), "
        "false alarms and misses."
    )
    made = table(head, rows, caption="By drive, the worst first" if len(rows) > 1 else "The drive", kind="runs")
    return f"{made}<p>{text(note)}</p>"


def _by_class(scores: Scores) -> str:
    distances = sorted(next(iter(scores.classes.values())).ap_at)
    precision, errors = [], []
    for name, c in scores.classes.items():
        label = swatch(color_of(name)) + words(name)
        if not c.ground_truth:
            precision.append([label, *[DASH] * (1 + len(distances)), "0"])
            continue
        precision.append([label, bar(c.ap), *(number(c.ap_at[d], 2) for d in distances), str(c.ground_truth)])
        errors.append([label, *_errors(c.errors)])
    objects = sum(c.ground_truth for c in scores.classes.values())
    foot = ["mean", bar(scores.mean_ap), *[""] * len(distances), str(objects)]
    head = ["class", "AP", *(f"{d:g} m" for d in distances), "objects"]
    return (
        f"<div>{table(head, precision, foot, 'Average precision by class and by how near a box has to be')}</div>"
        f"<div>{table(['class', *_error_heads()], errors, ['mean', *_errors(scores.errors)], 'Errors by class')}"
        f"<p>{text(WHAT_ERRORS_ARE)}</p></div>"
    )


def _by_range(scores: Scores) -> str:
    rows = []
    for r in scores.ranges:
        metres = f"{r.low:g}{DASH}{r.high:g}\N{NO-BREAK SPACE}m"
        rows.append([metres, bar(r.mean_ap), *_errors(r.errors), str(r.ground_truth)])
    made = table(["distance", "AP", *_error_heads(), "objects"], rows, caption="By distance from the vehicle")
    return f"<div>{made}<p>Means over the classes present in each range; not official.</p></div>"


def _note(scores: Scores) -> str:
    absent = [name.replace("_", " ") for name, c in scores.classes.items() if not c.ground_truth]
    note = (
        f"Official nuScenes metric (detection_cvpr_2019) over {scores.frames} frames: class ranges 30 to 50 m, ground "
        "truth without LiDAR or radar points left out."
    )
    if absent:
        note += (
            f" There is no {', no '.join(absent)}; the official mean counts {'them' if len(absent) > 1 else 'it'} as 0 "
            f"(and errors as 1). The mean AP over the classes that are there is {number(scores.mean_ap_present)}."
        )
    return f"<p>{text(note)}</p>"


def _errors(errors: Errors) -> list[str]:
    return [number(getattr(errors, name), 2) for name, _, _ in ERRORS]


def _error_heads(prefix: str = "") -> list[str]:
    return [f"{prefix}{label}{f' <small>{unit}</small>' if unit else ''}" for _, label, unit in ERRORS]
