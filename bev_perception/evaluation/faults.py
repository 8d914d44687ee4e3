"""About a hundred faults of sensors, put to the node over real DDS: what is used, what the status says, how long it
takes until all is as before.

    python -m bev_perception.evaluation.faults [--only WORD ...] [--out out/faults] [--docs docs/faults.md]

The node has its shipped model, with an engine that answers at once, and six cameras, five radars and odometry from a
process beside it; both are started anew for each car of bev_perception.ros.fault_table. Ends with status 1 where
something was not as that table says.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from bev_perception.evaluation.bench_node import running_node
from bev_perception.evaluation.pages import check_sections, replace_sections
from bev_perception.evaluation.process import StageError, ends_with_its_children
from bev_perception.files import write_atomic
from bev_perception.parameters import SHIPPED_BUNDLE

SECTION = "faults"
MACHINE, STOPPED = "usual", "the node is stopped for"  # the car whose node is stopped for a while, too


def table(outcomes: list[dict[str, Any]]) -> str:
    """Markdown: a row for each fault, in groups."""
    lines = []
    group = ""
    for o in outcomes:
        if o["group"] != group:
            group = o["group"]
            lines += ["", f"**{group}**", "", "| fault | used | level | what the status says | whole again, s |"]
            lines.append("| --- | ---: | --- | --- | ---: |")
        said = "; ".join(f"{name}: {reason or state}" for name, (state, reason) in o["says"].items())
        if not said:
            counted = [name for name in o["counted"] if not name.startswith(("frame", "memory", "output"))]
            said = ", ".join(f"`{name}` is counted" for name in counted) or "nothing"
        if len(said) > 150:
            said = said[:150].rsplit(" ", 1)[0] + " ..."
        whole = "never" if o["whole_s"] is None else f"{o['whole_s']:.1f}"
        whole = "started anew" if o["lasting"] else whole
        cells = (o["name"], f"{o['used']} of {o['sensors']}", o["level"], said.replace("|", "/"), whole)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).strip()


def try_all(out: Path, only: list[str]) -> list[dict[str, Any]]:
    """What bev_perception.ros.try_faults wrote of each car with a fault that is asked for. Raises StageError."""
    from bev_perception.ros.fault_table import CARS  # needs ROS 2

    outcomes: list[dict[str, Any]] = []
    for name, car in CARS.items():
        faults = [fault.name for group in car.faults.values() for fault in group] + [STOPPED] * (name == MACHINE)
        if not only or any(word in fault for word in only for fault in faults):
            outcomes += try_car(out / name, name, dict(car.parameters), only)
    if not outcomes:
        raise StageError(f"no fault has a name with one of {', '.join(only)}")
    write_atomic(out / "faults.json", json.dumps(outcomes, indent=1) + "\n")
    return outcomes


def try_car(out: Path, name: str, parameters: dict[str, Any], only: list[str]) -> list[dict[str, Any]]:
    """Node and car as processes -> the outcomes."""
    out.mkdir(parents=True, exist_ok=True)
    result = out / "faults.json"
    result.unlink(missing_ok=True)
    with running_node(out, SHIPPED_BUNDLE, parameters) as node:
        arguments = ["--params", str(out / "played.yaml"), "--out", str(result), "--car", name]
        arguments += ["--pid", str(node.told()["pid"])] if name == MACHINE else []
        arguments += ["--only", *only] if only else []
        with node.start("car", "bev_perception.ros.try_faults", *arguments) as car:
            while car.running:
                node.process.check()
                time.sleep(0.5)
    if not result.is_file():
        raise StageError(f"{name}: no fault was tried: {car.tail()}", car.log)
    outcomes: list[dict[str, Any]] = json.loads(result.read_text())
    return outcomes


@ends_with_its_children
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bev_perception.evaluation.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="faults whose name has one of these words")
    parser.add_argument("--out", type=Path, default=Path("out/faults"))
    parser.add_argument("--docs", type=Path, help="page to write the table into, such as docs/faults.md")
    args = parser.parse_args(argv)
    try:
        if args.docs:
            check_sections(args.docs, [SECTION])
        outcomes = try_all(args.out, args.only)
    except (StageError, ValueError, OSError) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    wrong = [f"{o['name']}: {o['wrong']} (the car was {o['car_late_ms']:.0f} ms late)" for o in outcomes if o["wrong"]]
    again = sum(o["tries"] > 1 for o in outcomes)
    print(f"{len(outcomes)} faults, {len(wrong)} not as expected; {again} tried twice")
    print("\n".join(wrong))
    if args.docs:
        replace_sections(args.docs, {SECTION: table(outcomes)})
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
