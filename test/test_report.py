"""The report's page needs nothing but itself and says what it was given."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import report_example
from report_example import LONG, START

from bev_perception.evaluation.report_page.charts import Axis, Series, chart, steps
from bev_perception.evaluation.report_page.data import Drive, Health, ReportData
from bev_perception.evaluation.report_page.page import render, write_report
from bev_perception.evaluation.worst_frames import Scene

VOID = {"meta", "link", "img", "input", "line", "circle", "path"}


class Nesting(HTMLParser):
    """Every tag that is opened is closed, in order; pictures and drawings say what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.without_text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" and not given.get("alt"):
            self.without_text.append("img")
        if tag == "svg" and not (given.get("aria-label") or given.get("aria-hidden")):
            self.without_text.append("svg")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    text = write_report(tmp_path / "report.html", report_example.example(tmp_path)).read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    assert (
        not re.search(r'src="(?!data:)', text) and "http" not in text and "url(" not in text and "@import" not in text
    )
    links = re.findall(r'<a href="([^"]+)"', text)
    assert {link for link in links if not link.startswith("#")} == {LONG, "short%20%3Cdrive%3E", "result"}
    assert {link[1:] for link in links if link.startswith("#")} == set(re.findall(r'<section id="([^"]+)"', text))
    assert str(tmp_path) not in text, "paths of this machine are nobody's business"
    page = Nesting()
    page.feed(text)
    assert not page.open and not page.without_text


def test_it_says_what_it_was_given(tmp_path: Path) -> None:
    data = report_example.example(tmp_path)
    text = render(data, tmp_path)
    assert "A &lt;report&gt; &amp; more" in text and "<drive>" not in text
    for said in (
        "identical: all 40 frames", "not held: scores.mean_ap is 0.5048", "broken could not be evaluated",
        f"{data.scores.classes['car'].ap:.3f}", "no trailer",
        "7.0\N{NO-BREAK SPACE}%", "3 of 43", "11.9", "a_reason_that_has",
        "CAM_BACK_RIGHT never_seen, 0.83 to 1.25 s, 5 frames", "memory emptied: time_jump_back", "radars alone",
        "+0.050", "over 200 detections in 20 bins", "CAM_BACK_RIGHT silent (stale), 1.0 to 3.9 s",
        "RADAR_FRONT_RIGHT suspect (clock_ahead), 1.6 to 2.0 s", "OK throughout: CAM_FRONT, odometry",
        "2.0 to 3.9 s</td>", "detail, lower left: 0.3 of the usual", "without an estimate so far", "51.1", "88.9",
        "live over DDS as the first time", "CAM_NUMBER_5 3.0 s", "at most 98 ms from one to the next, 92 ms with all",
        "4 frames waited for a camera until their deadline",
        "2.00 s into the recording: 10 hit, 6 false alarms, 3 missed", "found in 26 of 30 frames",
    ):  # fmt: skip
        assert said in text, said
    assert text.count("data:image/jpeg;base64,") == 3 + 4


def test_what_is_not_there_has_no_section(tmp_path: Path) -> None:
    text = render(ReportData("empty", {"model": "tiny"}), tmp_path)
    assert re.findall(r"<h2>([^<]+)", text) == ["What was run"]
    assert "<h2>" not in render(ReportData("nothing", {}), tmp_path)
    drive = Drive("unscored", None, 0, {"CAM": 2}, report_example.frames(2))
    assert "unscored" in render(ReportData("no truth", {}, drives=[drive]), tmp_path)


def test_what_was_not_looked_at_is_said(tmp_path: Path) -> None:
    data = report_example.example(tmp_path)
    plain = [dataclasses.replace(s, readings={}) for s in report_example.statuses()]
    text = render(dataclasses.replace(data, worth=None, health=Health(plain, False, False)), tmp_path)
    assert "The bundle has no uncertainty.json" in text and "existence_probability mean" not in text
    assert "The bundle has no health.json" in text and "was not watched" in text
    text = render(dataclasses.replace(data, health=Health(plain, True, True), outage=None), tmp_path)
    assert "but no frame was looked at" in text and "without an estimate so far" in text
    assert "Cameras fall silent" not in text


def test_frames_that_do_not_go_on_are_said(tmp_path: Path) -> None:
    data = report_example.example(tmp_path)
    assert data.outage is not None
    held = render(data, tmp_path)
    assert '<p class="good"><b>Frames go on:' in held
    for worse in (
        dataclasses.replace(data.outage, gap_ms=400.0),
        dataclasses.replace(data.outage, frames=data.outage.frames[:20]),
    ):
        assert '<p class="bad"><b>Frames go on:' in render(dataclasses.replace(data, outage=worse), tmp_path)


def test_bars_stand_on_the_axis_and_do_not_touch() -> None:
    drawn = chart("t", [Series("", [(0.5, 2.0), (1.5, 4.0), (2.5, 0.0)], "bars")], Axis("x"), Axis("y", 0.0), "said")
    bars = [
        tuple(map(float, row)) for row in re.findall(r'<rect x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', drawn)
    ]
    assert len(bars) == 3 and len({round(y + height, 1) for _, y, _, height in bars}) == 1
    assert bars[1][3] == pytest.approx(2 * bars[0][3], abs=0.2) and bars[2][3] == 0
    assert bars[0][0] + bars[0][2] < bars[1][0] and bars[1][0] + bars[1][2] < bars[2][0]


def test_large_pictures_have_a_budget(tmp_path: Path) -> None:
    data = report_example.example(tmp_path)
    scenes = [Scene(START + k, bytes(900_000), (1, k, 0)) for k in range(4)]
    text = render(dataclasses.replace(data, drives=[dataclasses.replace(data.drives[0], scenes=scenes)]), tmp_path)
    assert "2 more pictures are in the folders" in text and len(text) < 8_000_000


def test_axes_have_round_numbers_that_span_the_data() -> None:
    for low, high in ((0, 1), (0, 503.2), (-0.63, 0.4), (0.111, 0.112), (7, 7)):
        marks = steps(low, high)
        gaps = {round(b - a, 9) for a, b in pairwise(marks)}
        assert marks[0] <= low + 1e-9 and marks[-1] >= high - 1e-9 and len(gaps) == 1 and len(marks) <= 8
    assert steps(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_a_chart_puts_points_where_they_belong() -> None:
    points = [(0.0, 0.0), (10.0, 4.0), (5.0, None), (10.0, 2.0)]
    drawn = chart("t", [Series("s", points, "dots"), Series("l", points)], Axis("x"), Axis("y"), "said")
    dots = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (left, bottom), (right, top), (_, middle) = dots
    assert left < right and top < middle < bottom and abs((top + bottom) / 2 - middle) < 0.1
    path = re.search(r'd="([^"]+)"', drawn)
    assert path and path[1].count("M") == 2, "a gap lifts the pen"
    many = [(float(k), 9.0 if k == 777 else 1.0) for k in range(5000)]
    thin = chart("t", [Series("", many, "dots")], Axis("x"), Axis("y"), "said")
    assert thin.count("<circle") <= 400 and len(set(re.findall(r'cy="([\d.]+)"', thin))) == 2, "peaks stay"
    assert chart("t", [Series("", [])], Axis("x"), Axis("y"), "said") == ""
