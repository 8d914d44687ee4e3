"""The Markdown that travels with a bundle: what the model is and how well it scores."""

from __future__ import annotations

from typing import Any

from bev_perception.plain import to_plain
from training.bundling.card_metadata import Origin, card_metadata, join_card
from training.models.detector import Detector
from training.models.exported import parameters_exported

SCORES = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
UNKNOWN = Origin()
ERRORS = ("ate", "ase", "aoe", "ave", "aae")


def score_table(scores: dict[str, dict[str, Any]], what: str = "sensors") -> str:
    """Sensors, or what else the rows are of, -> Scores.to_dict() as Markdown rows of the official numbers."""
    rows = [(word, s["mean_ap"], s["nds"], *(s["errors"][e] for e in ERRORS)) for word, s in scores.items()]
    return _table((what, *SCORES), rows)


def class_table(scores: dict[str, Any]) -> str:
    """One Scores.to_dict() as Markdown rows, one per class; `-` where an error is not defined."""
    rows = [
        (name, str(c["ground_truth"]), c["ap"], *(c["errors"][e] for e in ERRORS))
        for name, c in scores["classes"].items()
    ]
    return _table(("class", "objects", "AP", *(e.upper() for e in ERRORS)), rows)


def range_table(scores: dict[str, Any]) -> str:
    """One Scores.to_dict() as Markdown rows, one per distance from the vehicle (means over the classes there)."""
    rows = [
        (f"{r['low']:.0f}-{r['high']:.0f} m", str(r["ground_truth"]), r["mean_ap"], *(r["errors"][e] for e in ERRORS))
        for r in scores["ranges"]
    ]
    return _table(("range", "objects", "mAP", *(f"m{e.upper()}" for e in ERRORS)), rows)


def model_card(
    student: Detector,
    scores: dict[str, dict[str, Any]],
    notes: str,
    origin: Origin = UNKNOWN,
) -> str:
    """Markdown: what model hubs read, sizes of the exported network, its scores (JSON of training.evaluate; may be
    empty) and the notes."""
    spec = student.spec
    parameters = parameters_exported(student)
    x, y = spec.grid.shape
    sections = [
        f"# {spec.name}",
        f"{parameters / 1e6:.2f} M parameters; {len(spec.cameras)} cameras at {spec.image.width}x{spec.image.height}, "
        f"{len(spec.radars)} radars, BEV {x}x{y} cells of {spec.grid.step} m.",
        f"Sizes: `{to_plain(student.config)}`.",
    ]
    if scores:
        first = next(iter(scores))
        sections += ["## Scores", score_table(scores), f"Per class with `{first}`:", class_table(scores[first])]
        sections += [f"Per range with `{first}`:", range_table(scores[first])]
    return join_card(card_metadata(spec, scores, origin), "\n\n".join([*sections, notes.strip()]).strip() + "\n")


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    def cell(value: str | float | None) -> str:
        return value if isinstance(value, str) else "-" if value is None else f"{value:.3f}"

    lines = [header, ("---",) * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
