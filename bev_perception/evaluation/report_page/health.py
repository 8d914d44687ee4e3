"""What the node said of its sensors while it ran: their states over time, and how far they were from the usual."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bev_perception.evaluation.report_page.charts import Axis, Series, Span, chart, timeline
from bev_perception.evaluation.report_page.data import Health
from bev_perception.evaluation.report_page.markup import number, table, text, words
from bev_perception.evaluation.statuses import Status, Stretch, stretches
from bev_perception.health import State
from bev_perception.usual.reading import CONTENTS, EXTRINSICS, Reading

# State -> the page's colour of it.
COLORS: dict[State, int] = {"ok": 0, "suspect": 3, "late": 1, "silent": 2, "invalid": 4, "never_seen": 5, "absent": 5}
EVENTS = 24  # listed
DRAWN = 4  # sensors of a chart, those nearest to their thresholds
TITLES = {CONTENTS: "What sensors send, against the usual", EXTRINSICS: "Where sensors look, against their extrinsics"}
UNITS = {CONTENTS: "deviations", EXTRINSICS: "degrees"}
NO_CONTENTS = (
    "The bundle has no health.json: what sensors send was not held against the usual (docs/health.md says how a bundle "
    "comes by one)."
)
NOTHING_YET = {
    CONTENTS: "The bundle has a health.json, but no frame was looked at.",
    EXTRINSICS: "Where sensors look was watched, without an estimate so far: that takes 20 scans of a radar whose "
    "speeds are relative to it, or four pairs of images of a camera, while the vehicle moves (docs/health.md).",
}
NOT_WATCHED = "Where sensors look was not watched (extrinsics.watch_share is 0)."


def health(found: Health | None) -> str:
    if found is None or not found.statuses:
        return ""
    readings = _readings(found.statuses, CONTENTS) if found.contents else f"<p>{text(NO_CONTENTS)}</p>"
    readings += _readings(found.statuses, EXTRINSICS) if found.extrinsics else f"<p>{text(NOT_WATCHED)}</p>"
    rate = f"<p>From {len(found.statuses)} status messages of the node that ran, from its first frame on.</p>"
    return f"{states(found.statuses)}{rate}{readings}"


def states(statuses: Sequence[Status]) -> str:
    """A bar over time for each sensor that was not well throughout, and in words what it was."""
    start_ns, end_ns = statuses[0].stamp_ns, statuses[-1].stamp_ns
    rows, well, told = [], [], []
    for sensor in dict.fromkeys(name for status in statuses for name in status.states):
        found = list(stretches(statuses, sensor))
        if all(stretch.state == "ok" for stretch in found):
            well.append(sensor)
            continue
        spans = [_span(sensor, stretch, start_ns) for stretch in found]
        rows.append((sensor, spans))
        told += [span.said for span, stretch in zip(spans, found) if stretch.state != "ok"]
    always = f"<p>OK throughout: {text(', '.join(well))}.</p>" if well else ""
    if not rows:
        return always
    listed = "".join(f"<li>{text(line)}</li>" for line in told[:EVENTS])
    listed += f"<li>and {len(told) - EVENTS} more</li>" if len(told) > EVENTS else ""
    events = (
        f"<details><summary>In words: {len(told)} event{'s' * (len(told) != 1)}</summary><ul>{listed}</ul></details>"
    )
    alt = "State of each sensor over time: " + "; ".join(told[:EVENTS])
    return f"{_legend()}{timeline(rows, (end_ns - start_ns) / 1e9, alt)}{always}{events}"


def _legend() -> str:
    names: dict[int, list[str]] = {}
    for state, color in COLORS.items():
        names.setdefault(color, []).append("ok" if state == "ok" else words(state))
    keys = (f'<span><i class="key s{color}"></i>{", ".join(found)}</span>' for color, found in names.items())
    return f'<p class="legend">{"".join(keys)}</p>'


def _span(sensor: str, stretch: Stretch, start_ns: int) -> Span:
    begun, ended = ((ns - start_ns) / 1e9 for ns in (stretch.start_ns, stretch.end_ns))
    why = f" ({stretch.reason})" if stretch.reason and stretch.reason != stretch.state else ""
    return Span(begun, ended, COLORS[stretch.state], f"{sensor} {stretch.state}{why}, {begun:.1f} to {ended:.1f} s")


def _readings(statuses: Sequence[Status], check: str) -> str:
    """A chart of the sensors that came nearest to their thresholds, and all of them in a table."""
    start_ns = statuses[0].stamp_ns
    by_name: dict[str, list[tuple[float, Reading]]] = {}
    for status in statuses:
        for reading in status.readings.get(check, ()):
            by_name.setdefault(reading.name, []).append(((status.stamp_ns - start_ns) / 1e9, reading))
    known = {name: found for name, found in by_name.items() if not all(math.isnan(_share(r)) for _, r in found)}
    if not known:
        return f"<p>{text(NOTHING_YET[check])}</p>"
    order = sorted(known, key=lambda name: -_peak(known[name]))
    drawn = [
        Series(name, [(t, None if math.isnan(_share(r)) else _share(r)) for t, r in known[name]], "line", k)
        for k, name in enumerate(order[:DRAWN])
    ]
    end_s = (statuses[-1].stamp_ns - start_ns) / 1e9
    drawn.append(Series("alarm", [(0.0, 1.0), (end_s, 1.0)], "dashed", 2))
    alt = f"{TITLES[check]}: " + ", ".join(f"{name} at most {_peak(known[name]):.2f}" for name in order)
    note = f"Those that came nearest, of {len(order)}." if len(order) > DRAWN else ""
    made = chart(TITLES[check], drawn, Axis("time, s"), Axis("score, of its threshold", 0.0), alt, note)
    rows = [_row(name, known[name]) for name in order]
    head = ["sensor", f"largest <small>{UNITS[check]}</small>", "threshold", "alarm", "what is most off"]
    listed = table(head, rows, caption=TITLES[check], kind="runs")
    return f'<div class="columns">{made}<div>{listed}</div></div>'


def _row(name: str, found: Sequence[tuple[float, Reading]]) -> list[str]:
    most = max((r for _, r in found if not math.isnan(_share(r))), key=_share)
    alarms = [(t, r) for t, r in found if r.alarm]
    when = f"{alarms[0][0]:.1f} to {alarms[-1][0]:.1f} s" if alarms else "none"
    said = alarms[-1][1].text if alarms else most.text
    return [words(name) if name == "scene" else text(name), number(most.score, 2), number(most.threshold, 2), when,
            text(said)]  # fmt: skip


def _share(reading: Reading) -> float:
    return abs(reading.score) / reading.threshold if reading.threshold else math.nan


def _peak(found: Sequence[tuple[float, Reading]]) -> float:
    return max(share for _, r in found if not math.isnan(share := _share(r)))
