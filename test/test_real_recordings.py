"""Our geometry and radar accumulation on real recordings; skipped where they are absent."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from bev_perception.ego_motion import MotionLimits, PoseBuffer, integrate_twist
from bev_perception.geometry import (
    box_corners,
    invert,
    make_transform,
    points_in_box,
    project,
    rotation_from_quaternion,
    transform_boxes,
    transform_points,
)
from bev_perception.model_spec import CLASSES, ModelSpec, RadarSpec
from bev_perception.preprocess import prepare_inputs
from bev_perception.preprocess.radar import accumulate
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    RadarScan,
    RadarSweep,
    SensorFrame,
)

DATA = Path(__file__).parents[2] / "shared" / "data" / "nuscenes"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real recordings in {DATA}")

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
SPEC = ModelSpec("m", CAMERAS, ("RADAR_FRONT",), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0))


def read_radar_csv(name):
    """(P, 18) nuScenes radar fields."""
    return np.loadtxt(DATA / "radar_front" / name, delimiter=",", skiprows=1, ndmin=2)[:, 1:]


def scan_of(fields, stamp_ns):
    return RadarScan("RADAR_FRONT", stamp_ns, fields[:, [0, 1, 2, 5, 8, 9]].astype(np.float32), compensated=True)


def keyframe():
    """-> SensorFrame at the LiDAR's stamp with six jpegs and the front radar, LiDAR points and boxes in its ego frame.

    The ego motion within the sweep comes from speed and yaw rate alone, not from the poses the data set lists.
    """
    info = json.loads((DATA / "scene-0061_s0.json").read_text())
    motion = json.loads((DATA / "scene-0061_sequence.json").read_text())[0]
    stamp = round(info["timestamp"] * 1e6) * 1000
    odom_from_ego = np.array(info["ego2global"])
    twist = np.array([motion["ego_vx_mps"], 0, 0]), np.array([0, 0, motion["ego_yawrate_radps"]])
    ego = EgoPose(stamp, odom_from_ego, *twist)

    def ego_at(stamp_ns):
        moved = integrate_twist(*twist, (stamp_ns - stamp) / 1e9)
        return EgoPose(stamp_ns, odom_from_ego @ moved, *twist)

    views = []
    for name in CAMERAS:
        cam = info["cams"][name]
        data = np.fromfile(DATA / "scene-0061_keyframe" / cam["file"], np.uint8)
        at = round(cam["timestamp"] * 1e6) * 1000
        calibration = CameraCalibration(1600, 900, np.array(cam["cam2img"]), np.array(cam["cam2ego"]))
        views.append(CameraView(CameraFrame(name, at, "jpeg", data), calibration, ego_at(at)))
    radar = info["radar_front"]
    at = int(Path(radar["csv"]).stem.split("__")[-1]) * 1000
    ego_from_radar = make_transform(rotation_from_quaternion(radar["rotation"]), np.array(radar["translation"]))
    sweep = RadarSweep(scan_of(read_radar_csv(radar["csv"]), at), ego_from_radar, ego_at(at))
    frame = SensorFrame(stamp, ego, tuple(views), ((sweep,),))

    ego_from_lidar = np.array(info["lidar"]["lidar2ego"])
    cloud = np.fromfile(DATA / "scene-0061_keyframe" / info["lidar"]["file"], np.float32).reshape(-1, 5)
    boxes = transform_boxes(ego_from_lidar, np.array([b["xyzlwh_yaw"] for b in info["boxes_lidar"]]))
    return frame, transform_points(ego_from_lidar, cloud[:, :3].astype(np.float64)), boxes, info


@pytest.fixture(scope="module")
def scene():
    return keyframe()


def test_projection_agrees_with_the_data_sets_own_matrices(scene):
    """img_from_ego, with ego motion from the twist, against lidar2cam, which the data set made from its poses."""
    frame, lidar, _, info = scene
    inputs, problems, _ = prepare_inputs(frame, SPEC)
    assert problems == {} and inputs["camera_valid"].tolist() == [1.0] * 6
    lidar_from_ego = invert(np.array(info["lidar"]["lidar2ego"]))
    for i, name in enumerate(CAMERAS):
        cam = info["cams"][name]
        in_cam = transform_points(np.array(cam["lidar2cam"]), transform_points(lidar_from_ego, lidar))
        full = (in_cam @ np.array(cam["cam2img"]).T)[:, :2] / in_cam[:, 2:]
        far = (in_cam[:, 2] > 8.0) & (full >= 0).all(axis=1) & (full < [1600, 900]).all(axis=1)
        expected = (full[far] + 0.5) * 0.22 - 0.5 - [0, 70]
        pixels, depth = project(inputs["img_from_ego"][i].astype(np.float64), lidar[far])
        assert far.sum() > 1000
        assert np.abs(depth - in_cam[far, 2]).max() < 0.05
        assert np.linalg.norm(pixels - expected, axis=1).max() < 0.8


def test_lidar_points_of_annotated_objects_lie_in_their_boxes_outlines(scene):
    frame, lidar, boxes, info = scene
    inputs, _, _ = prepare_inputs(frame, SPEC)
    height, width = SPEC.image.height, SPEC.image.width
    seen_objects = 0
    for box, annotation in zip(boxes, info["boxes_lidar"]):
        inside = points_in_box(lidar, box)
        assert abs(int(inside.sum()) - annotation["num_lidar_pts"]) <= 3 + 0.1 * annotation["num_lidar_pts"]
        if inside.sum() < 10:
            continue
        for i in range(6):
            matrix = inputs["img_from_ego"][i].astype(np.float64)
            pixels, depth = project(matrix, lidar[inside])
            in_image = (depth > 0.5) & (pixels >= -0.5).all(axis=1) & (pixels < [width - 0.5, height - 0.5]).all(axis=1)
            corners, corner_depth = project(matrix, box_corners(box)[0])
            if in_image.mean() < 0.9 or corner_depth.min() < 0.5:
                continue
            hull = cv2.convexHull(corners.astype(np.float32))
            within = [cv2.pointPolygonTest(hull, (float(u), float(v)), True) > -1.0 for u, v in pixels]
            assert all(within)
            seen_objects += 1
    assert seen_objects >= 12


def test_radar_returns_of_the_keyframe_hit_annotated_objects(scene):
    frame, _, boxes, _ = scene
    cloud = accumulate(frame, SPEC)
    grown = boxes.copy()
    grown[:, 2], grown[:, 5] = 0.5, 10.0  # the radar has no elevation
    hits = sum(points_in_box(cloud[:, :3].astype(np.float64), box, margin=0.3).any() for box in grown)
    assert len(cloud) > 50 and hits >= 20


def scene_0103():
    """-> frames (stamp_ns, radar fields) and the poses of every keyframe and camera, with speed and yaw rate."""
    rows = json.loads((DATA / "scene-0103_frames.json").read_text())
    poses = PoseBuffer(MotionLimits(history_ns=60_000_000_000))
    scans = []
    for row in rows:
        radar = row["radar_front"]
        twist = np.array([radar["ego_vx_mps"], 0, 0]), np.array([0, 0, radar["ego_yawrate_radps"]])
        for source in [row, *row["cams"].values()]:
            rotation = rotation_from_quaternion(source["ego2global_rotation_wxyz"])
            pose = make_transform(rotation, np.array(source["ego2global_translation"]))
            poses.add(EgoPose(source["timestamp_us"] * 1000, pose, *twist))
        fields = read_radar_csv(radar["csv"])
        # The devkit's default filter: valid, unambiguous, dynamic property known; what it leaves out is mostly noise.
        fields = fields[(fields[:, 14] == 0) & (fields[:, 3] < 7) & (fields[:, 11] == 3)]
        scans.append(scan_of(fields, radar["timestamp_us"] * 1000))
    return scans, poses


def static_nearest_distance(compensate):
    """Metres from a static return (< 60 m) to the nearest of the scan before: median over returns, then over scans."""
    mount = json.loads((DATA / "rigs.json").read_text())["n008"]["RADAR_FRONT"]
    ego_from_radar = make_transform(rotation_from_quaternion(mount["rotation"]), np.array(mount["translation"]))
    spec = ModelSpec("m", (), ("RADAR_FRONT",), SPEC.score_threshold, SPEC.nms_radius, radar=RadarSpec(2, 1.0))
    scans, poses = scene_0103()
    medians = []
    for before, now in pairwise(scans):
        ego = poses.at(now.stamp_ns)
        ego_before = poses.at(before.stamp_ns) if compensate else ego
        assert ego.epoch == ego_before.epoch == 0
        sweeps = (RadarSweep(now, ego_from_radar, ego), RadarSweep(before, ego_from_radar, ego_before))
        cloud = accumulate(SensorFrame(now.stamp_ns, ego, (), (sweeps,)), spec)
        assert len(cloud) == len(now.points) + len(before.points)
        static = (np.hypot(cloud[:, 4], cloud[:, 5]) < 0.3) & (np.linalg.norm(cloud[:, :2], axis=1) < 60.0)
        new, old = cloud[static & (cloud[:, 6] == 0), :2], cloud[static & (cloud[:, 6] > 0), :2]
        medians.append(np.median(np.linalg.norm(new[:, None] - old[None], axis=-1).min(axis=1)))
    return float(np.median(medians))


def test_ego_motion_compensation_brings_static_radar_returns_together():
    """Published for this recording: 1.74 m without, 0.87 m with compensation."""
    assert static_nearest_distance(compensate=False) == pytest.approx(1.74, rel=0.05)
    assert static_nearest_distance(compensate=True) == pytest.approx(0.87, rel=0.05)


def test_raw_radar_files_read_as_18_fields_of_125_returns():
    devkit = pytest.importorskip("nuscenes.utils.data_classes", reason="nuscenes-devkit is not installed")
    files = sorted((DATA / "radar_pcd").glob("*.pcd"))
    assert len(files) == 2
    for file in files:
        cloud = devkit.RadarPointCloud.from_file(
            str(file), invalid_states=list(range(18)), dynprop_states=list(range(8)), ambig_states=list(range(5))
        )
        assert cloud.points.shape == (18, 125)
        scan = scan_of(cloud.points.T, 0)
        assert scan.points.shape == (125, 6) and np.isfinite(scan.points).all()
