"""Plots and tables of the pages: they show what docs/data holds, and are not older than it."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the plots are drawn by matplotlib, which comes with nuscenes-devkit")

from matplotlib.colors import to_hex
from page_sections import section

from docs import __main__ as command
from docs import learning_curves, measured, plots, tables
from docs.figures import FIGURES

PAGES = sorted((Path(command.DOCS)).rglob("*.md"))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.strip().splitlines()))


# mAP rises by 0.1, 0.2 and 0.6 and mAVE falls by 0.5 each; over 1.5 times the steps 0.05 less. Seed 9 was never taught.
RESULTS = rows("""run,seed,mAP,NDS,mAVE,parameters
a,0,0.10,0.3,2.0,1000000
a,1,0.20,0.3,2.0,1000000
a,2,0.30,0.3,2.0,1000000
a,9,0.90,0.9,9.0,1000000
a_longer,0,0.15,0.3,2.0,1000000
a_longer,1,0.25,0.3,2.0,1000000
a_longer,2,0.35,0.3,2.0,1000000
b,2,0.90,0.3,1.5,1000000
b,0,0.20,0.5,1.5,1000000
b,1,0.40,0.1,1.5,1000000
""")
NAMES = rows("""taught,alone,longer,student,teacher,method
b,a,a_longer,Student,Teacher,maps
b,a,,Other,,alone
""")
GAINS = measured.gains(NAMES, RESULTS)
# The mean of 0.1, 0.2, 0.6 is 0.3; deviations -0.2, -0.1, 0.3 give a variance of 0.14 / 2, over three runs.
GAIN, ERROR = 0.3, math.sqrt(0.07 / 3)


def bars(axes: Any) -> list[tuple[float, float, float, str]]:
    """(position, height, half length of the bar, colour) of every error bar, downwards."""
    found = []
    for container in axes.containers:
        line, _, (segments,) = container.lines
        (start, end) = segments.get_segments()[0]
        x, y = line.get_xdata()[0], line.get_ydata()[0]
        assert x == pytest.approx((start[0] + end[0]) / 2) or math.isnan(end[0])
        found.append((x, y, (end[0] - start[0]) / 2, to_hex(line.get_color())))
    return sorted(found, key=lambda bar: bar[1])


def test_gains_are_differences_of_the_same_seeds() -> None:
    first, second = GAINS
    assert (first.gain["mAP"].mean, first.gain["mAP"].error) == pytest.approx((GAIN, ERROR))
    assert first.gain["mAP"].count == 3 and not first.gain["mAP"].certain, "0.300 is less than twice 0.153"
    assert (first.gain["mAVE"].mean, first.gain["mAVE"].error) == pytest.approx((-0.5, 0)) and first.gain[
        "mAVE"
    ].certain
    assert first.over_longer["mAP"].mean == pytest.approx(GAIN - 0.05) and second.over_longer == {}
    assert first.alone["mAP"].mean == pytest.approx(0.2) and first.taught["mAP"].mean == pytest.approx(0.5)
    alone = measured.estimate([0.5])
    assert alone.mean == 0.5 and math.isnan(alone.error) and not alone.certain
    with pytest.raises(ValueError, match=r"no run 'c' among \['a', 'a_longer', 'b'\]"):
        measured.differences(RESULTS, "c", "a")


def test_gains_agree_with_those_that_a_study_writes() -> None:
    """The study's own table, from the same numbers: OUT/gains.md."""
    study_tables = pytest.importorskip("training.study_tables", reason="needs torch")
    values = [float(row["mAP"]) for row in RESULTS if row["run"] == "b"]
    assert study_tables.mean_and_error(values) == pytest.approx(
        (measured.estimate(values).mean, measured.estimate(values).error)
    )


def test_the_forest_has_means_and_two_standard_errors_where_they_belong() -> None:
    figure = plots.forest(GAINS)
    map_, nds, ave = figure.axes
    equal, own, other = sorted(bars(map_), key=lambda bar: (bar[1] > 2, bar[0]))
    assert own[:1] + own[2:3] == pytest.approx((GAIN, 2 * ERROR)) == other[:1] + other[2:3]
    assert equal[0] == pytest.approx(GAIN - 0.05) and equal[3] == plots.SKY
    assert own[3] == plots.GREY, "not certain"
    assert [bar[3] for bar in bars(ave) if bar[3] != plots.SKY] == [plots.GREEN] * 2, "a smaller error is better"
    assert [bar[0] for bar in bars(ave)] == pytest.approx([-0.5] * 3)
    assert bars(nds)[0][0] == pytest.approx(0)
    labels = {label.get_text(): label.get_position()[1] for label in map_.get_yticklabels()}
    assert labels["Teacher: maps"] == own[1] and labels["alone"] == other[1]
    assert labels["Student"] < labels["Teacher: maps"] < labels["Other"] < labels["alone"], "headings above their rows"
    low, high = map_.get_ylim()
    assert low > high, "downwards"


