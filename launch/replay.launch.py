"""Plays a bag through the perception node and records what comes out.

    ros2 launch bev_perception replay.launch.py bag:=/path/to/drive record:=/path/to/result

The bag starts when the node is active and hears all that it subscribes to, on simulated time (/clock), and everything
ends with the bag. For scores that do not depend on the speed of this machine use `ros2 run bev_perception replay`,
which feeds the same algorithm straight from the bag.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition

RECORDER_START_S = 2.0  # the recorder has to have found the topics before the first image is played
LAST_FRAMES_S = 3.0  # what is still under way when the bag has ended


def arguments(share: Path) -> list[DeclareLaunchArgument]:
    return [
        DeclareLaunchArgument("bag", description="The bag to play (folder or file)."),
        DeclareLaunchArgument("record", default_value="", description="The bag to write. Empty: record nothing."),
        DeclareLaunchArgument(
            "record_topics",
            default_value="(/.*)?/perception/.*|/diagnostics|/tf|/tf_static|/ground_truth/.*",
            description="Regular expression of the topics to record.",
        ),
        DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the replay, 1.0 is real time."),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(share / "config" / "perception.param.yaml"),
            description="Parameters of the node.",
        ),
        DeclareLaunchArgument(
            "dds_profile",
            default_value=str(share / "config" / "fastdds_shm.xml"),
            description="Fast DDS profile for node, player and recorder. Empty: none.",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument("log_level", default_value="info", description="Of the node: debug, info, warn ..."),
        DeclareLaunchArgument("bundle", default_value="", description="The model. Empty: the one of params_file."),
    ]


def record(context: LaunchContext) -> list[ExecuteProcess]:
    """The recorder, where something is to be recorded."""
    command = ["ros2", "bag", "record", "--use-sim-time", "--storage", "mcap"]
    command += ["--output", LaunchConfiguration("record"), "--regex", LaunchConfiguration("record_topics")]
    wanted = LaunchConfiguration("record").perform(context)
    return [ExecuteProcess(cmd=command, output="screen")] if wanted else []


def generate_launch_description() -> LaunchDescription:
    share = Path(get_package_share_directory("bev_perception"))

    # Sets the DDS profile for this whole launch; player and recorder start later and get it too.
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / "launch" / "bev_perception.launch.py")),
        launch_arguments={
            "params_file": LaunchConfiguration("params_file"),
            "dds_profile": LaunchConfiguration("dds_profile"),
            "use_sim_time": "true",
            "respawn": "false",
            "namespace": LaunchConfiguration("namespace"),
            "log_level": LaunchConfiguration("log_level"),
            "bundle": LaunchConfiguration("bundle"),
        }.items(),
    )

    # ros2 bag play starts at once, and what it plays before the node knows it is lost; this player waits.
    play = Node(
        package="bev_perception",
        executable="play_bag",
        arguments=[
            *(LaunchConfiguration("bag"), "--clock", "--rate", LaunchConfiguration("rate")),
            *("--wait-for-node", [LaunchConfiguration("namespace"), "/bev_perception"]),
        ],
        output="screen",
    )

    handlers = [
        OnStateTransition(
            goal_state="active",
            handle_once=True,
            entities=[OpaqueFunction(function=record), TimerAction(period=RECORDER_START_S, actions=[play])],
        ),
        OnProcessExit(
            target_action=play,
            on_exit=[
                TimerAction(period=LAST_FRAMES_S, actions=[EmitEvent(event=Shutdown(reason="the bag has ended"))])
            ],
        ),
    ]
    return LaunchDescription([*arguments(share), *map(RegisterEventHandler, handlers), perception])
