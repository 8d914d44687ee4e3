"""`make bench`: what the node costs outside the engine, how many images DDS delivers, how old detections are.

    python -m bev_perception.evaluation.bench [--only cost delivery node latency] [--bundle DIR] [--demo out/demo]

Prints tables and writes them into docs/benchmarks.md, between the marks of their names; nothing else of the page is
touched. `latency` is also kept as docs/data/latency.csv, from which its plot is drawn (`make docs`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.bench_cost import HEIGHT, RETURNS, WIDTH, measure_cost
from bev_perception.evaluation.bench_node import THREADS, measure_node
from bev_perception.evaluation.demo import machine
from bev_perception.evaluation.pages import check_sections, replace_sections
from bev_perception.evaluation.process import (
    DDS_PROFILE,
    Child,
    StageError,
    ends_with_its_children,
    own_domain,
    ros_environment,
)
from bev_perception.files import write_atomic
from bev_perception.model_spec import BundleError
from bev_perception.parameters import SHIPPED_BUNDLE

AIM_RATIO, AIM_MS, AIM_CHECKS_MS, AIM_DELIVERED = 8.0, 10.0, 0.3, 0.995
BOXES = 60
NODE_LOADS = {"352x198": 0.35, "1600x900": 0.70}  # size of the images -> most that the whole node is to take, in cores
NODE_SECONDS = 20.0
# Row of the delivery table -> the Fast DDS profile of sender and receiver.
PROFILES: dict[str, Path | None] = {
    "shared memory and UDP (shipped)": DDS_PROFILE,
    "shared memory alone": DDS_PROFILE.with_name("fastdds_shm_only.xml"),
    "Fast DDS defaults": None,
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown, columns aligned so that it reads well in a terminal too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * w if i == 0 else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def measure(what: str, *arguments: str, environment: dict[str, str], others: Callable[[], None] | None = None) -> Any:
    """Run bev_perception.ros.measure -> its JSON. `others` runs after it has started."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / f"{what}.log"
        with Child(what, ["bev_perception.ros.measure", what, *arguments], log, environment) as child:
            if others:
                others()
            child.wait(90)
            return json.loads(child.tail())


def cost_section(args: argparse.Namespace) -> str:
    spec = load_bundle(args.bundle).spec
    cost = measure_cost(spec)
    published = measure("publish", "--boxes", str(BOXES), environment=ros_environment(0))
    publish = published["detections"]
    stages = ["convert", "sync", "images", "radar", "decode", "checks"]
    rows = []
    for stage in stages:
        ours, full, scaled = cost.ours[stage], cost.stock.get(stage, 0.0), cost.stock_scaled.get(stage, 0.0)
        rows.append(
            [stage, f"{ours:.2f}", *(f"{s:.1f}" if s else "not counted" for s in (full, scaled)), _ratio(full, ours)]
        )
    rows.append(["publish", f"{publish:.2f}", *[f"{publish:.1f}"] * 2, "1"])
    ours = sum(cost.ours.values()) + publish
    full, scaled = (sum(s.values()) + publish for s in (cost.stock, cost.stock_scaled))
    rows.append(["all", f"{ours:.2f}", f"{full:.1f}", f"{scaled:.1f}", _ratio(full, ours)])
    head = ["stage", "this node, ms", "usual way, ms", "usual, scaled first, ms", "ratio"]
    ratio_verdict = "reached" if full / ours >= AIM_RATIO else "missed"
    time_verdict = "reached" if ours <= AIM_MS else "missed"
    return (
        f"{_context(args)}, one core, medians of the CPU time of {cost.frames} frames. "
        f"Six raw {WIDTH}x{HEIGHT} bgr8 images, five radars with {RETURNS} returns, "
        f"{BOXES} boxes published; the engine is not in it.\n\n"
        f"{table(head, rows)}\n\n"
        f"- {full / ours:.1f} times cheaper than the usual way (aim: {AIM_RATIO:g} times, {ratio_verdict}), "
        f"{scaled / ours:.1f} times where that scales before it normalises. {ours:.1f} ms (aim: at most {AIM_MS:g} ms, "
        f"{time_verdict}).\n"
        f"- The checks of contents, clocks and odometry take {cost.ours['checks']:.2f} ms (aim: at most "
        f"{AIM_CHECKS_MS:g} ms, {'reached' if cost.ours['checks'] <= AIM_CHECKS_MS else 'missed'}).\n"
        f"- Copying the six images once takes {cost.copy_ms:.1f} ms: "
        f"the node needs {ours / cost.copy_ms:.1f} times that.\n"
        "- The usual way: cv_bridge (or the same copy), float32 normalisation at full size, resize, transpose, stack; "
        "read_points as tuples; Python loops over points and boxes. Synchronisation is not counted against it, and "
        f"publishing is the same for both.\n- The markers for RViz take {published['markers']:.1f} ms more, while "
        "somebody looks at them."
    )


