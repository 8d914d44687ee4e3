"""Starts the perception node and brings it up: configure, then activate; both again whenever it is restarted.

    ros2 launch bev_perception bev_perception.launch.py params_file:=/path/to/my.param.yaml

A failed configure (model not found, self-test failed) is tried again every few seconds, and a node that died is
started again. A node that was deactivated by hand stays inactive.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.conditions import IfCondition, LaunchConfigurationNotEquals
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

RETRY_PERIOD_S = 5.0
RESPAWN_DELAY_S = 2.0


def arguments() -> list[DeclareLaunchArgument]:
    config = Path(get_package_share_directory("bev_perception"), "config")
    return [
        DeclareLaunchArgument(
            "params_file",
            default_value=str(config / "perception.param.yaml"),
            description="Parameters of the node: bundle, topics, frames, thresholds, tolerances.",
        ),
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


def dds_profile() -> list[SetEnvironmentVariable]:
    """Fast DDS 2 (Humble, Jazzy) reads the first name, Fast DDS 3 the second."""
    return [
        SetEnvironmentVariable(
            name, LaunchConfiguration("dds_profile"), condition=LaunchConfigurationNotEquals("dds_profile", "")
        )
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    ]


def bring_up(node: LifecycleNode) -> list[RegisterEventHandler]:
    """Event handlers that take the node from the start of its process to active."""

    def change_state(transition_id: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition_id))

    def configure() -> EmitEvent:
        return change_state(Transition.TRANSITION_CONFIGURE)

    def configure_later() -> list[LogInfo | TimerAction]:
        return [
            LogInfo(msg=f"bev_perception could not be configured; next attempt in {RETRY_PERIOD_S:.0f} s"),
            TimerAction(period=RETRY_PERIOD_S, actions=[configure()]),
        ]

    handlers = [
        OnProcessStart(target_action=node, on_start=[configure()]),  # fires again after each respawn
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[change_state(Transition.TRANSITION_ACTIVATE)],
        ),
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="unconfigured",
            entities=configure_later(),
        ),
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="errorprocessing",
            goal_state="unconfigured",
            entities=configure_later(),
        ),
    ]
    autostart = IfCondition(LaunchConfiguration("autostart"))
    return [RegisterEventHandler(handler, condition=autostart) for handler in handlers]


def generate_launch_description() -> LaunchDescription:
    node = LifecycleNode(
        package="bev_perception",
        executable="perception_node",
        name="bev_perception",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)},
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        respawn=LaunchConfiguration("respawn"),
        respawn_delay=RESPAWN_DELAY_S,
        output="screen",
    )
    # The handlers come before the node: its process may start at once.
    return LaunchDescription([*arguments(), *dds_profile(), *bring_up(node), node])
