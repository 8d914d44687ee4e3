"""Packaging: what is declared agrees, and what colcon and pip build contains what is needed on the vehicle."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from colcon_build import ColconBuild, source_tree

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = ROOT / "bev_perception_msgs"
# Of `ros2 run bev_perception`.
SCRIPTS = {
    "perception_node", "build_engine", "check_gpu", "deploy", "upgrade_bundle", "archive", "sign_bundle",
    "fetch_bundle", "replay", "evaluate", "play_bag", "record_bag",
    "doctor", "bring_up_rig", "calibration_check",
}  # fmt: skip
ON_PATH = {  # what pip installs: among everybody's programs these must not collide
    *("bev_perception_node", "bev_perception_build_engine", "bev_perception_upgrade_bundle", "bev_perception_replay"),
    *("bev_perception_archive", "bev_perception_sign_bundle", "bev_perception_fetch_bundle"),
    *("bev_perception_play_bag", "bev_perception_record_bag", "bev_perception_deploy"),
    "bev_perception_check_gpu",
    "bev_perception_evaluate",
    "bev_perception_doctor",
    "bev_perception_bring_up_rig",
    "bev_perception_calibration_check",
}

TOP_LEVEL = {
    *("bev_perception", "bev_perception_msgs", "launch", "training", "test", "package.xml", "setup.py", "README.md"),
    *("setup.cfg", "pyproject.toml", "colcon_defaults.yaml", "Makefile", "requirements", "resource", "docs", "LICENSE"),
    *("CHANGELOG.rst", "CONTRIBUTING.md", "QUALITY_DECLARATION.md", ".ci", ".github", ".gitignore", "deploy"),
}
# Needed to train or to score, not on a vehicle: none of it may come with the runtime.
HEAVY = {
    "torch", "torch-pruning", "lightning", "onnx", "onnxscript", "tensorboard", "nuscenes-devkit", "trimesh", "embreex",
}  # fmt: skip


def setup_keywords() -> dict[str, ast.expr]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    (call,) = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    return {word.arg: word.value for word in call.keywords if word.arg}


def entry_points() -> dict[str, str]:
    """Name for `ros2 run` -> module:function."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    assigned = {getattr(n.targets[0], "id", ""): n.value for n in tree.body if isinstance(n, ast.Assign)}
    return ast.literal_eval(assigned["PROGRAMS"])


def test_top_level_is_the_documented_one() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert found - TOP_LEVEL == set(), "new files go into one of the existing folders"
    assert TOP_LEVEL - found == set()


# Of REP-2004, "Package requirements".
QUALITY = (
    *(f"1.{item}" for item in ("i", "ii", "iii", "iv", "v", "vi")),
    *(f"{group}.{item}" for group in (2, 3, 4) for item in ("i", "ii", "iii", "iv", "v")),
    *("5.i", "5.ii", "5.iii"),
)


def test_the_quality_declaration_answers_every_item() -> None:
    page = (ROOT / "QUALITY_DECLARATION.md").read_text()
    assert re.findall(r"^\| (\d\.[iv]+) ", page, re.MULTILINE) == list(QUALITY)
    version = ast.literal_eval(setup_keywords()["version"])
    assert re.search(rf"^\| 1\.ii .*no: {re.escape(version)} \| no: {re.escape(version)} \|", page, re.MULTILINE)
    assert "QUALITY_DECLARATION.md" in (ROOT / "README.md").read_text()
    levels = [re.search(r"Quality Level (\d)", (p / "QUALITY_DECLARATION.md").read_text())[1] for p in (ROOT, MESSAGES)]
    assert levels[0] == levels[1]
    sources = [path for part in ("bev_perception", "training", "launch") for path in ROOT.glob(f"{part}/**/*.py")]
    stated = all("Copyright" in path.read_text()[:300] for path in sources)
    assert stated == (levels[0] != "5"), "Level 4 wants a copyright statement in each source file, and nothing else"


@pytest.mark.parametrize("folder", ["launch", "test"])
def test_folders_that_would_shadow_modules_are_no_packages(folder: str) -> None:
    """`launch` is a module of ROS 2 and `test` one of the standard library."""
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("folder", [ROOT, MESSAGES], ids=["bev_perception", "bev_perception_msgs"])
def test_package_xml_is_valid(folder: Path) -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg comes with ROS 2")
    warnings: list[str] = []
    package = catkin_pkg.parse_package(str(folder / "package.xml"), warnings=warnings)
    package.validate()
    assert warnings == []
    assert package.licenses == ["Apache-2.0"]


