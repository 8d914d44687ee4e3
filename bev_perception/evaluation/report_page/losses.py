"""Time and what was lost: latency by stage and over the drive, counters, sensors and memory on a timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from bev_perception.evaluation.report_page.charts import Axis, Series, Span, chart, timeline
from bev_perception.evaluation.report_page.data import Drive, FrameRow, Latency, ReportData
from bev_perception.evaluation.report_page.markup import bar, number, table, text, words

CHARTS = 4  # of latency, of as many drives
TIMELINES = 12  # drives that have one, those with most to tell first
USED, MASKED, RESET = 0, 1, 2  # the page's colours of states
EVENTS = 20  # listed of a drive


def latency(data: ReportData) -> str:
    parts = []
    if data.latencies:
        note = f"<p>{text(data.latency_note.capitalize())}.</p>" if data.latency_note else ""
        parts.append(f"<div>{_stages(data.latencies)}{note}</div>")
    charts = "".join(_over_time(drive) for drive in data.drives[:CHARTS])
    if charts:
        parts.append(f'<div class="charts">{charts}</div>')
    return f'<div class="columns">{"".join(parts)}</div>' if parts else ""


def counters(data: ReportData) -> str:
    if not data.counters:
        return ""
    rows = [[text(name), str(times)] for name, times in data.counters.items()]
    note = "<p>The names are those of the status; docs/reasons.md says how each is mended.</p>"
    return table(["dropped, masked or refused", "times"], rows) + note


def sensors(drives: Sequence[Drive]) -> str:
    """Share of frames by sensor, then a timeline of each drive in which anything was missing or reset."""
    frames = sum(len(drive.frames) for drive in drives)
    names = list(dict.fromkeys(name for drive in drives for name in drive.used))
    used = {name: sum(drive.used.get(name, 0) for drive in drives) for name in names}
    rows = [[text(n), bar(used[n] / max(frames, 1), f"{used[n]} of {frames}")] for n in names]
    told = sorted((d for d in drives if d.frames), key=lambda d: -len(list(_events(d))))
    shown = "".join(_timeline(drive, len(told) > 1) for drive in told[:TIMELINES])
    rest = f"<p>{len(told) - TIMELINES} more drives have fewer events.</p>" if len(told) > TIMELINES else ""
    share = table(["sensor", "frames it contributed to"], rows)
    legend = (
        '<p class="legend"><span><i class="key s0"></i>used</span><span><i class="key s1"></i>masked, or no memory'
        '</span><span><i class="key s2"></i>memory emptied</span></p>'
    )
    return (
        f"{legend}{shown}{rest}<details><summary>Share of frames by sensor</summary>{share}</details>" if names else ""
    )


def _stages(rows: Sequence[Latency]) -> str:
    widest = max(row.p95 for row in rows) or 1.0
    cells = [
        [
            words(r.stage),
            bar(r.p50 / widest, number(r.p50, 1)),
            *(number(v, 1) for v in (r.p95, r.p99, r.max)),
            str(r.count),
        ]
        for r in rows
    ]
    return table(["stage", "p50 <small>ms</small>", "p95", "p99", "max", "frames"], cells, caption="Latency by stage")


def _over_time(drive: Drive) -> str:
    timed = [(_seconds(drive, row), row.latency_ms) for row in drive.frames if row.latency_ms is not None]
    if len(timed) < 2:
        return ""
    worst = max(timed, key=lambda point: point[1] or 0.0)
    alt = f"Latency of each frame of {drive.name}; the longest is {worst[1]:.0f} ms at {worst[0]:.1f} s"
    return chart(
        f"Latency of each frame, {drive.name}", [Series("", timed, "dots")], Axis("s"), Axis("ms", low=0.0), alt
    )


def _seconds(drive: Drive, row: FrameRow) -> float:
    return (row.stamp_ns - drive.frames[0].stamp_ns) / 1e9


def _timeline(drive: Drive, folded: bool) -> str:
    end = _seconds(drive, drive.frames[-1])
    spans = {name: list(_spans(drive, name)) for name in drive.used}
    whole = [name for name, found in spans.items() if all(span.state == USED for span in found)]
    rows = [(name, found) for name, found in spans.items() if name not in whole]
    rows.append(("memory", list(_spans(drive, None))))
    events = list(_events(drive))
    listed = "".join(f"<li>{text(line)}</li>" for line in events[:EVENTS])
    listed += f"<li>and {len(events) - EVENTS} more</li>" if len(events) > EVENTS else ""
    alt = f"Timeline of {drive.name}: " + ("; ".join(events[:EVENTS]) or "every sensor in every frame, no reset")
    always = f"<p>Used in every frame: {text(', '.join(whole))}.</p>" if whole else ""
    body = f"{timeline(rows, end, alt)}<ul>{listed}</ul>{always}"
    if not folded:
        return body
    opened = " open" if events else ""
    return f"<details{opened}><summary>{text(drive.name)}: {len(events)} events</summary>{body}</details>"


def _state(row: FrameRow, sensor: str | None) -> tuple[int, str]:
    if sensor is not None:
        return (MASKED, row.missing[sensor]) if sensor in row.missing else (USED, "used")
    if row.reset:
        return RESET, f"emptied: {row.reset}"
    return (USED, "used") if row.memory else (MASKED, "not used")


def _spans(drive: Drive, sensor: str | None) -> Iterator[Span]:
    """Runs of frames in one state; None: of the memory. A run ends where the next begins."""
    frames = drive.frames
    start = 0
    for (state, why), run in groupby(frames, key=lambda row: _state(row, sensor)):
        count = len(list(run))
        begun = _seconds(drive, frames[start])
        start += count
        ended = _seconds(drive, frames[min(start, len(frames) - 1)])
        yield Span(begun, ended, state, f"{sensor or 'memory'} {why}, {begun:.2f} to {ended:.2f} s, {_frames(count)}")


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _events(drive: Drive) -> Iterator[str]:
    for sensor in (*drive.used, None):
        for span in _spans(drive, sensor) if drive.frames else ():
            if span.state != USED:
                yield span.said
