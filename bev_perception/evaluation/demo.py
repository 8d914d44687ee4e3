"""`make demo`: a recorded drive through the real node over ROS 2, scored, compared with the offline replay, reported.

    python -m bev_perception.evaluation.demo DRIVE --out out/demo

DRIVE is a rosbag2 recording with ground truth, such as `make demo` renders. Stages: start and bring up the node,
record, play in real time, stop, score with the nuScenes metric, replay the same frames offline, draw, write the report.
Everything that needs ROS is a process.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bev_perception.bundle import load_bundle
from bev_perception.calibration import CalibrationError
from bev_perception.evaluation.bag import BagError, bag_duration_s, read_bag, read_ground_truth
from bev_perception.evaluation.live import SAID, LiveNode, input_topics, record_drive, write_parameters
from bev_perception.evaluation.outage import Outage, Run, outage_of, silences, topics_that_end
from bev_perception.evaluation.process import Child, StageError, ends_with_its_children, ros_environment
from bev_perception.evaluation.report_page.data import Health
from bev_perception.evaluation.results import LiveRun, read_live_run, report_data, summarize
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.parameters import SHIPPED_BUNDLE, NodeConfig, ParameterError
from bev_perception.sync_config import MS
from bev_perception.usual.table import read_health

ENGINE = "backend=openvino"  # the faster one on processors; `--set backend=onnxruntime` asks for the other
SCORE_FLOOR = 0.03  # AP wants the whole curve; the node publishes from the bundle's thresholds up
START = time.monotonic()


def say(text: str) -> None:
    print(f"[demo {time.monotonic() - START:5.1f} s] {text}", flush=True)


def drive_facts(bag: Path, config: NodeConfig) -> str:
    """Name, length and image size of a recording, for the report."""
    topics = {camera.info_topic for camera in config.cameras.values()}
    sizes = sorted({f"{m.message.width}x{m.message.height}" for m in read_bag(bag, topics)})
    return ", ".join([bag.name, f"{bag_duration_s(bag):.0f} s", *([f"images {' and '.join(sizes)}"] if sizes else [])])


def drive_live(
    bag: Path,
    params: Path,
    config: NodeConfig,
    result: Path,
    log: Path,
    rate: float = 1.0,
    ends: Mapping[str, float] | None = None,
) -> None:
    """Node, recorder and player over DDS -> the bag `result` of what was published. rate 1 is real time; ends: topic ->
    seconds of the drive after which it is silent. Raises StageError."""
    shutil.rmtree(result, ignore_errors=True)
    say(f"starting the node; then the drive is played at {rate:g} x real time")
    silent = ["--end", *(f"{topic}={seconds:.3f}" for topic, seconds in ends.items())] if ends else []
    with LiveNode(params, log) as live:
        say(record_drive(bag, live, input_topics(config), result, SAID, rate, *silent))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """Processor and cores, for the report."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {cores()} cores"


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All stages -> what summary.json holds. Raises StageError and the errors of bundle and bag."""
    out: Path = args.out.resolve()
    log = out / "log"
    out.mkdir(parents=True, exist_ok=True)
    bundle_path: Path = args.bundle.resolve()
    bundle = load_bundle(bundle_path)
    spec = bundle.spec
    bag: Path = args.drive.resolve()
    params, config = write_parameters(out, bag, bundle_path, spec, [ENGINE, *args.set])
    result, silent = out / "result", out / "silent_cameras"
    drive_live(bag, params, config, result, log, args.rate)
    ends = silences(tuple(config.cameras), bag_duration_s(bag))
    if ends:
        say("once more, with the cameras falling silent one after the other")
        drive_live(bag, params, config, silent, log / silent.name, args.rate, topics_that_end(config, ends))

    say("replaying the same frames offline; scoring and drawing meanwhile")
    replay_arguments = ["bev_perception.replay", str(bag), "--bundle", str(bundle_path), "--params", str(params)]
    replay_arguments += ["--stamps-from", str(result), "--out", str(out / "offline"), "--score-floor", str(SCORE_FLOOR)]
    environment = ros_environment(0)
    with Child("replay", replay_arguments, log / "replay.log", environment) as offline:
        live: LiveRun = read_live_run(bag, result, spec)
        outage = _outage(bag, silent, spec, live, ends) if ends else None
        say(f"  {live.frames} live frames scored")
        pictures = live.draw(bag, spec, config)
        say("  pictures drawn")
        offline.wait(300)
    facts = {
        "drive": drive_facts(bag, config),
        "model": f"{spec.name} (ONNX sha256 {spec.onnx_sha256[:16]})",
        "engine": f"{live.backend}; node, player and recorder are processes of their own, DDS over shared memory",
        "replay": "in real time" if args.rate == 1 else f"at {args.rate:g} x real time, latencies in simulated time",
        "machine": machine(),
    }
    if args.set:
        facts["parameters"] = " ".join(args.set)
    health = Health(live.statuses, read_health(bundle) is not None, config.watch_share > 0)
    data = report_data(live, pictures, out / "offline", facts, bag, result, health, outage)
    return summarize(data, live, out, config.sync_config(spec).period_ns / MS / args.rate)


def _outage(bag: Path, silent: Path, spec: ModelSpec, live: LiveRun, ends: Mapping[str, float]) -> Outage:
    """live: the run without silence."""
    lost, truth = read_live_run(bag, silent, spec), read_ground_truth(bag)
    once, again = (Run(run.messages, run.ages_ms, truth) for run in (live, lost))
    return outage_of(ends, again, once, lost.statuses)


@ends_with_its_children
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bev_perception.evaluation.demo", description=__doc__)
    parser.add_argument("drive", type=Path, help="rosbag2 recording with ground truth")
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("--rate", type=float, default=1.0, help="of the replay; below 1 for a machine that is too slow")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help=f"parameters of node and replay, over {ENGINE}"
    )
    args = parser.parse_args(argv)
    try:
        summary = run(args)
    except StageError as error:
        where = f"\n  log: {error.log}" if error.log else ""
        print(f"demo failed: {error}{where}", file=sys.stderr)
        return 1
    except (BundleError, BagError, CalibrationError, ParameterError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    say("done")
    print(summary["text"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
