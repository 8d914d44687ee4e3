"""Starts the perception node and brings it up: configure, then activate; both again whenever it is restarted.

    ros2 launch bev_perception bev_perception.launch.py params_file:=/path/to/my.param.yaml

A failed configure (model not found, self-test failed) is tried again every few seconds, and a node that died is
started again. A node that was deactivated by hand stays inactive.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, RegisterEventHandler, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart, OnShutdown
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

from bev_perception.ros.shared_memory import PROFILE_VARIABLES, find_problems

LOGGER = "bev_perception.launch"
RETRY_PERIOD_S = 5.0
RESPAWN_DELAY_S = 2.0
POLL_PERIOD_S = 0.1
GET_STATE_TIMEOUT_S = 2.0
CHANGE_STATE_TIMEOUT_S = 120.0  # configure loads the model and runs it once; TensorRT may take its time


def arguments() -> list[DeclareLaunchArgument]:
    config = Path(get_package_share_directory("bev_perception"), "config")
    return [
        DeclareLaunchArgument(
            "params_file",
            default_value=str(config / "perception.param.yaml"),
            description="Parameters of the node: bundle, topics, frames, thresholds, tolerances.",
        ),
        DeclareLaunchArgument("bundle", default_value="", description="The model. Empty: the one of params_file."),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="true: take the time from /clock (bag replay)."
        ),
        DeclareLaunchArgument("autostart", default_value="true", description="false: leave the node unconfigured."),
        DeclareLaunchArgument("respawn", default_value="true", description="Start the node again when it died."),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
        DeclareLaunchArgument(
            "dds_profile",
            default_value=str(config / "fastdds_shm.xml"),
            description="Fast DDS profile for this launch; the camera drivers need the same one. Empty: none.",
        ),
    ]


def dds_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Sets the profile for the node and what is started after it, and says what keeps shared memory from working."""
    profile = LaunchConfiguration("dds_profile").perform(context)
    variables = dict.fromkeys(PROFILE_VARIABLES, profile) if profile else {}
    for problem in find_problems({**os.environ, **variables}):
        get_logger(LOGGER).warning(f"{problem.reason}: {problem.detail}")
    return [SetEnvironmentVariable(name, value) for name, value in variables.items()]


async def call(client, request, timeout_s: float):
    """Response of a service, or None: a request that reaches a process that is just dying gets no answer."""
    future = client.call_async(request)
    deadline = time.monotonic() + timeout_s
    while not future.done() and time.monotonic() < deadline:
        await asyncio.sleep(POLL_PERIOD_S)
    if future.done():
        return future.result()
    client.remove_pending_request(future)
    return None


async def bring_up(context: LaunchContext, node: LifecycleNode) -> None:
    """Takes the node from wherever it is to active, then leaves it alone."""
    ros_node = get_ros_node(context)
    get_state = ros_node.create_client(GetState, f"{node.node_name}/get_state")
    change_state = ros_node.create_client(ChangeState, f"{node.node_name}/change_state")
    next_transition = {
        State.PRIMARY_STATE_UNCONFIGURED: Transition(id=Transition.TRANSITION_CONFIGURE),
        State.PRIMARY_STATE_INACTIVE: Transition(id=Transition.TRANSITION_ACTIVATE),
    }
    try:
        while True:
            state = await call(get_state, GetState.Request(), GET_STATE_TIMEOUT_S)
            if state is None or state.current_state.id not in next_transition:
                if state is not None and state.current_state.id in (
                    State.PRIMARY_STATE_ACTIVE,
                    State.PRIMARY_STATE_FINALIZED,
                ):
                    return
                await asyncio.sleep(POLL_PERIOD_S)
                continue
            request = ChangeState.Request(transition=next_transition[state.current_state.id])
            changed = await call(change_state, request, CHANGE_STATE_TIMEOUT_S)
            if changed is None or not changed.success:
                logger = get_logger(LOGGER)
                logger.error(f"{node.node_name} stays {state.current_state.label}; next try in {RETRY_PERIOD_S:.0f} s")
                await asyncio.sleep(RETRY_PERIOD_S)
    finally:
        ros_node.destroy_client(get_state)
        ros_node.destroy_client(change_state)


def bring_up_handlers(node: LifecycleNode) -> list[RegisterEventHandler]:
    """Runs `bring_up` for each start of the node's process; a new start ends what was under way for the last one."""
    tasks: list[asyncio.Task] = []

    def stop(*_: object) -> None:
        while tasks:
            tasks.pop().cancel()

    def start(context: LaunchContext) -> None:
        stop()
        tasks.append(context.asyncio_loop.create_task(bring_up(context, node)))

    autostart = IfCondition(LaunchConfiguration("autostart"))
    return [
        RegisterEventHandler(
            OnProcessStart(target_action=node, on_start=[OpaqueFunction(function=start)]), condition=autostart
        ),
        RegisterEventHandler(OnShutdown(on_shutdown=stop)),
    ]


def node_with_bring_up(context: LaunchContext) -> list[RegisterEventHandler | LifecycleNode]:
    """The node and, before it because its process may start at once, what brings it up."""
    bundle = LaunchConfiguration("bundle").perform(context)
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    node = LifecycleNode(
        package="bev_perception",
        executable="perception_node",
        name="bev_perception",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {"use_sim_time": use_sim_time, **({"bundle": bundle} if bundle else {})},
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        respawn=LaunchConfiguration("respawn"),
        respawn_delay=RESPAWN_DELAY_S,
        output="screen",
    )
    return [*bring_up_handlers(node), node]


def generate_launch_description() -> LaunchDescription:
    at_start = (OpaqueFunction(function=function) for function in (dds_profile, node_with_bring_up))
    return LaunchDescription([*arguments(), *at_start])