def test_worse_is_red() -> None:
    worse = measured.gains(rows("taught,alone,longer,student,teacher,method\na,b,,S,,m"), RESULTS)
    figure = plots.forest(worse)
    assert bars(figure.axes[2])[0][3] == plots.RED
    assert "worse" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_networks_stand_under_their_sensors_the_best_first() -> None:
    names = rows("run,name,sensors,what\na,First,cameras,x\nb,Second,cameras,x\na_longer,Third,LiDAR,x")
    (axes,) = plots.compared(measured.networks(names, RESULTS)).axes
    ticks = axes.get_yticklabels()
    order = [label.get_text() for label in sorted(ticks, key=lambda label: label.get_position()[1])]
    assert order == ["LiDAR", "Third", "cameras", "Second", "First"]
    widths = {round(p.get_y() + p.get_height() / 2, 3): p.get_width() for p in axes.patches}
    second = next(label.get_position()[1] for label in ticks if label.get_text() == "Second")
    assert widths[round(second, 3)] == pytest.approx(0.5)


def scores(**aps: float) -> dict[str, Any]:
    classes = {name: {"ap": ap, "ground_truth": 7} for name, ap in aps.items()}
    ranges = [{"low": 0, "high": 20, "mean_ap": 0.7}, {"low": 20, "high": 50, "mean_ap": 0.4}]
    return {"mean_ap": sum(aps.values()) / len(aps), "classes": classes, "ranges": ranges}


def test_classes_are_ordered_and_labelled() -> None:
    (axes,) = plots.per_class({"all": scores(car=0.5, traffic_cone=0.75)}).axes
    assert [p.get_width() for p in axes.patches] == [0.75, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["traffic cone (7)", "car (7)"]
    assert axes.lines[0].get_xdata()[0] == 0.625


def test_a_line_for_every_choice_of_sensors() -> None:
    found = {"all": scores(car=0.5), "camera": scores(car=0.1) | {"ranges": []}, "radar": scores(car=0.1)}
    (axes,) = plots.by_range(found).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cameras + radars + memory", "radars"]
    line = axes.containers[0].lines[0]
    np.testing.assert_array_equal(line.get_xydata(), [[10, 0.7], [35, 0.4]])


def test_velocity_is_true_against_regressed() -> None:
    data = rows(
        "axis,low,high,objects,true_mean,predicted_mean\nvx,2,,3,8,7\nvx,,-2,3,-6,-5\nvy,2,,3,4,0.5\nspeed,,0.1,9,0,0.2"
    )
    (axes,) = plots.reliability(data).axes
    diagonal, along, across = axes.lines
    np.testing.assert_array_equal(along.get_xydata(), [[-6, -5], [8, 7]])
    np.testing.assert_array_equal(across.get_xydata(), [[4, 0.5]])
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())


def test_latency_has_medians_and_percentiles() -> None:
    data = rows("stage,p50_ms,p95_ms,p99_ms,max_ms,count\ninfer,5,6,7,8,9\ntotal,50,60,70,80,9")
    (axes,) = plots.latency(data).axes
    assert [p.get_width() for p in axes.patches] == [5, 50]
    assert [list(line.get_xdata()) for line in axes.lines] == [[6, 60], [7, 70]]


def test_a_missing_file_is_an_error_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bench --only latency"):
        measured.read("latency.csv", tmp_path)
    with pytest.raises(FileNotFoundError, match="demo_scores"):
        command.draw("per_class.svg", tmp_path)


