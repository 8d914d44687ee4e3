"""Plays a car with one fault after the other to a running node and writes down what its status says; a process of
bev_perception.evaluation.faults.

python -m bev_perception.ros.try_faults --params YAML --out FILE.json [--car NAME] [--pid NODE] [--only WORD ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from bev_perception.calibration import load_extrinsics
from bev_perception.files import write_atomic
from bev_perception.messages import PUBLISHERS, STATUS_TOPIC, message_class
from bev_perception.parameters import NodeConfig, load_config, parse_yaml, resolve_path
from bev_perception.ros.car import Car, as_it_is
from bev_perception.ros.diagnostics import STATES
from bev_perception.ros.fault_table import CARS, CarOfFaults
from bev_perception.ros.fault_table.fault import ALL, CAMERA, SENSORS, SOMETIMES, SUSPECT, Fault, unchanged
from bev_perception.structures import ODOMETRY
from bev_perception_msgs.msg import PerceptionStatus

IMAGE_SIZE = (352, 198)
WHOLE_S = 20.0  # how long to wait until nothing of a fault is left
LOOK_S = 0.8  # statuses of so long before the fault ends are looked at
# What nothing may count unless its row names it: consequences for the sensors that are well, and failures of the node.
# `overloaded` is not among them: a machine that others keep busy has it now and then.
FORBIDDEN = ("reset/*", "*/late", "*/conversion_failed", "*_failed")
FEW = 3  # frames that a sensor may be late for, of thirty or so: the car's process is held up now and then, too
NAMES = {number: state for state, number in STATES.items()}
LEVELS = {
    PerceptionStatus.OK: "OK", PerceptionStatus.DEGRADED: "DEGRADED", PerceptionStatus.NO_OUTPUT: "NO_OUTPUT",
    PerceptionStatus.INACTIVE: "INACTIVE", PerceptionStatus.ERROR: "ERROR",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One fault. used: sensors of the last detections while it lasted, of `sensors`; detections: how many came then.

    says: sensor -> (state, reason) of those that were not ok in the newest status (of a fault that is a moment: in any
    status since). counted: reasons, with how often. whole_s: seconds from the end of the fault until the status was as
    before; None: not within WHOLE_S, or the fault lasts.
    car_late_ms: the most that the car was behind its own times: much of it means that the machine is busy with others.
    wrong: what was not as the table says, "" where all was. tries: 2 where the first was wrong, as it is now and then
    on a machine that others keep busy; the outcome is that of the second.
    """

    group: str
    name: str
    level: str
    summary: str
    says: dict[str, tuple[str, str]]
    used: int
    sensors: int
    detections: int
    counted: dict[str, int]
    whole_s: float | None
    lasting: bool
    car_late_ms: float
    wrong: str
    tries: int = 1


