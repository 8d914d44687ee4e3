"""Whether a score, a probability and an interval mean what they say."""

from __future__ import annotations

import math

from bev_perception.evaluation.reliability import Reliability
from bev_perception.evaluation.report_page.charts import Axis, Series, chart
from bev_perception.evaluation.report_page.markup import DASH, number, table, text
from bev_perception.evaluation.worth import Covered, Worth
from bev_perception.uncertainty import LEVELS

NAMES = {
    "x": "x, ahead <small>m</small>", "y": "y, to the left <small>m</small>", "yaw": "heading <small>rad</small>",
    "vx": "velocity in x <small>m/s</small>", "vy": "velocity in y <small>m/s</small>",
}  # fmt: skip
NO_TABLE = (
    "The bundle has no uncertainty.json: detections have no existence_probability and no variances; "
    "docs/uncertainty.md says how they come by them."
)
SAME_AGAIN = (
    "The same objects come back in frame after frame, and a short drive has few: points of small bars, and a few per "
    "cent either way, say little."
)


def reliability(scores: Reliability | None, worth: Worth | None) -> str:
    """Of scores, where they were counted, and of what the bundle makes of them."""
    if scores is None:
        return ""
    if worth is None:
        return f'<div class="charts">{_diagram("score", scores)}{_counts("score", scores)}</div><p>{NO_TABLE}</p>'
    charts = _diagram("existence_probability", worth.probability) + _counts("probability", worth.probability)
    return (
        f'<div class="charts">{charts}{_diagram("score", scores)}</div>'
        f'<div class="columns"><div>{_coverage(worth)}</div><div>{_bins(worth.probability)}</div></div>'
        f"<p>{_said(worth)} {text(SAME_AGAIN)}</p>"
    )


def _said(worth: Worth) -> str:
    return (
        f"Counted are {worth.detections} detections within the classes' ranges, all down to the score at which the "
        "curves above begin, those that are published among them. A detection is right where an object of its class "
        "is within 2 m and no stronger one took it."
    )


def _diagram(what: str, found: Reliability) -> str:
    points = found.points()
    shares = [(said, right) for said, right, _ in points]
    told = ", ".join(f"{said:.2f}: {right:.2f}" for said, right in shares)
    error = f"{100 * found.error():.2f} %" if points else DASH
    return chart(
        f"Does {'a score' if what == 'score' else what} mean what it says?",
        [
            Series("right as often as it says", [(0.0, 0.0), (1.0, 1.0)], "dashed", 2),
            Series("share that is right at 2 m", shares, "line", 0),
            Series("", shares, "dots", 0),
        ],
        Axis(f"{what}, from 0 to 1", 0.0, 1.0),
        Axis("share, from 0 to 1", 0.0, 1.0),
        f"Reliability diagram of the {what}; what was said and the share that is right: {told}",
        f"Expected calibration error {error}, over {sum(found.count)} detections in {len(found.count)} bins. Below "
        "the diagonal it promises too much.",
    )


def _counts(what: str, found: Reliability) -> str:
    width = 1 / len(found.count)
    bars = [((k + 0.5) * width, float(n)) for k, n in enumerate(found.count)]
    axis = Axis(f"{what}, from 0 to 1", 0.0, 1.0)
    alt = f"Histogram of the {what}: " + ", ".join(str(n) for n in found.count)
    series = [Series("detections in each bin", bars, "bars", 1)]
    return chart(f"How many detections have which {what}?", series, axis, Axis("detections", 0.0), alt)


def _bins(found: Reliability) -> str:
    rows = [[f"{said:.3f}", f"{right:.3f}", str(count)] for said, right, count in found.points()]
    made = table(["mean probability", "share right", "detections"], rows, caption="By bin of the probability")
    return f"<details><summary>Each bin in figures</summary>{made}</details>"


def _coverage(worth: Worth) -> str:
    rows = [
        [NAMES[name], *_shares(found), number(found.mean_deviation(), 2)] for name, found in worth.intervals.items()
    ]
    head = ["error of", *(f"{100 * level:g} %" for level in LEVELS), "mean deviation"]
    counts = {found.count for found in worth.intervals.values()}
    of = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(max(counts, default=0))
    note = (
        f"Of the {of} detections that are right and have such an error. Half the width of an interval is the published "
        "deviation times the bundle's factor for its level; in x and y those along and across the line of sight add up "
        "as variances do."
    )
    caption = "Errors inside the interval that is said to hold 50, 90 and 95 % of them"
    return f"{table(head, rows, caption=caption)}<p>{text(note)}</p>"


def _shares(found: Covered) -> list[str]:
    return [DASH if math.isnan(share) else f"{100 * share:.1f}" for share in found.shares()]
