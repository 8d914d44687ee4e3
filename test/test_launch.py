"""The launch files: what they name exists, and the bring-up gets a node active that fails, dies and comes back."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from domains import next_domain

from bev_perception.bundle import load_bundle
from bev_perception.parameters import SHIPPED_BUNDLE, make_config, parse_yaml

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.py"))

needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch_ros is not installed: it comes with a ROS 2 installation, not with the wheels",
)


def constants(path: Path, keyword: str) -> list[str]:
    """Constant values of a keyword argument, in all calls of a file."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    found = [word.value for call in calls for word in call.keywords if word.arg == keyword]
    return [value.value for value in found if isinstance(value, ast.Constant)]


def strings(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_both_launch_files_are_there() -> None:
    assert [path.name for path in LAUNCH_FILES] == ["bev_perception.launch.py", "replay.launch.py"]


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_names_what_exists(path: Path) -> None:
    compile(path.read_text(), path, "exec")
    functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert "generate_launch_description" in functions
    scripts = re.findall(r'"(\w+)": "[\w.]+:main"', (ROOT / "setup.py").read_text())
    assert set(constants(path, "executable")) <= set(scripts)
    assert set(constants(path, "package")) <= {"bev_perception"}
    for name in strings(path):
        if name.endswith((".yaml", ".xml")):
            assert (ROOT / "bev_perception" / "config" / name).is_file(), f"{path.name} names config/{name}"
        if name.endswith(".launch.py") and "/" not in name and " " not in name:
            assert (ROOT / "launch" / name).is_file()


def test_replay_passes_arguments_that_the_included_file_declares() -> None:
    declared = {
        node.args[0].value
        for node in ast.walk(ast.parse((ROOT / "launch" / "bev_perception.launch.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument"
    }
    (passed,) = (
        {key.value for key in node.value.func.value.keys}
        for node in ast.walk(ast.parse((ROOT / "launch" / "replay.launch.py").read_text()))
        if isinstance(node, ast.keyword) and node.arg == "launch_arguments"
    )
    assert {"namespace", "log_level", "bundle", "params_file"} <= passed
    assert passed <= declared


def example_of_two_drivers(language: str) -> str:
    """A block of docs/vehicle.md."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "vehicle.md").read_text(), re.M | re.S)
    return block


def test_example_parameters_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "my.param.yaml").write_text(example_of_two_drivers("yaml"))
    values = parse_yaml(tmp_path / "my.param.yaml")
    config = make_config({"bundle": "any", **values}, load_bundle(SHIPPED_BUNDLE).spec)
    assert config.cameras["CAM_FRONT"].topic == "/camera/cam_front/image_raw"
    assert config.cameras["CAM_BACK"].info_topic == "/camera/cam_back/color/camera_info"


def test_example_launch_file_names_what_exists(tmp_path: Path) -> None:
    text = example_of_two_drivers("python")
    compile(text, "vehicle.launch.py", "exec")
    for part in re.findall(r'SHARE / "(\w+)" / "([\w.]+)"', text):
        folder = ROOT if part[0] == "launch" else ROOT / "bev_perception"
        assert folder.joinpath(*part).is_file(), part
    if importlib.util.find_spec("launch_ros") is not None:
        (tmp_path / "vehicle.launch.py").write_text(text)
        spec = importlib.util.spec_from_file_location("vehicle_launch", tmp_path / "vehicle.launch.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert len(module.generate_launch_description().entities) == 5


# Stands in for the node: cannot be configured the first time it is asked, and dies once it is active. The second
# process does the same except that it stays.
STUB = """#!{python}
import os, pathlib, rclpy
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

log = pathlib.Path({log!r})

def note(text):
    with log.open("a") as file:
        file.write(text + "\\n")

class Stub(LifecycleNode):
    attempts = 0

    def on_configure(self, state):
        self.attempts += 1
        note("configure")
        return TransitionCallbackReturn.FAILURE if self.attempts == 1 else TransitionCallbackReturn.SUCCESS

    def on_activate(self, state):
        note("activate")
        if log.read_text().count("activate") == 1:
            self.create_timer(0.5, lambda: os._exit(3))
        return super().on_activate(state)

rclpy.init()
note("start " + os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", ""))
rclpy.spin(Stub("stub"))
"""

RUN_LAUNCH = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

service = LaunchService()
service.include_launch_description(IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=[("params_file", sys.argv[2])]))
sys.exit(service.run())
"""


@needs_launch
def test_bring_up_survives_a_failed_configure_and_a_crash(tmp_path: Path) -> None:
    prefix, log = tmp_path / "prefix", tmp_path / "log"
    executable = prefix / "lib" / "bev_perception" / "perception_node"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "bev_perception"
    share = prefix / "share" / "bev_perception"
    for folder in (executable.parent, marker.parent, share):
        folder.mkdir(parents=True)
    (share / "config").symlink_to(ROOT / "bev_perception" / "config")
    marker.touch()
    executable.write_text(STUB.format(python=sys.executable, log=str(log)))
    executable.chmod(0o755)
    parameters = tmp_path / "stub.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    unused: 1\n")
    env = {
        **os.environ,
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": next_domain(),
        "ROS_LOG_DIR": str(tmp_path),
    }
    command = [sys.executable, "-W", "always", "-c", RUN_LAUNCH]
    command += [str(ROOT / "launch" / "bev_perception.launch.py"), str(parameters)]
    launch = subprocess.Popen(
        command, env=env, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and (not log.exists() or log.read_text().count("activate") < 2):
            time.sleep(0.2)
    finally:
        os.killpg(launch.pid, signal.SIGINT)
        output, _ = launch.communicate(timeout=30)
    one_life = [f"start {share / 'config' / 'fastdds_shm.xml'}", "configure", "configure", "activate"]
    assert log.read_text().splitlines() == one_life * 2, output
    assert "deprecated" not in output


@needs_launch
def test_replay_launch_description_is_made() -> None:
    try:
        from ament_index_python.packages import get_package_share_directory

        get_package_share_directory("bev_perception")
    except LookupError:
        pytest.skip("bev_perception is not installed in a sourced workspace: `colcon build` and source it")
    spec = importlib.util.spec_from_file_location("replay_launch", ROOT / "launch" / "replay.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [
        action.name for action in module.generate_launch_description().entities if hasattr(action, "default_value")
    ]
    assert names[:2] == ["bag", "record"]
