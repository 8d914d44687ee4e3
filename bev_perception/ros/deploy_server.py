"""The action `deploy` of the node: goals become deployments in a thread of their own, which tell how they go; and the
service `rollback`, for whoever has no client of actions."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from bev_perception.deployment.folder import VehicleFolder
from bev_perception.deployment.goal import Goal, Progress
from bev_perception.deployment.procedure import Deployment, nowhere
from bev_perception.deployment.rollout import DONE, REFUSED, ROLLBACK_ASKED, Rollout
from bev_perception.deployment.serving import Host
from bev_perception.parameters import ParameterError, resolve_path
from bev_perception_msgs.action import Deploy
from bev_perception_msgs.msg import Deployment as DeploymentMessage

ACTION, ROLLBACK = "~/deploy", "~/rollback"
PATIENCE_S = 20.0  # with a deployment that is cancelled
LONGEST_S = 7 * 24 * 3600.0  # of a shadow or a watch
# What a goal is told where nothing can begin.
NO_FOLDER = (
    "no_folder: the node was configured without `deploy.folder`, or not yet; name a folder that lasts, configure it"
)
NOT_ACTIVE = "not_active: the node is not active; activate it, a model is proven on frames"
BUSY = "busy: another deployment is at work; cancel it, or wait for its end"


class DeployServer:
    """One deployment at a time. host(): of the active node, None while it is not active; folder(): where one is set.

    progress: of the deployment that runs, or of the last one. at: see bev_perception.deployment.procedure.
    """

    at: Callable[[str], None] = staticmethod(nowhere)

    def __init__(
        self, node: LifecycleNode, host: Callable[[], Host | None], folder: Callable[[], VehicleFolder | None]
    ) -> None:
        self._node, self._host, self._folder = node, host, folder
        self.progress = Progress()
        self._lock = threading.Lock()
        self._running: Deployment | None = None
        self._thread: threading.Thread | None = None
        self._handle: Any = None  # of the goal that runs
        self._rollback = node.create_service(Trigger, ROLLBACK, self._asked_back)
        self._server = ActionServer(
            node,
            Deploy,
            ACTION,
            execute_callback=lambda handle: Deploy.Result(),  # each goal brings its own, with its result
            handle_accepted_callback=self._accepted,
            cancel_callback=self._cancel,
        )

    def stop(self, reason: str) -> None:
        """End the deployment that runs, led back; before the node's engine and sensors go."""
        running, thread = self._running, self._thread
        if running is None or thread is None:
            return
        running.cancel(reason)
        thread.join(PATIENCE_S)
        if thread.is_alive():
            self._node.get_logger().error(f"the deployment has not ended in {PATIENCE_S:g} s and is left to itself")

    def close(self) -> None:
        self.stop("node_closed: the node was stopped")
        self._server.destroy()
        self._node.destroy_service(self._rollback)

    # ---- in the executor's thread

    def _accepted(self, handle: Any) -> None:
        thread = threading.Thread(target=self._serve, args=(handle,), name="bev_deploy", daemon=True)
        thread.start()

    def _asked_back(self, request: Any, response: Any) -> Any:
        """The service: begun when this is answered; status and journal say how it ends."""
        running = self._running
        if running is not None:
            running.cancel(f"{ROLLBACK_ASKED}: by the service")
            response.success, response.message = True, "the deployment that is at work is led back"
        elif reason := self._hindrance():
            response.success, response.message = False, reason
        else:
            goal = Goal(Path(), asked_by="the service", rollback=True)
            threading.Thread(target=self._run, args=(goal, None), name="bev_deploy", daemon=True).start()
            response.success, response.message = True, "going back to the bundle before; the status says how it goes"
        return response

    def _hindrance(self) -> str:
        """Why no deployment can begin now, or ""."""
        if self._folder() is None:
            return NO_FOLDER
        return NOT_ACTIVE if self._host() is None else BUSY * (self._running is not None)

    def _cancel(self, handle: Any) -> CancelResponse:
        running = self._running
        if running is None or handle is not self._handle:
            return CancelResponse.REJECT
        running.cancel("cancelled: whoever asked for it took it back")
        return CancelResponse.ACCEPT

    # ---- in the deployment's thread

    def _serve(self, handle: Any) -> None:
        try:
            result = self._deploy(handle)
        except Exception as error:
            self._node.get_logger().error(f"deploy: {traceback.format_exc()}")
            result = _refused(f"failed: {type(error).__name__}: {error}")

        def end(accepted: Any) -> Any:
            if accepted.is_cancel_requested:
                accepted.canceled()
            elif result.verdict == DONE:
                accepted.succeed()
            else:
                accepted.abort()
            return result

        if self._node.context.ok():
            handle.execute(end)

    def _deploy(self, handle: Any) -> Any:
        request = handle.request
        try:
            goal = _goal(request)
        except (ParameterError, ValueError) as error:
            return _refused(f"bad_goal: {error}")
        if goal.rollback and self._running is not None:
            return self._end_the_running(goal)
        return self._run(goal, handle)

    def _run(self, goal: Goal, handle: Any) -> Any:
        """handle: of the goal of the action, None where it came by the service."""
        with self._lock:
            folder, host = self._folder(), self._host()
            if folder is None or host is None or self._running is not None:
                return _refused(self._hindrance())
            deployment = Deployment(goal, host, folder, lambda progress: self._tell(handle, progress), self.at)
            self._running, self._thread, self._handle = deployment, threading.current_thread(), handle
        try:
            return _result(deployment.run())
        finally:
            self._running = None

    def _end_the_running(self, goal: Goal) -> Any:
        running, thread = self._running, self._thread
        if running is not None and thread is not None:
            running.cancel(f"{ROLLBACK_ASKED}: by {goal.asked_by or 'nobody named'}")
            thread.join()
            return _result(running.rollout)
        return _refused("nothing_to_end: the deployment has just ended; ask again")

    def _tell(self, handle: Any, progress: Progress) -> None:
        if progress.event != self.progress.event:
            self._node.get_logger().info(f"deploy: {progress.event}")
        self.progress = progress
        try:
            if handle is not None and handle.is_active:
                handle.publish_feedback(Deploy.Feedback(state=deployment_message(progress)))
        except Exception as error:  # who listens is no part of the deployment
            if self._node.context.ok():
                self._node.get_logger().warning(f"deploy: feedback could not be sent: {error}")


