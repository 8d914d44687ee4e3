"""What deploy/ has fits the repository, as far as it can be told without docker and without a vehicle."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
UNIT = ROOT / "deploy" / "bev_perception.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    def verify(unit: Path) -> str:
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
        return "".join(line for line in done.stderr.splitlines(keepends=True) if unit.name in line)

    assert verify(UNIT) == ""
    (tmp_path / "wrong.service").write_text(UNIT.read_text().replace("KillMode=", "KillMod="))
    assert "KillMod" in verify(tmp_path / "wrong.service")


def test_the_unit_starts_the_launch_file_that_there_is() -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    (launch_file,) = re.findall(r"ros2 launch bev_perception (\S+)", command)
    (argument,) = re.findall(r"(\w+):=", command)
    text = (ROOT / "launch" / launch_file).read_text()
    assert f'"{argument}"' in text


def test_docker_copies_what_there_is_and_starts_what_there_is() -> None:
    text = DOCKERFILE.read_text()
    sources = re.findall(r"^COPY (\S+) ", text, re.MULTILINE)
    assert sources and all((ROOT / source).exists() for source in sources)
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)
    assert set(re.findall(r"--target (\w+)", text)) <= set(stages)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = [*re.findall(r"make ([\w-]+)$", text, re.MULTILINE), *re.findall(r'"make", "([\w-]+)"', text)]
    assert made and set(made) <= set(targets)
    (launch_file,) = re.findall(r'"launch", "bev_perception", "([\w.]+)"', text)
    assert (ROOT / "launch" / launch_file).is_file()
