"""The floors of the packages (docs/architecture.md) and the imports between their files, read from syntax trees."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# From the ground up, a floor a row: a unit (a file, or a folder with all its files) imports units of lower floors only.
# A file belongs to the longest name that it is under; a name with a star stands for every file that it fits. Within a
# folder that is one unit, files still form no circle.
FLOORS: tuple[tuple[str, str], ...] = (
    (
        "bev_perception",
        "colors fault files geometry grid mounts nms onnx_file places plain stamped_buffer sync_config worker",
    ),
    ("bev_perception", "ring"),
    (
        "bev_perception",
        "array_file bags model_spec sensors.plausible sensors.serialised stamp_guard structures yaml_file",
    ),
    ("bev_perception", "bundle calibration golden_pattern spread"),
    ("bev_perception", "download signing uncertainty"),
    ("bev_perception", "archive"),
    ("bev_perception", "store"),
    ("bev_perception", "decode ego_motion messages modes preprocess rig.perturb rig.thinned sensors.twist temporal"),
    ("bev_perception", "inference.cuda_driver inference.engine_cache inference.half inference.tensorrt_api"),
    ("bev_perception", "inference.budget inference.capture inference.precisions"),
    (
        "bev_perception",
        "conversions golden_frame inference.gpu inference.interface measurements rig.doppler rig.epipolar "
        "stated_scores usual",
    ),
    ("bev_perception", "sensors.odometry_messages sensors.radar_checks sensors.radar_messages"),
    (
        "bev_perception",
        "inference.pace inference.proof inference.builder pipeline rig.direction rig.pairs sensors.camera_info "
        "sensors.video sync",
    ),
    ("bev_perception", "extrinsics_watch inference.dry_run inference.tensorrt_engine"),
    ("bev_perception", "inference.*_backend"),
    ("bev_perception", "inference.backend inference.build_engine"),
    ("bev_perception", "frame_proof inference.build_beside inference.check_gpu parameter_table"),
    ("bev_perception", "parameters"),
    ("bev_perception", "sensors.sensor_calibration"),
    ("bev_perception", "sensors.intake"),
    ("bev_perception", "deployment health"),
    ("bev_perception", "evaluation ros"),
    ("bev_perception", "evaluation.live replay rig upgrade_bundle"),
    ("bev_perception", "doctor"),
    ("bev_perception", "bring_up_rig calibration_check"),
    ("bev_perception", "evaluation.animate evaluation.demo evaluation.bench_node evaluation.drive"),
    ("bev_perception", "evaluation.faults evaluation.soak evaluation.summary"),
    ("bev_perception", "evaluation.baseline"),
    ("bev_perception", "evaluation.report"),
    ("bev_perception", "evaluation.bench evaluation.evaluate"),
    ("training", "changes command_line processes quiet schedules tables views workers"),
    ("training", "models data sensor_masks"),
    ("training", "world recorded losses scoring"),
    ("training", "teachers bag_to_nuscenes nuscenes_to_bag"),
    ("training", "distill"),
    ("training", "run recipes"),
    ("training", "trainer experiments"),
    ("training", "bundling compare_recipes convert uncertainty"),
    (
        "training",
        "train evaluate export data_need pruning average velocity check_data long_range object_database model_table "
        "study_tables",
    ),
    ("training", "bench calibrate compare_uncertainty decoding overfit prune quantize robustness study train_small"),
    ("training", "data_engine"),
    ("training", "select"),
    ("training", "circle health"),
)
ROOTS = ("bev_perception", "training")


@dataclass(frozen=True)
class Import:
    """One import statement: absolute dotted module, line, and whether it runs when the file is imported."""

    module: str
    line: int
    on_load: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


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
