"""Precision against recall."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bev_perception.evaluation.benchmark import RECALLS, Curve
from bev_perception.evaluation.matching import DISTANCES, TRUE_AT
from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.report_page.charts import Axis, Series, chart

KINDS = ("dashed", "dashed", "line", "dashed")  # of DISTANCES: what errors are measured at is drawn through


def precision_recall(curves: Mapping[str, Curve], scores: Scores) -> str:
    """A chart for each class that there is, with the score at which precision and recall are best together."""
    made = [_class_chart(name, curves[name], c.ap) for name, c in scores.classes.items() if c.ground_truth]
    return (
        f'<div class="charts small">{"".join(made)}</div><p>Each line is for another distance below which a box counts '
        "as a hit. The dot marks, at 2 m, the score with the highest F1, in words below each chart; the bundle's "
        "thresholds decide where on the line a vehicle drives.</p>"
    )


def _class_chart(name: str, curve: Curve, ap: float) -> str:
    label = name.replace("_", " ")
    series = [
        Series(f"{d:g} m", _points(curve.precision[:, k]), KINDS[k], k) for k, d in enumerate(DISTANCES)
    ]  # fmt: skip
    best = curve.best_score()
    note = ""
    if not math.isnan(best):
        at = int(np.argmax(curve.confidence <= best)) if (curve.confidence <= best).any() else 0
        recall, precision = float(RECALLS[at]), float(curve.precision[at, TRUE_AT])
        series.append(Series("", [(recall, precision)], "dots", TRUE_AT))
        note = f"score {best:.2f}: precision {precision:.2f}, recall {recall:.2f}"
    alt = f"Precision against recall of {label}, average precision {ap:.3f}; {note or 'nothing found'}"
    return chart(f"{label}, AP {ap:.3f}", series, Axis("recall", 0.0, 1.0), Axis("precision", 0.0, 1.0), alt, note)


def _points(precision: np.ndarray) -> list[tuple[float, float | None]]:
    """Up to the largest recall that is reached."""
    reached = np.flatnonzero(precision)
    last = int(reached[-1]) + 1 if len(reached) else 0
    return [(float(r), float(p)) for r, p in zip(RECALLS[:last], precision[:last])]
