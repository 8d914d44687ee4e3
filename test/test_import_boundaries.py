"""Who may import what (docs/architecture.md), read from the syntax trees of the sources: nothing is run."""

from __future__ import annotations

import ast
import fnmatch
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TRAINING_ONLY = {
    "training",
    "torch",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "onnxscript",
    "tensorboard",
}
ENGINES = {"onnxruntime", "onnx", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pycuda"}
ROS_WITHOUT_SUFFIX = {"rclpy", "launch", "launch_ros", "cv_bridge", "sensor_msgs_py", "builtin_interfaces", "tf2_py"}
ROS_PREFIXES = ("ament_", "rosidl_", "rosbag2_", "tf2_", "rcl_", "ros2")
ROS_SUFFIXES = ("_msgs", "_interfaces", "_srvs")


@dataclass(frozen=True)
class Import:
    """One import statement: absolute dotted module, line, and whether it runs when the file is imported."""

    module: str
    line: int
    on_load: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


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


# From the ground up, a floor a row: a unit (a file, or a folder with all its files) imports units of lower floors only.
# A file belongs to the longest name that it is under; a name with a star stands for every file that it fits. Within a
# folder that is one unit, files still form no circle.
FLOORS: tuple[tuple[str, str], ...] = (
    ("bev_perception", "colors fault files geometry grid nms onnx_file places plain stamped_buffer sync_config"),
    (
        "bev_perception",
        "array_file bags model_spec sensors.plausible sensors.serialised stamp_guard structures yaml_file",
    ),
    ("bev_perception", "bundle calibration golden_pattern"),
    ("bev_perception", "decode ego_motion messages modes preprocess sensors.twist temporal"),
    ("bev_perception", "inference.engine_cache inference.half"),
    ("bev_perception", "conversions golden_frame inference.gpu inference.interface measurements"),
    ("bev_perception", "sensors.odometry_messages sensors.radar_checks sensors.radar_messages"),
    ("bev_perception", "inference.proof inference.builder pipeline sensors.camera_info sensors.video sync"),
    ("bev_perception", "inference.*_backend"),
    ("bev_perception", "inference.backend inference.build_engine"),
    ("bev_perception", "frame_proof parameter_table"),
    ("bev_perception", "parameters"),
    ("bev_perception", "sensors.sensor_calibration"),
    ("bev_perception", "sensors.intake"),
    ("bev_perception", "health"),
    ("bev_perception", "evaluation ros"),
    ("bev_perception", "replay upgrade_bundle"),
    ("bev_perception", "evaluation.demo evaluation.bench_node"),
    ("bev_perception", "evaluation.faults evaluation.soak"),
    ("bev_perception", "evaluation.bench"),
    ("training", "changes command_line processes quiet schedules tables workers"),
    ("training", "models data sensor_masks"),
    ("training", "world recorded losses scoring"),
    ("training", "teachers bag_to_nuscenes"),
    ("training", "distill"),
    ("training", "run recipes"),
    ("training", "trainer experiments"),
    ("training", "bundling compare_recipes convert"),
    (
        "training",
        "train evaluate export average velocity check_data object_database model_table study_tables",
    ),
    ("training", "bench decoding overfit study train_small"),
)
ROOTS = ("bev_perception", "training")


def floor_of() -> dict[str, int]:
    """Unit -> its floor, 0 at the bottom; -1 for the __init__ of a folder that is no unit itself."""
    floors = {unit: floor for floor, (package, names) in enumerate(FLOORS) for unit in units_named(package, names)}
    folders = {unit.rpartition(".")[0] for unit in floors}  # whose files have floors of their own
    # What these themselves import: it says which package is missing before any other is asked for.
    return dict.fromkeys(folders, -1) | floors | {"bev_perception.missing": -2}


def units_named(package: str, names: str) -> list[str]:
    """What a row of FLOORS means."""
    found = []
    for name in names.split():
        unit = f"{package}.{name}"
        found += [unit] if "*" not in name else [m for m in modules_of(ROOT) if fnmatch.fnmatchcase(m, unit)]
    return found


def unit_of(module: str, units: Iterable[str]) -> str | None:
    """The unit that a dotted name, of a module or of something in one, belongs to."""
    over = [unit for unit in units if module == unit or module.startswith(f"{unit}.")]
    return max(over, key=len, default=None)


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
            "bev_perception/evaluation/bench.py",
            "bev_perception/evaluation/bench_node.py",
            "bev_perception/evaluation/faults.py",
            "bev_perception/evaluation/soak.py",
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


@cache
def imports_of(source: str, package: str) -> list[Import]:
    """Every import of a file, relative ones made absolute; `package` is the dotted package the file lies in."""
    found: list[Import] = []

    def visit(node: ast.AST, on_load: bool) -> None:
        match node:
            case ast.Import(names=names):
                found.extend(Import(alias.name, node.lineno, on_load) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*parents, *([module] if module else [])])
                # `from a import b`: b may be a module
                found.extend(Import(f"{base}.{alias.name}", node.lineno, on_load) for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]):
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if name in ("import_module", "__import__", "find_spec"):
                    found.append(Import(module, node.lineno, on_load))
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                found.extend(Import(module, node.lineno, False) for module in modules_run_by(text))
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                on_load = False
        inside = on_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    tree = ast.parse(source)
    docstrings = {id(scope.body[0].value) for scope in ast.walk(tree) if _has_docstring(scope)}
    visit(tree, True)
    return found


