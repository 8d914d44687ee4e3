"""A recording as a view for rerun: boxes, lines and arrows are where they belong, and rerun's own tools read the file.

rerun-sdk is no part of the tests' environment; the last test runs where it is installed, the others with a stand-in.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
import tiny_drive  # noqa: E402

from bev_perception.evaluation.animate import main  # noqa: E402
from bev_perception.evaluation.box_lines import box_lines  # noqa: E402
from bev_perception.evaluation.frames import read_frames  # noqa: E402
from bev_perception.evaluation.objects import make_objects  # noqa: E402
from bev_perception.evaluation.rerun_view import open_rerun  # noqa: E402
from bev_perception.parameters import load_config  # noqa: E402


class Recording:
    """Keeps what is logged: (place, what)."""

    def __init__(self, name: str) -> None:
        self.logged: list[tuple[str, Any]] = []
        self.stamps: list[Any] = []
        FakeRerun.recordings.append(self)

    def save(self, path: Path, default_blueprint: Any) -> None:
        path.write_bytes(b"view")
        self.blueprint = default_blueprint

    def log(self, place: str, what: Any, static: bool = False) -> None:
        self.logged.append((place, what))

    def set_time(self, timeline: str, timestamp: Any) -> None:
        self.stamps.append(timestamp)

    def flush(self) -> None:
        pass

    disconnect = flush

    def at(self, place: str) -> list[Any]:
        return [what for where, what in self.logged if where == place]


class FakeRerun(ModuleType):
    """Every archetype and view is what it was made of."""

    recordings: ClassVar[list[Recording]] = []
    RecordingStream = Recording
    ViewCoordinates = TextLogLevel = SimpleNamespace(RIGHT_HAND_Z_UP="z up", WARN="warn", INFO="info")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *given, **named: SimpleNamespace(kind=name, given=given, **named)


@pytest.fixture
def fake_rerun(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    for name in ("rerun", "rerun.blueprint"):
        monkeypatch.setitem(sys.modules, name, FakeRerun(name))
    FakeRerun.recordings = []
    return FakeRerun.recordings


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerun")
    tiny_bundle.write_bundle(folder / "bundle")
    tiny_drive.write_params(folder / "params.yaml")
    tiny_drive.write_drive(folder / "bag", frames=4)
    return folder


def arguments(drive: Path, out: Path) -> list[str]:
    given = [str(drive / "bag"), "--bundle", str(drive / "bundle"), "--params", str(drive / "params.yaml")]
    return [*given, "--out", str(out)]


def test_of_a_recording(drive: Path, tmp_path: Path, fake_rerun: list[Recording], capsys: Any) -> None:
    assert main([*arguments(drive, tmp_path / "view.rrd"), "--start", "0.05"]) == 0
    assert "3 frames" in capsys.readouterr().out and list(tmp_path.iterdir()) == [tmp_path / "view.rrd"]
    (recording,) = fake_rerun
    assert [int(stamp.astype("int64")) for stamp in recording.stamps] == tiny_drive.anchor_stamps(4)[1:]
    for camera in tiny_drive.CAMERAS:
        images = recording.at(f"cameras/{camera}/image")
        assert len(images) == 3 and all(image.contents.startswith(b"\xff\xd8") for image in images)
    assert [len(boxes.labels) for boxes in recording.at("vehicle/ground_truth")] == [1, 1, 1]
    assert [text.given for text in recording.at("diagnostics")] == [("all sensors",)]  # once: it did not change
    assert recording.at("speed/vehicle")[0].given[0] == pytest.approx(3.0)
    images, scene = recording.blueprint.given[0].given[0], recording.blueprint.given[0].given[-1]
    assert images.kind == "Horizontal" and scene.given[0].kind == "Spatial3DView"


def test_things_are_where_they_were_found(drive: Path, tmp_path: Path, fake_rerun: list[Recording]) -> None:
    config = load_config(drive / "bundle", drive / "params.yaml")
    _, frame = next(iter(read_frames(drive / "bag", tiny_bundle.SPEC, config)))
    boxes = np.array([[8.0, 1.0, 1.0, 4.0, 2.0, 1.5, 0.5], [9.0, -3.0, 1.0, 1.0, 1.0, 2.0, -2.0]])
    found = make_objects(boxes, np.array([[4.0, -1.0], [0.1, 0.0]]), np.full(2, 0.5), ("car", "pedestrian"))
    with open_rerun(tmp_path / "view.rrd", tiny_bundle.SPEC) as view:
        view.add(frame, found)
        view.add(frame.without(("cam_b",), tiny_drive.CAMERAS, tiny_drive.RADARS), found)
    (recording,) = fake_rerun
    drawn, arrows = recording.at("vehicle/detections")[0], recording.at("vehicle/velocity")[0]
    np.testing.assert_array_equal(np.hstack([drawn.centers, drawn.sizes]), boxes[:, :6])
    np.testing.assert_allclose(2 * np.arctan2(drawn.quaternions[:, 2], drawn.quaternions[:, 3]), boxes[:, 6])
    np.testing.assert_array_equal(np.hstack([arrows.origins, arrows.vectors]), [[8, 1, 1, 4, -1, 0]])  # one moves
    expected = box_lines(found, frame.cameras[0], frame)  # type: ignore[arg-type]
    strips = recording.at("cameras/cam_a/boxes")[0].given[0]
    np.testing.assert_allclose(strips, np.concatenate(expected) + 0.5)
    assert [what.kind for what in recording.at("cameras/cam_b")] == ["Clear"]  # in the second frame
    assert [t.given[0] for t in recording.at("diagnostics")] == ["all sensors", "without cam_b masked"]
    assert not recording.at("vehicle/ground_truth")


def test_without_the_sdk_it_says_how_to_get_it(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(arguments(drive, tmp_path / "view.rrd")) == 1
    assert "`pip install rerun-sdk`" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_fault_leaves_what_was_there(tmp_path: Path, fake_rerun: list[Recording]) -> None:
    (tmp_path / "view.rrd").write_bytes(b"before")
    with pytest.raises(KeyError), open_rerun(tmp_path / "view.rrd", tiny_bundle.SPEC):
        raise KeyError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_rerun_reads_the_file(drive: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed; it wants an environment of its own")
    assert main(arguments(drive, tmp_path / "view.rrd")) == 0
    command = [sys.executable, "-m", "rerun", "rrd"]
    subprocess.run([*command, "verify", str(tmp_path / "view.rrd")], check=True, capture_output=True)
    told = subprocess.run(
        [*command, "stats", str(tmp_path / "view.rrd")], check=True, capture_output=True, text=True
    ).stdout
    for place in ("/cameras/cam_a/image:", "/cameras/cam_b/boxes:", "/vehicle/velocity:", "/viewport:"):
        assert place in told, told
