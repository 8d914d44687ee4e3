"""The plots of the pages: each is one function of what docs/data holds, and PLOTS says which file it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from docs.measured import SENSORS, Gain, Network, Row, gains, networks

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
)  # fmt: skip
GREY = "#777777"
OF_SENSORS = {"LiDAR": GREY, "cameras": BLUE, "radars": ORANGE, "cameras + radars": GREEN}
OF_WORD = {"camera": BLUE, "radar": ORANGE, "no_temporal": BLACK, "all": GREEN}  # as in SENSORS
# Score -> title of its panel, whether more is better.
GAIN_PANELS = {"mAP": ("gain of mAP", True), "NDS": ("gain of NDS", True), "mAVE": ("change of mAVE, m/s", False)}


class Plot(NamedTuple):
    """function(what each of `inputs`, files of docs/data, holds) -> figure."""

    function: Callable[..., Figure]
    inputs: tuple[str, ...]


def forest(rows: Sequence[Gain]) -> Figure:
    """Gains of taught networks, one line each under its student; bars are two standard errors to either side.

    Filled: over the student alone with as many steps. Hollow: over the student alone with 1.5 times the steps.
    """
    heights, headings = _grouped([row.student for row in rows])
    lowest = max(heights) + 0.8
    figure = Figure(figsize=(9.6, 0.8 + 0.225 * lowest), layout="constrained")
    panels = figure.subplots(1, len(GAIN_PANELS), sharey=True)
    for axes, (score, (title, more_is_better)) in zip(panels, GAIN_PANELS.items()):
        axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
        for row, height in zip(rows, heights):
            found = row.gain[score]
            color = GREY if not found.certain else GREEN if (found.mean > 0) == more_is_better else RED
            if row.over_longer:
                equal = row.over_longer[score]
                _bar(axes, equal.mean, equal.error, height + 0.24, color=SKY, markerfacecolor="white", markersize=3.5)
            _bar(axes, found.mean, found.error, height, color=color, markersize=4.5)
        axes.set_title(title, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axes.tick_params(axis="y", length=0)
    panels[0].set_ylim(lowest, -0.6)
    _label(panels[0], headings, heights, [f"{row.teacher}: {row.method}".removeprefix(": ") for row in rows])
    keys = [(GREEN, GREEN, "better, by more than two standard errors"), (GREY, GREY, "not certain")]
    if any(row.gain[score].certain and (row.gain[score].mean > 0) != more for row in rows
           for score, (_, more) in GAIN_PANELS.items()):  # fmt: skip
        keys.insert(1, (RED, RED, "worse"))
    if any(row.over_longer for row in rows):
        keys.append((SKY, "white", "over the student alone with 1.5 times the steps"))
    marks = [Line2D([], [], color=c, marker="o", markerfacecolor=face, markersize=4.5, label=t) for c, face, t in keys]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)
    return figure


def _label(axes: Axes, headings: Mapping[str, float], heights: Sequence[float], labels: Sequence[str]) -> None:
    """Bold headings and plain rows beside the axis."""
    axes.set_yticks([*headings.values(), *heights], [*headings, *labels])
    for tick in axes.get_yticklabels()[: len(headings)]:
        tick.set_fontweight("bold")


def _bar(axes: Axes, mean: float, error: float, height: float, **style: Any) -> None:
    axes.errorbar(mean, height, xerr=2 * error, fmt="o", linewidth=1.2, capsize=0, **style)


def _grouped(groups: Sequence[str]) -> tuple[list[float], dict[str, float]]:
    """Heights of the rows and of a heading above each group, downwards."""
    heights: list[float] = []
    headings: dict[str, float] = {}
    height = 0.0
    for group in groups:
        if group not in headings:
            height += 0.3 * bool(headings)
            headings[group] = height
            height += 1
        heights.append(height)
        height += 1
    return heights, headings


def compared(rows: Sequence[Network]) -> Figure:
    """mAP of every network of one size, the best of each kind of sensors first; bars are two standard errors."""
    order = sorted(rows, key=lambda row: (list(OF_SENSORS).index(row.sensors), -row.scores["mAP"].mean))
    heights, headings = _grouped([row.sensors for row in order])
    figure = Figure(figsize=(7.2, 0.7 + 0.215 * max(heights)), layout="constrained")
    axes = figure.subplots()
    for row, height in zip(order, heights):
        found = row.scores["mAP"]
        error = found.error if found.count > 1 else 0.0
        axes.barh(height, found.mean, 0.7, xerr=2 * error, color=OF_SENSORS[row.sensors], error_kw={"linewidth": 1})
        axes.text(found.mean + 2 * error + 0.008, height, f"{found.mean:.3f}", va="center", fontsize=8)
    _label(axes, headings, heights, [row.name for row in order])
    axes.set_ylim(max(heights) + 0.7, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 0.9)
    axes.set_xlabel("mAP on held-out drives, objects within 25.6 m")
    return figure


def per_class(scores: Mapping[str, Any]) -> Figure:
    """Average precision of each class with all sensors, the best first; how many objects there are stands beside."""
    classes = sorted(scores["all"]["classes"].items(), key=lambda item: -item[1]["ap"])
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    names = [f"{name.replace('_', ' ')} ({values['ground_truth']})" for name, values in classes]
    axes.barh(names, [values["ap"] for _, values in classes], 0.7, color=BLUE)
    for height, (_, values) in enumerate(classes):
        axes.text(0.01, height, f"{values['ap']:.2f}", fontsize=8, color="white", va="center")
    mean = scores["all"]["mean_ap"]
    axes.axvline(mean, color=RED, linewidth=1, linestyle="--")
    axes.text(mean + 0.008, len(names) - 1, f"mean (mAP) {mean:.3f}", color=RED, fontsize=8, va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("average precision (in brackets: objects in the held-out drives)")
    axes.tick_params(axis="y", length=0)
    return figure


def by_range(scores: Mapping[str, Any]) -> Figure:
    """mAP against the distance from the vehicle, a line for each choice of sensors that was scored by distance."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for word in [word for word in scores if scores[word]["ranges"]]:
        label, color, ranges = SENSORS[word], OF_WORD[word], scores[word]["ranges"]
        middle = [(row["low"] + row["high"]) / 2 for row in ranges]
        half = [(row["high"] - row["low"]) / 2 for row in ranges]
        axes.errorbar(middle, [row["mean_ap"] for row in ranges], xerr=half, fmt="o-", color=color, label=label)
    for row in scores["all"]["ranges"]:
        x = (row["low"] + row["high"]) / 2
        axes.annotate(f"{row['mean_ap']:.2f}", (x, row["mean_ap"]), (0, 6), textcoords="offset points", fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_xlim(0, scores["all"]["ranges"][-1]["high"])
    axes.set_xlabel("distance from the vehicle, m")
    axes.set_ylabel("mAP")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    return figure


def reliability(rows: Sequence[Row]) -> Figure:
    """Mean regressed against mean true velocity, along (vx) and across (vy) the vehicle; on the diagonal both agree."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    names = {"vx": ("along the vehicle's axis", BLUE, "o"), "vy": ("across it", RED, "s")}
    reach = 1.1 * max(abs(float(row[key])) for row in rows for key in ("true_mean", "predicted_mean"))
    axes.plot([-reach, reach], [-reach, reach], color=GREY, linewidth=0.8, linestyle="--", label="as true")
    for axis, (label, color, marker) in names.items():
        chosen = sorted((float(r["true_mean"]), float(r["predicted_mean"])) for r in rows if r["axis"] == axis)
        axes.plot(*zip(*chosen), marker=marker, color=color, label=label, linewidth=1)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for along in (axes.xaxis, axes.yaxis):
        along.set_major_locator(MultipleLocator(5))
    axes.set_xlabel("true velocity, m/s (mean of a group of objects)")
    axes.set_ylabel("regressed velocity, m/s")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def latency(rows: Sequence[Row]) -> Figure:
    """Each stage's median as a bar, and its 95th and 99th percentiles."""
    figure = Figure(figsize=(7.2, 2.2), layout="constrained")
    axes = figure.subplots()
    names = [row["stage"] if row["stage"] != "total" else "stamp to publication" for row in rows]
    colors = [GREY if row["stage"] == "total" else BLUE for row in rows]
    bars = axes.barh(names, [float(row["p50_ms"]) for row in rows], 0.65, color=colors, label="median")
    handles: list[Any] = [bars]
    for key, marker in (("p95_ms", "|"), ("p99_ms", "x")):
        places = [float(row[key]) for row in rows]
        handles += axes.plot(
            places, names, linestyle="none", marker=marker, color=RED, label=f"{key[1:3]}th percentile"
        )
    for name, row in zip(names, rows):
        label = f"{float(row['p50_ms']):.1f}"
        axes.annotate(label, (float(row["p99_ms"]), name), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(float(row["p99_ms"]) for row in rows))
    axes.set_xlabel("milliseconds (numbers are medians)")
    axes.tick_params(axis="y", length=0)
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="center right")
    return figure


