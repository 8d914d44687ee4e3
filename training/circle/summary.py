"""What came of the circle: scores before and after, verdicts, times; for a terminal and as OUT/summary.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_perception.deployment import journal
from bev_perception.deployment.journal import Line
from bev_perception.deployment.rollout import ENDS
from bev_perception.evaluation.demo import machine
from bev_perception.plain import to_plain
from bev_perception.stated_scores import SCORES
from training.circle.progress import Progress, by_stage
from training.circle.steps import Settings, asked_by

JOURNAL = Path("vehicle", "journal.jsonl")
SCORED = {  # what is scored -> file of its scores, where in it
    "the fleet's student, held-out drives": ("before.json", "all"),
    "fine-tuned, held-out drives": ("after.json", "all"),
    "in 8 bits, held-out drives": (f"better/{SCORES}", ""),
    "published before, one drive": ("published/before.json", ""),
    "published after, the same drive": ("published/after.json", ""),
}


def ending(lines: Sequence[Line], bundle: str) -> Line | None:
    """The last word on a bundle of the circle, None where it was not asked for or has not ended."""
    asked = [line for line in lines if line.asked_by == asked_by(bundle)]
    return asked[-1] if asked and asked[-1].verdict in ENDS else None


def read_lines(out: Path) -> tuple[Line, ...]:
    return journal.read(out / JOURNAL).lines


def summary(out: Path, progress: Progress, settings: Settings) -> dict[str, Any]:
    """Everything that the page shows."""
    lines = read_lines(out)
    return {
        "machine": machine(),
        "settings": vars(settings),
        "scores": {name: _scores(out / file, where) for name, (file, where) in SCORED.items()},
        "stages": [
            {"stage": stage, "seconds": round(seconds, 1), "cpu_s": round(cpu_s, 1)}
            for stage, (seconds, cpu_s) in by_stage(progress.took).items()
        ],
        "verdicts": {
            bundle: _here(f"{line.step} {line.verdict}: {line.reason}")
            for bundle in ("better", "bad", "slow")
            if (line := ending(lines, bundle)) is not None
        },
        "journal": [_here(to_plain(line)) for line in lines],
    }


def _here(told: Any) -> Any:
    """Without the folder that the command was given in, which is nobody's business."""
    if isinstance(told, Mapping):
        return {key: _here(value) for key, value in told.items()}
    return told.replace(f"{Path.cwd()}{os.sep}", "") if isinstance(told, str) else told


def _scores(path: Path, where: str) -> dict[str, float]:
    scores: Mapping[str, Any] = json.loads(path.read_bytes())
    scores = scores[where] if where else scores
    return {"mAP": scores["mean_ap"], "NDS": scores["nds"], "frames": scores["frames"]}


def text(told: Mapping[str, Any]) -> str:
    """For a terminal, and Markdown."""
    rows = ["| scored | frames | mAP | NDS |", "| --- | ---: | ---: | ---: |"]
    for name, row in told["scores"].items():
        rows.append(f"| {name} | {row['frames']} | {row['mAP']:.3f} | {row['NDS']:.3f} |")
    rows += ["", "| stage | wall, s | CPU, s |", "| --- | ---: | ---: |"]
    rows += [f"| {row['stage']} | {row['seconds']:.0f} | {row['cpu_s']:.0f} |" for row in told["stages"]]
    whole = [sum(row[key] for row in told["stages"]) for key in ("seconds", "cpu_s")]
    rows += [f"| all | {whole[0]:.0f} | {whole[1]:.0f} |", ""]
    rows += [f"{bundle}: {verdict}" for bundle, verdict in told["verdicts"].items()]
    return "\n".join(rows)
