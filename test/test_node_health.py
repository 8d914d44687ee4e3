"""A camera that gets dirty while driving, over real DDS: reported with what is off, and good again when it is clean."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
pytest.importorskip("torch", reason="the table is fitted by training")

import node_rig  # noqa: E402
import numpy as np  # noqa: E402
import usual_frames  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from node_rig import Rig, running_node  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from bev_perception.usual.statistics import IMAGES  # noqa: E402
from bev_perception.usual.table import HEALTH  # noqa: E402
from bev_perception_msgs.msg import HealthState, SensorState  # noqa: E402

CAMERA = "cam_a"


def contents(rig: Rig) -> HealthState | None:
    """What the newest status says of the camera."""
    found = rig.status.health if rig.status is not None else ()
    return next((h for h in found if h.name == CAMERA and h.check == HealthState.CONTENTS), None)


def dirty(message: Image) -> Image:
    image = np.frombuffer(bytes(message.data), np.uint8).reshape(message.height, message.width, 3)
    del message.data[:]
    message.data.frombytes(usual_frames.dirty(image).tobytes())
    return message


def test_a_camera_that_gets_dirty_is_reported_and_returns_to_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    (bundle.path / HEALTH).write_text(usual_frames.fitted(bundle, (IMAGES,), seconds=1.0).to_json())
    clean = node_rig.make_image
    # Blocks of colour that change in every frame look like noise, which is told before anything else is.
    with running_node(tmp_path, bundle.path, bundle.spec, **{"images.noise": "off"}) as (process, rig):
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        rig.drive_until(lambda: contents(rig), "a reading of the camera")
        first = contents(rig)
        assert first is not None and not first.alarm and 0 <= first.score < first.threshold

        monkeypatch.setattr(
            node_rig, "make_image", lambda name, ns: dirty(clean(name, ns)) if name == CAMERA else clean(name, ns)
        )
        rig.drive_until(lambda: (h := contents(rig)) and h.alarm, "an alarm of the dirty camera")
        alarm, state = contents(rig), rig.sensor(CAMERA)
        assert alarm is not None and alarm.score > alarm.threshold and "of the usual" in alarm.text
        assert node_rig.stamp_ns(type("Header", (), {"stamp": alarm.since})()) in rig.cycles
        assert state.state == SensorState.SUSPECT and state.reason.startswith("unusual: ")
        assert "sensor_suspect" in rig.status.modes and "unusual" in rig.status.summary
        assert rig.sensor("cam_b").state == SensorState.OK
        rig.drive_until(lambda: f"{CAMERA} contents: " in rig.diagnostic_text(), "diagnostics of the dirty camera")

        monkeypatch.setattr(node_rig, "make_image", clean)
        rig.drive_until(lambda: (h := contents(rig)) and not h.alarm, "the end of the alarm")
        rig.drive_until(lambda: rig.sensor(CAMERA).state == SensorState.OK, "the camera's state")
        assert rig.counters()[f"{CAMERA}/unusual"] > 0
        assert "Traceback" not in process.log.read_text()


def test_a_bad_table_is_refused_at_configure_and_the_node_goes_on(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    (bundle.path / HEALTH).write_text("{}")
    with running_node(tmp_path, bundle.path, bundle.spec) as (process, rig):
        assert not rig.change_state(Transition.TRANSITION_CONFIGURE)
        assert rig.state() == "unconfigured" and process.alive()
        assert f"{HEALTH}: unknown keys" in process.log.read_text().replace("\n", " ")
        (bundle.path / HEALTH).unlink()
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