def test_package_xml_names_only_what_rosdep_resolves() -> None:
    names = re.findall(r"<\w*depend>([^<]+)</\w*depend>", (ROOT / "package.xml").read_text())
    assert "bev_perception_msgs" in names
    # pip names and engines have no rosdep key: a single one makes `rosdep install` stop for the whole workspace
    assert [name for name in names if name in HEAVY | {"tensorrt", "pycuda", "onnxruntime", "cuda"}] == []


def test_one_version_everywhere() -> None:
    version = ast.literal_eval(setup_keywords()["version"])
    init = re.search(r'^__version__ = "(.+)"$', (ROOT / "bev_perception" / "__init__.py").read_text(), re.MULTILINE)
    assert init and init.group(1) == version
    for folder in (ROOT, MESSAGES):
        assert f"<version>{version}</version>" in (folder / "package.xml").read_text()
        # What is not released yet stands first, under the title that catkin_prepare_release looks for.
        sections = re.findall(r"^(?!Forthcoming$)(\S+).*\n-{3,}$", (folder / "CHANGELOG.rst").read_text(), re.MULTILINE)
        assert sections[:1] == [version], f"{folder.name}/CHANGELOG.rst has no section for {version}"


def test_entry_points_lead_to_functions() -> None:
    assert set(entry_points()) == SCRIPTS
    for script, target in entry_points().items():
        module, function = target.split(":")
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        assert path.is_file(), f"{script}: {path.relative_to(ROOT)} does not exist"
        defined = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert function in defined, f"{script}: no function {function} in {path.relative_to(ROOT)}"


def test_ros2_run_finds_the_scripts() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["develop"]["script_dir"] == config["install"]["install_scripts"] == "$base/lib/bev_perception"


def test_runtime_requires_nothing_of_training() -> None:
    required = {re.split(r"[<>=]", name)[0] for name in ast.literal_eval(setup_keywords()["install_requires"])}
    assert required & HEAVY == set()
    assert {"numpy", "onnxruntime"} <= required


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9_.]*", line) for line in requirements), "pin exactly"
    return {re.sub(r"[-_.]+", "-", n).lower(): v for n, v in (line.split("==") for line in requirements)}


