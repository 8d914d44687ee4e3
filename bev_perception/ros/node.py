"""The lifecycle node `bev_perception`: loads a bundle, listens to sensors, publishes detections and how well it is.

Threads: the executor's one thread converts messages and hands them to the synchroniser (callbacks of rclpy share the
interpreter lock, so more executor threads would only add overhead); one runs the pipeline, one publishes what it found
(bev_perception.ros.run); one publishes the status on the wall clock, so that it goes on when data, callbacks or the
simulated clock stop.
"""

from __future__ import annotations

import dataclasses
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.exceptions import InvalidTopicNameException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.calibration import CalibrationError
from bev_perception.deployment.folder import VehicleFolder
from bev_perception.deployment.start import stands, start
from bev_perception.frame_proof import open_proven
from bev_perception.health import situation
from bev_perception.inference.pace import engine_ms, too_slow
from bev_perception.messages import DIAGNOSTICS_TOPIC, PUBLISHERS, STATUS_TOPIC
from bev_perception.model_spec import BundleError
from bev_perception.modes import modes_that_hold
from bev_perception.parameters import NODE_NAME, NodeConfig, ParameterError, make_config, resolve_path
from bev_perception.ros.active_node import ActiveNode
from bev_perception.ros.declare import NodeParameters
from bev_perception.ros.deploy_server import DeployServer, deployment_message
from bev_perception.ros.diagnostics import ACTIVE, NodeReport, diagnostics_message, status_message
from bev_perception.ros.inputs import check_message_types
from bev_perception.ros.middleware import MiddlewareWatch
from bev_perception.ros.parameter_files import CommandLine, read_command_line
from bev_perception.ros.run import ActiveRun, Model
from bev_perception.ros.start import init_ros, make_executor, spins
from bev_perception.ros.telemetry import Telemetry
from bev_perception.sensors.sensor_calibration import read_extrinsics
from bev_perception.sync_config import MS
from bev_perception.uncertainty import read_uncertainty
from bev_perception.usual.table import read_health
from bev_perception_msgs.msg import PerceptionStatus

if TYPE_CHECKING:
    from bev_perception.ros.keeper import Keeper

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.ERROR,
)  # fmt: skip
STANDING_S = 20.0  # a node that has no frames but lives so long stands
# What an integrator can mend: configure fails with the message and the node stays unconfigured.
CONFIGURATION_ERRORS = (
    ParameterError, BundleError, CalibrationError, ImportError, ValueError, OSError, RuntimeError,
    InvalidTopicNameException, InvalidQosOverridesError,
)  # fmt: skip


