"""From the cells of all scenes to scores, rates and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_perception.evaluation.metrics import Scores, add_tallies, score_tally
from bev_perception.evaluation.tally_file import read_tally
from bev_perception.evaluation.worth import PUBLISHED, add_worths, read_worth
from bev_perception.files import read_text
from bev_perception.uncertainty import LEVELS
from training.robustness.conditions import CLEAN, CONDITIONS, Cell
from training.robustness.rates import corruption_errors, mean_percent, resilience_rates
from training.robustness.reaction import reaction_times
from training.robustness.scene import REACTION, SEEN, SEEN_CLEAN, tally_path, worth_path

RESULT_LIMIT = 16 * 2**20  # bytes of a JSON that is read
NINE_TENTHS = LEVELS.index(0.9)
KINDS = {"camera": "cameras", "lens": "a lens", "radar": "radars", "rig": "the rig"}


def summarise(folders: Sequence[Path], cells: Sequence[Cell], reference: Mapping[str, float]) -> dict[str, Any]:
    """folders: of the scenes. reference: condition -> mean NDS of the network that mCE is held against; {}: no mCE.

    Plain data for JSON: `cells` (name -> mAP, NDS, share of the clean NDS; of a loss also `collateral`, the share of
    NDS that is lost among what working sensors see; of a calibrated bundle `ece`, the calibration error of
    `existence_probability`, and `inside_90`, quantity -> share of errors inside its interval of 90 %, or None),
    `conditions` (name -> NDS by level, CE, RR), `mCE` and `mRR` by kind in percent, `reaction` in ms.
    """
    scores = {cell: _scores(folders, cell) for cell in cells}
    clean = scores[Cell()].nds
    rows: dict[str, dict[str, Any]] = {}
    for cell, score in scores.items():
        rows[cell.name] = {"mAP": score.mean_ap, "NDS": score.nds, "share": _share(score.nds, clean)}
        if cell.loss is not None:
            seen, before = (_scores(folders, cell, part).nds for part in (SEEN, SEEN_CLEAN))
            rows[cell.name]["collateral"] = 1.0 - _share(seen, before)
        if all(worth_path(folder, cell).is_file() for folder in folders):
            found = add_worths([read_worth(worth_path(folder, cell)) for folder in folders])
            rows[cell.name]["ece"] = found.probability.error()
            inside = {name: found.intervals[name].shares()[NINE_TENTHS] for name in PUBLISHED}
            rows[cell.name]["inside_90"] = {name: None if math.isnan(s) else s for name, s in inside.items()}
    nds = {
        name: [rows[Cell(name, level).name]["NDS"] for level in range(len(CONDITIONS[name].levels))]
        for name in dict.fromkeys(cell.condition for cell in cells if cell.condition in CONDITIONS)
    }
    errors, rates = corruption_errors(nds, reference), resilience_rates(nds, clean)
    conditions = {name: {"NDS": nds[name], "CE": errors.get(name), "RR": rates[name]} for name in nds}
    of_kind = {kind: [name for name in nds if CONDITIONS[name].of == kind] for kind in KINDS}
    result: dict[str, Any] = {"frames": scores[Cell()].frames, "cells": rows, "conditions": conditions}
    result["mRR"] = {kind: mean_percent({n: rates[n] for n in names}) for kind, names in of_kind.items() if names}
    result["mCE"] = {
        kind: mean_percent({n: errors[n] for n in names})
        for kind, names in of_kind.items()
        if names and all(n in errors for n in names)
    }
    reactions = [
        json.loads(read_text(path, RESULT_LIMIT)) for f in folders if (path := f / f"{REACTION}.json").is_file()
    ]
    result["reaction"] = reaction_times(reactions)
    return result


def reference_of(path: Path) -> dict[str, float]:
    """condition -> mean NDS, of a result that `summarise` gave. Raises ValueError for another file."""
    try:
        conditions = json.loads(read_text(path, RESULT_LIMIT))["conditions"]
        return {name: sum(row["NDS"]) / len(row["NDS"]) for name, row in conditions.items()}
    except (json.JSONDecodeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} is no result of training.robustness ({error!r}); give its robustness.json") from error


def tables(result: Mapping[str, Any]) -> str:
    """Markdown: conditions by severity, sensors lost, and how soon the network has got over it."""
    cells, parts = result["cells"], []
    clean = cells[CLEAN]
    parts.append(f"Clean: {clean['NDS']:.3f} NDS, {clean['mAP']:.3f} mAP in {result['frames']} keyframes.")
    if result["conditions"]:
        lines = [
            "| condition | of | easy | mid | hard | RR, % | CE, % |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, row in result["conditions"].items():
            nds = " | ".join(f"{value:.3f}" for value in row["NDS"])
            lines.append(
                f"| {name} | {KINDS[CONDITIONS[name].of]} | {nds} | {_percent(row['RR'])} | {_percent(row['CE'])} |"
            )
        parts.append("\n".join(lines))
        means = [
            f"{word} of {KINDS[kind]} {value:.1f} %" for word in ("mRR", "mCE") for kind, value in result[word].items()
        ]
        parts.append("; ".join(means) + ".")
    lost = {name: row for name, row in cells.items() if "collateral" in row}
    if lost:
        lines = [
            "| cameras lost | radars lost | NDS | of the clean, % | collateral, % |",
            "| ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, row in lost.items():
            cameras, radars = name.split("-")[1:]
            numbers = f"{row['NDS']:.3f} | {_percent(row['share'])} | {_percent(row['collateral'])}"
            lines.append(f"| {cameras} | {radars} | {numbers} |")
        parts.append("\n".join(lines))
    if "ece" in clean:
        head = ["what it says", "ECE, %", *(f"{name} inside 90 %" for name in PUBLISHED)]
        lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
        for name, row in cells.items():
            inside = " | ".join(_percent(row["inside_90"][quantity]) for quantity in PUBLISHED)
            lines.append(f"| {name} | {100 * row['ece']:.2f} | {inside} |")
        parts.append("\n".join(lines))
    if result["reaction"]:
        lines = ["| lost | correct after, ms | back, correct after, ms |", "| --- | ---: | ---: |"]
        lines += [f"| {n} | {_ms(row['lost_ms'])} | {_ms(row['back_ms'])} |" for n, row in result["reaction"].items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _scores(folders: Sequence[Path], cell: Cell, part: str = "") -> Scores:
    return score_tally(add_tallies([read_tally(tally_path(folder, cell, part)) for folder in folders]))


def _share(value: float, of: float) -> float:
    return value / of if of > 0 else math.nan


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{100.0 * value:.1f}"


def _ms(value: float) -> str:
    return "not in half of the scenes" if math.isnan(value) else f"{value:.0f}"