def test_learning_curves_are_thinned_logs(tmp_path: Path) -> None:
    for version, lines in (("2", "20,0.5,\n40,0.25,"), ("10", "40,0.75,\n60,0.5,\n60,,0.125")):
        folder = tmp_path / "run" / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"step,train/heatmap,val/mAP\n{lines}\n")
    out = tmp_path / "curves.csv"
    assert learning_curves.main([f"alone={tmp_path / 'run'}", "--out", str(out)]) == 0
    loss, score = learning_curves.QUANTITIES.values()
    curve = rows(out.read_text())
    assert [(r["step"], r["value"]) for r in curve if r["quantity"] == loss] == [
        ("20", "0.5000"), ("40", "0.7500"), ("60", "0.5000")
    ], "a resumed run goes on: its later log counts"  # fmt: skip
    assert [(r["step"], r["value"]) for r in curve if r["quantity"] == score] == [("60", "0.1250")]
    panels = plots.learning_curves(curve).axes
    assert [axes.get_title() for axes in panels] == [loss, score]
    np.testing.assert_array_equal(panels[0].lines[0].get_xydata(), [[20, 0.5], [40, 0.75], [60, 0.5]])
    assert learning_curves.thinned([(10, 1.0), (20, 2.0), (30, 6.0)], 2) == [(15, 1.5), (30, 6.0)]
    assert learning_curves.main([f"alone={tmp_path}"]) == 1


@pytest.mark.parametrize("name", plots.PLOTS)
def test_plots_are_those_of_the_data(name: str) -> None:
    drawn = (command.IMAGES / name).read_text()
    found = re.search(r"inputs and code ([0-9a-f]{64})", drawn)
    assert found, f"docs/images/{name} is not drawn by `make docs`"
    assert found[1] == command.fingerprint(plots.PLOTS[name].inputs), f"docs/images/{name} is old: run `make docs`"
    assert len(drawn) < 100_000


def test_a_plot_is_the_same_every_time_and_another_with_other_data(tmp_path: Path) -> None:
    first = command.draw("latency.svg")
    assert first == command.draw("latency.svg")
    text = (command.DATA / "latency.csv").read_text()
    (tmp_path / "latency.csv").write_text(text.replace("infer,", "infer,9"))
    other = command.draw("latency.svg", tmp_path)
    assert len({re.search(rb"code ([0-9a-f]{64})", svg)[1] for svg in (first, other)}) == 2  # type: ignore[index]


def test_every_plot_is_on_a_page_and_every_drawing_is_a_plot() -> None:
    shown = {name for page in PAGES for name in re.findall(r"images/(\w+\.svg)", page.read_text())}
    assert shown == {*plots.PLOTS, *FIGURES} == {path.name for path in command.IMAGES.glob("*.svg")}


@pytest.mark.parametrize("page, mark", tables.TABLES)
def test_tables_are_those_of_the_data(page: str, mark: str) -> None:
    table = tables.TABLES[page, mark]
    wanted = table.function(*(measured.read(name) for name in table.inputs))
    assert section(command.DOCS / page, mark) == wanted, f"docs/{page} is old: run `make docs`"


def test_tables_of_scores_and_velocities() -> None:
    errors = dict.fromkeys(("ate", "ase", "aoe", "ave", "aae"), 0.5)
    found = {word: {"mean_ap": 0.1, "nds": 0.2, "errors": errors} for word in measured.SENSORS}
    found["radar"] = {"mean_ap": 0.3, "nds": 0.4, "errors": errors | {"aae": 0.125}}
    assert (
        tables.sensors_table(found).splitlines()[3]
        == "| radars " + "| 0.300 | 0.400 | 0.500 | 0.500 | 0.500 | 0.500 | 0.125 |"
    )
    blanked = {"all": {"mean_ap": 0.6, "nds": 0.5}, "blank:CAM": {"mean_ap": 0.5, "nds": 0.4}}
    assert tables.blanked_table(blanked).splitlines()[2:] == [
        "| none | 0.600 | 0.000 | 0.500 |", "| CAM | 0.500 | 0.100 | 0.400 |"
    ]  # fmt: skip
    data = rows("axis,low,high,objects,true_mean,predicted_mean\nvx,,-2,3,-6,-5\nvy,2,5,3,4,0.5\nvy,5,,3,6,0.5")
    first = [line.split(" | ")[0] for line in tables.velocity_table(data).splitlines()[2:]]
    assert first == ["| vx < -2", "| 2 < vy < 5", "| vy > 5"]


def test_the_table_of_gains() -> None:
    lines = tables.gains_table(GAINS).splitlines()
    assert lines[2].split(" | ")[1:6] == [
        "Teacher: maps", "0.200 ± 0.058", "0.500 ± 0.208", "+0.300 ± 0.153", "+0.250 ± 0.153"
    ]  # fmt: skip
    assert lines[2].endswith(" | **-0.50 ± 0.00** |") and "not measured" in lines[3]
    assert len({line.count("|") for line in lines}) == 1
