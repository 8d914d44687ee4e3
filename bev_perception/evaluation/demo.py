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
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from bev_perception.bundle import load_bundle
from bev_perception.calibration import StaticTree, save_extrinsics
from bev_perception.evaluation.bag import (
    DETECTIONS_TOPIC,
    MARKERS_TOPIC,
    STATUS_TOPIC,
    BagError,
    bag_duration_s,
    read_bag,
)
from bev_perception.evaluation.process import Child, StageError, ends_with_its_children, own_domain, ros_environment
from bev_perception.evaluation.results import LiveRun, read_live_run, report_data, summarize
from bev_perception.files import write_atomic
from bev_perception.messages import DIAGNOSTICS_TOPIC
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.parameters import (
    SHIPPED_BUNDLE,
    SHIPPED_PARAMETERS,
    NodeConfig,
    ParameterError,
    load_config,
    parse_yaml,
)
from bev_perception.sync_config import MS
from bev_perception.yaml_file import YamlError, parse_yaml_text

SCORE_FLOOR = 0.03  # AP wants the whole curve; the node publishes from the bundle's thresholds up
RECORDED = (DETECTIONS_TOPIC, MARKERS_TOPIC, STATUS_TOPIC, DIAGNOSTICS_TOPIC)
LAST_FRAMES_S = 1.5  # after the bag has ended, until what is under way has been published and recorded
START = time.monotonic()


def say(text: str) -> None:
    print(f"[demo {time.monotonic() - START:5.1f} s] {text}", flush=True)


def write_parameters(
    out: Path, bag: Path, bundle: Path, spec: ModelSpec, changes: Sequence[str] = ()
) -> tuple[Path, NodeConfig]:
    """The shipped parameters with this bundle, and extrinsics from the drive in a file.

    A file, because tf2_msgs is not among the ROS wheels; node and replay read the same one. changes: `NAME=VALUE`, the
    value as YAML. Raises ParameterError for an unknown name or a value that it cannot have.
    """
    tree = StaticTree()
    for message in read_bag(bag, {"/tf_static"}):
        tree.add(message.message.transforms)
    sensors = (*spec.cameras, *spec.radars)
    extrinsics = out / "extrinsics.yaml"
    save_extrinsics(extrinsics, "base_link", {name: tree.lookup("base_link", name.lower()) for name in sensors})
    values = parse_yaml(SHIPPED_PARAMETERS)
    values |= {"bundle": str(bundle), "extrinsics.source": "file", "extrinsics.file": str(extrinsics)}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ParameterError(f"--set {change}: expected NAME=VALUE, such as onnxruntime.threads=1")
        try:
            values[name] = parse_yaml_text(text)
        except YamlError as error:
            raise ParameterError(f"--set {change[:80]}: {error}") from error
    path = out / "params.yaml"
    write_atomic(path, yaml.safe_dump({"/**": {"ros__parameters": values}}, sort_keys=False))
    return path, load_config(bundle, path)


def drive_facts(bag: Path, config: NodeConfig) -> str:
    """Name, length and image size of a recording, for the report."""
    topics = {camera.info_topic for camera in config.cameras.values()}
    sizes = sorted({f"{m.message.width}x{m.message.height}" for m in read_bag(bag, topics)})
    return ", ".join([bag.name, f"{bag_duration_s(bag):.0f} s", *([f"images {' and '.join(sizes)}"] if sizes else [])])


def drive_live(bag: Path, params: Path, config: NodeConfig, out: Path, log: Path, rate: float = 1.0) -> Path:
    """Node, recorder and player over DDS -> the recorded result bag. rate 1 is real time. Raises StageError."""
    result = out / "result"
    shutil.rmtree(result, ignore_errors=True)
    environment = ros_environment(own_domain())
    topics = [config.odometry.topic, *(r.topic for r in config.radars.values())]
    topics += [t for c in config.cameras.values() for t in (c.topic, c.info_topic)]
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> Child:
            return stack.enter_context(Child(name, arguments, log / f"{name}.log", environment))

        say("starting the node")
        node_arguments = ("--ros-args", "--params-file", str(params), "-p", "use_sim_time:=true")
        node = start("node", "bev_perception.ros.node", *node_arguments)
        record_arguments = (str(result), "--use-sim-time", "--topics", *RECORDED)
        recorder = start("recorder", "bev_perception.ros.record_bag", *record_arguments)
        bring_up = start("bring_up", "bev_perception.ros.bring_up", "configure", "activate", "--timeout", "60")
        bring_up.wait(70, others=(node, recorder))
        say(f"the node is active; playing the drive at {rate:g} x real time")
        play_arguments = (
            str(bag),
            "--clock",
            "--rate",
            str(rate),
            "--topics",
            *topics,
            "--wait-for-subscribers",
            str(len(topics)),
        )
        player = start("player", "bev_perception.ros.play_bag", *play_arguments)
        player.wait(60 + 60 / rate, others=(node, recorder))
        say(player.tail())
        time.sleep(LAST_FRAMES_S)
        for child in (node, recorder):
            child.check()
        recorder.stop()
        if not result.is_dir():
            raise StageError(f"the recorder left no result bag: {recorder.tail()}", recorder.log)
        if node.stop() != 0:
            raise StageError(f"the node did not end cleanly: {node.tail()}", node.log)
    return result


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
    spec = load_bundle(bundle_path).spec
    bag: Path = args.drive.resolve()
    params, config = write_parameters(out, bag, bundle_path, spec, args.set)
    result = drive_live(bag, params, config, out, log, args.rate)

    say("replaying the same frames offline; scoring and drawing meanwhile")
    replay_arguments = ["bev_perception.replay", str(bag), "--bundle", str(bundle_path), "--params", str(params)]
    replay_arguments += ["--stamps-from", str(result), "--out", str(out / "offline"), "--score-floor", str(SCORE_FLOOR)]
    environment = ros_environment(0)
    with Child("replay", replay_arguments, log / "replay.log", environment) as offline:
        live: LiveRun = read_live_run(bag, result, spec)
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
    data = report_data(live, pictures, out / "offline", facts, bag, result)
    return summarize(data, live, out, config.sync_config(spec).period_ns / MS / args.rate)


@ends_with_its_children
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bev_perception.evaluation.demo", description=__doc__)
    parser.add_argument("drive", type=Path, help="rosbag2 recording with ground truth")
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("--rate", type=float, default=1.0, help="of the replay; below 1 for a machine that is too slow")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="parameters of node and replay")
    args = parser.parse_args(argv)
    try:
        summary = run(args)
    except StageError as error:
        where = f"\n  log: {error.log}" if error.log else ""
        print(f"demo failed: {error}{where}", file=sys.stderr)
        return 1
    except (BundleError, BagError, ParameterError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    say("done")
    print(summary["text"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
