"""What a user can mend is told in one text by every command, without a traceback."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from bev_perception.inference.tensorrt_api import BuildError  # noqa: E402
from training import check_data, evaluate, export, object_database, overfit, study, train  # noqa: E402
from training.command_line import INTERRUPTED, TrainingStopped, errors_as_text  # noqa: E402

DEMO, FAMILY, PILLARS = (f"training.experiments.{name}" for name in ("demo:tiny", "family:tiny", "centerpoint:pillar"))


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (train, [DEMO, "--out", "OUT", "--data", "NOWHERE"], "NOWHERE"),
        (train, [DEMO, "--out", "OUT", "--data", "DATA", "--version", "v2"], "v2"),
        (train, [DEMO, "--out", "OUT", "--data", "DATA", "--init", "OTHER"], "not a checkpoint"),
        (train, [DEMO, "--out", "OUT", "--data", "DATA", "--init", "TINY"], "--init .* does not fit this network"),
        (
            train,
            [DEMO, "--out", "OUT", "--data", "DATA", "--backbone", "OTHER"],
            "--backbone .* does not fit this netw",
        ),
        (evaluate, ["TINY", "--data", "DATA", "--sensors", "sonar"], "--sensors sonar"),
        (evaluate, ["TINY", "--data", "DATA", "--version", "v2"], "v2"),
        (evaluate, ["OUT", "--data", "DATA"], "model.onnx is missing"),
        (export, ["OTHER", "OUT/bundle"], "not a checkpoint"),
        (export, ["TINY", "OUT/bundle", "--golden-data", "NOWHERE"], "NOWHERE"),
        (study, [FAMILY, "--out", "OUT", "--data", "NOWHERE", "--only", "bevdet"], "NOWHERE"),
        (overfit, ["--out", "OUT", "--data", "NOWHERE", "--only", "bevdet"], "NOWHERE"),
        (check_data, ["--experiment", DEMO, "--data", "NOWHERE"], "NOWHERE"),
        (object_database, [PILLARS, "--data", "NOWHERE"], "NOWHERE"),
    ],
)
def test_errors_of_a_user_are_told_without_a_traceback(
    command: ModuleType, arguments: list[str], said: str, tiny_dataset: Path, tiny_checkpoint: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    torch.save({"weight": torch.zeros(3)}, tmp_path / "OTHER")
    (tmp_path / "OUT").mkdir()
    places = {"DATA": str(tiny_dataset), "TINY": str(tiny_checkpoint)}
    places |= {name: str(tmp_path / name) for name in ("OTHER", "OUT", "NOWHERE", "OUT/bundle")}
    assert command.main([places.get(word, word) for word in arguments]) == 1
    told = capfd.readouterr().err
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert re.search(said, line), line


@pytest.mark.parametrize(
    "error", [BuildError("no"), TrainingStopped("no"), ImportError("no"), FileNotFoundError(2, "no")]
)
def test_only_mistakes_in_the_program_pass(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @errors_as_text
    def command(what: Exception | None) -> int:
        if what is not None:
            raise what
        return 3

    assert command(None) == 3 and command(error) == 1
    assert "no" in capsys.readouterr().err
    with pytest.raises(KeyError):
        command(KeyError("a mistake"))
    monkeypatch.setenv("TRACEBACK", "1")
    with pytest.raises(type(error)):
        command(error)


def test_ctrl_c_has_its_status_also_where_lightning_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    @errors_as_text
    def command(through_lightning: bool) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if through_lightning:
                sys.exit(1)
            raise

    assert command(False) == command(True) == INTERRUPTED == 130
    assert capsys.readouterr().err == "stopped: Ctrl-C\n" * 2

    @errors_as_text
    def other() -> int:
        raise SystemExit("--only: no such thing")

    with pytest.raises(SystemExit, match="no such thing"):
        other()
