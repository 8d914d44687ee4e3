"""The node, alive, with a drive that is played to it: for the demo, and to do something with a node that runs.

    python -m bev_perception.evaluation.live DRIVE --out out/vehicle --record out/recorded
    python -m bev_perception.evaluation.live DRIVE --out out/vehicle -- bev_perception.ros.deploy out/better

The first plays DRIVE once and records all of it that can be published, and what the node found; a bag that is there
is not recorded anew. The second plays DRIVE again and again while `python -m` runs what stands after `--`, beside the
node and in its ROS domain, and ends with the status of that. Node, player and recorder are processes of their own and
end with this one. --out gets the parameters, the calibration and the logs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import yaml

from bev_perception.bags.recording import open_bag
from bev_perception.bundle import load_bundle
from bev_perception.calibration import CalibrationError, StaticTree, save_extrinsics
from bev_perception.evaluation.bag import DETECTIONS_TOPIC, MARKERS_TOPIC, STATUS_TOPIC, BagError, read_bag
from bev_perception.evaluation.process import (
    Child,
    StageError,
    ends_with_its_children,
    own_domain,
    ros_environment,
    run_in_front,
)
from bev_perception.evaluation.results import LiveRun, read_live_run
from bev_perception.files import write_atomic
from bev_perception.messages import DIAGNOSTICS_TOPIC
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.parameters import (
    NODE_NAME,
    SHIPPED_BUNDLE,
    SHIPPED_PARAMETERS,
    NodeConfig,
    ParameterError,
    load_config,
    make_config,
    parse_yaml,
)
from bev_perception.yaml_file import YamlError, parse_yaml_text

SAID = (DETECTIONS_TOPIC, MARKERS_TOPIC, STATUS_TOPIC, DIAGNOSTICS_TOPIC)  # what of the node is recorded
LAST_FRAMES_S = 1.5  # after the drive has ended, until what is under way has been published and recorded
BRING_UP_S = 60.0


def write_parameters(
    out: Path, bag: Path, bundle: Path, spec: ModelSpec, changes: Sequence[str] = (), base: Path | None = None
) -> tuple[Path, NodeConfig]:
    """The parameters of `base` (default: the shipped ones) with this bundle; where they take extrinsics from tf, those
    of the drive in a file, for the sensors that the vehicle has.

    A file, because tf2_msgs is not among the ROS wheels; node and replay read the same one. changes: `NAME=VALUE`, the
    value as YAML. Raises ParameterError for an unknown name or a value that it cannot have, CalibrationError where the
    drive does not say where a sensor sits.
    """
    values = parse_yaml(base or SHIPPED_PARAMETERS) | {"bundle": str(bundle)}
    config = make_config(values, spec)
    extrinsics = config.extrinsics_file
    if extrinsics is None:
        extrinsics = out / "extrinsics.yaml"
        tree = StaticTree()
        for message in read_bag(bag, {"/tf_static"}):
            tree.add(message.message.transforms)
        # Of a LiDAR, too, which the node does not hear: a drive that is recorded becomes training data.
        frames = {frame.upper(): frame for frame in tree.children if frame.startswith("lidar")}
        frames |= {name: sensor.frame_id or name.lower() for name, sensor in (config.cameras | config.radars).items()}
        found = {name: tree.lookup(config.base_frame, frame) for name, frame in frames.items()}
        save_extrinsics(extrinsics, config.base_frame, found)
    values |= {"extrinsics.source": "file", "extrinsics.file": str(extrinsics)}
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


def input_topics(config: NodeConfig) -> list[str]:
    """What the node hears."""
    topics = [config.odometry.topic, *(r.topic for r in config.radars.values())]
    return topics + [t for c in config.cameras.values() for t in (c.topic, c.info_topic)]


class LiveNode:
    """The node of a parameter file, by the clock of a drive, and what runs beside it, in a ROS domain of its own.

    Leaving the `with` ends all of it. Methods raise StageError where a process ends that should run on.
    """

    def __init__(self, params: Path, log: Path) -> None:
        self.environment = ros_environment(own_domain())
        self._log, self._stack = log, ExitStack()
        self._running: list[Child] = []
        arguments = ("--ros-args", "--params-file", str(params), "-p", "use_sim_time:=true")
        self.node = self.start("node", "bev_perception.ros.node", *arguments)

    def __enter__(self) -> LiveNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str, *arguments: str) -> Child:
        """`python -m ARGUMENTS` beside the node, its output in NAME.log."""
        child = self._stack.enter_context(Child(name, arguments, self._log / f"{name}.log", self.environment))
        self._running.append(child)
        return child

    def finish(self, child: Child, timeout_s: float) -> None:
        """Wait for its end with status 0, while the others go on."""
        self._running.remove(child)
        child.wait(timeout_s, others=self._running)

    def bring_up(self) -> None:
        """Returns when the node is active."""
        arguments = ("configure", "activate", "--timeout", f"{BRING_UP_S:g}")
        self.finish(self.start("bring_up", "bev_perception.ros.bring_up", *arguments), BRING_UP_S + 10)

    def record(self, bag: Path, topics: Sequence[str]) -> Child:
        """Records until it is ended; then the bag is there."""
        return self.start("recorder", "bev_perception.ros.record_bag", str(bag), "--use-sim-time", "--topics", *topics)

    def play(self, bag: Path, topics: Sequence[str], rate: float, *more: str) -> Child:
        """rate: 1 is real time; more: of the player's options."""
        arguments = (str(bag), "--clock", "--rate", str(rate), "--topics", *topics, *more)
        return self.start("player", "bev_perception.ros.play_bag", *arguments)

    def check(self) -> None:
        for child in self._running:
            child.check()

    def end(self, recorder: Child, bag: Path) -> None:
        """After the drive: what is under way is recorded, then recorder and node end in order."""
        time.sleep(LAST_FRAMES_S)
        self.check()
        recorder.stop()
        if not bag.is_dir():
            raise StageError(f"the recorder left no result bag: {recorder.tail()}", recorder.log)
        if self.node.stop() != 0:
            raise StageError(f"the node did not end cleanly: {self.node.tail()}", self.node.log)


