"""A recorded drive becomes a data set: what is in the files and rows is what was in the messages."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_bundle
import tiny_drive

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")


from recorded_sets import (  # noqa: E402
    CLOUD,
    COMPRESSED,
    IMAGE,
    INFO,
    ODOMETRY,
    STORE,
    VERSION,
    changed,
    convert,
    files_of,
    make_drive,
    messages_of,
    tables_of,
)

from bev_perception.geometry import (  # noqa: E402
    rotation_from_quaternion,
    rotation_from_yaw,
    transform_boxes,
)
from bev_perception.parameters import load_config  # noqa: E402
from bev_perception.preprocess.radar import over_ground  # noqa: E402
from bev_perception.structures import CameraCalibration, CameraFrame, EgoPose  # noqa: E402
from training.data.file_checks import bad_files, needed_files  # noqa: E402
from training.data.nuscenes import open_nuscenes  # noqa: E402
from training.data.radar_pcd import read_radar_pcd  # noqa: E402
from training.data.sensor_frame import sensor_frame  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.recorded.drive import Drive, Moment, Taken  # noqa: E402
from training.recorded.files import content_of  # noqa: E402
from training.recorded.scene import Scenes, Stored  # noqa: E402
from training.tables.files import RADAR_DTYPE  # noqa: E402


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_drive(tmp_path_factory.mktemp("drive"))


@pytest.fixture(scope="module")
def town(drive: dict[str, Path]) -> Path:
    out = drive["folder"] / "out"
    assert convert(drive, out) == 0
    return out


def test_images_are_the_recorded_ones(drive, town):
    recorded = messages_of(drive["bag"], IMAGE)
    for camera in tiny_drive.CAMERAS:
        files = files_of(town, camera)
        assert sorted(files) == sorted(stamp for frame, stamp in recorded if frame == camera)
        for stamp, (path, _, _) in files.items():
            assert path.suffix == ".png"
            np.testing.assert_array_equal(cv2.imread(str(path)), recorded[camera, stamp].data.reshape(16, 32, 3))


def test_radar_returns_are_the_recorded_ones_to_float32(drive, town):
    recorded = messages_of(drive["bag"], CLOUD)
    files = files_of(town, "radar_a")
    assert len(files) == len(recorded) == 37
    for stamp, (path, _, _) in files.items():
        expected = np.frombuffer(recorded["radar_a", stamp].data.tobytes(), tiny_drive.RADAR_DTYPE)
        found = read_radar_pcd(path)
        for name in tiny_drive.RADAR_DTYPE.names:
            np.testing.assert_array_equal(found[name], expected[name])
        assert set(found["ambig_state"]) == {3} and set(found["invalid_state"]) == {0} and set(found["dyn_prop"]) == {4}
        # the car drives 3 m/s along the radar's axis
        rays = np.stack([expected[n] for n in "xyz"], axis=1).astype(float)
        rays /= np.linalg.norm(rays, axis=1)[:, None]
        np.testing.assert_allclose(found["vx"], expected["vx_comp"] - 3 * rays[:, 0] * rays[:, 0], atol=1e-5)


def test_poses_are_the_odometry_at_the_stamp_of_each_file(drive, town):
    stated = messages_of(drive["bag"], ODOMETRY)
    exact = 0
    for channel in (*tiny_drive.CAMERAS, "radar_a"):
        for stamp, (_, pose, _) in files_of(town, channel).items():
            assert pose["timestamp"] * 1000 == stamp
            expected = tiny_drive.ego_pose(stamp)
            np.testing.assert_allclose(pose["translation"], expected[:3, 3], rtol=0, atol=1e-9)
            assert pose["rotation"] == [1.0, 0.0, 0.0, 0.0]
            if ("odom", stamp) in stated:
                position = stated["odom", stamp].pose.pose.position
                assert pose["translation"] == [position.x, position.y, position.z], "to the last bit"
                exact += 1
    assert exact > 10


def test_calibration_is_the_recorded_one(town):
    for camera in tiny_drive.CAMERAS:
        (calibrated,) = {json.dumps(c) for _, _, c in files_of(town, camera).values()}
        found = json.loads(calibrated)
        assert found["camera_intrinsic"] == tiny_drive.K.tolist(), "to the last bit"
        assert found["translation"] == tiny_drive.EGO_FROM_CAM[:3, 3].tolist(), "to the last bit"
        turned = rotation_from_quaternion(np.array(found["rotation"]))
        np.testing.assert_allclose(turned, tiny_drive.EGO_FROM_CAM[:3, :3], rtol=0, atol=4e-16)


def test_boxes_are_the_ground_truth_and_instances_follow_its_ids(drive, town):
    nusc = devkit.NuScenes(VERSION, str(town), verbose=False)
    stamps = [sample["timestamp"] * 1000 for sample in nusc.sample]
    assert stamps == tiny_drive.anchor_stamps(16)[::5], "every half second, where the anchor camera fired"
    (instance,) = nusc.instance
    assert instance["nbr_annotations"] == len(nusc.sample_annotation) == len(stamps) == 4
    for sample, stamp in zip(nusc.sample, stamps):
        (token,) = sample["anns"]
        row = nusc.get("sample_annotation", token)
        expected = transform_boxes(tiny_drive.ego_pose(stamp), np.array([[2.0, 1.0, 0.8, 1.5, 0.8, 1.2, 0.3]]))[0]
        np.testing.assert_allclose(row["translation"], expected[:3], rtol=0, atol=1e-12)
        assert row["size"] == [0.8, 1.5, 1.2]
        np.testing.assert_allclose(
            rotation_from_quaternion(np.array(row["rotation"])), rotation_from_yaw(0.3), rtol=0, atol=1e-14
        )
        assert (row["category_name"], row["num_radar_pts"]) == ("vehicle.car", 5)
        assert nusc.get("attribute", row["attribute_tokens"][0])["name"] == "vehicle.moving"


def test_the_loader_reads_the_drive(town):
    frames = open_nuscenes(Source(town), "train", tiny_bundle.SPEC)
    assert not bad_files(needed_files(frames), 0) and len(frames) == 4
    for frame in frames:
        seen = sensor_frame(frame, tiny_bundle.SPEC)
        assert not seen.missing
        assert [view.frame.stamp_ns - frame.stamp_ns for view in seen.cameras] == list(tiny_drive.OFFSETS.values())
        newest = seen.radars[0][0].scan.stamp_ns
        assert frame.stamp_ns - 40 * tiny_drive.MS >= newest, "the node's rule: younger scans are of the next frame"
        in_odom = transform_boxes(frame.global_from_ego, frame.boxes)
        np.testing.assert_allclose(in_odom[0, :3] - tiny_drive.ego_pose(frame.stamp_ns)[:3, 3], [2, 1, 0.8], atol=1e-9)
        np.testing.assert_allclose(frame.velocity, [[3.0, 0.0, 0.0]], atol=1e-6)
    assert len(frames[-1].radars["radar_a"]) == tiny_bundle.SPEC.radar.sweeps, "sweeps lie between"


def test_chains_are_by_sensor_and_time(town):
    tables = tables_of(town)
    heads = [row for row in tables["sample_data"].values() if not row["prev"]]
    assert len(heads) == 3
    seen = 0
    for row in heads:
        while row:
            seen += 1
            following = tables["sample_data"].get(row["next"])
            assert following is None or following["timestamp"] > row["timestamp"]
            row = following
    assert seen == len(tables["sample_data"]) == 69
    samples = tables["sample"]
    for row in tables["sample_data"].values():
        stamp = samples[row["sample_token"]]["timestamp"]
        assert row["filename"].startswith("samples/" if row["is_key_frame"] else "sweeps/")
        assert row["is_key_frame"] or row["timestamp"] <= stamp or not samples[row["sample_token"]]["next"]


# ---- what recordings are like


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_compressed_images_are_written_byte_for_byte(drive, tmp_path, suffix):
    def compressed(message: Any, topic: str) -> tuple[str, Any]:
        data = cv2.imencode(suffix, message.data.reshape(16, 32, 3))[1]
        form = "jpeg" if suffix == ".jpg" else "png"
        return COMPRESSED, STORE.types[COMPRESSED](header=message.header, format=f"bgr8; {form}", data=data)

    bag = changed(drive["bag"], tmp_path / "bag", {IMAGE: compressed})
    both = {f"cameras__{camera}__compressed": True for camera in tiny_drive.CAMERAS}
    assert convert(drive, tmp_path / "out", bag=bag, **both) == 0
    for (frame, stamp), message in messages_of(bag, COMPRESSED).items():
        path = files_of(tmp_path / "out", frame)[stamp][0]
        assert path.suffix == suffix and path.read_bytes() == message.data.tobytes()


def test_a_png_of_twelve_bits_is_written_with_the_eight_that_the_vehicle_uses():
    """A file of sixteen bits does not say that it has fewer, and would be dark."""
    image = np.arange(16 * 32 * 3, dtype=np.uint16).reshape(16, 32, 3) * 2
    data = cv2.imencode(".png", image)[1].reshape(-1)
    calibration = CameraCalibration(32, 16, tiny_drive.K, np.eye(4))
    for bits in (12, 16):
        frame = CameraFrame("cam_a", 1, "png", data, bits=bits)
        taken = Taken("cam_a", 1, frame, calibration, EgoPose(1, np.eye(4)), (0, 0), {})
        found = content_of(taken, "png")
        if bits == 16:
            assert found.data == data.tobytes() and not found.changed
        else:
            np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(found.data, np.uint8), -1), image >> 4)


def test_jpeg_of_raw_images_is_said_to_lose(drive, tmp_path, capsys):
    assert convert(drive, tmp_path / "out", "--images", "jpeg") == 0
    assert "JPEG loses; --images png does not" in capsys.readouterr().err
    assert {path.suffix for path, _, _ in files_of(tmp_path / "out", "cam_a").values()} == {".jpg"}


def test_a_lens_is_taken_out_of_the_images(drive, tmp_path, capsys):
    """The tables know K alone."""
    D = np.array([-0.2, 0.05, 0.0, 0.0, 0.0])

    def bend(message: Any, topic: str) -> Any:
        message.d = D if "cam_a" in topic else message.d
        return message

    bag = changed(drive["bag"], tmp_path / "bag", {INFO: bend})
    assert convert(drive, tmp_path / "out", bag=bag) == 0
    assert "cam_a/not_as_recorded: the lens (plumb_bob) is taken out" in capsys.readouterr().err
    recorded = messages_of(bag, IMAGE)
    for camera, lens in (("cam_a", D), ("cam_b", np.zeros(5))):
        for stamp, (path, _, _) in files_of(tmp_path / "out", camera).items():
            expected = cv2.undistort(recorded[camera, stamp].data.reshape(16, 32, 3), tiny_drive.K, lens)
            difference = np.abs(cv2.imread(str(path)).astype(int) - expected)[2:-2, 2:-2]
            assert difference.max() <= (8 if camera == "cam_a" else 0)  # of the rounding of cv2.remap's fixed points


def test_relative_velocities_are_written_over_ground(drive, tmp_path):
    assert convert(drive, tmp_path / "out", radar_fields__velocity="relative") == 0
    recorded = messages_of(drive["bag"], CLOUD)
    for stamp, (path, _, _) in files_of(tmp_path / "out", "radar_a").items():
        measured = np.frombuffer(recorded["radar_a", stamp].data.tobytes(), tiny_drive.RADAR_DTYPE)
        points = np.stack([measured[n].astype(float) for n in tiny_drive.RADAR_DTYPE.names], axis=1)
        ground = over_ground(points, np.tile([3.0, 0, 0], (len(points), 1)))
        found = read_radar_pcd(path)
        np.testing.assert_array_equal(found["vx"], measured["vx_comp"])
        np.testing.assert_allclose(found["vx_comp"], ground[:, 0], atol=1e-5)
        np.testing.assert_allclose(found["vy_comp"], ground[:, 1], atol=1e-5)


def test_states_of_returns_are_kept_and_stay_with_their_returns(drive, tmp_path):
    """Of a cloud with nuScenes' fields, also where returns that cannot be were left out."""
    rng = np.random.default_rng(4)
    written: dict[int, np.ndarray] = {}

    def full(message: Any, topic: str) -> Any:
        points = np.zeros(12, RADAR_DTYPE)
        for name in RADAR_DTYPE.names:
            kind = RADAR_DTYPE[name].kind
            points[name] = rng.uniform(-3, 3, 12) if kind == "f" else rng.integers(0, 8, 12)
        points["x"][[3, 7]] = np.nan, 5000.0
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        written[stamp] = np.delete(points, [3, 7])
        cloud = tiny_drive.Messages(STORE).cloud(stamp, "radar_a", points)
        return cloud

    bag = changed(drive["bag"], tmp_path / "bag", {CLOUD: full})
    assert convert(drive, tmp_path / "out", bag=bag) == 0
    files = files_of(tmp_path / "out", "radar_a")
    assert files
    for stamp, (path, _, _) in files.items():
        found = read_radar_pcd(path)
        for name in RADAR_DTYPE.names:
            np.testing.assert_array_equal(found[name], written[stamp][name], err_msg=name)


