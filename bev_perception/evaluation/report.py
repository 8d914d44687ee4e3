"""The report of a drive: one HTML file that needs nothing else, neither files beside it nor a network."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bev_perception.colors import CLASS_COLORS, color_of
from bev_perception.evaluation.draw import RADAR_MOVING_COLOR, TRUTH_COLOR
from bev_perception.evaluation.metrics import Errors, Scores
from bev_perception.evaluation.pictures import Picture
from bev_perception.files import write_atomic

STYLE = (Path(__file__).parent / "report.css").read_text
SCRIPT = (Path(__file__).parent / "report.js").read_text
DASH = "\N{EN DASH}"
ERRORS = (("ate", "ATE", "m"), ("ase", "ASE", ""), ("aoe", "AOE", "rad"), ("ave", "AVE", "m/s"), ("aae", "AAE", ""))


@dataclass(frozen=True)
class Latency:
    """Percentiles of a stage in milliseconds."""

    stage: str
    p50: float
    p95: float
    p99: float
    max: float
    count: int


@dataclass(frozen=True)
class ReportData:
    """All that the report shows. facts: name -> value rows about drive, model and machine, in order.

    counters: what was dropped, masked or refused -> times. sensors: name -> (frames it contributed to, frames).
    ages_ms: (seconds since the start, stamp-to-publication milliseconds) of each frame.
    agreement: a sentence, and whether live and offline agree. scores: of the whole score curve; published: of what the
    node published, with the bundle's thresholds.
    """

    title: str
    facts: Mapping[str, str]
    scores: Scores | None
    published: Scores | None = None
    latencies: Sequence[Latency] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    sensors: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ages_ms: Sequence[tuple[float, float]] = ()
    agreement: tuple[str, bool] | None = None
    chosen: Sequence[Picture] = ()
    animation: Sequence[Picture] = ()
    command: str = ""
    remark: str = ""


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the report atomically and return its path."""
    path = Path(path)
    write_atomic(path, render(data))
    return path


