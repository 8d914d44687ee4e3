"""Who may import what (docs/architecture.md), read from the syntax trees of the sources: nothing is run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from floors import ROOT, Import, imports_of

TRAINING_ONLY = {
    "training",
    "torch",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "onnxscript",
    "tensorboard",
}
ENGINES = {"onnxruntime", "openvino", "onnx", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pycuda", "cuda"}
ROS_WITHOUT_SUFFIX = {"rclpy", "launch", "launch_ros", "cv_bridge", "sensor_msgs_py", "builtin_interfaces", "tf2_py"}
ROS_PREFIXES = ("ament_", "rosidl_", "rosbag2_", "tf2_", "rcl_", "ros2")
ROS_SUFFIXES = ("_msgs", "_interfaces", "_srvs")


@dataclass(frozen=True)
class Rule:
    """`forbids` says whether an import is against the rule in files below `folder` but not below `exempt`."""

    folder: str
    forbids: Callable[[Import], bool]
    why: str
    exempt: tuple[str, ...] = ()


def is_ros(imported: Import) -> bool:
    top = imported.top
    return top in ROS_WITHOUT_SUFFIX or top.startswith(ROS_PREFIXES) or top.endswith(ROS_SUFFIXES)


def is_torch(imported: Import) -> bool:
    return imported.top in {"torch", "torchvision", "lightning", "pytorch_lightning"}


def not_for_models(imported: Import) -> bool:
    allowed = {"torch", "numpy", "bev_perception"}
    if imported.top == "training":
        return not imported.module.startswith("training.models")
    return imported.top not in allowed and imported.top not in sys.stdlib_module_names


RULES = (
    Rule("bev_perception", lambda i: i.top in TRAINING_ONLY, "the runtime knows neither torch nor training"),
    Rule(
        "bev_perception",
        is_ros,
        "only bev_perception/ros and the two doors, conversions and messages, import ROS 2",
        exempt=("bev_perception/ros", "bev_perception/conversions.py", "bev_perception/messages.py"),
    ),
    Rule(
        "bev_perception",
        lambda i: i.module.startswith("bev_perception.ros."),
        "the core, which replay and training use too, knows nothing of the node",
        exempt=(
            "bev_perception/ros",
            "bev_perception/evaluation/demo.py",
            "bev_perception/evaluation/live.py",
            "bev_perception/evaluation/bench.py",
            "bev_perception/evaluation/bench_node.py",
            "bev_perception/evaluation/faults.py",
            "bev_perception/evaluation/soak.py",
            "bev_perception/rig/from_live.py",
            "bev_perception/rig/machine.py",
        ),
    ),
    Rule(
        "bev_perception",
        lambda i: i.top in ENGINES,
        "only bev_perception/inference knows inference engines",
        exempt=("bev_perception/inference",),
    ),
    Rule(
        "bev_perception/inference",
        lambda i: i.on_load and i.top in ENGINES,
        "an engine that is not installed must not keep the others from loading: import it where it is used",
    ),
    Rule(
        "bev_perception/conversions.py",
        lambda i: i.on_load and is_ros(i),
        "the replay uses the conversions without ROS 2: import it inside the function that needs it",
    ),
    Rule(
        "bev_perception/messages.py",
        lambda i: i.on_load and is_ros(i),
        "PUBLISHERS is read without ROS 2: import it inside the function that needs it",
    ),
    Rule("training", is_ros, "training needs no ROS 2"),
    Rule(
        "training/models", not_for_models, "models are plain torch: torch, numpy, the standard library, bev_perception"
    ),
    Rule("training/world", is_torch, "the demo makes its drive without torch"),
)


def violations(root: Path, rule: Rule) -> Iterable[str]:
    """One line for each import below `root` that is against the rule."""
    start = root / rule.folder
    for path in sorted(start.rglob("*.py")) if start.is_dir() else [start]:
        relative = path.relative_to(root)
        if any(relative.is_relative_to(folder) for folder in rule.exempt):
            continue
        for imported in imports_of(path.read_text(), ".".join(relative.parent.parts)):
            if rule.forbids(imported):
                yield f"{relative}:{imported.line}: imports {imported.module}, but {rule.why}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.why.split(":")[0].replace(" ", "_"))
def test_boundary(rule: Rule) -> None:
    assert (ROOT / rule.folder).exists(), f"{rule.folder} is gone: this rule guards nothing any more"
    broken = list(violations(ROOT, rule))
    assert not broken, "\n".join(broken)


def loaded_with(module: str) -> dict[str, str]:
    """Top-level names of everything that is not ours and that importing `module` imports, with who imports it."""
    outside: dict[str, str] = {}
    seen: set[str] = set()
    todo = [module]
    while todo:
        parts = todo.pop().split(".")
        for length in range(1, len(parts) + 1):  # importing a.b.c runs a, then a.b, then a.b.c
            name = ".".join(parts[:length])
            base = ROOT.joinpath(*parts[:length])
            path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
            if name in seen or not path.is_file():
                continue
            seen.add(name)
            package = name if base.is_dir() else name.rpartition(".")[0]
            for imported in imports_of(path.read_text(), package):
                if imported.on_load and imported.top in ("bev_perception", "training"):
                    todo.append(imported.module)
                elif imported.on_load and imported.top not in sys.stdlib_module_names:
                    outside[imported.top] = name
    return outside


@pytest.mark.parametrize("module", ["pipeline", "replay", "inference.build_engine", "inference.onnxruntime_backend"])
def test_runtime_loads_with_what_pip_installs_for_it(module: str) -> None:
    """`pip install .` brings numpy, opencv, pyyaml, onnxruntime and rosbags (setup.py), and that has to do."""
    outside = loaded_with(f"bev_perception.{module}")
    assert "numpy" in loaded_with("bev_perception.structures")
    missing = {
        name: by for name, by in outside.items() if name not in {"numpy", "cv2", "yaml", "onnxruntime", "rosbags"}
    }
    assert not missing, f"imported when bev_perception.{module} is: {missing}"


@pytest.mark.parametrize("module", ["average", "convert", "decoding", "evaluate", "export", "train_small", "velocity"])
def test_what_does_not_train_begins_without_lightning(module: str) -> None:
    """It takes seconds to load, in every process."""
    assert "lightning" in loaded_with("training.train")
    assert loaded_with(f"training.{module}").get("lightning") is None


@pytest.mark.parametrize(
    ("path", "source", "module"),
    [
        ("bev_perception/decode.py", "import torch.nn", "torch.nn"),
        ("bev_perception/decode.py", "def f():\n    from training.models import heads", "training.models.heads"),
        ("bev_perception/ros/node.py", "import lightning as L", "lightning"),
        ("bev_perception/sync.py", "from sensor_msgs.msg import Image", "sensor_msgs.msg.Image"),
        ("bev_perception/evaluation/demo.py", "importlib.import_module('rclpy')", "rclpy"),
        ("bev_perception/pipeline.py", "import onnxruntime", "onnxruntime"),
        (
            "bev_perception/inference/tensorrt_backend.py",
            "try:\n    import tensorrt\nexcept ImportError: pass",
            "tensorrt",
        ),
        ("bev_perception/conversions.py", "from std_msgs.msg import Header", "std_msgs.msg.Header"),
        ("bev_perception/messages.py", "from std_msgs.msg import Header", "std_msgs.msg.Header"),
        ("training/models/student.py", "from ..data import nuscenes", "training.data.nuscenes"),
        ("training/models/student.py", "import cv2", "cv2"),
        ("training/world/world.py", "from torch import nn", "torch.nn"),
        ("training/train.py", "import rclpy", "rclpy"),
    ],
)
def test_violation_is_caught(tmp_path: Path, path: str, source: str, module: str) -> None:
    target = tmp_path / path
    target.parent.mkdir(parents=True)
    target.write_text(f'"""A file."""\n{source}\n')
    for rule in RULES:
        if not (tmp_path / rule.folder).exists():
            (tmp_path / rule.folder).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / rule.folder).touch() if rule.folder.endswith(".py") else (tmp_path / rule.folder).mkdir()
    broken = [line for rule in RULES for line in violations(tmp_path, rule)]
    assert any(line.startswith(f"{path}:") and f"imports {module}," in line for line in broken), broken


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bev_perception/ros/node.py", "import rclpy\nfrom sensor_msgs.msg import Image"),
        ("bev_perception/conversions.py", "def f():\n    from cv_bridge import CvBridge"),
        ("bev_perception/inference/tensorrt_backend.py", "def f():\n    import tensorrt"),
        ("bev_perception/decode.py", "import numpy as np\nfrom .grid import BevGrid"),
        ("training/models/student.py", "import math\nimport torch\nfrom bev_perception.grid import BevGrid"),
        ("training/train.py", "import torch\nfrom bev_perception.structures import SensorFrame"),
    ],
)
def test_allowed_import_passes(tmp_path: Path, path: str, source: str) -> None:
    target = tmp_path / path
    target.parent.mkdir(parents=True)
    target.write_text(source)
    rules = [rule for rule in RULES if (tmp_path / rule.folder).exists()]
    assert rules
    assert [line for rule in rules for line in violations(tmp_path, rule)] == []
