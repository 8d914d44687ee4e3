"""The tables of the pages that docs/data decides: each is one function of rows, and TABLES says where it stands."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bev_perception.deployment.journal import Line, table
from bev_perception.plain import from_plain
from docs.measured import SENSORS, Estimate, Gain, Network, Row, gains, networks
from training.data_engine.cost import Row as Cost
from training.data_engine.cost import slope
from training.robustness.conditions import CONDITIONS
from training.robustness.summary import KINDS
from training.world.statistic import RARE, Statistic, of_rows

ERRORS = ("ate", "ase", "aoe", "ave", "aae")
FAR = ("25", "50")  # m: what lies beyond the labels of long_range.csv


class Table(NamedTuple):
    """function(what each of `inputs`, files of docs/data, holds) -> Markdown."""

    function: Callable[..., str]
    inputs: tuple[str, ...]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Numbers to the right: every column after the first that has a digit at its first row."""
    numbers = [any(letter.isdigit() for letter in cell) for cell in rows[0]]
    rule = ["---:" if number and column else "---" for column, number in enumerate(numbers)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def level(found: Estimate, digits: int = 3) -> str:
    """Mean ± standard error, the mean alone of a single run."""
    mean = f"{found.mean:.{digits}f}"
    return mean if math.isnan(found.error) else f"{mean} ± {found.error:.{digits}f}"


def change(found: Estimate, digits: int = 3) -> str:
    """With its sign, bold where it exceeds twice its standard error."""
    text = f"{found.mean:+.{digits}f} ± {found.error:.{digits}f}"
    return f"**{text}**" if found.certain else text


def gains_table(rows: Sequence[Gain]) -> str:
    head = ("student", "teacher: how it teaches", "mAP alone", "mAP taught", "gain of mAP",
            "gain of mAP over 1.5 times the steps", "gain of NDS", "change of mAVE, m/s")  # fmt: skip
    body, before = [], ""
    for row in rows:
        equal = change(row.over_longer["mAP"]) if row.over_longer else "not measured"
        body.append(
            (
                row.student if row.student != before else "",
                f"{row.teacher}: {row.method}",
                level(row.alone["mAP"]),
                level(row.taught["mAP"]),
                change(row.gain["mAP"]),
                equal,
                change(row.gain["NDS"]),
                change(row.gain["mAVE"], 2),
            )
        )
        before = row.student
    return markdown(head, body)


def networks_table(rows: Sequence[Network]) -> str:
    head = ("network", "sensors", "what it is", "runs", "mAP", "NDS", "mAVE, m/s", "parameters, M")
    body = [
        (
            row.name,
            row.sensors,
            row.what,
            str(row.scores["mAP"].count),
            level(row.scores["mAP"]),
            level(row.scores["NDS"]),
            level(row.scores["mAVE"], 2),
            f"{row.parameters / 1e6:.2f}",
        )
        for row in rows
    ]
    return markdown(head, body)


def sensors_table(scores: Mapping[str, Any]) -> str:
    head = ("sensors", "mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    body = [
        (name, *(f"{value:.3f}" for value in (s["mean_ap"], s["nds"], *(s["errors"][e] for e in ERRORS))))
        for name, s in ((name, scores[word]) for word, name in SENSORS.items())
    ]
    return markdown(head, body)


def blanked_table(scores: Mapping[str, Any]) -> str:
    """What is lost with each camera; the first row has all of them."""
    whole = scores["all"]["mean_ap"]
    body = [
        (word.removeprefix("blank:").replace("all", "none"), f"{s['mean_ap']:.3f}", f"{whole - s['mean_ap']:.3f}",
         f"{s['nds']:.3f}")
        for word, s in scores.items()
    ]  # fmt: skip
    return markdown(("blanked", "mAP", "lost", "NDS"), body)


def velocity_table(rows: Sequence[Row]) -> str:
    body = []
    for row in rows:
        axis, low, high = row["axis"], row["low"], row["high"]
        group = f"{low} < {axis} < {high}" if low and high else f"{axis} > {low}" if low else f"{axis} < {high}"
        body.append((group, row["objects"], row["true_mean"], row["predicted_mean"]))
    return markdown(("true velocity, m/s", "objects", "true mean", "regressed mean"), body)


def candidates_table(rows: Sequence[Row]) -> str:
    head = ("sensors", "candidates", "number", "circles", "mAP", "NDS", "AP of pedestrians", "AP of traffic cones")
    names = ("rule", "candidates", "circles", "mAP", "NDS", "pedestrian", "traffic_cone")
    sensors = {"all": "cameras + radars + memory", "camera": "cameras"}
    return markdown(head, [(sensors[row["sensors"]], *(row[name] for name in names)) for row in rows])


def two_tables(first: str, second: str) -> Callable[[Sequence[Row], Sequence[Row]], str]:
    """The statistics of two simulated things beside each other: shares and means with standard errors, of distributions
    the median and the middle 90 %."""

    def table(one: Sequence[Row], other: Sequence[Row]) -> str:
        theirs = {s.key: s for s in of_rows(other, second)}
        body = [
            (f"{s.name}, {s.unit}" if s.unit not in ("", "1") else s.name, s.group.replace("_", " "), _value(s),
             _value(theirs[s.key]))
            for s in of_rows(one, first)
            if not s.group.startswith(RARE) and s.key in theirs
        ]  # fmt: skip
        return markdown(("statistic", "of", f"`{first}`", f"`{second}`"), body)

    return table


def _value(s: Statistic) -> str:
    if s.kind == "distribution":
        return f"{s.value:.3g} ({s.quantiles[1]:.3g} to {s.quantiles[-2]:.3g})"
    return f"{s.value:.3g} ± {s.error:.2g}"


def long_range_table(rows: Sequence[Row]) -> str:
    """All that lies beyond the labels, with both kinds of 2D boxes."""
    head = ("method", "2D boxes", "median error of depth, %", "within 10 %, %", "within 2 m, %", "centre, median m",
            "AP of the labels", "with a return, %")  # fmt: skip
    body = [
        (row["method"], row["boxes"], _percent(row["median_relative"]), _percent(row["within_10_percent"]),
         _percent(row["within_2_m"]), f"{float(row['median_metres']):.2f}", f"{float(row['ap']):.3f}",
         _percent(row["share_radar"]))
        for row in rows
        if (row["low"], row["high"]) == FAR
    ]  # fmt: skip
    return markdown(head, body)


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f}"


