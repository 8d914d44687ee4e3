"""The node takes from parameter files what the replay takes from them, and refuses the same in the same words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
pytest.importorskip("onnx", reason="onnx is not installed")

import rclpy
import tiny_bundle
from lifecycle_msgs.msg import Transition
from node_rig import ROOT, START, environment, running_node
from rclpy.context import Context

from bev_perception.parameters import NODE_NAME, SHIPPED_PARAMETERS, ParameterError, parse_yaml
from bev_perception.ros.parameter_files import full_name, read_command_line
from bev_perception.ros.start import LOG_VARIABLE, place_logs

HEAD = "/**:\n  ros__parameters:\n"
ODD = """
    whole: 3
    broken: 1e-7
    large: 1e16
    truth: true
    nothing: null
    tilde: ~
    text: "it's \\"so\\"\\n~ ä"
    number_in_words: "010"
    none: ''
    empty: []
    texts: ["a b", "c"]
    mixed: [1, a]
    deep: [[1]]
    far: .inf
    cameras.cam-a.topic: /x
    odd name: 1
    qos_overrides: {/camera/x/image_raw: {subscription: {reliability: reliable}}}
"""
REFUSED = {
    "repeated key": HEAD + "    qos.depth: 5\n    qos.depth: 7\n",
    "dotted and nested": HEAD + "    qos.depth: 5\n    qos: {depth: 7}\n",
    "octal": HEAD + "    qos.depth: 010\n",
    "yes": HEAD + "    use_sim_time: yes\n",
    "alias": HEAD + "    a: &x [b]\n    c: *x\n",
    "other node": "/camera:\n  ros__parameters:\n    a: 1\n",
    "no parameters": "/**:\n  ros__parameters:\n",
}


def given_to_node(arguments: list[str]) -> dict[str, Any]:
    """What a node that is started like this has been given."""
    line, context = read_command_line(["node", *arguments]), Context()
    rclpy.init(args=line.arguments, context=context)
    node = rclpy.create_node(NODE_NAME, context=context, enable_rosout=False, start_parameter_services=False)
    found = line.beside | {name: parameter.value for name, parameter in node._parameter_overrides.items()}
    node.destroy_node()
    rclpy.shutdown(context=context)
    return found


def test_values_are_those_of_the_replay(tmp_path: Path) -> None:
    odd = tmp_path / "odd.yaml"
    odd.write_text(HEAD + ODD)
    for path in (odd, SHIPPED_PARAMETERS):
        wanted = parse_yaml(path)
        found = given_to_node(["--ros-args", "--params-file", str(path)])
        assert len(wanted) > 15 and {n: (v, type(v)) for n, v in found.items()} == {
            n: (v, type(v)) for n, v in wanted.items()
        }


def test_later_arguments_win(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(HEAD + "    a: 1\n    b: 1\n    absent: [x]\n    given: []\n")
    two.write_text(HEAD + "    a: 2\n    absent: [w]\n    given: [z]\n")
    file = ["--params-file", str(one)], ["--params-file", str(two)]
    both = ["--ros-args", "-p", "b:=0", *file[0], "-p", "a:=5"]
    assert given_to_node(both) == {"a": 5, "b": 1, "absent": ["x"], "given": []}
    assert given_to_node([*both, *file[1]]) == {"a": 2, "b": 1, "absent": ["w"], "given": ["z"]}
    assert given_to_node(["--ros-args", "-p", "b:=0", "--", *file[0]]) == {"b": 0}, "not an argument of ROS"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "/bev_perception"),
        (["--ros-args", "-r", "__ns:=/fleet/car_7"], "/fleet/car_7/bev_perception"),
        (["--ros-args", "-r", "__node:=other", "--remap", "__ns:=/"], "/other"),
        (["--ros-args", "-r", "bev_perception:__name:=other", "-r", "/a:=/b"], "/other"),
    ],
)
def test_the_name_of_the_node(arguments: list[str], name: str) -> None:
    assert full_name(arguments) == name


@pytest.mark.parametrize(
    ("section", "applies"),
    [
        ("/**", True), ("/fleet/bev_perception", True), ("fleet/bev_perception", True), ("/fleet/**", True),
        ("/**/bev_perception", True), ("/*/bev_perception", True), ("/fleet/*", True), ("*", False),
        ("bev_perception", False), ("/car/bev_perception", False), ("/fleet", False),
        ("/fleet/bev_perception_2", False),
    ],
)  # fmt: skip
def test_sections_apply_as_they_do_for_rcl(tmp_path: Path, section: str, applies: bool) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(yaml.safe_dump({section: {"ros__parameters": {"a": 1}}}))
    context = Context()
    arguments = ["node", "--ros-args", "-r", "__ns:=/fleet", "--params-file", str(path)]
    rclpy.init(args=arguments, context=context)
    node = rclpy.create_node(NODE_NAME, context=context, enable_rosout=False, start_parameter_services=False)
    assert bool(node._parameter_overrides) == applies
    node.destroy_node()
    rclpy.shutdown(context=context)
    line = read_command_line(arguments)
    assert (line.errors == []) == ("a:=1" in line.arguments) == applies


def test_the_node_refuses_what_the_replay_refuses_in_the_same_words(tmp_path: Path) -> None:
    """And lives: what is wrong is said when it is configured."""
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    paths = [tmp_path / "absent.yaml", *(tmp_path / f"{name}.yaml" for name in REFUSED)]
    errors = []
    for path in paths:
        if path.stem in REFUSED:
            path.write_text(REFUSED[path.stem])
        with pytest.raises(ParameterError) as error:
            parse_yaml(path)
        errors.append(str(error.value))
    files = [word for path in paths for word in ("--params-file", str(path))]
    start = (*START, "--ros-args", *files, "--")
    with running_node(tmp_path, bundle.path, bundle.spec, start) as (process, rig):
        assert not rig.change_state(Transition.TRANSITION_CONFIGURE)
        wanted = "configure failed: " + "\n".join(errors)
        rig.wait_for(lambda: wanted in rig.status.summary, f"the status to say {wanted}")
        assert process.alive() and "Traceback" not in process.log.read_text()


def start_node(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bev_perception.ros.node", *arguments]
    env = environment() | variables
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60)


def test_arguments_that_ros_refuses_are_named_without_a_traceback(tmp_path: Path) -> None:
    done = start_node(tmp_path, "--ros-args", "-p", "what is this")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "bev_perception cannot start: " in done.stderr and "what is this" in done.stderr


def test_no_place_for_log_files_is_named_without_a_traceback(tmp_path: Path) -> None:
    places = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    (tmp_path / f"bev_perception-{os.getuid()}").write_text("no folder")
    done = start_node(tmp_path, **places)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"set {LOG_VARIABLE} to a folder that can be written" in done.stderr


def test_log_files_go_to_the_next_best_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("HOME", "/proc/nowhere"), ("ROS_HOME", ""), (LOG_VARIABLE, ""), ("XDG_CACHE_HOME", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place_logs()
    assert os.environ[LOG_VARIABLE] == str(tmp_path / "bev_perception" / "ros_log")
    assert "log files of ROS: cannot write /proc/nowhere/.ros/log" in capsys.readouterr().err
    for name, value, place in (
        ("HOME", tmp_path / "home", tmp_path / "home" / ".ros" / "log"),
        ("ROS_HOME", tmp_path / "ros", tmp_path / "ros" / "log"),
        (LOG_VARIABLE, tmp_path / "logs", tmp_path / "logs"),
    ):
        monkeypatch.setenv(LOG_VARIABLE, "")
        monkeypatch.setenv(name, str(value))
        place_logs()
        assert place.is_dir() and os.environ[LOG_VARIABLE] in ("", str(place)), "where ROS puts them anyway"
    assert capsys.readouterr().err == ""


def test_a_service_without_a_home_starts(tmp_path: Path) -> None:
    """Its log files go elsewhere, said once; the program goes on until it is told to end."""
    code = (
        "import rclpy\nfrom bev_perception.ros.start import init_ros\ninit_ros(['x'])\n"
        "rclpy.create_node('x').get_logger().info('here')\nrclpy.shutdown()\n"
    )
    env = environment() | {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert any("here" in path.read_text() for path in (tmp_path / "bev_perception" / "ros_log").iterdir())
