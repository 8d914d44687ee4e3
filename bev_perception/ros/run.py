"""One activation: synchroniser, subscriptions, worker and pipeline, from start to stop."""

from __future__ import annotations

import dataclasses
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bev_perception_msgs.msg import SensorState

from bev_perception.decode import Thresholds
from bev_perception.inference.backend import InferenceBackend
from bev_perception.model_spec import Bundle
from bev_perception.parameters import NodeConfig
from bev_perception.pipeline import BevPipeline
from bev_perception.ros.diagnostics import INVALID, SensorReport
from bev_perception.ros.inputs import ODOMETRY, SensorInputs
from bev_perception.ros.messages import PUBLISHERS, Context
from bev_perception.ros.telemetry import Telemetry
from bev_perception.ros.worker import Worker
from bev_perception.structures import Detections, SensorFrame
from bev_perception.sync import FrameSynchronizer

if TYPE_CHECKING:
    from rclpy.node import Node


@dataclass(frozen=True)
class Model:
    """A verified bundle and the engine that runs it."""

    bundle: Bundle
    backend: InferenceBackend


class ActiveRun:
    """Exists while the node is active."""

    def __init__(
        self, node: Node, config: NodeConfig, model: Model, outputs: dict[str, Any], telemetry: Telemetry
    ) -> None:
        self._node, self._config, self._model = node, config, model
        self._outputs, self._telemetry = outputs, telemetry
        self._lock = threading.Lock()
        self._sync = FrameSynchronizer(config.sync_config(model.bundle.spec))
        self._pipeline = self._make_pipeline()
        self._reset_wanted = ""
        self._worker = Worker(self._process, self._tick, telemetry.dropped)
        self._inputs: SensorInputs | None = None

    def start(self) -> None:
        self._worker.start()
        self._inputs = SensorInputs(
            self._node, self._config, self._sync, self._lock, self._telemetry, self._worker.offer, self._request_reset
        )

    def stop(self) -> None:
        """No message is taken and no step runs after this returns."""
        if self._inputs is not None:
            self._inputs.close()
        self._worker.stop()

    def change_config(self, config: NodeConfig) -> None:
        """Thresholds and marker lifetime apply from the next step on."""
        self._config = config
        self._pipeline.thresholds = self._thresholds()
