"""In which colours boxes are drawn: those of their classes, or hits, false alarms and misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bev_perception.colors import color_of
from bev_perception.evaluation.judged import Judged
from bev_perception.evaluation.objects import Objects

# BGR. Told apart also by who sees no red and green; in the bird's-eye view misses are crossed as well.
TRUTH_COLOR = (90, 200, 80)
HIT_COLOR = (245, 190, 70)
FALSE_COLOR = (50, 105, 255)
MISSED_COLOR = (50, 215, 255)
UNCOUNTED_COLOR = (150, 145, 140)  # beyond the range in which its class is scored


@dataclass(frozen=True)
class Paint:
    """How M objects are drawn: BGR colours, and what is written above each ("": nothing)."""

    colors: Sequence[tuple[int, int, int]]
    texts: Sequence[str]


def by_class(objects: Objects) -> Paint:
    """In the colours of their classes, with class and score."""
    texts = [f"{name} {score:.2f}" for name, score in zip(objects.names, objects.scores)]
    return Paint([color_of(name) for name in objects.names], texts)


def by_verdict(objects: Objects, judged: Judged) -> Paint:
    """Detections as hits, false alarms and what does not count."""
    verdicts = zip(judged.hit, judged.false)
    colors = [HIT_COLOR if hit else FALSE_COLOR if false else UNCOUNTED_COLOR for hit, false in verdicts]
    return Paint(colors, by_class(objects).texts)
