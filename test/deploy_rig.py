"""Engines for bundles that misbehave in service, whatever they prove; and a deployer that asks the real node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node_rig import Rig
from rclpy.action import ActionClient

from bev_perception_msgs.action import Deploy

# A node whose engines do what the model's name says once they have been proven: `slow`, `nan`, `empty`, `raising`.
# The process kills itself at the point of a deployment that is its first argument, "" for none.
NODE = """
import os, signal, sys, time
import numpy as np
from bev_perception.inference import backend, onnxruntime_backend
from bev_perception.ros import deploy_server, node

class Misbehaving(onnxruntime_backend.OnnxRuntimeBackend):
    proofs = 12

    def infer(self, inputs):
        outputs = dict(super().infer(inputs))
        self.proofs -= 1
        if self.proofs < 0 or self.spec.name == "slow":
            if self.spec.name in ("slow", "slower"):
                time.sleep(0.04)
            if self.spec.name == "nan":
                outputs["boxes"] = np.full_like(outputs["boxes"], np.nan)
            if self.spec.name == "empty":
                outputs["scores"] = np.zeros_like(outputs["scores"])
            if self.spec.name == "raising":
                raise RuntimeError("the engine is broken")
        return outputs

def at(point):
    if point == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

backend.BACKENDS["onnxruntime"] = Misbehaving
deploy_server.DeployServer.at = staticmethod(at)
sys.exit(node.main([sys.argv[0], *sys.argv[2:]]))
"""


def start_of(point: str = "") -> tuple[str, ...]:
    """For running_node(start=): a node that dies at a point."""
    return ("-c", NODE, point)


class Deployer:
    """What `ros2 run bev_perception deploy` does, while the rig drives on."""

    def __init__(self, rig: Rig, node_name: str = "bev_perception") -> None:
        self._rig = rig
        self._client = ActionClient(rig.node, Deploy, f"{node_name}/deploy")
        self.states: list[Any] = []

    def ask(self, bundle: Path | str = "", shadow_s: float = 2.0, watch_s: float = 2.0, **more: Any) -> Any:
        """A goal -> its handle, accepted."""
        self._rig.drive_until(self._client.server_is_ready, "the action of the node")
        goal = Deploy.Goal(bundle=str(bundle), shadow_s=shadow_s, watch_s=watch_s, asked_by="test", **more)
        sent = self._client.send_goal_async(goal, lambda message: self.states.append(message.feedback.state))
        self._rig.drive_until(sent.done, "the goal to be taken")
        handle = sent.result()
        assert handle.accepted
        return handle

    def deploy(self, bundle: Path | str = "", **more: Any) -> Any:
        """A goal -> its result."""
        future = self.ask(bundle, **more).get_result_async()
        self._rig.drive_until(future.done, "the deployment's end")
        return future.result().result
