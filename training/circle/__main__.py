"""`make circle`: from a drive to a better model in the running vehicle, by the commands that one gives by hand.

    python -m training.circle out/circle

A vehicle drives and records; frames are chosen and the shipped student is fine-tuned on them with a LiDAR teacher; the
bundle is exported, made 8 bits wide, let through the gate, signed, and deployed into the running node: shadow, switch,
watch. A bad one is refused then, a slow one rolled back, and the journal is printed. Every command is printed before it
runs. The same command again goes on where this one was stopped. All of it is the synthetic world.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bev_perception.deployment.rollout import ALREADY, DONE
from bev_perception.evaluation.process import run_in_front
from bev_perception.files import naming, write_atomic
from training.circle import summary as summaries
from training.circle.progress import read_progress, timed, write_progress
from training.circle.steps import PYTHON, Settings, Step, steps
from training.command_line import INTERRUPTED, errors_as_text

SUMMARY = "summary.json"


def run(step: Step) -> int:
    """The command at this terminal -> its exit status."""
    if step.command[:2] == PYTHON:
        return run_in_front(step.command[2:])
    try:
        return subprocess.run(step.command, check=False).returncode
    except KeyboardInterrupt:
        return INTERRUPTED


def clear(step: Step) -> None:
    """Away with what an earlier attempt left. Asked for of what this command has made itself, by its own record."""
    for path in (step.product,) if step.clears is None else step.clears:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _stages(some: Sequence[Step]) -> list[str]:
    return list(dict.fromkeys(step.stage for step in some))


def judged(step: Step, status: int, out: Path, known: int = 0) -> str:
    """What is wrong with the end of a step, "" where it is as it should be: a deployment ends with the verdict that it
    is to end with, and for the reason; everything else with status 0. known: lines of the journal before the step."""
    if step.deploys and status in (0, 1):
        line = summaries.ending(summaries.read_lines(out)[known:], step.deploys)
        ended = line.verdict if line else "nothing"
        if line and line.reason.startswith(ALREADY):  # of a circle that was stopped just after it had come in
            ended = DONE
        why = line.reason.split(":", 1)[0] if line else ""
        if ended == step.verdict and (not step.reasons or why in step.reasons):
            return ""
        wanted = f"{step.verdict}, {' or '.join(step.reasons)}" if step.reasons else step.verdict
        said = f"{ended}, {line.reason}" if line and line.reason else ended
        return f"{step.deploys} was to end {wanted}; the journal says {said}"
    if status:
        return f"it ended with status {status}"
    return "" if step.product.exists() else f"{step.product} is not there"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    usual = Settings(workers=len(os.sched_getaffinity(0)))
    parser = argparse.ArgumentParser(
        prog="python -m training.circle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for everything")
    for name, help in (
        ("fleet", "drives to learn from"),
        ("held_out", "drives to score on"),
        ("seconds", "of each drive"),
        ("teacher_steps", "of the teacher's training"),
        ("steps", "of the student's"),
        ("share", "of the scenes that is chosen"),
        ("rate", "at which drives are played; below 1 for a machine that is busy"),
        ("deploy_rate", "the same while something is deployed: two networks run then"),
        ("workers", "processes that render"),
    ):
        value = getattr(usual, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"{help} (%(default)g)"
        )
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    args = vars(parser.parse_args(argv))
    out, until = args.pop("out"), args.pop("until")
    settings = Settings(**args)
    todo = steps(out, settings)
    stages = _stages(todo)
    if until and until not in stages:
        parser.error(f"--until {until}: the stages are {', '.join(stages)}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for everything")
    out.mkdir(parents=True, exist_ok=True)
    begun, progress = time.monotonic(), read_progress(out)
    with naming(out):
        progress = progress.made_with(settings)
    for number, step in enumerate(todo, 1):
        where = f"[{(time.monotonic() - begun) / 60:4.1f} min, {number} of {len(todo)}, {step.stage}]"
        if progress.is_done(step):
            print(f"{where} done before: {step.why}", flush=True)
            continue
        print(f"\n{where} {step.why}:\n    {shlex.join(step.command)}\n", flush=True)
        if progress.begins_anew(step):
            clear(step)
        progress, stale = progress.begin(step, todo)
        write_progress(out, progress)
        if stale:
            print(f"done anew after it, as it builds on it: {', '.join(_stages(stale))}\n", flush=True)
        step.product.parent.mkdir(parents=True, exist_ok=True)
        known = len(summaries.read_lines(out))
        status, seconds, cpu_s = timed(run, step)
        wrong = judged(step, status, out, known)
        progress = progress.after(step, seconds, cpu_s, done=not wrong)
        write_progress(out, progress)
        if wrong:
            print(f"\nstopped at {step.stage}: {wrong}; the same command goes on with this step", file=sys.stderr)
            return status or 1
        print(f"\n{where} {seconds:.0f} s, {cpu_s:.0f} s of CPU", flush=True)
        if until == step.stage and all(progress.is_done(other) for other in todo if other.stage == until):
            return 0
    told = summaries.summary(out, progress, settings)
    write_atomic(out / SUMMARY, json.dumps(told, indent=1) + "\n")
    print(f"\n[{(time.monotonic() - begun) / 60:4.1f} min] done\n\n{summaries.text(told)}\n\n{out / SUMMARY}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
