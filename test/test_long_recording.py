"""A recording that is repeated goes on as one drive: every frame is there, and nothing jumps between the rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
import tiny_drive  # noqa: E402

from bev_perception.evaluation.frames import read_frames  # noqa: E402
from bev_perception.parameters import load_config  # noqa: E402
from training.bench.long_recording import main, repeat  # noqa: E402


def test_three_rounds_are_one_drive(tmp_path: Path) -> None:
    tiny_bundle.write_bundle(tmp_path / "bundle")
    params = tiny_drive.write_params(tmp_path / "params.yaml")
    config = load_config(tmp_path / "bundle", params)
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=5)
    repeat(bag, tmp_path / "long", 3)
    frames = [frame for _, frame in read_frames(tmp_path / "long", tiny_bundle.SPEC, config)]
    whole = [frame for frame in frames if all(view is not None for view in frame.cameras)]
    assert len(whole) == 15 and len({frame.epoch for frame in frames}) == 1
    assert len({frame.ego.epoch for frame in frames}) == 1  # odometry did not jump
    for frame in frames:
        np.testing.assert_allclose(frame.ego.odom_from_ego, tiny_drive.ego_pose(frame.stamp_ns), atol=1e-6)


def test_the_command_tells_memory_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle.write_bundle(tmp_path / "bundle")
    params = tiny_drive.write_params(tmp_path / "params.yaml")
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=5)
    (tmp_path / "out").mkdir()
    given = [str(bag), "--params", str(params), "--bundle", str(tmp_path / "bundle"), "--minutes", "0.025"]
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 x ") and told.count(" MB, ") >= 9 and "10 scored" in told
    assert not list((tmp_path / "out").iterdir())
