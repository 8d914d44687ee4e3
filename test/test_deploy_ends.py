"""How `deploy` and a start end: the exit status, a node that was started anew, a record that is damaged."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bev_perception.deployment.folder import JOURNAL, RECORD, VehicleFolder
from bev_perception.deployment.rollout import ALREADY, DONE, REFUSED, ROLLBACK_ASKED, ROLLED_BACK
from bev_perception.evaluation.drive import DRIVE, read_drive
from bev_perception.evaluation.evaluate import main as evaluate_main
from bev_perception.evaluation.look import LOOK, read_look
from bev_perception.ros.deploy import Client, _as_asked
from bev_perception.ros.deploy import main as deploy_main
from training.circle.gate import main as gate_main

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.mark.parametrize("content", [b"\xff", b"a: b: c", b"agreement: 2"], ids=["no text", "no yaml", "no gate"])
@pytest.mark.parametrize("command", [deploy_main, gate_main, evaluate_main], ids=["deploy", "circle", "evaluate"])
def test_whatever_is_wrong_with_a_gate_names_the_file(
    command: Any, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command is deploy_main:
        pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
    gate = tmp_path / "gate.yaml"
    gate.write_bytes(content)
    more = {
        deploy_main: ["bundle"],
        gate_main: ["bundle", "--in-service", "other", "--out", "out"],
        evaluate_main: ["bag", "--bundle", "bundle"],
    }[command]
    assert command([*more, "--gate", str(gate)]) == 1
    assert f"{gate}: " in capsys.readouterr().err


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    for name, read in ((DRIVE, read_drive), (LOOK, read_look)):
        (tmp_path / name).write_text("{")
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name}: ")):
            read(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is no folder of this machine"),
        (b"", "has no lines; nothing was deployed there yet"),
        (b"\0\0\0\0\n[]\n", "has no line that can be read"),
    ],
    ids=["no folder", "empty", "damaged"],
)
def test_a_history_that_cannot_be_had_says_why(
    content: bytes | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "vehicle"
    if content is not None:
        folder.mkdir()
        (folder / JOURNAL).write_bytes(content)
    assert deploy_main(["--history", str(folder)]) == 1
    said = capsys.readouterr()
    assert told in said.err and not said.out
    assert ("nothing was deployed" in said.err) == (content == b"")


def test_the_page_names_every_reason_that_there_is() -> None:
    sources = [*(ROOT / "bev_perception" / "deployment").glob("*.py"), ROOT / "bev_perception/ros/deploy_server.py"]
    named = re.compile(r'"([a-z]+_[a-z_]+): |"(busy|failed|diverges|disagrees|cancelled): |_try\("([a-z_]+)"')
    found = {name for file in sources for names in named.findall(file.read_text()) for name in names if name}
    assert {"bad_goal", "nothing_before", "nothing_to_end", "low_priority", "busy", "too_slow"} <= found
    page = (ROOT / "docs" / "redeploy.md").read_text()
    steps = page[page.index("## The steps") : page.index("## The gate")]
    assert not {name for name in found | {ALREADY, ROLLBACK_ASKED} if f"`{name}`" not in steps}


def test_an_empty_name_is_not_the_folder_one_stands_in(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        deploy_main([""])
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
