"""kill -9 of node and deployer at every named point of a deployment, under load: what serves afterwards, as a table.

    python test/kill_points.py [--only WORD ...] [--docs docs/redeploy.md]

For each row a node with a tiny bundle takes another one, while its sensors go on and every core has something else to
do. The node, or the command that asked, is killed at the point; the node is started again; then the record, the journal
and every message are looked at. Ends with status 1 where something is not as POINTS has it. Takes about five minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_bundle
from deploy_rig import start_of
from deployment_folder import named_bundle
from lifecycle_msgs.msg import Transition
from node_rig import NodeProcess, Rig, default_values, environment

from bev_perception.bundle import Bundle
from bev_perception.deployment import journal
from bev_perception.deployment.folder import BUNDLES, JOURNAL, PART, RECORD
from bev_perception.evaluation.pages import check_sections, replace_sections

SECTION = "kills"
OLD, NEW = "tiny", "better"
GATE = "frames: 2\nlatency_ratio: 100"  # on a busy machine
NOTHING = "nothing"  # in the journal
# Point of bev_perception.deployment.procedure -> what is going on there, who serves afterwards, how the journal ends.
NODE_POINTS = {
    "asked": ("the goal was taken", OLD, NOTHING),
    "begun": ("the first line is in the journal", OLD, "refused"),
    "copying": ("a file of the bundle was copied", OLD, "refused"),
    "copied": ("the copy is whole, without its name", OLD, "refused"),
    "checked": ("the candidate may be opened", OLD, "refused"),
    "opening": ("its engine is about to be opened", OLD, "refused"),
    "opened": ("its engine is open and proven", OLD, "refused"),
    "shadowing": ("it begins to see frames", OLD, "refused"),
    "shadowed": ("it has seen frames", OLD, "refused"),
    "passed": ("the shadow is over", OLD, "refused"),
    "on_trial": ("the record says that it is on trial", OLD, "rolled_back"),
    "switched": ("it serves", OLD, "rolled_back"),
    "watched": ("it has served frames", OLD, "rolled_back"),
    "good": ("the watch is over", OLD, "rolled_back"),
    "accepted": ("the record says that it is good", NEW, "done"),
    "done": ("the last line is in the journal", NEW, "done"),
    "breached": ("it did what it must not", OLD, "rolled_back"),
    "back": ("the old model serves again", OLD, "rolled_back"),
    "rolled_back": ("the record says so", OLD, "rolled_back"),
}
BAD = ("breached", "back", "rolled_back")  # points that only a bundle which misbehaves comes to
# The command is killed when it has printed this; the node goes on.
DEPLOYER_POINTS = {
    "deployment begun": ("it has asked", NEW, "done"),
    "checking passed": ("the candidate may be opened", NEW, "done"),
    "opening passed": ("the candidate is open", NEW, "done"),
    "shadowing passed": ("the shadow is over", NEW, "done"),
    "switching passed": ("the candidate serves", NEW, "done"),
}


@dataclass(frozen=True)
class Row:
    """of: `node` or `deployer`. messages: of detections, all of both runs. back_s: from the start of the next node to
    its first detections. wrong: what was not as expected, or ""."""

    of: str
    point: str
    what: str
    serves: str
    journal: str
    messages: int
    back_s: float
    wrong: str


@contextlib.contextmanager
def active_node(work: Path, first: Bundle, kill_at: str = "") -> Iterator[tuple[NodeProcess, Rig, dict[str, str]]]:
    """A node with `work`/vehicle as its folder, configured and active."""
    env = environment()
    values = {**default_values(first.path, first.spec, work), "deploy.folder": str(work / "vehicle")}
    process = NodeProcess(values, work, env, start_of(kill_at))
    try:
        rig = Rig(first.spec, env)
        try:
            rig.wait_for(lambda: rig.status is not None, "the node's first status")
            assert rig.change_state(Transition.TRANSITION_CONFIGURE), rig.status
            assert rig.change_state(Transition.TRANSITION_ACTIVATE), rig.status
            rig.drive_until_detection()
            yield process, rig, env
        finally:
            rig.close()
    finally:
        process.stop()


def deployer(bundle: Path, env: dict[str, str], shadow_s: float, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bev_perception.ros.deploy", str(bundle), "--asked-by", "kill_points"]
    gate = log.with_name("gate.yaml")
    gate.write_text(GATE)
    command += ["--shadow", str(shadow_s), "--watch", "1.0", "--gate", str(gate)]
    return subprocess.Popen(command, env=env, stdout=log.open("wb"), stderr=subprocess.STDOUT)


def try_point(of: str, point: str, work: Path) -> Row:
    """One row, with files in `work`, a folder that is not there yet."""
    work.mkdir()
    what, serves, verdict = (NODE_POINTS if of == "node" else DEPLOYER_POINTS)[point]
    bad = of == "node" and point in BAD
    first = tiny_bundle.write_bundle(work / "first")
    candidate = named_bundle(work / "candidate", "nan" if bad else NEW)
    messages: list[Any] = []
    log = work / "deploy.log"
    with active_node(work, first, point if of == "node" else "") as (process, rig, env):
        asking = deployer(candidate.path, env, 0.0 if bad else 1.0, log)
        try:
            if of == "node":
                rig.drive_until(
                    lambda: not process.alive() or asking.poll() is not None, f"the node to be killed at {point}"
                )
                said = log.read_text(errors="replace")
                assert not process.alive(), (
                    f"the deployer ended with {asking.poll()} and the node lives; it said: {said}"
                )
                killed = process.process.returncode == -signal.SIGKILL
            else:
                rig.drive_until(lambda: point in log.read_text(), f"the deployer to say {point}")
                asking.kill()
                rig.drive_until(lambda: ended(work), "the deployment to end without it")
                killed = asking.wait() == -signal.SIGKILL
                rig.drive_until_detection()
        finally:
            asking.kill()
            asking.wait()
        messages += rig.detections
    began = time.monotonic()
    with active_node(work, first) as (process, rig, _):
        back_s = time.monotonic() - began
        rig.drive_until_detection()
        found = rig.detections[-1].model_name
        problems = [] if killed else ["it was not killed where it should have been"]
        problems += [f"{message.model_name} served again" for message in rig.detections if message.model_name != serves]
        messages += rig.detections
    problems += left_behind(work) + malformed(messages, {first.spec.name: first, candidate.spec.name: candidate})
    end = ended(work) or NOTHING
    if (found, end) != (serves, verdict):
        problems.append(f"{found} serves and the journal says {end}, expected {serves} and {verdict}")
    return Row(of, point, what, found, end, len(messages), back_s, "; ".join(dict.fromkeys(problems)))


def ended(work: Path) -> str:
    """Verdict of the last line of the deployment, "" where it has none or no end."""
    lines = [line for line in journal.read(work / "vehicle" / JOURNAL).lines if line.step != "start"]
    return lines[-1].verdict if lines and lines[-1].verdict in ("done", "refused", "rolled_back") else ""


def left_behind(work: Path) -> list[str]:
    """What a deployment that was cut off may not leave."""
    vehicle = work / "vehicle"
    record = json.loads((vehicle / RECORD).read_text())
    problems = [f"left behind: {path.name}" for path in vehicle.rglob("*.part")]
    problems += [f"left behind: {path.name}" for path in (vehicle / BUNDLES).glob(f"{PART}*")]
    problems += list(journal.read(vehicle / JOURNAL).problems)
    problems += ["a trial is left in the record"] * (record["trial"] is not None)
    problems += [f"{record['starts']} starts are left in the record"] * (record["starts"] != 0)
    return problems


def malformed(messages: list[Any], bundles: dict[str, Bundle]) -> list[str]:
    """What no subscriber may see."""
    problems = []
    for message in messages:
        bundle = bundles.get(message.model_name)
        if bundle is None or message.model_sha256 != bundle.spec.onnx_sha256:
            problems.append(f"a message of {message.model_name!r} with the hash {message.model_sha256[:12]!r}")
            continue
        sensors = sorted([*message.sensors_used, *message.sensors_missing])
        if sensors != sorted(bundle.spec.cameras + bundle.spec.radars):
            problems.append(f"a message with the sensors {message.sensors_used} and {message.sensors_missing}")
        scores = [detection.score for detection in message.detections]
        if scores != sorted(scores, reverse=True):
            problems.append("a message whose scores do not fall")
        for detection in message.detections:
            position = detection.pose.pose.position
            numbers = (detection.score, position.x, position.y, position.z, detection.dimensions.x)
            if not all(map(math.isfinite, numbers)) or detection.class_name not in bundle.spec.classes:
                problems.append(f"a malformed detection: {numbers}, {detection.class_name!r}")
    return problems


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| killed | where | what was going on | serves afterwards | the journal ends with | messages | back, s |",
        "| --- | --- | --- | --- | --- | ---: | ---: |",
    ]
    for row in rows:
        serves = "the new model" if row.serves == NEW else "the old model"
        end = "no line" if row.journal == NOTHING else f"`{row.journal}`"
        where = f"`{row.point}`" if row.of == "node" else f'at "{row.point}"'
        lines.append(f"| {row.of} | {where} | {row.what} | {serves} | {end} | {row.messages} | {row.back_s:.1f} |")
    whole = sum(row.messages for row in rows)
    lines += ["", f"{len(rows)} kills, {whole} messages of detections; none was malformed, nothing was left behind."]
    return "\n".join(lines)


def busy() -> None:
    while os.getppid() != 1:
        sum(range(100_000))


def main() -> int:
    parser = argparse.ArgumentParser(prog="kill_points", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="points with one of these words")
    parser.add_argument("--docs", type=Path, help="page to write the table into")
    options = parser.parse_args()
    if options.docs:
        check_sections(options.docs, [SECTION])
    load = [multiprocessing.Process(target=busy, daemon=True) for _ in os.sched_getaffinity(0)]
    for process in load:
        process.start()
    rows = []
    try:
        with tempfile.TemporaryDirectory(prefix="kill_points_") as folder:
            for of, points in (("node", NODE_POINTS), ("deployer", DEPLOYER_POINTS)):
                for point in points:
                    if options.only and not any(word in f"{of} {point}" for word in options.only):
                        continue
                    row = try_point(of, point, Path(folder) / re.sub(r"\W", "_", f"{of}_{point}"))
                    rows.append(row)
                    print(f"{of:9} {point:17} {row.serves:7} {row.journal:12} {row.wrong or 'as expected'}", flush=True)
    finally:
        for process in load:
            process.kill()
    wrong = [row for row in rows if row.wrong]
    if options.docs and not wrong:
        replace_sections(options.docs, {SECTION: table(rows)})
    print(f"{len(rows)} kills, {len(wrong)} not as expected")
    return int(bool(wrong) or not rows)


if __name__ == "__main__":
    sys.exit(main())