def platforms_table(rows: Sequence[Row]) -> str:
    """What was tried where; of what could not be tried, why."""
    head = ("Python", "numpy", "ROS 2", "passed", "skipped", "failed", "frames", "ONNX Runtime", "OpenCV", "date")
    body = []
    for row in rows:
        place = (row["python"], row["numpy"] or row["asked"], row["ros"].capitalize() or "-")
        if row["outcome"] != "ran":
            body.append((*place, f"not run: {row['outcome']}", *[""] * 5, row["date"]))
            continue
        counts = (row["passed"], row["skipped"], row["failed"], row["frames"])
        body.append((*place, *counts, row["onnxruntime"], row["opencv"], row["date"]))
    return markdown(head, body)


def ways_table(rows: Sequence[Row]) -> str:
    """ECE in per cent; nll: of all channels' errors."""
    head = ("worth from", "runs of the network", "mAP", "D-ECE at 2 m, %", "Brier score",
            "negative log likelihood of right and wrong", "of errors")  # fmt: skip
    names = ("runs", "mAP", "ece", "brier", "log_loss", "nll")
    body = [(row["way"], *(f"{100 * float(row[n]):.2f}" if n == "ece" else row[n] for n in names)) for row in rows]
    return markdown(head, body)


def intervals_table(rows: Sequence[Row]) -> str:
    """The table, the head and what is taken of both, channel by channel."""
    shown = ("class, distance and score", "head", "head and table, the best of each channel")
    head = ("channel", "deviation from", "inside 50 %", "inside 90 %", "inside 95 %", "mean deviation",
            "negative log likelihood")  # fmt: skip
    channels = dict.fromkeys(row["channel"] for row in rows)
    body = [
        (channel.replace("_", " "), row["way"], *(f"{100 * float(row[f'inside_{n}']):.1f}" for n in (0.5, 0.9, 0.95)),
         f"{float(row['deviation']):.3f}", f"{float(row['nll']):.3f}")
        for channel in channels
        for row in rows
        if row["channel"] == channel and row["way"] in shown
    ]  # fmt: skip
    return markdown(head, body)