def _ratio(stock_ms: float, ours_ms: float) -> str:
    return f"{stock_ms / ours_ms:.1f}" if stock_ms else ""


def delivery_section(args: argparse.Namespace) -> str:
    rows: list[list[str]] = []
    for name, profile in PROFILES.items():
        environment = ros_environment(own_domain(len(rows)), profile)
        # As on a vehicle: with LOCALHOST the middleware adds transports of its own to those of the profile.
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
        counted: dict[str, Any] = {}

        def send(environment: dict[str, str] = environment, counted: dict[str, Any] = counted) -> None:
            counted.update(measure("send", "--seconds", str(args.seconds), environment=environment))

        counted |= measure("receive", "--seconds", str(args.seconds), environment=environment, others=send)
        share = counted["received"] / counted["sent"]
        each = [f"{counted[key]:.0f}" for key in ("latency_p50_ms", "latency_p99_ms")]
        each.append(f"{counted['cpu_ms_per_image']:.1f}")
        count = f"{counted['received']} of {counted['sent']}"
        rows.append([name, f"{100 * share:.1f} %", count, *(each if counted["received"] else ["none came"] * 3)])
    head = ["transport", "delivered", "images", "latency p50, ms", "p99, ms", "subscriber CPU per image, ms"]
    return (
        f"{_context(args)}. Six raw {WIDTH}x{HEIGHT} bgr8 cameras at 10 Hz for {args.seconds:g} s, best effort, "
        f"from one Python process to another.\n\n{table(head, rows)}\n\n"
        f"- The aim is {100 * AIM_DELIVERED:g} % delivered."
    )


def node_section(args: argparse.Namespace) -> str:
    rows = []
    for images, aim in NODE_LOADS.items():
        load = measure_node(args.bundle, images, NODE_SECONDS)
        cores = [f"{load.cores.get(name, 0.0):.2f}" for name in (*THREADS.values(), "DDS")]
        total = f"{sum(load.cores.values()):.2f}"
        rows.append([images, *cores, total, f"{aim:.2f}", str(load.processed), str(load.dropped)])
    head = ["images", *THREADS.values(), "DDS", "all", "aim", "frames", "dropped"]
    return (
        f"{_context(args)}. CPU seconds per second, by thread, of the whole node with an engine that answers at once: "
        f"six raw bgr8 cameras at 12 Hz, five radars at 13 Hz, odometry at 100 Hz for {NODE_SECONDS:g} s, from another "
        f"process.\n\n{table(head, rows)}\n\n"
        "- The pipeline's share is preprocessing and decoding of every frame; the publisher's, the messages of what "
        "was found, which is little here."
    )


def latency_section(args: argparse.Namespace) -> str:
    path = args.demo / "summary.json"
    if not path.is_file():
        raise StageError(f"{path} is missing: end-to-end latency is that of a demo run; run `make demo` first")
    summary = json.loads(path.read_text())
    rows = [
        [stage, *(f"{row[key]:.1f}" for key in ("p50", "p95", "p99", "max")), str(row["count"])]
        for stage, row in summary["latency_ms"].items()
    ]
    lines = ["stage,p50_ms,p95_ms,p99_ms,max_ms,count", *(",".join(row) for row in rows)]
    write_atomic(args.docs.parent / "data" / "latency.csv", "\n".join(lines) + "\n")
    facts = "; ".join(f"{name}: {value}" for name, value in summary["facts"].items())
    head = ["stage", "p50, ms", "p95, ms", "p99, ms", "max, ms", "count"]
    return (
        f"`make demo` ({facts}). {summary['frames']} frames processed, {summary['frames_dropped']} dropped because a "
        f"newer one was there.\n\n{table(head, rows)}\n\n"
        "- *total* is from the stamp of the frame, when its last image was "
        "taken, to the publication of its detections; in the recording images arrive 12 ms after their stamps."
    )


def _context(args: argparse.Namespace) -> str:
    return f"`{args.command}` on {machine()}"


# Name of the section in docs/benchmarks.md -> what measures and words it.
SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "cost": cost_section,
    "delivery": delivery_section,
    "node": node_section,
    "latency": latency_section,
}


@ends_with_its_children
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bev_perception.evaluation.bench", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("--demo", type=Path, default=Path("out/demo"), help="the demo run whose latency is reported")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each delivery measurement")
    parser.add_argument("--docs", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args(argv)
    args.command = "make bench"
    failed = False
    try:
        check_sections(args.docs, args.only)
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for name in args.only:
        print(f"\n{name} ...", flush=True)
        try:
            body = SECTIONS[name](args)
            print(body)
            replace_sections(args.docs, {name: body})
        except (StageError, BundleError) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