def test_a_jump_of_the_odometry_begins_a_scene(drive, tmp_path):
    """Poses of one scene go on from each other, and the loader refuses tables in which they do not."""
    jump = tiny_drive.START + 900 * tiny_drive.MS

    def far(message: Any, topic: str) -> Any:
        if message.header.stamp.sec * 10**9 + message.header.stamp.nanosec > jump:
            message.pose.pose.position.y += 40.0
        return message

    bag = changed(drive["bag"], tmp_path / "bag", {ODOMETRY: far})
    assert convert(drive, tmp_path / "out", "--no-labels", "--period", "0.2", bag=bag) == 0
    frames = open_nuscenes(Source(tmp_path / "out"), "train", tiny_bundle.SPEC)
    assert [len([f for f in frames if f.scene == f"bag-000{k}"]) for k in (0, 1)] == [4, 4]
    for frame in frames:
        expected = 40.0 if frame.scene == "bag-0001" else 0.0
        assert frame.global_from_ego[1, 3] == expected
        assert (frame.stamp_ns > jump) == bool(expected)


def test_what_no_keyframe_is_near_is_left_out_and_counted(drive, tmp_path, capsys):
    """An odometry that jumps again at once: between the jumps there are files, and no frame of the node."""
    first, second = (tiny_drive.START + ms * tiny_drive.MS for ms in (1000, 1060))

    def far(message: Any, topic: str) -> Any:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        message.pose.pose.position.y += 40.0 * ((stamp > first) + (stamp > second))
        return message

    bag = changed(drive["bag"], tmp_path / "bag", {ODOMETRY: far})
    assert convert(drive, tmp_path / "out", "--no-labels", "--period", "0.2", bag=bag) == 0
    said = capsys.readouterr()
    assert "x radar_a/no_keyframe" in said.out and "before the odometry breaks off" in said.err
    named = {row["filename"] for row in tables_of(tmp_path / "out")["sample_data"].values()}
    there = {
        str(p.relative_to(tmp_path / "out")) for f in ("samples", "sweeps") for p in (tmp_path / "out" / f).rglob("*.*")
    }
    assert named == there, "no file without a row, no row without a file"