class PerceptionNode(LifecycleNode):
    """configure: bundle, engine, self-test, publishers. activate: subscriptions, worker. Undone in reverse."""

    def __init__(self, given: CommandLine, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self.telemetry = Telemetry()
        self._config: NodeConfig | None = None
        self._model: Model | None = None
        self._params = NodeParameters(self, lambda: self._label() == "unconfigured", self._on_parameters_changed, given)
        self._outputs: dict[str, Any] = {}
        self._run: ActiveRun | None = None
        self._keeper: Keeper | None = None
        self._configuration_error = ""
        self._middleware = MiddlewareWatch(self)
        self._folder: VehicleFolder | None = None
        self._starting_since: float | None = None  # of a start that the folder's record does not call ended
        self._deploy = DeployServer(self, self._host, lambda: self._folder)
        self._guard_transitions()
        self._status_publisher = self.create_publisher(PerceptionStatus, STATUS_TOPIC, 10)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, DIAGNOSTICS_TOPIC, 10)
        self._closing = threading.Event()
        self._status_thread = threading.Thread(target=self._publish_status_forever, name="bev_status", daemon=True)
        self._status_thread.start()

    def close(self) -> None:
        """Stop threads and free the engine; before destroy_node."""
        self._deploy.close()
        self._closing.set()
        self._status_thread.join()
        self._free()

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self._configure, "configure")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._transition(self._activate, "activate")
        return super().on_activate(state) if result == SUCCESS else result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self.get_logger().info("deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._free()
        self.get_logger().info("cleaned up")
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._free()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, with everything freed: the node can be configured again."""
        self._free()
        return SUCCESS

    def _transition(self, work: Callable[[], None], name: str) -> TransitionCallbackReturn:
        try:
            work()
        except CONFIGURATION_ERRORS as error:
            self._configuration_error = f"{name} failed: {error}"
            self.get_logger().error(self._configuration_error)
            self._stop() if name == "activate" else self._free()
            return FAILURE
        except Exception:
            self._configuration_error = f"{name} failed: {traceback.format_exc()}"
            self.get_logger().error(self._configuration_error)
            return ERROR
        self._configuration_error = ""
        return SUCCESS

    def _configure(self) -> None:
        wanted = resolve_path(self._params.first("bundle"))
        name = self._params.optional("deploy.folder")
        if not name:
            self._open(load_bundle(wanted))
            return
        self._folder = VehicleFolder(resolve_path(name))
        self._folder.open()
        self._starting_since = time.monotonic()
        start(self._folder, wanted, self._open, self.get_logger())

    def _open(self, bundle: Bundle) -> None:
        """Engine, self-test, publishers. Raises CONFIGURATION_ERRORS."""
        self._params.follow(bundle.spec)
        config = make_config(self._params.values(), bundle.spec)
        read_extrinsics(config)
        check_message_types(config)
        read_uncertainty(bundle)  # or BundleError, before an engine is built
        read_health(bundle)
        self._make_publishers(config)
        started = time.perf_counter()
        backend, figures = open_proven(bundle, config.backend, **config.backend_options)
        self._model = Model(bundle, backend)
        self._config = config
        took_ms, period_ms = engine_ms(backend, bundle), config.sync_config(bundle.spec).period_ns / MS
        backend.details["engine_ms"] = f"{took_ms:.1f}"
        if slow := too_slow(took_ms, period_ms):
            self.get_logger().warning(f"{slow} (sync.period_ms)")
        self.get_logger().info(
            f"configured: model {bundle.spec.name!r} with {backend.name} in {time.perf_counter() - started:.1f} s; "
            f"self-test passed, largest differences { ({k: float(f'{v:.2g}') for k, v in figures.items()}) }"
        )

    def _make_publishers(self, config: NodeConfig) -> None:
        for name in config.outputs:
            if name in self._outputs:  # of a bundle that could not be opened
                continue
            output = PUBLISHERS[name]
            try:
                message_type = output.message_type()
            except ImportError as error:
                raise ImportError(
                    f"publish.outputs has {name!r}, but the package {output.package} is not installed ({error})"
                ) from error
            qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
            self._outputs[name] = self.create_lifecycle_publisher(message_type, output.topic, qos)

    def _activate(self) -> None:
        assert self._config is not None and self._model is not None
        self.telemetry.clear()
        tap = None
        if self._config.ring.folder:
            from bev_perception.ros.keeper import Keeper  # what writes bags takes half a second to load

            self._keeper = Keeper(self, self._config.ring, self._params.values, self.telemetry)
            tap = self._keeper.take
        self._run = ActiveRun(self, self._config, self._model, self._outputs, self.telemetry, tap)
        self._run.start()
        self.get_logger().info(
            f"active: listening to {len(self._config.cameras)} cameras, {len(self._config.radars)} radars"
        )

    def _stop(self) -> None:
        self._deploy.stop("node_stopped: the node was deactivated")
        run, self._run = self._run, None
        if run is not None:
            run.stop()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def _free(self) -> None:
        self._stop()
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        model, self._model, self._config = self._model, None, None
        if model is not None:
            model.backend.close()
        self._end_start()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()

    # ---- deployments

    def _host(self) -> ActiveNode | None:
        run, config = self._run, self._config
        if run is None or config is None:
            return None
        name = self._params.optional("deploy.public_key")
        key = resolve_path(name) if name else None
        return ActiveNode(run, config, self._params.thresholds, self._follow, self.get_logger().info, key)

    def _follow(self, model: Model) -> None:
        """Another model has come into service; in any thread. Its parameters follow in the executor's."""
        self._model = model
        assert self.executor is not None
        self.executor.create_task(self._follow_parameters)

    def _follow_parameters(self) -> None:
        if self._model is not None and self._run is not None:
            self._params.follow(self._model.bundle.spec)
            self._config = make_config(self._params.values(), self._model.bundle.spec)

    def _end_start(self) -> None:
        """The node works, or ends in order: what it started with did not take it down."""
        self._starting_since = None
        if self._folder is not None:
            try:
                stands(self._folder)
            except (OSError, ValueError) as error:  # the record is damaged, or the disk full: the next start says so
                self.get_logger().error(f"the end of the start could not be recorded: {error}")

    def _look_at_start(self) -> None:
        since = self._starting_since
        if since is not None and (self.telemetry.snapshot().frames_processed or time.monotonic() - since > STANDING_S):
            self._end_start()

    def _label(self) -> str:
        return str(self._state_machine.current_state[1])

    def _guard_transitions(self) -> None:
        """Answer a transition that the present state does not allow with success = false; rclpy would not answer."""
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        inner = service.callback

        def change_state(request: Any, response: Any) -> Any:
            try:
                return inner(request, response)
            except Exception as error:
                wanted = request.transition.label or request.transition.id
                self.get_logger().warning(f"transition {wanted} is not possible while {self._label()}: {error}")
                response.success = False
                return response

        service.callback = change_state

    # ---- parameters that take effect while running

    def _on_parameters_changed(self, new: dict[str, Any]) -> None:
        if self._model is None or self._config is None:
            return
        self._config = make_config(self._params.values() | new, self._model.bundle.spec)
        if self._run is not None:
            self._run.change_config(self._config)

    # ---- status

    def _publish_status_forever(self) -> None:
        period_s = 1.0 / self.get_parameter("publish.status_rate_hz").value
        while not self._closing.wait(period_s):
            try:
                self._look_at_start()
                report = self._report()
                self._look_for_triggers(report)
                self._status_publisher.publish(status_message(report))
                self._diagnostics_publisher.publish(diagnostics_message(report, self.get_fully_qualified_name()))
            except Exception as error:
                if not self.context.ok():
                    return
                if self.telemetry.count("status_failed", str(error)):
                    self.get_logger().error(f"status could not be published: {traceback.format_exc()}")

    def _look_for_triggers(self, report: NodeReport) -> None:
        run, keeper = self._run, self._keeper
        if run is not None and keeper is not None and report.lifecycle_state == ACTIVE:
            keeper.look(*run.moment(report.sensors))

    def _report(self) -> NodeReport:
        config, model, run = self._config, self._model, self._run
        label = self._label()
        snapshot = self.telemetry.snapshot()
        if run is not None:
            counters = Counter(snapshot.counters) + Counter(run.counters())
            snapshot = dataclasses.replace(snapshot, counters=dict(counters))
        common: dict[str, Any] = dict(
            stamp_ns=self.get_clock().now().nanoseconds,
            frame_id=self.get_parameter("base_frame").value,
            lifecycle_state=label,
            snapshot=snapshot,
            configuration_error=self._configuration_error,
            hardware_id=self.get_parameter("diagnostics.hardware_id").value or socket.gethostname(),
            problems=(*self._middleware.problems(), *(keeper.problems() if (keeper := self._keeper) else ())),
            deployment=deployment_message(self._deploy.progress),
        )
        if config is None or model is None:
            return NodeReport(**common)
        sensors = run.sensor_health() if run is not None and label == ACTIVE else []
        without_memory_s = snapshot.seconds_without_memory if model.bundle.spec.temporal.state_channels > 0 else 0.0
        modes, worst_mode = modes_that_hold(situation(sensors, config.front_cameras, without_memory_s), config.modes)
        return NodeReport(
            **common,
            sensors=sensors,
            health=run.health() if run is not None and label == ACTIVE else {},
            modes=modes,
            worst_mode=worst_mode,
            model_name=model.bundle.spec.name,
            model_sha256=model.bundle.spec.onnx_sha256,
            backend=model.backend.name,
            backend_details=model.backend.details,
            max_age_ms=config.max_age_ms,
            output_timeout_ms=config.output_timeout_ms,
        )


def spin(node: PerceptionNode) -> None:
    """Spin until shutdown. An exception of a callback is logged and counted, the node goes on."""
    executor = make_executor()
    executor.add_node(node)
    up = True
    while up:
        try:
            up = spins(executor)
        except Exception as error:
            if node.telemetry.count("callback_failed", f"{type(error).__name__}: {error}"):
                node.get_logger().error(f"a callback failed, the node goes on: {traceback.format_exc()}")
    executor.shutdown(timeout_sec=1.0)


def main(args: list[str] | None = None) -> int:
    """Entry point `perception_node`."""
    # A thread that wants the interpreter waits this long for one that computes; by default 5 ms, too long here.
    sys.setswitchinterval(0.0005)
    given = read_command_line(sys.argv if args is None else args)
    try:
        init_ros(given.arguments)
        node = PerceptionNode(given)
    except Exception as error:
        print(f"bev_perception cannot start: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    try:
        spin(node)
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