def soak(rows: Sequence[Row]) -> Figure:
    """Resident memory, threads and file descriptors of the node over the minutes."""
    figure = Figure(figsize=(7.2, 2.2), layout="constrained")
    minutes = [float(row["minute"]) for row in rows]
    panels = {"rss_mb": ("memory, MB", BLUE), "threads": ("threads", GREEN), "descriptors": ("file descriptors", RED)}
    for axes, (name, (title, color)) in zip(figure.subplots(1, len(panels)), panels.items()):
        values = [float(row[name]) for row in rows]
        axes.plot(minutes, values, color=color, linewidth=1.2)
        axes.set_ylim(0, 1.25 * max(values))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("minutes")
        axes.grid(color="#e5e5e5", linewidth=0.6)
    return figure


def learning_curves(rows: Sequence[Row]) -> Figure:
    """A panel for each quantity, a line for each run: columns run, step, quantity, value."""
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure = Figure(figsize=(3.6 * len(quantities), 2.8), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities):
        for run, color in zip(runs, (BLUE, RED, GREEN, ORANGE, PINK, BLACK)):
            curve = [(int(r["step"]), float(r["value"])) for r in rows if (r["run"], r["quantity"]) == (run, quantity)]
            if curve:
                axes.plot(*zip(*sorted(curve)), color=color, label=run, linewidth=1.2)
        axes.set_title(quantity, fontsize=9)
        axes.set_xlabel("optimiser step")
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
    return figure


