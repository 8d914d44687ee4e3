"""The whole node under a steady load, for the bench: who uses how much of a core, and is anything lost?

python -m bev_perception.ros.load node --threads threads.json --ros-args --params-file ...
python -m bev_perception.ros.load play --params ... --seconds 20 --images 1600x900

`node` is the node with an engine that does nothing once the node is active, so that what is measured is all the rest.
`play` is the car of bev_perception.ros.car.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import rclpy

from bev_perception.bundle import Bundle
from bev_perception.files import write_atomic
from bev_perception.inference.backend import BACKENDS
from bev_perception.inference.interface import InferenceBackend
from bev_perception.parameters import load_config, parse_yaml, resolve_path
from bev_perception.ros import node as perception_node
from bev_perception.ros.car import Car
from bev_perception.ros.run import PIPELINE_THREAD

ROS_ARGS = "--ros-args"  # from here on a command line is for rclpy


class FrozenEngine:
    """ONNX Runtime until `frozen` is set, afterwards its last answer again at once."""

    def __init__(self, frozen: threading.Event, bundle: Bundle, **options: Any) -> None:
        self._frozen = frozen
        self._backend: InferenceBackend = BACKENDS["onnxruntime"](bundle, **options)
        self.name, self.spec, self.details = "frozen", self._backend.spec, self._backend.details
        self.fetch, self.close, self.interrupt = self._backend.fetch, self._backend.close, self._backend.interrupt
        self._answer: dict[str, Any] = {}

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if not self._frozen.is_set() or not self._answer:
            self._answer = self._backend.infer(inputs)
        return self._answer


def run_node(threads: Path, ros_args: list[str]) -> int:
    """Until it is stopped; writes names and numbers of its threads twice a second."""
    frozen = threading.Event()
    BACKENDS["frozen"] = partial(FrozenEngine, frozen)

    def tell() -> None:
        while True:
            known = {thread.native_id: thread.name for thread in threading.enumerate()}
            if PIPELINE_THREAD in known.values():  # active: the engine has been proven
                frozen.set()
            write_atomic(threads, json.dumps({"pid": os.getpid(), "threads": known}))
            time.sleep(0.5)

    threading.Thread(target=tell, name="bench", daemon=True).start()
    return perception_node.main(ros_args)


def play(params: Path, size: str, seconds: float) -> int:
    width, height = (int(part) for part in size.split("x"))
    config = load_config(resolve_path(parse_yaml(params)["bundle"]), params)
    rclpy.init()
    node = rclpy.create_node("load_play")
    car = Car(node, config, width, height)
    time.sleep(2.0)  # until the subscriptions have been matched
    print(json.dumps({"sent": car.drive(seconds)}))
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="load", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="what", required=True)
    run = commands.add_parser("node")
    run.add_argument("--threads", type=Path, required=True)
    drive = commands.add_parser("play")
    drive.add_argument("--params", type=Path, required=True)
    drive.add_argument("--images", default="1600x900")
    drive.add_argument("--seconds", type=float, default=20.0)
    given = sys.argv[1:] if args is None else args
    of_ros = given.index(ROS_ARGS) if ROS_ARGS in given else len(given)
    options = parser.parse_args(given[:of_ros])
    if options.what == "node":
        return run_node(options.threads, given[of_ros:])
    return play(options.params, options.images, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