def circle_scores(told: Mapping[str, Any]) -> str:
    rows = [
        (name, str(row["frames"]), f"{row['mAP']:.3f}", f"{row['NDS']:.3f}") for name, row in told["scores"].items()
    ]
    return markdown(("what, and where", "frames", "mAP", "NDS"), rows)


def circle_stages(told: Mapping[str, Any]) -> str:
    rows = [(row["stage"], f"{row['seconds']:.0f}", f"{row['cpu_s']:.0f}") for row in told["stages"]]
    whole = [f"{sum(row[key] for row in told['stages']):.0f}" for key in ("seconds", "cpu_s")]
    return markdown(("stage", "wall clock, s", "CPU of all cores, s"), [*rows, ("all", *whole)])


def circle_journal(told: Mapping[str, Any]) -> str:
    """As `deploy --history` prints it, without days and figures."""
    short = [{**line, "time": line["time"][11:19], "figures": {}} for line in told["journal"]]
    head, *rows = table([from_plain(Line, line, "journal") for line in short]).splitlines()
    indent = " " * head.index("reason")
    rows = [textwrap.fill(row, 128, subsequent_indent=indent) for row in (head, *rows)]
    return "\n".join(["```text", *rows, "```"])


def health_conditions(told: Mapping[str, Any]) -> str:
    """A row a condition and severity; a delay is empty where half of the sensors are never found."""
    head = ("condition", "size", "AUROC", "found, %", "delay, frames", "delay, s", "scene alarms, %", "told first")
    body = [
        (
            row["condition"] if row["severity"] == 1 else "",
            f"{row['level']:g} {row['unit']}".replace("level", "").strip(),
            *(_given(row[key], digits) for key, digits in (("auroc", 3),)),
            *(_given(row[key], digits, scale) for key, digits, scale in HEALTH_COLUMNS),
            row["said"],
        )
        for row in told["conditions"]
    ]
    return markdown(head, body)


HEALTH_COLUMNS = (("found", 0, 100.0), ("delay_frames", 0, 1.0), ("delay_s", 1, 1.0), ("scene", 0, 100.0))


