"""The mean of two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN  # noqa: E402

from training.average import average, main  # noqa: E402
from training.experiments import bevdet  # noqa: E402
from training.run import Run, build_detector, run_to_plain  # noqa: E402
from training.trainer.checkpoint import load_network, read_checkpoint  # noqa: E402
from training.trainer.starting import start_network  # noqa: E402


def checkpoint(path: Path, seed: int, run: Run = RUN, **more: Any) -> Path:
    torch.manual_seed(seed)
    state = {f"detector.{name}": weight for name, weight in build_detector(run).state_dict().items()}
    torch.save({"state_dict": state, "run": run_to_plain(run), "global_step": seed} | more, path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return checkpoint(tmp_path / "before.ckpt", 1), checkpoint(tmp_path / "after.ckpt", 2)


@pytest.mark.parametrize("half", [False, True])
def test_every_weight_is_half_way_and_a_run_can_begin_there(
    pair: tuple[Path, Path], tmp_path: Path, half: bool
) -> None:
    out = tmp_path / "new" / "mean.ckpt"
    assert main([*map(str, pair), "--out", str(out), *(["--half"] if half else [])]) == 0
    before, after = (load_network(path).detector.state_dict() for path in pair)
    fresh = build_detector(RUN)
    start_network(fresh, out)
    for name, weight in fresh.state_dict().items():
        wanted = (before[name] + after[name]) / 2 if weight.is_floating_point() else after[name]
        torch.testing.assert_close(weight, wanted, rtol=1e-3 if half else 0.0, atol=1e-6 if half else 0.0)
    content = read_checkpoint(out)
    assert content["global_step"] == 2 and content["run"] == read_checkpoint(pair[0])["run"]
    assert [p.name for p in out.parent.iterdir()] == ["mean.ckpt"]


def test_averaged_weights_count_where_a_run_kept_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    weights = load_network(pair[0]).detector.state_dict()
    after = checkpoint(tmp_path / "ema.ckpt", 2, ema=weights)
    average(pair[0], after, tmp_path / "mean.ckpt")
    found = load_network(tmp_path / "mean.ckpt").detector.state_dict()
    torch.testing.assert_close(found, weights)


def test_what_cannot_be_averaged_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mean.ckpt"
    other = checkpoint(tmp_path / "other.ckpt", 3, bevdet.tiny())
    with pytest.raises(ValueError, match=r"before.ckpt and .*other.ckpt are different networks \(camera_radar, bevdet"):
        average(pair[0], other, out)
    huge = read_checkpoint(pair[1])
    name = next(name for name in huge["state_dict"] if name.endswith("conv1.weight"))
    huge["state_dict"][name].fill_(1e6)
    torch.save(huge, tmp_path / "huge.ckpt")
    with pytest.raises(ValueError, match=rf"not finite: {name}; leave out --half"):
        average(pair[0], tmp_path / "huge.ckpt", out, half=True)
    (tmp_path / "cut.ckpt").write_bytes(pair[1].read_bytes()[:1000])
    assert main([str(pair[0]), str(tmp_path / "cut.ckpt"), "--out", str(out)]) == 1
    assert "cut.ckpt: not a checkpoint, or cut off" in capsys.readouterr().err
    assert not out.exists()
