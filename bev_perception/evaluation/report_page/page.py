"""The page: sections in order of what a reader asks first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bev_perception.evaluation.report_page import curves, drives, health, losses, outage, reliability, scores
from bev_perception.evaluation.report_page.data import ReportData
from bev_perception.evaluation.report_page.markup import anchor, section, text
from bev_perception.files import write_atomic

STYLE = (Path(__file__).parent / "style.css").read_text
SCRIPT = (Path(__file__).parent / "script.js").read_text
ICON = "data:,"  # else a browser asks a server for one


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the report atomically and return its path. Links to recordings are relative to its folder."""
    path = Path(path)
    write_atomic(path, render(data, path.resolve().parent))
    return path


def render(data: ReportData, folder: Path) -> str:
    """The HTML text, of a file in `folder`."""
    sections = {title: body for title, body in _sections(data, folder).items() if body}
    links = "".join(f'<a href="#{anchor(title)}">{text(title)}</a>' for title in sections)
    body = "".join(section(title, part) for title, part in sections.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="{ICON}"><title>{text(data.title)}</title><style>{STYLE()}</style></head><body><main>'
        f"<header><h1>{text(data.title)}</h1><p>{text(data.remark)}</p></header>{scores.cards(data)}"
        f"{scores.verdicts(data)}<nav>{links}</nav>{body}</main>"
        '<dialog aria-label="Enlarged picture"><button type="button" class="close">Close</button><div></div></dialog>'
        f"<script>{SCRIPT()}</script></body></html>\n"
    )


def _sections(data: ReportData, folder: Path) -> dict[str, str]:
    made: dict[str, str] = {}
    if data.animation:
        made["The drive"] = drives.player(data.animation)
    if data.comparison:
        made["Against a baseline"] = scores.comparison(data.comparison)
    if data.scores:
        made["Scores"] = scores.score_tables(data.scores, data.published)
        made["Drives"] = scores.by_drive(data.drives) if data.drives else ""
        if data.beside:
            made["Beside other runs"] = scores.run_table({"this one": data.scores, **data.beside}, "On the same frames")
        if data.curves:
            made["Precision and recall"] = curves.precision_recall(data.curves, data.scores)
        made["Reliability"] = reliability.reliability(data.score_reliability, data.worth)
    made["Worst frames"] = drives.worst(data.drives)
    made["One object over time"] = drives.followed(data.drives)
    made["Latency"] = losses.latency(data)
    made["Health"] = health.health(data.health)
    made["Cameras fall silent"] = outage.outage(data.outage)
    made["Sensors and memory"] = losses.sensors(data.drives)
    made["Losses"] = losses.counters(data)
    made["Open the recording"] = drives.opening(data.drives, data.result, folder)
    made["What was run"] = _facts(data.facts, data.command)
    return made


def _facts(facts: Mapping[str, str], command: str) -> str:
    rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items())
    code = f"<pre>{text(command)}</pre>" if command else ""
    return f'<dl class="facts">{rows}</dl>{code}' if rows or code else ""
