"""Plays a car with one fault after the other to a running node and writes down what its status says; a process of
bev_perception.evaluation.faults.

python -m bev_perception.ros.try_faults --params YAML --out FILE.json [--pid NODE] [--only WORD ...]
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from bev_perception.files import write_atomic
from bev_perception.messages import PUBLISHERS, STATUS_TOPIC, message_class
from bev_perception.parameters import NodeConfig, load_config, parse_yaml, resolve_path
from bev_perception.ros.car import Car, as_it_is
from bev_perception.ros.diagnostics import STATES
from bev_perception.ros.fault_table import ALL, FAULTS, SOMETIMES, Fault
from bev_perception.structures import ODOMETRY
from bev_perception_msgs.msg import PerceptionStatus

IMAGE_SIZE = (352, 198)
WHOLE_S = 20.0  # how long to wait until nothing of a fault is left
LOOK_S = 0.8  # statuses of so long before the fault ends are looked at
NAMES = {number: state for state, number in STATES.items()}
LEVELS = {
    PerceptionStatus.OK: "OK", PerceptionStatus.DEGRADED: "DEGRADED", PerceptionStatus.NO_OUTPUT: "NO_OUTPUT",
    PerceptionStatus.INACTIVE: "INACTIVE", PerceptionStatus.ERROR: "ERROR",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One fault. used: sensors of the last detections while it lasted, of `sensors`; detections: how many came then.

    says: sensor -> (state, reason) of those that were not ok in the newest status. counted: reasons, with how often.
    whole_s: seconds from the end of the fault until the status was as before; None: not within WHOLE_S.
    wrong: what was not as the table says, "" where all was.
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
    wrong: str


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
    car.change = fault.change()
    act()
    car.drive(fault.seconds)
    ended = time.monotonic()
    during = [m for at, m in seen.statuses if at > (began if fault.once else ended - LOOK_S)]
    found = [m for at, m in seen.detections if at > ended - LOOK_S]
    status = during[-1] if during else seen.status()
    assert status is not None
    car.change = as_it_is
    car.drive(WHOLE_S, until=lambda: seen.is_whole(ended))
    whole_s = time.monotonic() - ended if seen.is_whole(ended) else None
    counted = dict(counters(seen) - before)
    says: dict[str, tuple[str, str]] = {
        s.name: (NAMES[s.state], s.reason) for s in status.sensors if NAMES[s.state] != "ok"
    }
    if fault.once:
        says = {}
    return Outcome(
        group,
        fault.name,
        LEVELS[status.level],
        status.summary,
        says,
        len(found[-1].sensors_used) if found else 0,
        len(config.cameras) + len(config.radars),
        len(found),
        counted,
        whole_s,
        wrong(fault, says, counted, whole_s, config),
    )


def counters(seen: Observer) -> Counter[str]:
    status = seen.status()
    return Counter({c.name: int(c.value) for c in status.counters}) if status is not None else Counter()


def wrong(
    fault: Fault, says: dict[str, tuple[str, str]], counted: dict[str, int], whole_s: float | None, config: NodeConfig
) -> str:
    """What was not as the table has it, or ""."""
    groups = {"cameras": list(config.cameras), "radars": list(config.radars)}
    groups[ALL] = [*config.cameras, *config.radars]
    expected: dict[str, tuple[str, str]] = {}
    for name, what in fault.expect.items():
        expected |= dict.fromkeys(groups.get(name, [name]), what)
    faults = []
    for name, (state, reason) in expected.items():
        found_state, found_reason = says.get(name, ("ok", ""))
        if state == SOMETIMES and found_state == "ok":
            continue
        wanted = found_state if state == SOMETIMES else state
        if state != "*" and (found_state != wanted or not found_reason.startswith(reason)):
            faults.append(f"{name} is {found_state} ({found_reason}), expected {state} ({reason})")
    touched = [name for name in says if name not in expected and not (fault.everybody or name == ODOMETRY)]
    faults += [f"{name} is {says[name][0]} ({says[name][1]}), expected ok" for name in touched]
    if fault.counter and fault.counter not in counted:
        faults.append(f"{fault.counter} was not counted")
    if whole_s is None:
        faults.append(f"not whole again within {WHOLE_S:g} s")
    return "; ".join(faults)


def stopped(pid: int, seconds: float) -> Callable[[], None]:
    """Stops a process for a while, as a debugger or a busy machine does."""

    def act() -> None:
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(seconds, os.kill, (pid, signal.SIGCONT)).start()

    return act


def spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def run(args: argparse.Namespace) -> list[Outcome]:
    config = load_config(resolve_path(parse_yaml(args.params)["bundle"]), args.params)
    rclpy.init()
    node = rclpy.create_node("try_faults")
    seen, car = Observer(node), Car(node, config, *IMAGE_SIZE)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    listening = threading.Thread(target=spin, args=(executor,))
    listening.start()
    time.sleep(1.0)
    car.drive(60.0, until=lambda: seen.is_whole(0.0))
    if not seen.is_whole(0.0):
        status = seen.status()
        rclpy.try_shutdown()
        raise RuntimeError(f"the node is not well before any fault: {status.summary if status else 'no status'}")
    rows: list[tuple[str, Fault, Callable[[], None]]] = [
        (group, fault, lambda: None) for group, faults in FAULTS.items() for fault in faults
    ]
    if args.pid:
        for seconds in (0.3, 2.0):
            fault = Fault(f"the node is stopped for {seconds:g} s", lambda: as_it_is, once=True, seconds=3.0)
            rows.append(("The machine", fault, stopped(args.pid, seconds)))
    outcomes = []
    for group, fault, act in rows:
        if args.only and not any(word in fault.name for word in args.only):
            continue
        outcome = try_fault(group, fault, car, seen, config, act)
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
    parser.add_argument("--pid", type=int, help="of the node, for faults of the machine")
    parser.add_argument("--only", nargs="+", help="faults whose name has one of these words")
    outcomes = run(parser.parse_args(args))
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
