"""A command that lacks a package says which and how to get it, in one sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_packaging import entry_points

from bev_perception.missing import MENDS, ROS, TRAINING, mend

ROOT = Path(__file__).resolve().parent.parent
ROS_COMMANDS = sorted({target.split(":")[0] for target in entry_points().values() if ".ros." in target})


def without(package: str, place: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command says where `package` cannot be imported."""
    (place / f"{package}.py").write_text(
        f"raise ModuleNotFoundError({f'No module named {package!r}'!r}, name={package!r})\n"
    )
    paths = [str(place), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("package", "module"),
    [
        *[("torch", f"training.{name}") for name in ("train", "study", "overfit", "evaluate", "bench", "convert")],
        ("lightning", "training.train"),
        ("nuscenes", "training.evaluate"),
        ("embreex", "training.world"),
        *[("rclpy", module) for module in ROS_COMMANDS],
        ("numpy", "bev_perception.replay"),
    ],
)
def test_help_says_what_is_missing_and_how_to_get_it(package: str, module: str, tmp_path: Path) -> None:
    for other in ("torch", "lightning", "nuscenes") if module.startswith("training.") and package != "embreex" else ():
        pytest.importorskip(other, reason=f"without {other} that is what a command says")
    # `deploy` reads a journal without ROS; it needs ROS for what it does with a node.
    asked = "--rollback" if module.endswith(".deploy") else "--help"
    said = without(package, tmp_path, "-m", module, asked)
    assert said.returncode == 1
    assert said.stderr == (
        f"error: the Python package {package} cannot be imported (No module named '{package}'): {MENDS[package]}\n"
    )


def test_traceback_shows_where(tmp_path: Path) -> None:
    said = without("torch", tmp_path, "-m", "training.average", "--help", TRACEBACK="1").stderr
    assert said.startswith("Traceback") and "training/average.py" in said


def test_a_package_that_is_missing_later_is_told_alike(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from training.command_line import errors_as_text

    @errors_as_text
    def command() -> int:
        raise ModuleNotFoundError("No module named 'onnxscript.ir'", name="onnxscript.ir")

    assert command() == 1
    assert capsys.readouterr().err.endswith(f"cannot be imported (No module named 'onnxscript.ir'): {TRAINING}\n")


def test_others_keep_their_traceback_and_programs_that_import_us_their_hook(tmp_path: Path) -> None:
    assert mend(ImportError("cannot import name", name="bev_perception.grid")) == mend(ValueError("torch")) == ""
    assert mend(ModuleNotFoundError("no", name="nav_msgs.msg")).endswith(ROS)
    code = "import sys, bev_perception; assert sys.excepthook is sys.__excepthook__; import torch"
    said = without("torch", tmp_path, "-c", code)
    assert said.stderr.startswith("Traceback") and said.returncode == 1


def test_the_command_brings_the_package() -> None:
    """What a sentence names is in the extra of setup.py that it tells to install."""
    setup = (ROOT / "setup.py").read_text()
    brings = {"": re.search(r"install_requires=\[(.*?)\]", setup, re.DOTALL)}
    extras = ("evaluation", "openvino", "ray", "signing", "training")
    brings |= {name: re.search(rf'"{name}": \[(.*?)\]', setup, re.DOTALL) for name in extras}
    distributions = {
        "cv2": "opencv-python-headless",
        "yaml": "pyyaml",
        "nuscenes": "nuscenes-devkit",
        "torch_pruning": "torch-pruning",
        "model_signing": "model-signing",
        "OpenSSL": "pyopenssl",
        "sklearn": "scikit-learn",
    }
    for package, how in MENDS.items():
        if how is not ROS:
            extra = (re.search(r"\.\[(\w+)\]", how) or ["", ""])[1]
            found = brings[extra]
            assert found is not None and f'"{distributions.get(package, package)}' in found[1], package
    assert re.findall(r"torch==[\d.]+", setup) == re.findall(r"torch==[\d.]+", TRAINING)