def test_scenes_are_cut_after_their_length_and_keep_what_lies_between(drive, tmp_path):
    assert convert(drive, tmp_path / "out", "--scene-seconds", "0.6", "--period", "0.3") == 0
    tables = tables_of(tmp_path / "out")
    assert [row["nbr_samples"] for row in tables["scene"].values()] == [3, 3]
    assert len(tables["sample_data"]) == 69, "no file is lost at a cut"
    assert not bad_files(needed_files(open_nuscenes(Source(tmp_path / "out"), "train", tiny_bundle.SPEC)), 0)


def test_a_change_of_calibration_is_a_row_of_its_own(drive, tmp_path):
    at = tiny_drive.START + 1000 * tiny_drive.MS
    moved = tiny_drive.EGO_FROM_RADAR.copy()
    moved[2, 3] = 0.7
    bag = tiny_drive.write_drive(tmp_path / "moved", frames=16, moves={at: {"radar_a": moved}})
    assert convert(drive, tmp_path / "out", bag=bag) == 0
    heights = {stamp: c["translation"][2] for stamp, (_, _, c) in files_of(tmp_path / "out", "radar_a").items()}
    assert all(height == (0.7 if stamp > at else 0.5) for stamp, height in heights.items())
    assert set(heights.values()) == {0.5, 0.7}


