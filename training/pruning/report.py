"""What a cut left, as tables to read and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.models.widths import Cut
from training.pruning.dependencies import Group
from training.pruning.latency import Table
from training.pruning.plan import Plan


def latency_lines(table: Table, plan: Plan, measured: tuple[float, float]) -> str:
    """Predicted beside measured; measured: ms of the dense and of the pruned network, in turns."""
    dense, pruned = measured
    where = f"{table.where['engine']} {table.where['version']}, {table.where['threads']} thread(s)"
    return "\n".join(
        [
            f"| {where} | predicted, ms | measured, ms | predicted share | measured share |",
            "| --- | --- | --- | --- | --- |",
            f"| dense | {table.network_ms:.1f} | {dense:.1f} | 1 | 1 |",
            f"| pruned | {plan.predicted_ms:.1f} | {pruned:.1f} | {plan.predicted_ms / table.network_ms:.3f} | "
            f"{pruned / dense:.3f} |",
        ]
    )


def channel_lines(groups: Sequence[Group], plan: Plan, fixed: Mapping[str, str]) -> str:
    """What is kept of each group, and why the other layers stay as they are."""
    lines = ["| channels of | before | kept | step | made by |", "| --- | --- | --- | --- | --- |"]
    for group in groups:
        kept = group.channels - len(plan.dropped[group.name])
        made = ", ".join(group.outputs)
        lines.append(f"| {group.name} | {group.channels} | {kept} | {plan.steps[group.name]} | {made} |")
    return "\n".join(lines + [f"not cut: {name}: {reason}" for name, reason in fixed.items()])


def score_lines(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Network -> Scores.to_dict(): mAP, NDS and what is lost against the first."""
    lines = ["| network | mAP | NDS | NDS, share of dense |", "| --- | --- | --- | --- |"]
    first = next(iter(scores.values()))["nds"]
    for name, of in scores.items():
        share = f"{of['nds'] / first:.3f}" if first else "-"
        lines.append(f"| {name} | {of['mean_ap']:.4f} | {of['nds']:.4f} | {share} |")
    return "\n".join(lines)


def report(
    groups: Sequence[Group],
    plan: Plan,
    table: Table,
    fixed: Mapping[str, str],
    cut: Cut,
    measured: tuple[float, float],
    settings: Mapping[str, Any],
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    """All of it as plain data; ms as `latency_lines` has them."""
    channels = {
        group.name: {
            "before": group.channels,
            "kept": group.channels - len(plan.dropped[group.name]),
            "step": plan.steps[group.name],
            "made_by": list(group.outputs),
            "read_by": list(group.inputs),
            "dropped": list(plan.dropped[group.name]),
        }
        for group in groups
    }
    return {
        "settings": dict(settings),
        "engine": dict(table.where),
        "latency_ms": {
            "dense": table.network_ms,
            "outside_of_the_table": plan.rest_ms,
            "share_of_savings_that_shows": plan.shown,
            "budget": plan.budget_ms,
            "predicted": plan.predicted_ms,
            "measured_dense": measured[0],
            "measured_pruned": measured[1],
        },
        "channels": channels,
        "not_cut": dict(fixed),
        "layers": {name: list(width) for name, width in cut.layers.items()},
        "scores": dict(scores),
    }