def test_requirements_agree_and_the_demo_has_no_torch() -> None:
    constraints = pinned("constraints.txt")
    lists = {name: pinned(name) for name in ("ros.txt", "demo.txt", "test.txt")}
    assert not (HEAVY - {"trimesh", "embreex"}) & set(lists["demo.txt"])
    assert "torch" in lists["test.txt"]
    for name, requirements in lists.items():
        for package, version in requirements.items():
            assert constraints.get(package, version) == version, f"{name} and constraints.txt differ in {package}"


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock, each with hashes."""
    blocks = re.split(r"(?m)^(?=[^\s#])", (ROOT / "requirements" / name).read_text())[1:]
    found = {}
    for block in blocks:
        pin = re.match(r"([\w.-]+)==(\S+)", block)
        assert pin and re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
        found[re.sub(r"[-_.]+", "-", pin[1]).lower()] = pin[2]
    return found


@pytest.mark.parametrize("name", ["ros", "demo", "test"])
def test_a_lock_is_of_its_list_and_of_the_versions_that_were_tested(name: str) -> None:
    """`python requirements/lock.py` writes it; torch, whose build depends on the machine, has others."""
    wanted, constraints, found = pinned(f"{name}.txt"), pinned("constraints.txt"), locked(f"{name}.lock")
    assert {package: found.get(package) for package in wanted if package != "torch"} == {
        package: version for package, version in wanted.items() if package != "torch"
    }
    assert {package for package in found if found[package] != (wanted | constraints).get(package)} == set()
    assert not {package for package in found if of_torch(package)}


def of_torch(package: str) -> bool:
    return package in ("torch", "triton") or package.startswith(("nvidia-", "cuda-"))


def test_torch_has_locks_of_its_own() -> None:
    version, found = pinned("test.txt")["torch"], locked("torch.lock")
    assert found["torch"] == version and len(found) > 10 and all(map(of_torch, found))
    assert locked("torch_cpu.lock") == {"torch": f"{version}+cpu"}


@pytest.fixture(scope="module")
def colcon(colcon_build: ColconBuild | None) -> Path:
    """Install folder of a plain `colcon build`, which conftest started with the session."""
    if colcon_build is None:
        pytest.skip("no ROS 2 or no colcon: `make test` provides both")
    return colcon_build.install_folder()


def test_colcon_build_installs_both_packages(colcon: Path) -> None:
    for name in ("bev_perception", "bev_perception_msgs"):
        share = colcon / name / "share"
        assert (share / "ament_index" / "resource_index" / "packages" / name).is_file()
        assert (share / name / "package.xml").is_file()
    share = colcon / "bev_perception" / "share" / "bev_perception"
    for folder, pattern in (("launch", "launch/*.launch.py"), ("config", "bev_perception/config/*.*")):
        assert sorted(p.name for p in (share / folder).iterdir()) == sorted(p.name for p in ROOT.glob(pattern))
    scripts = colcon / "bev_perception" / "lib" / "bev_perception"
    assert {path.name for path in scripts.iterdir()} == SCRIPTS
    assert all(os.access(path, os.X_OK) for path in scripts.iterdir())


def test_colcon_build_can_be_used_after_sourcing(colcon: Path) -> None:
    check = (
        "import bev_perception, sys; from bev_perception_msgs.msg import Detection3DArray;"
        "from ament_index_python.packages import get_package_share_directory as share;"
        "print(bev_perception.__file__, share('bev_perception'), Detection3DArray().temporal_used)"
    )
    program = colcon / "bev_perception" / "lib" / "bev_perception" / "replay"
    command = f'source "{colcon}/local_setup.bash" && cd / && "{sys.executable}" -c "{check}" && "{program}" --help'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    module, share, default, usage = result.stdout.split()[:4]
    assert Path(module).is_relative_to(colcon / "bev_perception")
    assert Path(share) == colcon / "bev_perception" / "share" / "bev_perception"
    assert (default, usage) == ("False", "usage:")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip makes of the sources; these are in `source` beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = source_tree(folder / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "."]
    built = subprocess.run([*pip, str(source)], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("bev_perception-*.whl")
    return path


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_wheel_contains_bundles_and_config(wheel: Path) -> None:
    source = wheel.parent / "source"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("config", "bundles"):
        expected = {str(p.relative_to(source)) for p in (source / "bev_perception" / folder).rglob("*") if p.is_file()}
        assert expected <= names, f"{folder}: {expected - names} missing"
    modules = {
        str(p.relative_to(source)) for part in ("bev_perception", "training") for p in source.glob(f"{part}/**/*.py")
    }
    assert modules <= names, f"{modules - names} missing: is there a folder without __init__.py?"
    assert not any(name.startswith(("test/", "launch/")) for name in names)


def test_from_a_wheel_alone_the_replay_writes_bags(wheel: Path, tmp_path: Path) -> None:
    """Where bev_perception_msgs was never built: its definitions are inside."""
    pytest.importorskip("rosbags", reason="comes with the package")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        "from bev_perception.evaluation import result_bag as r; print(r.__file__);"
        "print(r.ARRAY_TYPE in r.make_typestore().types)"
    )
    env = {name: value for name, value in os.environ.items() if name != "AMENT_PREFIX_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**env, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    file, found = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path) and found == "True"


def test_wheel_requires_nothing_of_training(wheel: Path) -> None:
    unconditional = [required for required in metadata(wheel).get_all("Requires-Dist", []) if "extra" not in required]
    assert {re.split(r"[^\w-]", required)[0].lower() for required in unconditional} & HEAVY == set()
    assert unconditional


def test_metadata_and_package_xml_agree(wheel: Path) -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg comes with ROS 2")
    described = metadata(wheel)
    package = catkin_pkg.parse_package(str(ROOT / "package.xml"))
    assert described["Home-page"] == package.urls[0].url
    assert (described["Author"], described["Author-email"]) == (package.authors[0].name, package.authors[0].email)
    assert described["Maintainer-email"] == package.maintainers[0].email
    assert described["License"] == package.licenses[0]
    assert described["Description-Content-Type"] == "text/markdown"
    assert described.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text().strip()
    pythons = [name.split(" :: ")[-1] for name in described.get_all("Classifier", []) if ":: Python :: 3." in name]
    assert described["Requires-Python"] == f">={pythons[0]}"


def test_pip_puts_only_programs_with_the_package_name_on_path(wheel: Path, tmp_path: Path) -> None:
    made = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    before = {path.name for path in (made / "bin").iterdir()}
    pip = [sys.executable, "-m", "pip", "--python", made / "bin" / "python", "install", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--quiet", "--disable-pip-version-check", wheel], check=True)
    assert {path.name for path in (made / "bin").iterdir()} - before == ON_PATH
    # What the package needs is in the environment of the tests; the package itself must be the installed one.
    env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    program = [made / "bin" / "bev_perception_replay", "--help"]
    helped = subprocess.run(program, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert helped.stdout.startswith("usage:"), helped.stderr
