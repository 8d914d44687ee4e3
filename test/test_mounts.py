"""What a bundle says of how cameras may be mounted, and what is told and done where one is mounted otherwise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import tiny_bundle
import tiny_drive
from intake_rig import MAKE, MOUNTS, NOW, info

from bev_perception.measurements import Measurements
from bev_perception.model_spec import BundleError, parse_spec
from bev_perception.mounts import MARGIN, CameraMount, accepted, mount_of, unlike
from bev_perception.parameters import make_config
from bev_perception.plain import to_plain
from bev_perception.rig import proposal
from bev_perception.rig.assign import Part
from bev_perception.rig.found import CameraFound
from bev_perception.rig.proposal import Mount
from bev_perception.rig.survey import INFO, Surveyor
from bev_perception.sensors.sensor_calibration import SensorCalibration
from training.bundling.mounts import accepted_mounts
from training.data.source import Source
from training.experiments.demo import demo_spec
from training.world.generate import Rates
from training.world.nuscenes_writer import DatasetSettings, write_dataset
from training.world.rig import NUSCENES, Sensor
from training.world.rigs import RIGS

NAMES = [field.name for field in dataclasses.fields(CameraMount)]


def seen(**values: float) -> dict[str, float]:
    """Of a camera at 1.5 m that looks ahead, but for what is said."""
    sensor = Sensor("c", "camera", 1.0, 0.0, 1.5, 0.0, 12.0, focal=1000.0)
    mount = dataclasses.replace(sensor, **values).mount
    assert mount.K is not None
    return mount_of(mount.ego_from_sensor, mount.K, mount.width)


def test_a_pose_in_numbers() -> None:
    found = seen(z=1.7, yaw=-110.0, pitch=4.0, roll=2.0, focal=800.0)
    expected = {"height_m": 1.7, "pitch_deg": 4.0, "yaw_deg": -110.0, "roll_deg": 2.0, "view_deg": 90.0}
    assert found == pytest.approx(expected) and list(found) == NAMES == list(MARGIN)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"z": 2.3}, "stands 2.30 m above the ground, the model accepts 1.3 to 1.7"),
        ({"pitch": -10.0}, "looks up by -10.0 degrees, the model accepts -3 to 3"),
        ({"yaw": 12.0}, "looks to the left by 12 degrees, the model accepts -8 to 8"),
        ({"roll": -4.0}, "is rolled by -4.0 degrees, the model accepts -3 to 3"),
        ({"focal": 700.0}, "sees 98 degrees across, the model accepts 72.32 to 82.32"),
    ],
)
def test_each_way_of_being_otherwise_is_named(values: dict[str, float], said: str) -> None:
    model = accepted([seen()])
    assert unlike(seen(), model) == ""
    assert unlike(seen(**values), model) == said
    both = accepted([seen(), seen(**values)])
    assert unlike(seen(**values), both) == "" == unlike(seen(), both), "what was learnt from is accepted"


def test_an_edge_is_within_and_what_is_behind_it_is_not() -> None:
    model = accepted([seen(yaw=178.0), seen(yaw=-175.0)])
    assert model.yaw_deg == pytest.approx((170.0, 193.0))
    for yaw, within in ((171.0, True), (-168.0, True), (-166.0, False), (169.0, False), (0.0, False)):
        assert (unlike(seen(yaw=yaw), model) == "") == within, yaw
    around = accepted([seen(yaw=yaw) for yaw in range(-180, 180, 15)])
    assert all(unlike(seen(yaw=yaw), around) == "" for yaw in range(-180, 180, 7))


def spec_with(**mounts: CameraMount) -> Any:
    return dataclasses.replace(tiny_bundle.SPEC, mounts=mounts)


def test_a_bundle_carries_it_and_old_ones_accept_anything() -> None:
    spec = spec_with(cam_a=accepted([seen()]))
    data = json.loads(spec.to_json())
    assert parse_spec(json.dumps(data)) == spec
    del data["mounts"]
    assert parse_spec(json.dumps(data)).mounts == {}
    for wrong, said in (
        ({"cam_z": to_plain(accepted([seen()]))}, "cam_z"),
        ({"cam_a": {**to_plain(accepted([seen()])), "height_m": [2.0, 1.0]}}, "height_m"),
        ({"cam_a": {"height_m": [1.0, 2.0]}}, "missing keys"),
    ):
        with pytest.raises(BundleError, match=said):
            parse_spec(json.dumps(data | {"mounts": wrong}))


def as_it_is(up: float = 0.0) -> CameraMount:
    """What a model accepts that has seen cam_a where it is, or so much higher."""
    found = mount_of(tiny_drive.EGO_FROM_CAM, tiny_drive.K, 32)
    return accepted([found | {"height_m": found["height_m"] + up}])


class Calibrated:
    """A rig whose transforms are known; cam_a's camera_info is not yet."""

    def __init__(self, what: str, **more: Any) -> None:
        spec = spec_with(cam_a=as_it_is())
        config = make_config({"bundle": "b", "extrinsics.unlike": what, **more}, spec)
        self.camera = config.cameras["cam_a"]
        self.told: list[tuple[str, str, str]] = []
        self.taken = Measurements(config.sync_config(spec))
        self.made = SensorCalibration(
            config, self.taken, lambda *told: self.told.append(told), lambda *told: self.told.append(told)
        )
        self.mount(0.0)

    def mount(self, up: float) -> None:
        higher = np.eye(4)
        higher[2, 3] = up
        self.made.tf_static(MAKE.transforms(NOW, "base_link", MOUNTS | {"cam_a": higher @ tiny_drive.EGO_FROM_CAM}))