def _given(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "" if value is None or math.isnan(value) else f"{scale * value:.{digits}f}"


def health_ablation(told: Mapping[str, Any]) -> str:
    """Share of the sensors found at the middle severity, each way with thresholds for as many false alarms."""
    ways = told["ablation"]
    shown = [name for name in ways[0]["found"] if any(way["found"][name] for way in ways)]
    body = [(way["way"].replace("_", " "), *(_given(way["found"][n], 0, 100.0) for n in shown)) for way in ways]
    return markdown(("found, %", *(name.replace("_", " ") for name in shown)), body)


def health_thresholds(told: Mapping[str, Any]) -> str:
    rows = [
        (part.replace("_", " "), f"{t['threshold']:.1f}", f"{t['range'][0]:.1f} to {t['range'][1]:.1f}",
         f"{60 * t['sensor_hours']:.0f}")
        for part, t in told["tails"].items()
    ]  # fmt: skip
    return markdown(("part", "threshold, deviations", "80 % of resampled ones", "minutes of one sensor"), rows)


# (page, mark in it) -> table.
def choosing_table(rows: Sequence[Row]) -> str:
    """A row for each strategy: what the largest pool took, and straight lines through all sizes."""
    body = []
    for by in dict.fromkeys(row["by"] for row in rows):
        of = [
            Cost(by, int(row["frames"]), int(row["budget"]),
                 *(float(row[name]) for name in ("survey_s", "choose_s", "mib", "disk_mib")))
            for row in rows
            if row["by"] == by
        ]  # fmt: skip
        memory, hours = slope(of)
        last = of[-1]
        body.append((f"`{by}`", f"{last.frames:,.0f}", f"{last.survey_s + last.choose_s:.0f}", f"{last.mib:.0f}",
                     f"{last.disk_mib:.0f}", f"{round(memory)}", f"{hours:.2f}"))  # fmt: skip
    head = ("strategy", "frames", "CPU, s", "memory, MiB", "disk, MiB", "memory, bytes for each frame more",
            "CPU at a million frames, hours")  # fmt: skip
    return markdown(head, body)


def robustness_conditions(told: Mapping[str, Any]) -> str:
    """A row a condition: NDS at its three severities and RR; how far probabilities are off, and the fewest errors of
    x, y, heading and velocity that an interval of 90 % still holds at the hardest."""
    head = ("condition", "of", "NDS: easy", "mid", "hard", "RR, %", "ECE, %: easy", "mid", "hard", "least inside 90 %")
    body = []
    for name, row in told["conditions"].items():
        cells = [told["cells"][f"{name}-{level + 1}"] for level in range(len(row["NDS"]))]
        least = min(value for value in cells[-1]["inside_90"].values() if value is not None)
        nds = (f"{value:.3f}" for value in row["NDS"])
        ece = (f"{100 * cell['ece']:.1f}" for cell in cells)
        body.append(
            (f"`{name}`", KINDS[CONDITIONS[name].of], *nds, f"{100 * row['RR']:.1f}", *ece, f"{100 * least:.0f}")
        )
    return markdown(head, body)


TABLES: dict[tuple[str, str], Table] = {
    ("data_engine.md", "scale"): Table(choosing_table, ("choosing_scale.csv",)),
    ("long_range.md", "far"): Table(long_range_table, ("long_range.csv",)),
    ("platforms.md", "tried"): Table(platforms_table, ("platforms.csv",)),
    ("health.md", "conditions"): Table(health_conditions, ("health.json",)),
    ("health.md", "thresholds"): Table(health_thresholds, ("health.json",)),
    ("health.md", "ablation"): Table(health_ablation, ("health.json",)),
    ("robustness.md", "conditions"): Table(robustness_conditions, ("robustness.json",)),
    ("uncertainty.md", "ways"): Table(ways_table, ("uncertainty_ways.csv",)),
    ("uncertainty.md", "intervals"): Table(intervals_table, ("uncertainty_coverage.csv",)),
    ("redeploy.md", "scores"): Table(circle_scores, ("circle.json",)),
    ("redeploy.md", "stages"): Table(circle_stages, ("circle.json",)),
    ("redeploy.md", "journal"): Table(circle_journal, ("circle.json",)),
    ("distillation.md", "gains"): Table(
        lambda names, results: gains_table(gains(names, results)),
        ("distillation_runs.csv", "distillation_results.csv"),
    ),
    ("results.md", "sensors"): Table(sensors_table, ("demo_scores.json",)),
    ("results.md", "blanked"): Table(blanked_table, ("blanked_scores.json",)),
    ("results.md", "velocity"): Table(velocity_table, ("velocity.csv",)),
    ("results.md", "candidates"): Table(candidates_table, ("decoding.csv",)),
    ("synthetic_radar.md", "radars"): Table(two_tables("clear", "listed"), ("radar_clear.csv", "radar_listed.csv")),
    ("synthetic_city.md", "images"): Table(two_tables("town", "city"), ("images_town.csv", "images_city.csv")),
    ("synthetic_city.md", "traffic"): Table(two_tables("town", "city"), ("traffic_town.csv", "traffic_city.csv")),
    ("synthetic_city.md", "networks"): Table(
        lambda names, results: networks_table(networks(names, results)), ("network_names.csv", "near_city.csv")
    ),
    ("models.md", "networks"): Table(
        lambda names, results: networks_table(networks(names, results)), ("network_names.csv", "near_results.csv")
    ),
}