def playing_s(rate: float) -> float:
    """How long a drive may take at most that is to be played at this rate."""
    return 60 + 60 / rate


def playable(bag: Path, config: NodeConfig) -> list[str]:
    """Topics of a drive that are published here: what the node hears, and what else has an installed type."""
    from bev_perception.messages import message_class

    heard, found = input_topics(config), []
    with open_bag(bag) as recording:
        for channel in recording.connections:
            try:
                message_class(channel.msgtype)
            except (ImportError, ValueError):
                continue
            found.append(channel.topic)
    return list(dict.fromkeys([*heard, *sorted(found)]))


def record_drive(
    bag: Path, live: LiveNode, played: Sequence[str], out: Path, topics: Sequence[str], rate: float, *more: str
) -> str:
    """The drive once, `topics` into the bag `out`, which is not there yet and appears at the end; more: of the player's
    options. -> what the player says."""
    recorder = live.record(out, topics)
    live.bring_up()
    player = live.play(bag, played, rate, "--wait-for-subscribers", str(len(played)), *more)
    live.finish(player, playing_s(rate))
    live.end(recorder, out)
    return player.tail()


def beside(bag: Path, live: LiveNode, played: Sequence[str], command: Sequence[str], rate: float) -> int:
    """`python -m COMMAND` while the drive is played again and again -> its status."""
    live.bring_up()
    live.play(bag, played, rate, "--loop", "--wait-for-node", NODE_NAME)
    status = run_in_front(command, live.environment)
    live.check()
    return status


def scores_text(live: LiveRun) -> str:
    """What was published, against the drive's ground truth."""
    models = ", ".join(sorted({m.model_sha256[:8] for m in live.messages.values()}))
    scores = live.scores
    return f"{live.frames} frames of {models} as published: mAP {scores.mean_ap:.3f}, NDS {scores.nds:.3f}"


@ends_with_its_children
def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    cut = given.index("--") if "--" in given else len(given)
    own, command = given[:cut], given[cut + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m bev_perception.evaluation.live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("drive", type=Path, help="rosbag2 recording")
    parser.add_argument("--out", type=Path, required=True, help="folder for parameters, calibration and logs")
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's parameter YAML")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="parameters of the node")
    parser.add_argument("--rate", type=float, default=1.0, help="of the replay; below 1 for a machine that is too slow")
    parser.add_argument("--record", type=Path, metavar="BAG", help="what is played once, and what the node says of it")
    parser.add_argument("--topics", nargs="+", help="record these only")
    parser.add_argument("--scores", type=Path, metavar="JSON", help="score what was recorded by the drive's own truth")
    args = parser.parse_args(own)
    if (args.record is None) == (not command):
        parser.error("either --record BAG, or a command after `--`")
    if args.scores and args.record is None:
        parser.error("--scores is of what --record records")
    try:
        return _run(args, command)
    except StageError as error:
        where = f"\n  log: {error.log}" if error.log else ""
        print(f"live: {error}{where}", file=sys.stderr)
    except (BundleError, BagError, CalibrationError, ParameterError, OSError) as error:
        print(f"live: {error}", file=sys.stderr)
    return 1


def _run(args: argparse.Namespace, command: list[str]) -> int:
    out, bag, bundle = args.out.resolve(), args.drive.resolve(), args.bundle.resolve()
    out.mkdir(parents=True, exist_ok=True)
    spec = load_bundle(bundle).spec
    params, config = write_parameters(out, bag, bundle, spec, args.set, args.params)
    if args.record is not None and args.record.exists():
        print(f"{args.record} is there already and is not recorded anew")
    else:
        with LiveNode(params, out / "log") as live:
            if command:
                return beside(bag, live, input_topics(config), command, args.rate)
            played = input_topics(config) if args.topics else playable(bag, config)
            print(record_drive(bag, live, played, args.record, args.topics or [*played, *SAID], args.rate))
    if args.scores:
        run = read_live_run(bag, args.record, spec)
        write_atomic(args.scores, json.dumps(run.scores.to_dict(), indent=1))
        print(scores_text(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