def _has_docstring(scope: ast.AST) -> bool:
    scopes = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(scope, scopes) and ast.get_docstring(scope) is not None


def modules_run_by(text: str) -> list[str]:
    """Modules of ours that a string names to be run: after `-m`, or as the whole of a word of a command."""
    named = re.findall(r"-m ((?:bev_perception|training)[\w.]*\w)", text)
    whole = text if re.fullmatch(r"(bev_perception|training)(\.\w+)+", text) and is_module(text) else ""
    return [*named, *([whole] if whole else [])]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


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


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of ours."""
    names = {}
    for path in sorted(p for package in ROOTS for p in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_between(root: Path) -> dict[tuple[str, str], int]:
    """(importing module, imported module) -> line of the first import, of modules of ours."""
    modules, found = modules_of(root), {}
    for name, path in modules.items():
        package = ".".join(path.relative_to(root).parent.parts)
        for imported in imports_of(path.read_text(), package):
            target = unit_of(imported.module, modules)
            if target is not None and target != name:
                found.setdefault((name, target), imported.line)
    return found


def climbs(root: Path) -> list[str]:
    """One line for each import that does not lead to a lower floor, or that comes from where no floor is given."""
    floors = floor_of()
    of_no_unit = [n for n in modules_of(root) if n not in ROOTS and unit_of(n, floors) in ROOTS]
    lines = [f"{name}: has no floor; give its unit one in FLOORS" for name in of_no_unit]
    for (name, target), line in imports_between(root).items():
        here, there = unit_of(name, floors), unit_of(target, floors)
        if name not in of_no_unit and here != there and floors[str(here)] <= floors[str(there)]:
            lines.append(f"{name}:{line}: imports {target}, which is not on a lower floor")
    return sorted(set(lines))


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not."""
    reach: dict[str, set[str]] = {}
    for here, there in edges:
        reach.setdefault(here, set()).add(there)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for there in reach.get(todo.pop(), ()):
                if there not in seen:
                    seen.add(there)
                    todo.append(there)
        return seen

    all_of = {name: reachable(name) for name in reach}
    groups = {frozenset(n for n in all_of[name] if name in all_of.get(n, ())) for name in reach if name in all_of[name]}
    return sorted(sorted(group) for group in groups)


def test_no_import_climbs() -> None:
    assert not climbs(ROOT), "\n".join(climbs(ROOT))


def test_every_unit_of_the_floors_exists_once() -> None:
    names = [unit for package, row in FLOORS for unit in units_named(package, row)]
    assert len(names) == len(set(names))
    assert not [name for name in names if not is_module(name)]
    assert not [row for package, names in FLOORS for row in names.split() if not units_named(package, row)]


def test_no_files_import_each_other() -> None:
    assert circles(imports_between(ROOT)) == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("training/changes.py", "from training.run import Run", "training.changes:1: imports training.run,"),
        ("training/data/clips.py", "def f():\n    from training.run import Run", "training.data.clips:2: imports"),
        ("training/study.py", "from training.overfit import overfit", "training.study:1: imports training.overfit"),
        ("bev_perception/replay.py", "HELP = 'python -m bev_perception.evaluation.demo X'", "bev_perception.replay:1"),
        ("bev_perception/replay.py", "Child(['bev_perception.evaluation.demo', 'x'])", "bev_perception.replay:1"),
        ("training/extra.py", "from training.run import Run", "training.extra: has no floor"),
    ],
)
def test_a_climbing_import_is_caught(tmp_path: Path, path: str, source: str, said: str) -> None:
    for name in ("training/run.py", "training/overfit.py", "bev_perception/evaluation/demo.py", path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / path).write_text(source)
    assert [line.startswith(said) for line in climbs(tmp_path)] == [True]
    (tmp_path / path).write_text('"""A docstring may say: python -m training.overfit."""\n')
    assert climbs(tmp_path) == ([] if path != "training/extra.py" else [f"{said}; give its unit one in FLOORS"])


def test_a_circle_is_found() -> None:
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]
    assert circles([("a", "b"), ("b", "c"), ("a", "c")]) == []


def loaded_with(module: str) -> dict[str, str]:
    """Top-level names of everything outside `bev_perception` that importing `module` imports, with who imports it."""
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
                if imported.on_load and imported.top == "bev_perception":
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
