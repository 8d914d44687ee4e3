"""CPU seconds per second of each thread of the node, under the load of a car, with an engine that does nothing."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bev_perception.bundle import load_bundle
from bev_perception.calibration import save_extrinsics
from bev_perception.evaluation.bag import STATUS_TOPIC, read_bag
from bev_perception.evaluation.process import Child, own_domain, ros_environment
from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import SHIPPED_PARAMETERS, parse_yaml

# Threads by what they do; the others are those of DDS.
THREADS = {"MainThread": "executor", "bev_pipeline": "pipeline", "bev_publish": "publisher", "bev_status": "status"}
SETTLE_S = 4.0  # after the first message, until the engine has answered its first frames
RADAR_YAWS_DEG = (0, 70, -70, 140, -140)  # front, front left and right, back left and right
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


@dataclass(frozen=True)
class NodeLoad:
    """cores: thread -> share of a core. processed, dropped: frames. counters: what the node counted."""

    cores: dict[str, float]
    processed: int
    dropped: int
    counters: dict[str, int]


def write_files(folder: Path, bundle: Path, spec: ModelSpec, changes: Mapping[str, Any] | None = None) -> Path:
    """Parameters and a calibration for the bundle, in `folder`: params.yaml, and played.yaml for the car."""
    poses = {
        name: make_transform(rotation_from_yaw(np.deg2rad(55 - 60 * i)) @ OPTICAL, np.array([1.0, 0, 1.5]))
        for i, name in enumerate(spec.cameras)
    }
    poses |= {
        name: make_transform(rotation_from_yaw(np.deg2rad(yaw)), np.array([2.0, np.sign(yaw), 0.5]))
        for name, yaw in zip(spec.radars, RADAR_YAWS_DEG)
    }
    save_extrinsics(folder / "calibration.yaml", "base_link", poses)
    values = parse_yaml(SHIPPED_PARAMETERS) | {
        "bundle": str(bundle.resolve()),
        "backend": "frozen",
        "extrinsics.source": "file",
        "extrinsics.file": str((folder / "calibration.yaml").resolve()),
        # A car of its own, whose pictures are drawn: nothing in them stands or moves as the vehicle does.
        "extrinsics.unlike": "use",
        "extrinsics.watch_share": 0.0,
    }
    values |= changes or {}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}, sort_keys=False))
    # The car reads the same parameters, and has no engine.
    played = folder / "played.yaml"
    played.write_text(yaml.safe_dump({"/**": {"ros__parameters": values | {"backend": "onnxruntime"}}}))
    return path


def thread_seconds(pid: int) -> dict[int, float]:
    """Thread number -> CPU seconds it has used."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        found[int(task.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


@dataclass(frozen=True)
class RunningNode:
    """An active node in its own process. start(name, module, *arguments): another process beside it, in its domain.

    threads: file that bev_perception.ros.load keeps, with `pid` and the names of the node's threads.
    """

    process: Child
    start: Callable[..., Child]
    threads: Path

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.threads.read_text())
        return found


@contextmanager
def running_node(folder: Path, bundle: Path, changes: Mapping[str, Any] | None = None) -> Iterator[RunningNode]:
    """The node with an engine that answers at once, brought up; its files, and those of the car, in `folder`.

    changes: of its parameters. Raises StageError.
    """
    environment = ros_environment(own_domain())
    params, threads = write_files(folder, bundle, load_bundle(bundle).spec, changes), folder / "threads.json"
    threads.unlink(missing_ok=True)

    def start(name: str, *arguments: str) -> Child:
        return Child(name, arguments, folder / f"{name}.log", environment)

    arguments = ("node", "--threads", str(threads), "--ros-args", "--params-file", str(params))
    with start("node", "bev_perception.ros.load", *arguments) as node:
        with start("bring_up", "bev_perception.ros.bring_up", "configure", "activate") as bring_up:
            bring_up.wait(90, others=(node,))
        time.sleep(1.5)  # until it has written the threads that it has now
        yield RunningNode(node, start, threads)


def measure_node(bundle: Path, images: str, seconds: float) -> NodeLoad:
    """Node and player as processes of their own. Raises StageError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_arguments = (str(folder / "result"), "--topics", STATUS_TOPIC)
        play_arguments = ("--params", str(folder / "played.yaml"), "--images", images, "--seconds", str(seconds))
        with (
            running_node(folder, bundle) as node,
            node.start("recorder", "bev_perception.ros.record_bag", *record_arguments) as recorder,
        ):
            with node.start("player", "bev_perception.ros.load", "play", *play_arguments) as player:
                time.sleep(2.0 + SETTLE_S)
                told = node.told()
                before, began = thread_seconds(told["pid"]), time.monotonic()
                time.sleep(seconds - SETTLE_S - 1.0)
                after, ended = thread_seconds(told["pid"]), time.monotonic()
                player.wait(60, others=(node.process, recorder))
            recorder.stop()
            node.process.check()
        cores: dict[str, float] = {}
        for thread, used in after.items():
            name_of = told["threads"].get(str(thread), "")
            if name_of == "bench":  # it is not the node's
                continue
            what = THREADS.get(name_of, "DDS")
            cores[what] = cores.get(what, 0.0) + (used - before.get(thread, 0.0)) / (ended - began)
        status = [m.message for m in read_bag(folder / "result", {STATUS_TOPIC})][-1]
    counters = {c.name: int(c.value) for c in status.counters}
    return NodeLoad(cores, int(status.frames_processed), int(status.frames_dropped), counters)