def render(data: ReportData) -> str:
    """The HTML text."""
    sections = [
        _section("The drive", _player(data.animation), "drive") if data.animation else "",
        _section("Scores", _score_tables(data.scores, data.published)) if data.scores else "",
        _section("Latency and losses", _latency(data)) if data.latencies or data.counters else "",
        _section("Frames", "".join(_figure(p, data.chosen[0].stamp_ns) for p in data.chosen)) if data.chosen else "",
        _section("What was run", _facts(data.facts, data.command)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(data.title)}</title><style>{STYLE()}</style></head><body><main>"
        f"<header><h1>{_text(data.title)}</h1><p>{_text(data.remark)}</p></header>{_cards(data)}{''.join(sections)}"
        f"</main><script>{SCRIPT()}</script></body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: float, digits: int = 3) -> str:
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def _section(title: str, body: str, name: str = "") -> str:
    return f'<section id="{name or title.lower().replace(" ", "-")}"><h2>{_text(title)}</h2>{body}</section>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], foot: Iterable[str] = ()) -> str:
    """Cells are HTML; the first column is a heading."""

    def line(cells: Iterable[str], tag: str) -> str:
        first, *others = cells
        return f'<tr><th scope="row">{first}</th>' + "".join(f"<{tag}>{c}</{tag}>" for c in others) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    total = f"<tfoot>{line(foot, 'td')}</tfoot>" if foot else ""
    return f'<div class="scroll"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody>{total}</table></div>'


def _cards(data: ReportData) -> str:
    cards = []
    if data.scores:
        e = data.scores.errors
        cards += [("NDS", _number(data.scores.nds), ""), ("mAP", _number(data.scores.mean_ap), "")]
        cards += [(f"m{label}", _number(getattr(e, name), 2), unit) for name, label, unit in ERRORS]
    total = next((row for row in data.latencies if row.stage == "total"), None)
    if total:
        cards.append(("latency, median", f"{total.p50:.0f}", "ms"))
    items = "".join(
        f'<div class="card"><span>{_text(name)}</span><b>{_text(value)}<small> {_text(unit)}</small></b></div>'
        for name, value, unit in cards
    )
    verdict = ""
    if data.agreement:
        sentence, agrees = data.agreement
        verdict = f'<p class="{"good" if agrees else "bad"}"><b>Live and offline:</b> {_text(sentence)}</p>'
    return f'<div class="cards">{items}</div>{verdict}'


def _swatch(bgr: tuple[int, int, int]) -> str:
    return f'<i style="background:rgb({bgr[2]},{bgr[1]},{bgr[0]})"></i>'


def _legend() -> str:
    entries = [("ground truth", TRUTH_COLOR), *CLASS_COLORS.items(), ("moving radar return", RADAR_MOVING_COLOR)]
    return (
        '<p class="legend">'
        + "".join(f"<span>{_swatch(c)}{_text(n.replace('_', ' '))}</span>" for n, c in entries)
        + "</p>"
    )


def _uri(picture: Picture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode("ascii")


def _player(pictures: Sequence[Picture]) -> str:
    start = pictures[0].stamp_ns
    frames = "".join(
        f'<img src="{_uri(p)}" alt="" data-ms="{(p.stamp_ns - start) // 1_000_000}"{"" if k == 0 else " hidden"}>'
        for k, p in enumerate(pictures)
    )
    return (
        f'<div class="player"><div class="screen">{frames}</div>'
        '<div class="controls"><button type="button">Pause</button>'
        f'<input type="range" min="0" max="{len(pictures) - 1}" value="0" aria-label="frame">'
        f"<output>0.00 s</output></div></div>{_legend()}"
        "<p>Six cameras with detections and radar returns; beside them the bird's-eye view with ground truth (filled "
        "green), detections, radar, and velocities as the way of one second. The tinted face of a box is its front.</p>"
    )


def _errors(errors: Errors) -> list[str]:
    return [_number(getattr(errors, name)) for name, _, _ in ERRORS]


def _bar(value: float, text: str = "") -> str:
    share = 0.0 if math.isnan(value) else 100 * value
    return f'<span class="bar"><i style="width:{share:.1f}%"></i></span>{text or _number(value)}'


def _error_heads() -> list[str]:
    return [f"{label}{f' <small>{unit}</small>' if unit else ''}" for _, label, unit in ERRORS]


def _score_tables(scores: Scores, published: Scores | None) -> str:
    compared = ""
    if published:
        head = ["what is scored", "NDS", "mAP", *(f"m{label}" for _, label, _ in ERRORS)]
        rows = [
            [what, _number(s.nds), _number(s.mean_ap), *_errors(s.errors)]
            for what, s in (
                ("whole score curve, replayed offline on the same frames", scores),
                ("as published live, with the bundle's score thresholds", published),
            )
        ]
        compared = _table(head, rows) + "<h3>By class, whole score curve</h3>"
    return compared + _class_table(scores) + _range_table(scores)


def _class_table(scores: Scores) -> str:
    distances = sorted(next(iter(scores.classes.values())).ap_at)
    head = ["class", "AP", *(f"AP <small>{d:g} m</small>" for d in distances), *_error_heads(), "objects", "found"]
    rows = []
    for name, c in scores.classes.items():
        if c.ground_truth:
            curves, errors = [_number(c.ap_at[d], 2) for d in distances], _errors(c.errors)
            cells = [_bar(c.ap), *curves, *errors, str(c.ground_truth), str(c.predictions)]
        else:
            cells = [DASH] * (1 + len(distances) + len(ERRORS)) + ["0", str(c.predictions)]
        rows.append([_swatch(color_of(name)) + _text(name.replace("_", " ")), *cells])
    objects = sum(c.ground_truth for c in scores.classes.values())
    found = sum(c.predictions for c in scores.classes.values())
    blank = [""] * len(distances)
    foot = ["mean", _bar(scores.mean_ap), *blank, *_errors(scores.errors), str(objects), str(found)]
    absent = [name.replace("_", " ") for name, c in scores.classes.items() if not c.ground_truth]
    note = (
        f"<p>Official nuScenes metric (detection_cvpr_2019) over the {scores.frames} frames that the "
        "node processed: class ranges 30 to 50 m, ground truth without LiDAR or radar points left out."
    )
    if absent:
        note += (
            f" This drive has no {_text(', no '.join(absent))}; the official mean counts "
            f"{'them' if len(absent) > 1 else 'it'} as 0 (and errors as 1). "
            f"The mean AP over the classes that are there is <b>{_number(scores.mean_ap_present)}</b>."
        )
    return _table(head, rows, foot) + note + "</p>"


def _range_table(scores: Scores) -> str:
    head = ["distance", "AP", *_error_heads(), "objects"]
    rows = [
        [f"{r.low:g} to {r.high:g} m", _bar(r.mean_ap), *_errors(r.errors), str(r.ground_truth)] for r in scores.ranges
    ]
    return f"<h3>By distance</h3>{_table(head, rows)}<p>Means over the classes present in each range; not official.</p>"


def _latency(data: ReportData) -> str:
    parts = []
    if data.latencies:
        rows = [
            [_text(s.stage), *(_number(v, 1) for v in (s.p50, s.p95, s.p99, s.max)), str(s.count)]
            for s in data.latencies
        ]
        table = _table(["stage", "p50 <small>ms</small>", "p95", "p99", "max", "frames"], rows)
        note = "<p>As the node reports it; <i>total</i> is from the stamp of the frame to its publication.</p>"
        parts.append(f"<div>{table}{note}</div>")
    if data.counters:
        rows = [[_text(name.replace("_", " ")), str(times)] for name, times in data.counters.items()]
        parts.append("<div>" + _table(["dropped, masked or refused", "times"], rows) + "</div>")
    if data.sensors:
        rows = [[_text(n), _bar(u / max(of, 1), f"{u} of {of}")] for n, (u, of) in data.sensors.items()]
        parts.append("<div>" + _table(["sensor", "frames it contributed to"], rows) + "</div>")
    return f'{_age_chart(data.ages_ms)}<div class="columns">{"".join(parts)}</div>'


def _age_chart(ages_ms: Sequence[tuple[float, float]]) -> str:
    """Stamp-to-publication time of every frame over the drive, as inline SVG."""
    if len(ages_ms) < 2:
        return ""
    width, height, left, bottom, top = 900, 190, 46, 28, 12
    end = max(t for t, _ in ages_ms)
    step = next(
        s
        for s in (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
        if 5 * s >= max(a for _, a in ages_ms) or s == 10_000
    )
    highest = step * max(1, math.ceil(max(a for _, a in ages_ms) / step))

    def place(t: float, age: float) -> tuple[float, float]:
        return left + t / end * (width - left - 10), height - bottom - age / highest * (height - bottom - top)

    lines = "".join(
        f'<line x1="{left}" x2="{width - 10}" y1="{place(0, y)[1]:.1f}" y2="{place(0, y)[1]:.1f}"/>'
        f'<text x="{left - 6}" y="{place(0, y)[1] + 4:.1f}" text-anchor="end">{y}</text>'
        for y in range(0, highest + 1, step)
    )
    ticks = "".join(
        f'<text x="{place(t, 0)[0]:.1f}" y="{height - 8}" text-anchor="middle">{t} s</text>'
        for t in range(0, int(end) + 1, max(1, int(end) // 10))
    )
    dots = "".join('<circle cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(*place(t, a)) for t, a in ages_ms)
    return (
        "<h3>From stamp to publication, each frame (ms)</h3>"
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="latency of each frame">'
        f"{lines}{ticks}{dots}</svg>"
    )


def _figure(picture: Picture, start_ns: int) -> str:
    caption = (
        f"{(picture.stamp_ns - start_ns) / 1e9:+.2f} s from the first picture, stamp {picture.stamp_ns / 1e9:.3f} s"
    )
    return (
        f'<figure><img src="{_uri(picture)}" alt="{_text(caption)}"><figcaption>{_text(caption)}</figcaption></figure>'
    )


def _facts(facts: Mapping[str, str], command: str) -> str:
    rows = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
    code = f"<pre>{_text(command)}</pre>" if command else ""
    return f"<dl>{rows}</dl>{code}"
