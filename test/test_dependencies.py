"""package.xml names what bev_perception and its launch files import; the rest has its `pip install` in the docs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from floors import imports_of

ROOT = Path(__file__).resolve().parent.parent
KEYS = {
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "yaml": "python3-yaml",
}  # import -> rosdep key, where it differs
# Imports that apt does not have -> name on PyPI.
ON_PYPI = {
    "av": "av", "model_signing": "model-signing", "cuda": "cuda-core", "onnx": "onnx",
    "onnxruntime": "onnxruntime", "openvino": "openvino", "PIL": "pillow", "pycuda": "pycuda", "ray": "ray",
    "rerun": "rerun-sdk",
    "rosbags": "rosbags",
}  # fmt: skip
OPTIONAL = {"autoware_perception_msgs"}  # messages that are published where they are installed; not in every ROS 2
BY_COMMAND = {"ros2bag", "ros2launch", "rosbag2_storage_mcap"}  # programs, of which nothing is imported
# Of older and newer Pythons; messages that few vehicles have, and that are written without their package.
OF_OTHERS = {"backports", "compression", "ffmpeg_image_transport_msgs", "foxglove_msgs"}


def imported() -> set[str]:
    """Top-level names outside the standard library and this repository, with packages of messages named in strings."""
    files = [p for folder in ("bev_perception", "launch") for p in (ROOT / folder).rglob("*.py")]
    tops = {i.top for p in files for i in imports_of(p.read_text(), ".".join(p.relative_to(ROOT).parent.parts))}
    tops |= {name for p in files for name in re.findall(r'"(\w+)/msg/\w+"', p.read_text())}
    return tops - set(sys.stdlib_module_names) - {"bev_perception", "training"}


def declared() -> set[str]:
    return set(re.findall(r"<exec_depend>([^<]+)</exec_depend>", (ROOT / "package.xml").read_text()))


def missing(names: Iterable[str], keys: set[str]) -> list[str]:
    known = set(ON_PYPI) | OPTIONAL | OF_OTHERS
    return sorted(name for name in names if name not in known and KEYS.get(name, name) not in keys)


def test_package_xml_names_every_import() -> None:
    assert missing(imported(), declared()) == []
    assert missing({"numpy", "tf2_py", "onnx"}, {"python3-numpy"}) == ["tf2_py"]


def test_package_xml_names_nothing_else() -> None:
    used = {KEYS.get(name, name) for name in imported()}
    assert declared() - used == BY_COMMAND
    assert (set(ON_PYPI) | OPTIONAL) - imported() == set()


def test_what_is_only_on_pypi_is_in_a_documented_command() -> None:
    page = "\n".join((ROOT / "docs" / name).read_text() for name in ("vehicle.md", "evaluation.md"))
    lines = re.findall(r"pip install ([^`\n]*)", page)
    installed = {re.split("[<=>]", word.strip('"'))[0] for line in lines for word in line.split()}
    assert set(ON_PYPI.values()) - installed == set()
    docker = re.search(r"pip install (.*)", (ROOT / "deploy" / "Dockerfile").read_text())
    assert docker and {"onnxruntime", "rosbags"} <= {re.split("[<=>]", w.strip('"'))[0] for w in docker[1].split()}
