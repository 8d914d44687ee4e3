"""Every paper-size recipe beside the authors' released settings:

    python -m training.compare_recipes [--only bevdet ...] [--differing]

Ours are read from the runs as `training.train` builds them, theirs from training/recipes/published.py. A row that
differs has a reason, or the command exits with status 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from training.command_line import errors_as_text
from training.data.augment import Augmentation
from training.data.config import DataConfig
from training.experiments import load_run
from training.models.image_branch import ImageConfig
from training.recipes.camera import NUSCENES_WIDTH
from training.recipes.published import PUBLISHED, Published
from training.run import Run
from training.schedules import rates
from training.scoring import SCORE_FLOOR
from training.trainer.ema import WARMUP

STEPS = 100_000  # of a run whose schedule is read


@dataclass(frozen=True)
class Row:
    """One setting of one recipe."""

    recipe: str
    setting: str
    ours: Any
    published: Any
    reason: str

    @property
    def equal(self) -> bool:
        return same(self.ours, self.published)

    @property
    def fault(self) -> str:
        """What is wrong with the row itself, "" for nothing."""
        if self.equal and self.reason:
            return "equal, yet has a reason"
        return "" if self.equal or self.reason else "differs without a reason"


def same(ours: Any, published: Any) -> bool:
    """Numbers to a thousandth: files round degrees and fractions."""
    if isinstance(ours, tuple) and isinstance(published, tuple):
        return len(ours) == len(published) and all(map(same, ours, published))
    if isinstance(ours, float) and isinstance(published, (int, float)):
        return math.isclose(ours, published, rel_tol=1e-3, abs_tol=1e-12)
    return bool(ours == published)


def image_of(run: Run) -> ImageConfig:
    """The image branch of a camera network."""
    config = getattr(run.config, "camera", run.config)
    image: ImageConfig = config.image
    return image


def seen_scale(run: Run) -> float:
    """What of a nuScenes image's width the network sees it at."""
    return run.spec.image.scaled_width / NUSCENES_WIDTH


def rate_at_end(run: Run) -> float:
    return rates(run.optim, STEPS, STEPS)[0]


def rate_changes(run: Run) -> str:
    middle = STEPS // 2
    return "each step" if rates(run.optim, middle, STEPS) != rates(run.optim, middle + 1, STEPS) else "each epoch"