def test_a_camera_that_is_mounted_otherwise_is_masked_until_it_is_not() -> None:
    rig = Calibrated("refuse")
    rig.made.camera_info(rig.camera, info())
    assert rig.made.gap("cam_a") == "" and rig.made.of_camera("cam_a") is not None and not rig.told
    rig.mount(0.8)
    assert [told[:2] for told in rig.told] == [("cam_a", "mount_unlike"), ("cam_a", "calibration_lost")]
    assert "m above the ground, the model accepts" in rig.told[0][2] and "extrinsics.unlike: use" in rig.told[0][2]
    assert rig.made.gap("cam_a").startswith("mount_unlike: cam_a stands") and rig.made.of_camera("cam_a") is None
    rig.mount(0.8)
    assert len(rig.told) == 2, "said once"
    rig.mount(0.01)
    assert rig.made.gap("cam_a") == "" and rig.made.of_camera("cam_a") is not None


def test_another_model_accepts_other_mounts() -> None:
    rig = Calibrated("refuse")
    rig.made.camera_info(rig.camera, info())
    rig.made.accept({"cam_a": as_it_is(0.8), "cam_b": as_it_is(0.8)})
    assert [told[:2] for told in rig.told] == [("cam_a", "mount_unlike"), ("cam_a", "calibration_lost")]
    assert rig.made.gap("cam_a").startswith("mount_unlike: ") and rig.made.of_camera("cam_a") is None
    rig.mount(0.0)
    assert rig.made.of_camera("cam_a") is None, "the same again"
    rig.mount(0.8)
    assert rig.made.gap("cam_a") == "" and rig.made.of_camera("cam_a") is not None
    for free in ({"cam_a": as_it_is(0.8)}, {}):
        rig.made.accept({"cam_a": as_it_is()})
        assert rig.made.of_camera("cam_a") is None
        rig.made.accept(free)
        assert rig.made.gap("cam_a") == "" and rig.made.of_camera("cam_a") is not None


def test_a_mask_that_another_model_takes_away_leaves_the_frames_as_they_were() -> None:
    rig = Calibrated("refuse")
    rig.made.camera_info(rig.camera, info())
    rig.made.accept({"cam_a": as_it_is(0.8)})
    rig.made.accept({})
    assert rig.taken.counters == {"cam_a/calibration_lost": 1}, "nothing has changed but the model"
    assert rig.taken._calibrations["cam_a"] is not None and not rig.taken._uncalibrated


def test_another_lens_comes_with_camera_info() -> None:
    rig = Calibrated("refuse")

    def wide(message: Any) -> None:
        message.k[0] *= 0.5

    rig.made.camera_info(rig.camera, info(wide))
    assert "degrees across, the model accepts" in rig.made.gap("cam_a")
    rig.made.camera_info(rig.camera, info())
    assert rig.made.gap("cam_a") == ""