class Observer:
    """Listens to the node in a thread of its own."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.statuses: list[tuple[float, Any]] = []
        self.detections: list[tuple[float, Any]] = []
        self._listen(PerceptionStatus, STATUS_TOPIC, self.statuses)
        output = PUBLISHERS["detections"]
        self._listen(message_class(output.kind), output.topic, self.detections)

    def _listen(self, kind: type, topic: str, into: list[tuple[float, Any]]) -> None:
        self._node.create_subscription(kind, topic, lambda m: into.append((time.monotonic(), m)), 50)

    def status(self) -> Any | None:
        return self.statuses[-1][1] if self.statuses else None

    def is_whole(self, since: float) -> bool:
        """Three statuses in a row, all newer, that say that all is well."""
        newest = [m for at, m in self.statuses[-3:] if at > since]
        return len(newest) == 3 and all(m.level == PerceptionStatus.OK for m in newest)


def try_fault(
    group: str, fault: Fault, car: Car, seen: Observer, config: NodeConfig, act: Callable[[], None] = lambda: None
) -> Outcome:
    """`act` is called when the fault begins."""
    before = counters(seen)
    began = time.monotonic()
    car.change, car.late_s = fault.change(), 0.0
    act()
    car.drive(fault.seconds)
    ended = time.monotonic()
    during = [m for at, m in seen.statuses if at > (began if fault.once else ended - LOOK_S)]
    found = [m for at, m in seen.detections if at > ended - LOOK_S]
    status = during[-1] if during else seen.status()
    assert status is not None
    whole_s = None
    if not fault.lasting:
        car.change = as_it_is
        car.drive(WHOLE_S, until=lambda: seen.is_whole(ended))
        whole_s = time.monotonic() - ended if seen.is_whole(ended) else None
    says: dict[str, tuple[str, str]] = {}
    for looked_at in during if fault.once else [status]:
        says |= {s.name: (NAMES[s.state], s.reason) for s in looked_at.sensors if NAMES[s.state] != "ok"}
    outcome = Outcome(
        group,
        fault.name,
        LEVELS[status.level],
        status.summary,
        says,
        len(found[-1].sensors_used) if found else 0,
        len(config.cameras) + len(config.radars),
        len(found),
        dict(counters(seen) - before),
        whole_s,
        fault.lasting,
        round(car.late_s * 1e3, 1),
        "",
    )
    return replace(outcome, wrong=wrong(fault, outcome, config))


def counters(seen: Observer) -> Counter[str]:
    status = seen.status()
    return Counter({c.name: int(c.value) for c in status.counters}) if status is not None else Counter()


def expectations(fault: Fault, config: NodeConfig) -> dict[str, tuple[str, str]]:
    """Sensor -> (state, reason), of the groups that the row names."""
    groups = {"cameras": list(config.cameras), "radars": list(config.radars)}
    groups[SENSORS] = [*config.cameras, *config.radars]
    groups[ALL] = [*groups[SENSORS], ODOMETRY]
    expected: dict[str, tuple[str, str]] = {}
    for name, what in fault.expect.items():
        expected |= dict.fromkeys(groups.get(name, [name]), what)
    return expected


def wrong(fault: Fault, outcome: Outcome, config: NodeConfig) -> str:
    """What was not as the table has it, or ""."""
    expected = expectations(fault, config)
    faults = []
    for name in dict.fromkeys([*expected, *outcome.says]):
        state, reasons = expected.get(name, ("ok", ""))
        found, reason = outcome.says.get(name, ("ok", ""))
        if state == ALL or (found == "ok" and state in (SOMETIMES, "ok")):
            continue
        fits = any(reason.startswith(start) for start in reasons.split("|"))
        if found == "ok" or state not in (found, SOMETIMES) or not fits:
            faults.append(f"{name} is {found} ({reason}), expected {state} ({reasons})")
    if (level := expected_level(fault, expected, config)) not in (outcome.level, ALL):
        faults.append(f"the level is {outcome.level}, expected {level}")
    lost = [name for name in expected if name != ODOMETRY and expected[name][0] not in (SUSPECT, SOMETIMES, ALL)]
    unsure = [name for name in expected if name != ODOMETRY and expected[name][0] in (SOMETIMES, ALL)]
    most = outcome.sensors - len(lost) if fault.used is None else fault.used
    least = most - len(unsure) if fault.used is None else fault.used
    if not least <= outcome.used <= most:
        faults.append(f"{outcome.used} sensors are used, expected {least if least == most else f'{least} to {most}'}")
    if fault.counter and fault.counter not in outcome.counted:
        faults.append(f"{fault.counter} was not counted")
    faults += [
        f"{name} was counted ({outcome.counted[name]})" for name in sorted(uncalled_for(fault, outcome, expected))
    ]
    if outcome.whole_s is None and not fault.lasting:
        faults.append(f"not whole again within {WHOLE_S:g} s")
    return "; ".join(faults)


def expected_level(fault: Fault, expected: Mapping[str, tuple[str, str]], config: NodeConfig) -> str:
    """Written down anew here, and not asked of bev_perception.modes: the front camera, all cameras or the ego motion
    lost are errors, anything else degrades."""
    states = {name: state for name, (state, _) in expected.items()}
    if fault.level:
        return fault.level
    if fault.once:
        return "OK"
    if {ALL, SOMETIMES} & set(states.values()):
        return ALL
    lost = {name for name, state in states.items() if state != SUSPECT}
    if lost & {CAMERA, ODOMETRY} or lost >= set(config.cameras):
        return "ERROR"
    return "DEGRADED" if states else "OK"


def uncalled_for(fault: Fault, outcome: Outcome, expected: Mapping[str, tuple[str, str]]) -> set[str]:
    """Counted, though nothing in the row calls for it: a sensor that is not well is missed by frames, too."""
    named = {fault.counter, *fault.may, *(f"{sensor}/late" for sensor in expected)}

    def fits(name: str, patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    counted = {name for name, count in outcome.counted.items() if count > (FEW if name.endswith("/late") else 0)}
    return {name for name in counted if fits(name, FORBIDDEN) and not fits(name, named)}


# Seconds that the node's process is stopped for -> the fault: frames of that time lack what its queues lost, which is
# called by its name; after longer than `sync.silence_ms` the first status finds sensors silent.
STOPPED = {
    seconds: Fault(
        f"the node is stopped for {seconds:g} s", unchanged, {ALL: (SOMETIMES, said)}, once=True, seconds=3.0
    )
    for seconds, said in ((0.3, "overloaded"), (2.0, "overloaded|stale"))
}


def stopped(pid: int, seconds: float) -> Callable[[], None]:
    """Stops a process for a while, as a debugger or a busy machine does."""

    def act() -> None:
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(seconds, os.kill, (pid, signal.SIGCONT)).start()

    return act


def spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def make_car(node: Node, kind: CarOfFaults, config: NodeConfig, params: Path) -> Car:
    mounts = {}
    if config.extrinsics_file is None:
        file = params.with_name("calibration.yaml")
        mounts = load_extrinsics(file, config.base_frame, [*config.cameras, *config.radars])
    return Car(node, config, *IMAGE_SIZE, kind.pictures, kind.topics, mounts)


def run(args: argparse.Namespace) -> list[Outcome]:
    config, kind = load_config(resolve_path(parse_yaml(args.params)["bundle"]), args.params), CARS[args.car]
    rows: list[tuple[str, Fault, Callable[[], None]]] = [
        (group, fault, lambda: None) for group, faults in kind.faults.items() for fault in faults
    ]
    if args.pid:
        rows += [("The machine", fault, stopped(args.pid, seconds)) for seconds, fault in STOPPED.items()]
    rclpy.init()
    node = rclpy.create_node("try_faults")
    seen, car = Observer(node), make_car(node, kind, config, args.params)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    listening = threading.Thread(target=spin, args=(executor,))
    listening.start()
    time.sleep(1.0)
    if not any(fault.lasting for _, fault, _ in rows):
        car.drive(60.0, until=lambda: seen.is_whole(0.0))
        if not seen.is_whole(0.0):
            status = seen.status()
            rclpy.try_shutdown()
            raise RuntimeError(f"the node is not well before any fault: {status.summary if status else 'no status'}")
    outcomes = []
    for group, fault, act in rows:
        if args.only and not any(word in fault.name for word in args.only):
            continue
        outcome = try_fault(group, fault, car, seen, config, act)
        if outcome.wrong and not fault.lasting:
            late = f"the car was {outcome.car_late_ms:.0f} ms late"
            print(f"{outcome.level:9} {fault.name}: {outcome.wrong}; {late}; once more", flush=True)
            outcome = replace(try_fault(group, fault, car, seen, config, act), tries=2)
        outcomes.append(outcome)
        print(f"{outcome.level:9} {fault.name}: {outcome.wrong or 'as expected'}", flush=True)
        write_atomic(args.out, json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
        del seen.statuses[:-3], seen.detections[:-1]
    rclpy.try_shutdown()
    listening.join()
    return outcomes


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="try_faults", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--car", choices=list(CARS), default="usual", help="what the car sends, and its faults")
    parser.add_argument("--pid", type=int, help="of the node, for faults of the machine")
    parser.add_argument("--only", nargs="+", help="faults whose name has one of these words")
    outcomes = run(parser.parse_args(args))
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
