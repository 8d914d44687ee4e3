"""How `deploy` and a start end: the exit status, a node that was started anew, a record that is damaged."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bev_perception.deployment.folder import RECORD, VehicleFolder
from bev_perception.deployment.rollout import ALREADY, DONE, REFUSED, ROLLBACK_ASKED, ROLLED_BACK
from bev_perception.ros.deploy import Client, _as_asked, main


@pytest.mark.parametrize(
    ("verdict", "reason", "rollback", "serves"),
    [
        (DONE, "in service", False, True),
        (REFUSED, f"{ALREADY}: demo", False, True),
        (REFUSED, "worse_scores: mAP", False, False),
        (REFUSED, f"{ROLLBACK_ASKED}: by a@b", False, False),
        (ROLLED_BACK, "too_slow: 300 ms", False, False),
        (DONE, "in service", True, True),
        (ROLLED_BACK, f"{ROLLBACK_ASKED}: by a@b", True, True),
        (REFUSED, f"{ROLLBACK_ASKED}: by a@b", True, True),
        (REFUSED, "nothing_before: no good bundle before this one is known", True, False),
    ],
)
def test_it_says_whether_what_was_asked_for_serves(verdict: str, reason: str, rollback: bool, serves: bool) -> None:
    assert _as_asked(verdict, reason, rollback) is serves


def test_a_node_that_was_started_anew_is_not_the_one_that_took_the_goal() -> None:
    """Its server is ready, and has never heard of the goal."""
    there: list[Any] = []
    client: Any = Client.__new__(Client)
    client._name, client._client = "/node/deploy", SimpleNamespace(server_is_ready=lambda: True)
    client._node = SimpleNamespace(get_publishers_info_by_topic=lambda topic: there)
    client._server = set()
    assert client._is_there(), "before the goal is taken, any will do"
    there[:] = [SimpleNamespace(endpoint_gid=[1, 2])]
    client._server = client._servers()
    assert client._is_there()
    there[:] = [SimpleNamespace(endpoint_gid=[3, 4])]
    assert not client._is_there()


def test_a_damaged_record_is_told_and_takes_no_transition_down(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
    pytest.importorskip("bev_perception_msgs.action", reason="bev_perception_msgs is not built")
    from bev_perception.ros.node import PerceptionNode

    folder = VehicleFolder(tmp_path / "vehicle")
    folder.open()
    (folder.path / RECORD).write_text('{"format":1,')
    told: list[str] = []
    node: Any = SimpleNamespace(
        _folder=folder, _starting_since=1.0, get_logger=lambda: SimpleNamespace(error=told.append)
    )
    PerceptionNode._end_start(node)
    folder.close()
    assert node._starting_since is None and RECORD in told[0]


def test_a_gate_that_is_wrong_is_named_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
    (tmp_path / "gate.yaml").write_text("agreement: 2\n")
    assert main(["bundle", "--gate", str(tmp_path / "gate.yaml")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"deploy: {tmp_path / 'gate.yaml'}: gate") and "`agreement` is 2" in told


def test_an_empty_name_is_not_the_folder_one_stands_in(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([""])
    assert "is empty; name the folder of a bundle" in capsys.readouterr().err


# Says when ROS is up, for whoever is to end it then.
UP = """
import sys
from bev_perception.ros import start
init = start.init_ros
start.init_ros = lambda arguments: (init(arguments), print("up", flush=True))
"""


@pytest.mark.parametrize(
    "command",
    [["deploy", "bundle"], ["deploy", "--history"], ["bring_up", "configure"]],
    ids=["deploy", "history", "bring_up"],
)
def test_ctrl_c_while_no_node_is_there_is_no_traceback(command: list[str], tmp_path: Path) -> None:
    """Again and again, at several times of the wait."""
    pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
    pytest.importorskip("bev_perception_msgs.action", reason="bev_perception_msgs is not built")
    name, *arguments = command
    code = UP + f"from bev_perception.ros.{name} import main; sys.exit(main({[*arguments, '--node', '/nobody']!r}))"
    running = []
    for delay in (0.0, 0.02, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        running.append((process, delay))
    for process, delay in running:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
    for process, _ in running:
        told = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and "Traceback" not in told, told
        assert told.splitlines()[-1].startswith(f"{name}: "), told
