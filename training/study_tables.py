"""A study's results as tables: every run and seed, their means, and what teachers gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.bundling.model_card import ERRORS
from training.run import Run
from training.trainer.teaching import teacher_names

COLUMNS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


@dataclass(frozen=True)
class Result:
    """What one run and seed reached. scores: of the scored split, Scores.to_dict(); parameters: of the exported graph;
    teachers: the mAP of each teacher that a study trained; agreement: see held_out_agreement; given: sha256 of the
    files that the run began with and learnt from, "backbone" and "teacher NAME", None where that was not noted."""

    scores: dict[str, Any]
    parameters: int
    train_minutes: float
    teachers: dict[str, float]
    agreement: dict[str, float]
    given: dict[str, str] | None = None


# Studies of 2026-11-21 kept none of these.
ADDED_LATER: dict[type, dict[str, Any]] = {Result: {"teachers": {}, "agreement": {}, "given": None}}
# Name of a run -> seed -> Result.
Results = Mapping[str, Mapping[int, Result]]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is not known: nan."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def results_csv(results: Results) -> str:
    """One line per run and seed, as measured; empty where there is no number."""
    lines = [",".join(("run", "seed", *COLUMNS, "parameters", "train_minutes"))]
    for name, done in results.items():
        for seed, r in done.items():
            scores = ["" if (v := number(r.scores)) is None else f"{v:.4f}" for number in NUMBERS]
            lines.append(",".join([name, str(seed), *scores, str(r.parameters), f"{r.train_minutes:.1f}"]))
    return "\n".join(lines) + "\n"


def study_table(results: Results) -> str:
    """Markdown, one row per run: mean ± standard error over its seeds."""
    lines = [
        "| run | seeds | " + " | ".join(COLUMNS) + " | parameters (M) | training (min) |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for name, by_seed in results.items():
        done = list(by_seed.values())
        if done:
            cells = [cell([number(r.scores) for r in done]) for number in NUMBERS]
            minutes = sum(r.train_minutes for r in done) / len(done)
            cells += [f"{done[0].parameters / 1e6:.2f}", f"{minutes:.0f}"]
            lines.append(f"| {name} | {len(done)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


NUMBERS: tuple[Callable[[dict[str, Any]], float | None], ...] = (
    lambda s: s["mean_ap"],
    lambda s: s["nds"],
    *((lambda s, e=e: s["errors"][e]) for e in ERRORS),  # type: ignore[misc]
)


def cell(values: Sequence[float | None]) -> str:
    """Mean ± standard error; `-` where a seed has no number: an error of a class that the set lacks."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return "-"
    mean, error = mean_and_error(known)
    return f"{mean:.3f}" if math.isnan(error) else f"{mean:.3f} ± {error:.3f}"


def alone_of(name: str, study: Mapping[str, Run]) -> str | None:
    """The study's run of the same network without teachers; None for a run without teachers, or without such a run."""
    run = study[name]
    if run.distill is None:
        return None
    same = (
        n
        for n, r in study.items()
        if r.distill is None and (r.model, r.config, r.spec) == (run.model, run.config, run.spec)
    )
    return next(same, None)


def gains_table(study: Mapping[str, Run], results: Results) -> str:
    """Markdown; gains are means of the differences between runs of the same seed, ± standard error, with a * where they
    exceed twice that. Cosine: of the student's adapted maps and its teachers' in boxes of scored keyframes. "" when
    nothing is done."""
    rows = []
    for name in study:
        base = alone_of(name, study)
        taught, alone = results.get(name, {}), results.get(base or "", {})
        pairs = [(taught[seed], alone[seed]) for seed in taught if seed in alone]
        if not pairs:
            continue
        scores = [(t.scores, a.scores) for t, a in pairs]
        known = [(t, [r.teachers[t] for r, _ in pairs if t in r.teachers]) for t in teacher_names(study[name])]
        of_teachers = [cell(values) for _, values in known if values]
        cells = [cell([s["mean_ap"] for s in column]) for column in list(zip(*scores))[::-1]]
        cells += [", ".join(of_teachers) or "-"]
        cells += [_gain([(number(t), number(a)) for t, a in scores]) for number in (NUMBERS[0], NUMBERS[1], NUMBERS[5])]
        agreement = [_mean_cosine(r.agreement) for r, _ in pairs]
        cells += [cell([a for a in agreement if a is not None]) if any(agreement) else "-"]
        times = sum(t.train_minutes for t, _ in pairs) / sum(a.train_minutes for _, a in pairs)
        rows.append(f"| {name} | {len(pairs)} | " + " | ".join(cells) + f" | {times:.2f} |")
    head = ("run", "seeds", "mAP alone", "mAP taught", "mAP of its teachers", "mAP gain", "NDS gain", "mAVE change",
            "cosine", "time")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows]
    return "\n".join(lines) + "\n" if rows else ""


def _mean_cosine(agreement: Mapping[str, float]) -> float | None:
    """Of student and teacher inside boxes, over the terms that compare maps; None without any."""
    values = [value for name, value in agreement.items() if name.endswith("cosine/foreground")]
    return sum(values) / len(values) if values else None


def _gain(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    differences = [taught - alone for taught, alone in pairs if taught is not None and alone is not None]
    if len(differences) < len(pairs):
        return "-"
    mean, error = mean_and_error(differences)
    if math.isnan(error):
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ± {error:.3f}" + (" *" if abs(mean) > 2 * error else "")