def wide_before_rectification(message: Any) -> None:
    message.k[0] *= 0.5


def wide_after_rectification(message: Any) -> None:
    message.p[0] *= 0.5


def turned_by_rectification(message: Any) -> None:
    message.r = cv2.Rodrigues(np.array([np.radians(6.0), 0.0, 0.0]))[0].ravel()


def cut_out(message: Any) -> None:
    message.roi.x_offset, message.roi.width, message.roi.height = 8, 16, 16


def binned(message: Any) -> None:
    message.width, message.height = 64, 32
    message.k[[0, 2, 4, 5]] = np.array(message.k)[[0, 2, 4, 5]] * 2 + [0, 0.5, 0, 0.5]
    message.binning_x = message.binning_y = 2


@pytest.mark.parametrize(
    ("change", "rectified", "said"),
    [
        (wide_before_rectification, False, "sees "),
        (wide_before_rectification, True, ""),
        (wide_after_rectification, False, ""),
        (wide_after_rectification, True, "sees "),
        (turned_by_rectification, False, ""),
        (turned_by_rectification, True, "looks up by "),
        (cut_out, False, "sees "),
        (binned, False, ""),
    ],
)
def test_bringing_up_a_rig_says_of_mounts_what_the_node_will_say(
    change: Callable[[Any], None], rectified: bool, said: str
) -> None:
    node = Calibrated("use", **{"cameras.cam_a.rectified": rectified})
    node.made.camera_info(node.camera, info(change))
    words = node.made.unlike({"cam_a": as_it_is()})
    surveyor, draft = Surveyor(), proposal._Draft(mounts={"cam_a": Mount(tiny_drive.EGO_FROM_CAM, "/tf_static")})
    surveyor.take("/eye/info", INFO, info(change), NOW)
    seen = surveyor.finish({}).seen["/eye/info"]
    parts = {"/eye/info": Part("cam_a", 0.0, 0.0, 0.0)}
    proposal._mounts([CameraFound(seen, seen, rectified)], parts, spec_with(cam_a=as_it_is()), draft)
    assert said in words.get("cam_a", "") and bool(words) == bool(said)
    expected = {"extrinsics.unlike": f"{words['cam_a']}: train for this rig"} if said else {}
    assert draft.remarks == expected and not draft.asked


def test_a_camera_info_that_the_node_refuses_is_asked_about() -> None:
    surveyor, draft = Surveyor(), proposal._Draft(mounts={"cam_a": Mount(tiny_drive.EGO_FROM_CAM, "/tf_static")})
    surveyor.take("/eye/info", INFO, info(lambda message: message.k.fill(0.0)), NOW)
    seen = surveyor.finish({}).seen["/eye/info"]
    proposal._mounts([CameraFound(seen, seen, False)], {"/eye/info": Part("cam_a", 0.0, 0.0, 0.0)}, spec_with(), draft)
    (asked,) = draft.asked
    assert asked.startswith("/eye/info: camera_info_matrix: ") and not draft.values


def test_it_may_be_allowed_and_is_told_then() -> None:
    rig = Calibrated("use")
    rig.made.camera_info(rig.camera, info())
    rig.mount(0.8)
    assert ("cam_a", "mount_unlike") in [told[:2] for told in rig.told]
    calibration = rig.made.of_camera("cam_a")
    assert rig.made.gap("cam_a") == "" and calibration is not None
    assert calibration.ego_from_cam[2, 3] == pytest.approx(tiny_drive.EGO_FROM_CAM[2, 3] + 0.8)


def test_what_is_exported_is_how_the_drives_to_learn_from_have_them(tmp_path: Path) -> None:
    write_dataset(tmp_path, 2, DatasetSettings(3, 1.0, 0.05, Rates(camera=2, lidar=2, radar=13)), workers=1)
    mounts = accepted_mounts(demo_spec(), Source(tmp_path))
    assert set(mounts) == set(demo_spec().cameras)
    for rig, fits in ((NUSCENES, True), (RIGS["raised"], False), (RIGS["pitched"], False), (RIGS["wide"], False)):
        for name, mount in mounts.items():
            camera = rig.mounts[name]
            assert camera.K is not None
            found = mount_of(camera.ego_from_sensor, camera.K, camera.width)
            assert (unlike(found, mount) == "") == fits, (rig.name, name)