def momenta(run: Run) -> tuple[float, ...]:
    found = [rates(run.optim, step, STEPS)[1] for step in range(0, STEPS + 1, STEPS // 100)]
    return max(found), min(found)


def colours(augmentation: Augmentation) -> str:
    changed = [name for name in ("brightness", "contrast", "photometric") if getattr(augmentation, name)]
    return ", ".join(changed) or "none"


def dropped(augmentation: Augmentation) -> str:
    names = ("drop_camera", "drop_all_cameras", "drop_radar", "drop_all_radars", "drop_prev")
    return ", ".join(name for name in names if getattr(augmentation, name)) or "none"


def frames_between(run: Run) -> float:
    return run.spec.temporal.interval_s


def lidar_sweeps(data: DataConfig) -> int:
    return data.lidar.sweeps if data.lidar else 0


def pasting_ends(data: DataConfig) -> int:
    return data.paste.epochs if data.paste else 0


def knows_camera(run: Run) -> bool:
    net = getattr(run.config, "camera", run.config).depth_net
    return net is not None and bool(net.camera_aware)


def boxes_kept(run: Run) -> int:
    """Of each group of classes; of a set of queries all."""
    return max((group.most for group in run.spec.nms), default=run.spec.top_k)


def suppression(run: Run) -> str:
    radii, overlaps = run.spec.nms_radius.values(), {group.iou for group in run.spec.nms} - {0.0}
    if not overlaps:
        return f"circles of {min(radii):.2f} to {max(radii):.2f} m"
    if len(overlaps) == 1:
        return f"rotated IoU of {min(overlaps)}"
    assert any(group.scale for group in run.spec.nms)
    circles = ", ".join(f"{name}s" for group in run.spec.nms if not group.iou for name in group.classes)
    return f"rotated IoU of {min(overlaps)} to {max(overlaps)} of scaled boxes, circles for {circles}"


def falls(run: Run) -> tuple[int, ...]:
    assert run.optim.epochs is not None
    return tuple(round(milestone * run.optim.epochs) for milestone in run.optim.milestones)


def started(run: Run) -> str:
    return "its teacher" if run.distill and run.distill.start_from else "afresh"


# Setting -> what a run has.
SETTINGS: dict[str, Callable[[Run], Any]] = {
    "lr": lambda run: run.optim.lr,
    "backbone rate": lambda run: run.optim.backbone_lr,
    "momentum": momenta,
    "beta2": lambda run: run.optim.beta2,
    "weight decay": lambda run: run.optim.weight_decay,
    "decay of norms and biases": lambda run: run.optim.decay_norms,
    "schedule": lambda run: run.optim.schedule,
    "falls after epochs": falls,
    "falls to": lambda run: run.optim.gamma,
    "last rate": rate_at_end,
    "rate changes": rate_changes,
    "epochs": lambda run: run.optim.epochs,
    "gradient clip": lambda run: run.optim.clip_norm,
    "warm-up steps": lambda run: run.optim.warmup_steps,
    "warm-up from": lambda run: run.optim.warmup_start,
    "averaged weights": lambda run: run.optim.ema,
    "averaging ramps over": lambda run: WARMUP,
    "batch": lambda run: run.batch_size * run.optim.accumulate,
    "class balance": lambda run: run.data.cbgs,
    "backbone starts from": lambda run: run.backbone_from,
    "starts as": started,
    "frozen stages": lambda run: image_of(run).frozen_stages,
    "norms fixed": lambda run: image_of(run).fixed_norms,
    "depth network knows the camera": knows_camera,
    "image scale": lambda run: tuple(seen_scale(run) * s for s in run.data.augmentation.image_scale),
    "image rotation": lambda run: run.data.augmentation.image_rotation_deg,
    "image flip": lambda run: run.data.augmentation.image_flip,
    "colours": lambda run: colours(run.data.augmentation),
    "GridMask": lambda run: run.data.augmentation.grid_mask,
    "BEV flips": lambda run: (run.data.augmentation.bev_flip_x, run.data.augmentation.bev_flip_y),
    "BEV rotation": lambda run: run.data.augmentation.bev_rotation_deg,
    "BEV scale": lambda run: run.data.augmentation.bev_scale,
    "BEV shift": lambda run: run.data.augmentation.bev_shift_m,
    "sensors dropped": lambda run: dropped(run.data.augmentation),
    "objects pasted": lambda run: run.data.paste is not None,
    "pasting ends after epoch": lambda run: pasting_ends(run.data),
    "velocity weight": lambda run: run.losses.velocity,
    "rotation weight": lambda run: run.losses.rotation,
    "depth weight": lambda run: run.losses.depth,
    "displacement": lambda run: getattr(run.config, "displacement", False),
    "earlier frames": lambda run: run.data.history,
    "earlier frames are": lambda run: "the keyframes before" if run.data.interval is None else "drawn",
    "time between frames": lambda run: run.data.interval,
    "seconds between frames": frames_between,
    "LiDAR sweeps": lambda run: lidar_sweeps(run.data),
    "radar sweeps": lambda run: run.spec.radar.sweeps,
    "test image scale": seen_scale,
    "boxes kept": boxes_kept,
    "score threshold": lambda run: SCORE_FLOOR,
    "suppression": suppression,
}


def rows_of(recipe: str, run: Run, published: Published) -> Iterator[Row]:
    """A row for each setting that is published. Raises ValueError for a reason without a row."""
    published_values = {name: value for name, value in published.values.items() if value is not None}
    unused = sorted(set(published.reasons) - set(published_values))
    if unused:
        raise ValueError(f"{recipe}: reasons for {unused}, of which nothing is published; take them out")
    for setting, value in published_values.items():
        yield Row(recipe, setting, SETTINGS[setting](run), value, published.reasons.get(setting, ""))


def compare(published: Mapping[str, Published] = PUBLISHED) -> list[Row]:
    """All rows."""
    return [
        row
        for recipe, theirs in published.items()
        for row in rows_of(recipe, load_run(f"training.experiments.{recipe}"), theirs)
    ]


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(shown, value)) if value else "never"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lines(rows: list[Row], published: Mapping[str, Published] = PUBLISHED) -> Iterator[str]:
    """The table as text."""
    recipe = ""
    for row in rows:
        if row.recipe != recipe:
            recipe = row.recipe
            yield f"\n{recipe}    [{published[recipe].source}]"
        verdict = "equal" if row.equal else f"differs: {row.reason or 'NO REASON'}"
        verdict += f"    ({row.fault.upper()})" if row.fault else ""
        yield f"  {row.setting:31} {shown(row.ours):26} {shown(row.published):26} {verdict}"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.compare_recipes", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="recipes whose name begins so")
    parser.add_argument("--differing", action="store_true", help="leave out the rows that are equal")
    args = parser.parse_args(argv)
    chosen = {name: p for name, p in PUBLISHED.items() if not args.only or name.startswith(tuple(args.only))}
    if not chosen:
        parser.error(f"--only {' '.join(args.only)}: no such recipe; there are {sorted(PUBLISHED)}")
    rows = compare(chosen)
    print(f"  {'setting':31} {'ours':26} {'published':26}")
    print("\n".join(lines([row for row in rows if row.fault or not (args.differing and row.equal)])))
    faults = [row for row in rows if row.fault]
    equal = sum(row.equal for row in rows)
    print(f"\n{len(rows)} settings of {len(chosen)} recipes: {equal} equal, {len(rows) - equal} differ")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
