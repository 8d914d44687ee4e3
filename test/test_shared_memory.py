"""What keeps shared memory from working has a name: as figures, and on real file systems with the real Fast DDS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from domains import next_domain

from bev_perception.ros.shared_memory import (
    MIB,
    PROFILE_VARIABLES,
    SharedFile,
    SharedMemory,
    find_problems,
    memory_problems,
    read_shared_memory,
    segment_bytes,
)

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bev_perception" / "config"
SHIPPED = {
    **os.environ,
    **dict.fromkeys(PROFILE_VARIABLES, str(CONFIG / "fastdds_shm.xml")),
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "ROS_DOMAIN_ID": next_domain(),
}
SEGMENT = 128 * MIB
GOOD = SharedMemory(total=1024 * MIB, free=900 * MIB, writable=True)
LEFT = SharedFile("fastrtps_0123456789abcdef", SEGMENT, owner=1000, port=None, usable=True, left_over=True)
OURS = SharedFile("fastrtps_port7411", 4096, owner=1000, port=7411, usable=True, left_over=False)
# Runs its arguments where /dev/shm has 64 MiB, as in a container of docker.
SMALL = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]

needs_mounts = pytest.mark.skipif(
    subprocess.run([*SMALL, "true"], capture_output=True).returncode != 0,
    reason="a small /dev/shm needs a mount namespace of one's own, which `unshare -rm` may not make here",
)
needs_fast_dds = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True).returncode != 0,
    reason="ROS 2 is not sourced",
)


def reasons(memory: SharedMemory, segment: int = SEGMENT, domain: int = 0) -> list[str]:
    return [problem.reason for problem in memory_problems(memory, segment, domain, user=1000)]


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (GOOD, []),
        (replace(GOOD, files=(OURS,)), []),
        (replace(GOOD, total=64 * MIB, free=64 * MIB), ["shm_too_small"]),
        (replace(GOOD, total=383 * MIB, free=383 * MIB), ["shm_too_small"]),
        (replace(GOOD, total=384 * MIB, free=384 * MIB), []),
        (replace(GOOD, free=127 * MIB), ["shm_full"]),
        (replace(GOOD, writable=False), ["shm_not_writable"]),
        (replace(GOOD, files=(OURS, LEFT)), ["shm_left_over"]),
        (replace(GOOD, files=(replace(LEFT, size=MIB // 2),)), []),  # too little to mention
        (replace(GOOD, files=(replace(OURS, left_over=True),)), []),  # the next process takes the port over
        (replace(GOOD, free=0, files=(LEFT,)), ["shm_full"]),
        (replace(GOOD, files=(replace(OURS, owner=0, usable=False),)), ["shm_of_another_user"]),
        (replace(GOOD, files=(replace(OURS, owner=0, usable=False, port=7650),)), []),  # of domain 1
        (replace(GOOD, files=(replace(LEFT, owner=0, usable=False, left_over=False),)), []),  # of some domain
    ],
)
def test_what_stands_in_the_way_is_named(memory: SharedMemory, expected: list[str]) -> None:
    assert reasons(memory) == expected


def test_the_way_out_is_said() -> None:
    (small,) = memory_problems(replace(GOOD, total=64 * MIB, free=60 * MIB), SEGMENT, 0, 1000)
    for part in ("64 MiB in all", "128 MiB", "--shm-size", "--ipc=host"):
        assert part in small.detail
    (full,) = memory_problems(replace(GOOD, free=9 * MIB, files=(LEFT,)), SEGMENT, 0, 1000)
    for part in ("9.0 MiB of 1024 MiB free", "128 MiB are left over", "fastdds shm clean"):
        assert part in full.detail
    (other,) = memory_problems(replace(GOOD, files=(replace(OURS, owner=0, usable=False),)), SEGMENT, 0, 1000)
    assert "another user than 1000" in other.detail and "fastrtps_port7411 of user 0" in other.detail


PROFILE = """<dds xmlns="http://www.eprosima.com"><profiles><transport_descriptors>
<transport_descriptor><transport_id>a</transport_id><type>SHM</type>{size}</transport_descriptor>
<transport_descriptor><transport_id>b</transport_id><type>UDPv4</type></transport_descriptor>
</transport_descriptors><participant profile_name="p" is_default_profile="true"><rtps>
<userTransports>{used}</userTransports><useBuiltinTransports>{builtin}</useBuiltinTransports></rtps></participant>
</profiles></dds>"""
A, B = "<transport_id>a</transport_id>", "<transport_id> b </transport_id>"


@pytest.mark.parametrize(
    ("size", "used", "builtin", "expected"),
    [
        ("<segment_size>1048576</segment_size>", A + B, "false", MIB),
        ("", A, "false", MIB // 2),
        ("<segment_size>1048576</segment_size>", B, "false", 0),  # described, not used
        ("<segment_size>1048576</segment_size>", B, "true", MIB // 2),
        ("<segment_size>1048576</segment_size>", A, "true", MIB),
    ],
)
def test_a_segment_is_as_large_as_the_profile_says(
    tmp_path: Path, size: str, used: str, builtin: str, expected: int
) -> None:
    profile = tmp_path / "profile.xml"
    profile.write_text(PROFILE.format(size=size, used=used, builtin=builtin))
    assert segment_bytes(profile) == expected


def test_shipped_profiles_and_none() -> None:
    assert segment_bytes(CONFIG / "fastdds_shm.xml") == segment_bytes(CONFIG / "fastdds_shm_only.xml") == SEGMENT
    assert segment_bytes(None) == MIB // 2


def test_only_fast_dds_is_asked(tmp_path: Path) -> None:
    wrong = SHIPPED | dict.fromkeys(PROFILE_VARIABLES, str(tmp_path / "gone.xml"))
    (problem,) = find_problems(wrong)
    assert problem.reason == "dds_profile" and "gone.xml" in problem.detail
    (tmp_path / "gone.xml").write_text("<dds>")
    assert [p.reason for p in find_problems(wrong)] == ["dds_profile"]
    assert find_problems(wrong | {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}) == ()
    (missing,) = find_problems(SHIPPED, tmp_path / "no_folder")
    assert missing.reason == "shm_not_writable"


def wait_for(predicate: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 60
    while not (value := predicate()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return value


@needs_fast_dds
def test_files_of_a_process_that_was_killed_are_left_over() -> None:
    """With the real files and locks of Fast DDS."""
    code = "import rclpy, time; rclpy.init(); node = rclpy.create_node('n'); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], env=SHIPPED, stdout=subprocess.PIPE, text=True)
    names: set[str] = set()

    def mine() -> list[SharedFile]:
        return [file for file in read_shared_memory().files if file.name in names]

    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        names |= set(re.findall(r"/dev/shm/(fast\w+)", Path(f"/proc/{process.pid}/maps").read_text()))
        alive = mine()
        assert {file.port is None for file in alive} == {True, False}
        assert not any(file.left_over for file in alive), alive
        assert all(file.usable and file.owner == os.getuid() for file in alive)
        process.send_signal(signal.SIGKILL)
        process.wait()
        dead = mine()
        assert all(file.left_over for file in dead)
        (problem,) = memory_problems(replace(GOOD, files=tuple(dead)), SEGMENT, 0, os.getuid())
        assert problem.reason == "shm_left_over"
    finally:
        process.kill()
        for name in names:
            for path in Path("/dev/shm").glob(f"*{name}*"):
                path.unlink(missing_ok=True)


@needs_mounts
def test_a_small_file_system_is_found_by_the_command() -> None:
    command = [*SMALL, sys.executable, "-m", "bev_perception.ros.shared_memory"]
    found = subprocess.run(command, env=SHIPPED, capture_output=True, text=True)
    assert found.returncode == 1 and found.stdout.startswith("shm_too_small: /dev/shm has 64 MiB in all"), found
    plain = {name: value for name, value in SHIPPED.items() if name not in PROFILE_VARIABLES}
    found = subprocess.run(command, env=plain, capture_output=True, text=True)
    assert found.returncode == 0 and "nothing keeps Fast DDS" in found.stdout, found


@needs_mounts
@needs_fast_dds
def test_the_node_says_so_too(tmp_path: Path) -> None:
    pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
    log = tmp_path / "node.log"
    with log.open("w") as file:
        command = [*SMALL, sys.executable, "-m", "bev_perception.ros.node"]
        node = subprocess.Popen(command, env=SHIPPED | {"PYTHONUNBUFFERED": "1"}, stdout=file, stderr=file)
    try:
        wait_for(lambda: "shm_too_small: /dev/shm has 64 MiB" in log.read_text() or node.poll(), "the log of the node")
        assert "--ipc=host" in log.read_text(), log.read_text()
    finally:
        node.send_signal(signal.SIGINT)
        assert node.wait(30) == 0, log.read_text()