def long_range(rows: Sequence[Row]) -> Figure:
    """What boxes made of exact 2D boxes are worth by distance, a line for each method; dashed with radar."""
    exact = [row for row in rows if row["boxes"] == "exact" and row["method"] != "3D labels"]
    methods = list(dict.fromkeys(row["method"].removesuffix(" + radar") for row in exact))
    limits = [(float(row["low"]), float(row["high"])) for row in exact]
    beyond = max((limit for limit in limits if limit[0] > 0), key=lambda limit: limit[1] - limit[0])  # of the others
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    panels = {"within_10_percent": "share of depths within 10 %", "ap": "AP of the labels"}
    for axes, (name, title) in zip(figure.subplots(1, len(panels)), panels.items()):
        for method, color in zip(methods, (GREY, PINK, SKY, ORANGE, BLUE)):
            for label, style in ((method, "-"), (f"{method} + radar", "--")):
                own = [r for r in exact if r["method"] == label and (float(r["low"]), float(r["high"])) != beyond]
                middles = [(float(r["low"]) + float(r["high"])) / 2 for r in own]
                axes.plot(middles, [float(r[name]) for r in own], style, color=color, marker="o", markersize=3,
                          linewidth=1.2, label=label if own and axes is figure.axes[0] else None)  # fmt: skip
        axes.axvline(beyond[0], color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("metres from the vehicle; dotted: where 3D labels end")
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


# Step of a deployment -> colour of its bar.
OF_STEP = {"checking": GREY, "opening": ORANGE, "shadowing": SKY, "switching": BLACK, "watching": GREEN}


def circle(told: Mapping[str, Any]) -> Figure:
    """Stages of `make circle` one after the other: wall clock, and CPU time within; below, the deployments from the
    vehicle's journal, a bar for each step, from the line before it to its own."""
    stages = told["stages"]
    asked = list(dict.fromkeys(line["asked_by"] for line in told["journal"] if line["step"] in OF_STEP))
    figure = Figure(figsize=(9.0, 1.6 + 0.24 * (len(stages) + 1.6 * len(asked))), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(len(stages), 1.6 * len(asked) + 1))
    begun = 0.0
    for height, row in enumerate(stages):
        upper.barh(height, row["seconds"] / 60, 0.7, left=begun / 60, color=SKY)
        upper.barh(height, row["cpu_s"] / 60, 0.25, left=begun / 60, color=BLUE)
        begun += row["seconds"]
    upper.set_yticks(range(len(stages)), [row["stage"] for row in stages])
    upper.set_xlabel("minutes; light: wall clock, dark: CPU time of one core")
    for height, name in enumerate(asked):
        lines = [line for line in told["journal"] if line["asked_by"] == name]
        start = before = _seconds(lines[0]["time"])
        for line in lines[1:]:
            now = _seconds(line["time"])
            lower.barh(height, now - before, 0.6, left=before - start, color=OF_STEP[line["step"]])
            before = now
        lower.text(before - start + 0.5, height, f"{lines[-1]['verdict'].replace('_', ' ')}", va="center", fontsize=8)
    lower.set_yticks(range(len(asked)), [name.rpartition(", ")[2] for name in asked])
    lower.set_xlabel("seconds from the beginning of a deployment, and how it ended")
    lower.set_xlim(right=1.15 * lower.get_xlim()[1])
    marks = [Line2D([], [], color=color, linewidth=6, label=step) for step, color in OF_STEP.items()]
    lower.legend(handles=marks, frameon=False, fontsize=8, ncols=len(marks), loc="upper right")
    for axes, count in ((upper, len(stages)), (lower, len(asked))):
        axes.set_ylim(count - 0.4, -1.1 if axes is lower else -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _seconds(time: str) -> float:
    """Of ISO 8601 in UTC."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


# Way in uncertainty_*.csv -> colour; ways of other names, such as ensembles of any size, take what is left.
OF_WAY = {
    "score": GREY,
    "temperature": SKY,
    "isotonic by class": ORANGE,
    "class, distance and score": BLUE,
    "head": PINK,
    "head and table, the best of each channel": GREEN,
}


def _way_colors(rows: Sequence[Row]) -> dict[str, str]:
    """The ways of OF_WAY, then those of several networks; what lies between a table and a head is left out."""
    ways = dict.fromkeys(row["way"] for row in rows)
    others = [way for way in ways if way.startswith(("ensemble", "dropout"))]
    return {way: OF_WAY[way] for way in ways if way in OF_WAY} | dict(zip(others, (RED, BLACK)))


def said_and_right(rows: Sequence[Row]) -> Figure:
    """What was said against the share that was right, in bins of detections: on the diagonal both agree."""
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    for way, color in _way_colors(rows).items():
        own = [(float(row["said"]), float(row["right"])) for row in rows if row["way"] == way]
        axes.plot(*zip(*sorted(own)), marker="o", markersize=3, color=color, label=way, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("probability that was said")
    axes.set_ylabel("share of detections that were right")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.legend(frameon=False, fontsize=7, loc="upper left")
    return figure


def covered(rows: Sequence[Row]) -> Figure:
    """A panel for each level: how far the share of errors inside the interval is from it, channel by channel."""
    levels = {"inside_0.5": 0.5, "inside_0.9": 0.9, "inside_0.95": 0.95}
    channels = list(dict.fromkeys(row["channel"] for row in rows))
    colors = _way_colors(rows)
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    for axes, (column, level) in zip(figure.subplots(1, len(levels), sharey=True), levels.items()):
        axes.axvline(100 * level, color=GREY, linewidth=0.8, linestyle="--")
        for number, (way, color) in enumerate(colors.items()):
            shares = {row["channel"]: 100 * float(row[column]) for row in rows if row["way"] == way}
            heights = [i + 0.12 * (number - (len(colors) - 1) / 2) for i in range(len(channels))]
            axes.plot([shares[c] for c in channels], heights, "o", markersize=3.5, color=color, label=way)
        axes.set_title(f"said: {100 * level:g} %", fontsize=9)
        axes.set_xlabel("inside, %")
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(channels)), [channel.replace("_", " ") for channel in channels])
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


PLOTS: dict[str, Plot] = {
    "distillation_gains.svg": Plot(
        lambda names, results: forest(gains(names, results)), ("distillation_runs.csv", "distillation_results.csv")
    ),
    "distillation_ablations.svg": Plot(
        lambda names, results: forest(gains(names, results)),
        ("distillation_ablation_runs.csv", "distillation_ablations.csv"),
    ),
    "networks.svg": Plot(
        lambda names, results: compared(networks(names, results)), ("network_names.csv", "near_results.csv")
    ),
    "per_class.svg": Plot(per_class, ("demo_scores.json",)),
    "by_range.svg": Plot(by_range, ("demo_scores.json",)),
    "velocity.svg": Plot(reliability, ("velocity.csv",)),
    "latency.svg": Plot(latency, ("latency.csv",)),
    "soak.svg": Plot(soak, ("soak.csv",)),
    "long_range.svg": Plot(long_range, ("long_range.csv",)),
    "circle.svg": Plot(circle, ("circle.json",)),
    "uncertainty_said.svg": Plot(said_and_right, ("uncertainty_reliability.csv",)),
    "uncertainty_covered.svg": Plot(covered, ("uncertainty_coverage.csv",)),
    "learning_curves.svg": Plot(learning_curves, ("learning_curves.csv",)),
}
