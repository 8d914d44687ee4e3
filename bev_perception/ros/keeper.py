"""The ring of the running node: what its subscriptions heard in the last seconds, written down when a trigger fires.

Callbacks hand over references; all else (compressing raw images, writing) is done by one thread that comes last: it
works in slices of some milliseconds and waits after each, so that it has a share of a core at most. Its priority for
the system is that of the others all the same: a thread that holds the interpreter and is not scheduled holds up all.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from itertools import chain, count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import Trigger

from bev_perception.files import FULL
from bev_perception.messages import to_time
from bev_perception.parameters import resolve_path
from bev_perception.ring.bag import free_bytes, size_of, write_bag
from bev_perception.ring.buffer import Kept, Ring
from bev_perception.ring.config import SHARE, RingConfig
from bev_perception.ring.triggers import ASKED, Braking, Edges, Moment
from bev_perception.ros.record_bag import register_type
from bev_perception.ros.shared_memory import Problem
from bev_perception.ros.telemetry import Telemetry
from bev_perception.sensors.intake import IMAGE, Source
from bev_perception.sensors.sensor_calibration import TF_STATIC
from bev_perception.sensors.serialised import read_image
from bev_perception.worker import Budget

KEEP = "~/keep"
MIB = 2**20
PATIENCE_S = 5.0  # with a bag that is being written when the node stops; what is not whole by then is gone
WAITING = 0.25  # of the ring's memory, where there are raw images that wait for the thread
WINDOW_NS = 100_000_000  # images of one sweep are compressed together, or none of them
COMPRESSED, JPEG_KIND = "/compressed", "sensor_msgs/msg/CompressedImage"
# Encodings of raw images that JPEG takes -> channels, and what makes BGR of them.
ENCODINGS: dict[str, tuple[int, int | None]] = {"bgr8": (3, None), "rgb8": (3, cv2.COLOR_RGB2BGR), "mono8": (1, None)}


class Keeper:
    """Exists while the node is active and `ring.folder` is set. take() is called in the executor's thread, look() in
    that of the status. params(): the node's parameters by name as they are, which a bag is to be read with."""

    def __init__(
        self, node: LifecycleNode, config: RingConfig, params: Callable[[], Mapping[str, Any]], telemetry: Telemetry
    ) -> None:
        self._node, self._config, self._telemetry = node, config, telemetry
        self._folder = resolve_path(config.folder)
        self._clock = node.get_clock()
        self._most_waiting = round(WAITING * config.mib * MIB) if config.jpeg_quality else 0
        self._ring = Ring(config.seconds, config.mib * MIB - self._most_waiting)
        self._params = params
        self._edges, self._braking = Edges(config.triggers), Braking()
        self._budget = Budget(SHARE)
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        self._images: deque[Kept] = deque()  # raw ones that wait for the thread
        self._waiting = 0  # their bytes, with those of the one that it has in hand
        self._window, self._takes = -1, False
        self._compressed: set[str] = set()  # topics whose images are kept as JPEG
        self._condition = threading.Condition()
        self._reasons: dict[str, str] = {}
        self._due_s, self._next_s = 0.0, -1e9  # of the bag that is asked for; before which none is
        self._problems: dict[str, str] = {}
        self._stopping = False
        self._service = node.create_service(Trigger, KEEP, self._on_asked)
        self._thread = threading.Thread(target=self._run, name="bev_ring", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """A bag that is being written is not finished: a node that stops is not held up by it."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(PATIENCE_S)
        self._node.destroy_service(self._service)

    def problems(self) -> tuple[Problem, ...]:
        """Why the newest bag could not be written."""
        return tuple(Problem(reason, detail) for reason, detail in list(self._problems.items()))

    # ---- in the executor's thread

    def take(self, source: Source, serialised: bytes) -> None:
        """One message, as it came."""
        now_ns = int(self._clock.now().nanoseconds)
        if self._config.jpeg_quality and source.kind == IMAGE:
            window = now_ns // WINDOW_NS
            if window != self._window:
                self._window, self._takes = window, self._budget.owed_s() == 0.0
            self._ring.pass_time(now_ns)
            if not self._takes or not self._waits(Kept(source.topic, source.kind, now_ns, serialised)):
                self._telemetry.count("ring_image_left_out")
            return
        self._ring.add(Kept(source.topic, source.kind, now_ns, serialised), lasting=source.sensor == TF_STATIC)

    def _waits(self, image: Kept) -> bool:
        """Hand it to the thread, where there is room for it."""
        with self._condition:
            if self._waiting + len(image.data) > self._most_waiting:
                return False
            self._waiting += len(image.data)
            self._images.append(image)
            self._condition.notify()
        return True

    def _on_asked(self, request: Any, response: Any) -> Any:
        """The service: the bag is begun `after_s` later; the log and the status say how it goes."""
        if self._refused():
            response.success, response.message = False, "; ".join(f"{p.reason}: {p.detail}" for p in self.problems())
            return response
        if ASKED in self._config.triggers:
            self._ask({ASKED: "by the service"})
        response.success = ASKED in self._config.triggers
        response.message = f"the last {self._config.seconds:g} s are kept in {self._folder}"
        if not response.success:
            response.message = f"`{ASKED}` is not among ring.triggers ({', '.join(self._config.triggers)})"
        return response

    # ---- in the status thread

    def look(self, moment: Moment, pose: tuple[int, float] | None) -> None:
        """The moment of this status. pose: stamp (ns) and speed (m/s) of the newest odometry."""
        deceleration = self._braking.add(*pose) if pose else float("nan")
        began = self._edges.look(
            replace(
                moment,
                deceleration=deceleration,
                uncertainty=self._config.uncertainty,
                braking_mps2=self._config.braking_mps2,
            )
        )
        if not began:
            return
        with self._condition:
            if self._reasons:  # of a bag that is about to be written
                self._ask(began)
                return
            early = time.monotonic() < self._next_s
        if early:
            self._telemetry.count("ring_rate_limited", f"{', '.join(began)}: ring.pause_s has not passed")
        elif not self._refused():
            self._ask(began)

    def _ask(self, reasons: Mapping[str, str]) -> None:
        with self._condition:
            if not self._reasons:
                self._due_s = time.monotonic() + self._config.after_s
            self._reasons = {**reasons, **self._reasons}
            self._condition.notify()

    def _refused(self) -> bool:
        """Whether there is no room for another bag."""
        used, most = size_of(self._folder), self._config.folder_mib * MIB
        if used >= most:
            mend = "take bags away, or raise ring.folder_mib"
            self._fail("ring_folder_full", f"{self._folder} has {used // MIB} of {most // MIB} MiB; {mend}")
            return True
        if free_bytes(self._folder) < 2 * self._ring.bytes:
            self._fail(
                "ring_disk_full", f"{self._folder}: less than twice the ring's {self._ring.bytes} bytes are free"
            )
            return True
        return False

    def _fail(self, reason: str, detail: str) -> None:
        self._problems[reason] = detail
        if self._telemetry.count(reason, detail):
            self._node.get_logger().error(f"{reason}: {detail}")

    # ---- in the thread of the ring

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._stopping or self._images or self._is_due()):
                    left = self._due_s - time.monotonic() if self._reasons else None
                    self._condition.wait(None if left is None else max(left, 0.01))
                if self._stopping:
                    return
                image = self._images.popleft() if self._images else None
                if image is None:  # what is asked for from here on is another bag's
                    reasons, self._reasons = self._reasons, {}
                    self._next_s = time.monotonic() + self._config.pause_s
            if image is None:
                self._write(reasons)
                continue
            with self._budget.work():
                self._compress(image)
            with self._condition:
                self._waiting -= len(image.data)

    def _is_due(self) -> bool:
        return bool(self._reasons) and time.monotonic() >= self._due_s

    def _compress(self, image: Kept) -> None:
        """A raw image as JPEG, on its topic with COMPRESSED behind; one that JPEG does not take stays as it is."""
        try:
            raw = read_image(image.data)
            channels, to_bgr = ENCODINGS[raw.encoding]
            rows = np.frombuffer(raw.data, np.uint8)[: raw.height * raw.step].reshape(raw.height, raw.step)
            pixels = rows[:, : raw.width * channels].reshape(raw.height, raw.width, channels)
            bgr = pixels if to_bgr is None else cv2.cvtColor(pixels, to_bgr)
            packed = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self._config.jpeg_quality])[1]
        except (KeyError, ValueError, cv2.error):
            self._ring.add_late(image)
            return
        message = CompressedImage(format="jpeg")
        message.header.stamp = to_time(raw.header.stamp.sec * 10**9 + raw.header.stamp.nanosec)
        message.header.frame_id = raw.header.frame_id
        message.data.frombytes(packed.tobytes())
        self._compressed.add(image.topic)
        packed_bytes = bytes(serialize_message(message))
        self._ring.add_late(Kept(image.topic + COMPRESSED, JPEG_KIND, image.stamp_ns, packed_bytes))

    def _write(self, reasons: Mapping[str, str]) -> None:
        """A failure costs this bag, not the node."""
        messages = sorted(
            self._ring.taken(), key=lambda message: message.stamp_ns
        )  # JPEG comes after what it waited for
        stamp_ns = int(self._clock.now().nanoseconds)
        when = datetime.fromtimestamp(stamp_ns / 1e9, tz=timezone.utc).strftime("%Y%m%d_%H%M%S")
        target = _unused(self._folder / f"{when}_{next(iter(reasons))}")
        if not messages:
            self._fail("ring_empty", "no sensor has sent anything yet")
            return
        facts = {"written_by": "bev_perception", "stamp_ns": str(stamp_ns)}
        facts |= {"trigger": ", ".join(reasons), "reason": "; ".join(f"{k}: {v}" for k, v in reasons.items())}
        try:
            for kind in {message.kind for message in messages}:
                register_type(self._typestore, kind)
            with self._budget.work() as spend:
                write_bag(target, messages, self._typestore, facts, self._params_yaml(), lambda: self._rest(spend))
        except InterruptedError:
            return
        except OSError as error:
            full = error.errno in FULL
            detail = f"{target}: {error.strerror or error}; make room, or name another ring.folder"
            self._fail("ring_disk_full" if full else "ring_not_written", detail)
        except Exception as error:
            self._fail("ring_not_written", f"{target}: {type(error).__name__}: {error}")
        else:
            self._problems.clear()
            self._telemetry.count("ring_bag_written", f"{target.name}: {facts['reason']}")
            self._node.get_logger().info(f"kept {len(messages)} messages in {target} ({facts['reason']})")

    def _rest(self, spend: Callable[[], None]) -> None:
        """Between two slices of a bag."""
        spend()
        with self._condition:
            self._condition.wait_for(lambda: self._stopping, self._budget.owed_s())
            if self._stopping:
                raise InterruptedError("the node stops")

    def _params_yaml(self) -> str:
        """The node's parameters; topics and kinds of images that were compressed are those in the bag."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in self._params().items()}
        values = {name: value for name, value in values.items() if not name.startswith("ring.")}
        for name, value in list(values.items()):
            if name.startswith("cameras.") and name.endswith(".topic") and value in self._compressed:
                values |= {name: value + COMPRESSED, name.removesuffix("topic") + "compressed": True}
        # JSON is YAML in which every text is quoted: a field may be called `y`.
        return json.dumps({"/**": {"ros__parameters": values}}, indent=1) + "\n"


def _unused(target: Path) -> Path:
    """`target`, with a number behind it where there is such a bag of the same second."""
    names = chain([target], (target.with_name(f"{target.name}_{k}") for k in count(2)))
    return next(name for name in names if not name.exists())
