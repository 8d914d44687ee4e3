"""`make train-small`: from nothing to a distilled, exported, replayed student, by the commands that one gives by hand.

    python -m training.train_small out/small

Every command is printed before it runs. The same command again goes on where this one was stopped. At the end: how well
teacher, student and bundle find objects, and what to do next.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from bev_perception.evaluation.process import run_in_front
from bev_perception.evaluation.result_folder import SCORES
from training.bundling.model_card import score_table
from training.changes import changes_of, override
from training.command_line import errors_as_text
from training.experiments.train_small import student

CHECKPOINTS = Path(os.path.relpath(Path(__file__).parent / "checkpoints"))
TEACHER, BACKBONE = CHECKPOINTS / "centerpoint_near.ckpt", CHECKPOINTS / "backbone_near.ckpt"
EXPERIMENT = "training.experiments.train_small:student"
DRIVE_SEED = 904  # a town that no network of this repository has seen


@dataclass(frozen=True)
class Step:
    """One command. why: what it is for; arguments: of `python -m`."""

    why: str
    arguments: tuple[str, ...]


def steps(out: Path, scenes: int, seconds: float, changes: tuple[str, ...], workers: int) -> list[Step]:
    """All commands in order. scenes: drives, of which every sixth (with fewer, the last) is for validation; seconds: of
    each, and of the replayed one; changes: of the experiment, `optim.steps=500`."""
    data, run, bundle, drive = (str(out / name) for name in ("data", "run", "bundle", "drive"))
    student = f"{run}/last.ckpt"
    world, size = ("--duration", f"{seconds:g}", "--scale", "0.22"), ("--workers", str(workers))
    rates = ("--camera-hz", "2", "--lidar-hz", "10", "--radar-hz", "13")
    taught = ("--teacher", f"centerpoint={TEACHER}", "--teacher-cache", f"{out}/teacher", "--backbone", str(BACKBONE))
    settings = ("--set", *changes) if changes else ()

    def evaluate(model: str, scores: str) -> tuple[str, ...]:
        return ("training.evaluate", model, "--data", data, "--out", str(out / scores))

    replay = ("bev_perception.replay", drive, "--bundle", bundle, "--score-floor", "0.03", "--out", f"{out}/replay")
    return [
        Step(
            "Drives to train on", ("training.world", "nuscenes", data, "--scenes", str(scenes), *world, *rates, *size)
        ),
        Step("A student that learns", ("training.train", EXPERIMENT, "--data", data, "--out", run, *taught, *settings)),
        Step("How good is its teacher?", evaluate(str(TEACHER), "teacher.json")),
        Step("How good is the student?", evaluate(student, "student.json")),
        Step(
            "The bundle that a vehicle runs",
            ("training.export", student, bundle, "--golden-data", data, "--scores", str(out / "student.json")),
        ),
        Step(
            "A drive in a town that it has not seen",
            ("training.world", "bag", drive, "--seed", str(DRIVE_SEED), *world, *size, "--keep"),
        ),
        Step("That drive as the vehicle would take it", replay),
    ]


def summary(out: Path) -> str:
    """What one reads at the end."""
    scores = {name: json.loads((out / f"{name}.json").read_text())["all"] for name in ("teacher", "student")}
    scores["bundle, replayed"] = json.loads((out / "replay" / SCORES).read_text())
    drive, bundle, demo = (shlex.quote(str(out / name)) for name in ("drive", "bundle", "demo"))
    return f"""{score_table(scores, "who")}

The teacher sees LiDAR; the student, cameras and radars. Both are scored on drives kept back, the bundle on the drive
{drive}. So few drives and steps show the way, not what a student can learn: docs/distillation.md.

What it finds in drives that it does not learn from, half-way and at the end:
    {shlex.quote(str(out / "run" / "pictures"))}
Its drive, live over ROS 2, with a report:
    python -m bev_perception.evaluation.demo {drive} --bundle {bundle} --out {demo}
A better one, in hours: the same command with --scenes 72 --set optim.steps=3000, and another folder"""


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.train_small", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for everything: data, run, bundle, replay")
    parser.add_argument("--scenes", type=int, default=12, help="drives; every sixth is for validation")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each drive")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="of the training run")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that render")
    args = parser.parse_args(argv)
    if args.scenes < 2:
        parser.error(f"--scenes {args.scenes}: two drives at least, of which the last is for validation")
    try:
        override(student(), changes_of(args.set))  # drives take minutes: what is misspelt is told before them
    except ValueError as error:
        parser.error(f"--set: {error}")
    begun = time.monotonic()
    for step in steps(args.out, args.scenes, args.seconds, tuple(args.set), args.workers):
        print(f"\n[{(time.monotonic() - begun) / 60:4.1f} min] {step.why}:")
        print(f"    python -m {shlex.join(step.arguments)}\n", flush=True)
        status = run_in_front(step.arguments)
        if status:
            return status  # what went wrong, the command has said
    print(f"\n[{(time.monotonic() - begun) / 60:4.1f} min] done\n\n{summary(args.out)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