def deployment_message(progress: Progress) -> DeploymentMessage:
    """bev_perception_msgs/Deployment; see its definition."""
    return DeploymentMessage(
        step=progress.step,
        candidate=progress.candidate,
        candidate_sha256=progress.candidate_sha256,
        event=progress.event,
        share=progress.share,
        frames=progress.frames,
        agreement=progress.agreement,
        latency_p50_ms=progress.p50_ms,
        latency_p99_ms=progress.p99_ms,
        scores=progress.scores,
        scores_publishing=progress.scores_publishing,
        not_finite=progress.not_finite,
        memory_mib=progress.memory_mib,
    )


def _goal(request: Any) -> Goal:
    """Raises ValueError for what is none."""
    for name in ("shadow_s", "watch_s"):
        if not 0 <= getattr(request, name) <= LONGEST_S:
            raise ValueError(f"{name} is {getattr(request, name)}, expected seconds from 0 to {LONGEST_S:g}")
    if not request.bundle and not request.rollback:
        raise ValueError("bundle is empty; name the folder of a bundle on the node's machine")
    source = Path() if request.rollback else resolve_path(request.bundle)
    return Goal(source, request.shadow_s, request.watch_s, request.gate, request.asked_by, request.rollback)


def _result(rollout: Rollout) -> Any:
    return Deploy.Result(
        verdict=rollout.step,
        reason=rollout.reason,
        candidate_sha256=rollout.candidate,
        in_service_sha256=rollout.in_service,
    )


def _refused(reason: str) -> Any:
    return Deploy.Result(verdict=REFUSED, reason=reason)