def test_images_are_let_go_as_the_drive_is_read(drive, tmp_path):
    """What is held is what the node holds, and what awaits its pose: a few images, however long the drive is."""
    config, spec = load_config(drive["bundle"], drive["params"]), tiny_bundle.SPEC
    images: list[weakref.ref] = []
    most = 0
    for item in Drive(tiny_drive.write_drive(tmp_path / "long", frames=60), spec, config, 10**9, None):
        if isinstance(item, Taken) and isinstance(item.measurement, CameraFrame):
            images.append(weakref.ref(item.measurement))
        most = max(most, sum(image() is not None for image in images))
    assert len(images) == 120 and 2 <= most <= 30


def test_rows_of_a_closed_scene_are_let_go():
    scenes = Scenes(length_ns=20)
    here = EgoPose(0, np.eye(4))
    for stamp in range(100):
        scenes.add_file((0, 0), Stored(f"{stamp}", "CAM", stamp, np.eye(4), np.eye(4), None, (0, 0)))
        closed = scenes.add_moment(Moment(stamp, here, (0, 0), {"CAM": stamp}, None)) if stamp % 10 == 0 else None
        if closed:
            moments, files = closed
            assert [moment.stamp_ns for moment in moments] == [stamp - 30, stamp - 20, stamp - 10]
            assert [file.stamp_ns for file in files] == list(range(max(stamp - 39, 0), stamp - 9))
    moments, files = scenes.finish()
    assert [moment.stamp_ns for moment in moments] == [90] and [file.stamp_ns for file in files] == list(range(81, 100))
    assert not scenes.left()
