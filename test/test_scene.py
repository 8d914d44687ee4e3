"""What Foxglove shows of a result bag: its definitions are foxglove_msgs', its boxes are where the detections are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
import tiny_drive  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402

from bev_perception.evaluation.bag import SCENE_TOPIC, image_boxes_topic, read_bag, read_detection_arrays  # noqa: E402
from bev_perception.evaluation.box_lines import box_lines, clip_to_image  # noqa: E402
from bev_perception.evaluation.draw import EDGES, NEAR_M  # noqa: E402
from bev_perception.evaluation.foxglove_messages import ANNOTATIONS_TYPE, SCENE_TYPE, foxglove_types  # noqa: E402
from bev_perception.evaluation.message_maker import MessageMaker  # noqa: E402
from bev_perception.evaluation.objects import make_objects, objects_from_message  # noqa: E402
from bev_perception.evaluation.result_bag import make_typestore  # noqa: E402
from bev_perception.evaluation.scene import image_annotations, scene_update  # noqa: E402
from bev_perception.geometry import box_corners, invert, make_transform, rotation_from_yaw  # noqa: E402
from bev_perception.preprocess.undistort import fold  # noqa: E402
from bev_perception.replay import main  # noqa: E402
from bev_perception.structures import (  # noqa: E402
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    SensorFrame,
)

MS = 1_000_000
EGO_FROM_CAM = make_transform(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float), np.array([1.0, 0.2, 1.5]))
K = np.array([[160.0, 0, 161.0], [0, 155.0, 92.0], [0, 0, 1]])
LENSES: Mapping[str, tuple[float, ...]] = {
    "": (),
    "plumb_bob": (-0.25, 0.08, 0.001, -0.002, -0.01),
    "fisheye": (0.05, -0.01, 0.003, -0.001),
}
# before the camera, across its plane, across the left border, behind it
BOXES = np.array(
    [
        [14.0, 1.0, 0.8, 4.5, 1.9, 1.6, 0.4],
        [1.5, -2.5, 0.9, 9.0, 2.4, 2.8, 0.1],
        [6.0, 6.5, 0.8, 4.0, 1.8, 1.5, -0.8],
        [-8.0, 0.0, 0.8, 4.0, 1.8, 1.5, 0.0],
    ]
)
VELOCITY = np.array([[10.0, -2.0], [0.0, 0.0], [np.nan, np.nan], [1.0, 0.0]])


def objects() -> Any:
    return make_objects(BOXES, VELOCITY, np.full(4, 0.5), ("car", "truck", "bus", "car"))


def view_of(lens: str, late_ms: int) -> tuple[CameraView, SensorFrame]:
    """An image that was taken `late_ms` after its frame, while the vehicle drove and turned."""
    calibration = CameraCalibration(320, 180, K, EGO_FROM_CAM, lens, LENSES[lens])
    then = EgoPose(late_ms * MS, make_transform(rotation_from_yaw(0.002 * late_ms), np.array([0.01 * late_ms, 0, 0])))
    image = CameraFrame("cam_a", late_ms * MS, "bgr8", np.zeros((180, 320, 3), np.uint8))
    return CameraView(image, calibration, then), SensorFrame(0, EgoPose(0, np.eye(4)), (), ())


def seen_one_by_one(view: CameraView, box: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Many points along the edges, each moved, transformed and projected for itself; those inside the image, (P, 2)."""
    calibration, late_s = view.calibration, view.frame.stamp_ns * 1e-9
    corners = box_corners(box[None])[0] + np.array([*np.nan_to_num(velocity) * late_s, 0.0])
    # pieces that end where a model folds back on itself are left out
    steepest = 0.8 * min(fold(calibration.distortion_model, calibration.D), 4.0) if calibration.D else np.inf
    inside = []
    for start, end in EDGES:
        for share in np.linspace(0, 1, 60):
            in_odom = np.append(corners[start] + share * (corners[end] - corners[start]), 1.0)
            x, y, z, _ = invert(EGO_FROM_CAM) @ invert(view.ego.odom_from_ego) @ in_odom
            if z < 1.01 * NEAR_M or (calibration.D and np.hypot(x, y) > steepest * z):
                continue
            project = cv2.fisheye.projectPoints if calibration.distortion_model == "fisheye" else cv2.projectPoints
            D = np.array(calibration.D or (0.0,) * 5)
            pixel = np.ravel(project(np.array([[[x, y, z]]]), np.zeros(3), np.zeros(3), K, D)[0])
            if -0.5 <= pixel[0] <= 319.5 and -0.5 <= pixel[1] <= 179.5:
                inside.append(pixel)
    return np.array(inside).reshape(-1, 2)


def distance_to_lines(point: np.ndarray, lines: np.ndarray) -> float:
    start, way = lines[:, 0], lines[:, 1] - lines[:, 0]
    share = np.clip(((point - start) * way).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1e-12), 0, 1)
    return float(np.hypot(*(start + share[:, None] * way - point).T).min())


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("late_ms", [0, 80])
def test_lines_are_where_points_of_the_edges_are(lens: str, late_ms: int) -> None:
    view, frame = view_of(lens, late_ms)
    found = box_lines(objects(), view, frame)
    assert [len(lines) > 0 for lines in found] == [True, True, True, False]
    for box, velocity, lines in zip(BOXES, VELOCITY, found):
        assert (lines >= -0.5 - 1e-9).all() and (lines <= np.array([319.5, 179.5]) + 1e-9).all()
        points = seen_one_by_one(view, box, velocity)
        assert (len(points) > 30) == (len(lines) > 0)
        assert max((distance_to_lines(p, lines) for p in points), default=0.0) < (0.5 if lens else 0.05)


def test_a_line_through_the_whole_image_is_cut_at_both_borders() -> None:
    lines = np.array([[[-100.0, 10.0], [500.0, 10.0]], [[20.0, 400.0], [20.0, -400.0]], [[-9.0, 0.0], [-1.0, 50.0]]])
    cut, number = clip_to_image(lines, np.arange(3), 320, 180)
    np.testing.assert_allclose(cut, [[[-0.5, 10], [319.5, 10]], [[20, 179.5], [20, -0.5]]], atol=1e-9)
    assert number.tolist() == [0, 1]


def test_the_definitions_are_those_of_foxglove_msgs() -> None:
    """By the hashes of ROS 2 (REP-2016), which hold every name, type and order."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(foxglove_types())
    assert store.hash_rihs01(SCENE_TYPE).endswith("48c640ae3c3c25188e497ddea0ea11c2e189b50db3ef425f2c518d2355e5ff60")
    assert store.hash_rihs01(ANNOTATIONS_TYPE).endswith(
        "bc4e578b1ef80953415d6f966a4cab305c8a44c8b64fc405312b6f06a08fc45e"
    )


@pytest.fixture(scope="module")
def make() -> MessageMaker:
    store = make_typestore()
    store.register(foxglove_types())
    return MessageMaker(store)


def test_the_scene_is_the_detections(make: MessageMaker) -> None:
    scene = scene_update(make, 5 * MS, objects(), "rear_axle")
    assert [(d.type, d.id) for d in scene.deletions] == [(1, "")]  # what was there before goes
    for entity, box, velocity in zip(scene.entities, BOXES, VELOCITY, strict=True):
        assert entity.frame_id == "rear_axle" and entity.timestamp.nanosec == 5 * MS
        (cube,), (heading,), (text,) = entity.cubes, entity.lines, entity.texts
        centre, q = cube.pose.position, cube.pose.orientation
        found = [centre.x, centre.y, centre.z, cube.size.x, cube.size.y, cube.size.z, 2 * np.arctan2(q.z, q.w)]
        np.testing.assert_allclose(found, box, atol=1e-12)
        assert heading.points[0].x == 0 and heading.points[1].x > box[3] / 2
        assert text.pose.position.z > box[2] + box[5] / 2
        assert len(entity.arrows) == int(np.hypot(*velocity) > 0.5)
        for arrow in entity.arrows:  # it ends where the object will be in a second
            yaw = 2 * np.arctan2(arrow.pose.orientation.z, arrow.pose.orientation.w)
            way = (arrow.shaft_length + arrow.head_length) * np.array([np.cos(yaw), np.sin(yaw)])
            np.testing.assert_allclose(way, velocity, atol=1e-9)
    facts = {pair.key: pair.value for pair in scene.entities[0].metadata}
    assert facts == {"class": "car", "score": "0.500", "velocity": "10.00 -2.00 m/s"}


def test_lines_in_an_image_are_counted_from_its_corner(make: MessageMaker) -> None:
    lines = [np.array([[[0.0, 0.0], [10.0, 40.0]]]), np.zeros((0, 2, 2)), np.array([[[5.0, 5.0], [9.0, 6.0]]])]
    found = image_annotations(make, 7 * MS, objects().select(np.array([True, True, True, False])), lines)
    assert found.timestamp.nanosec == 7 * MS and len(found.points) == 2  # what is not seen has none
    assert [(p.x, p.y) for p in found.points[0].points] == [(0.5, 0.5), (10.5, 40.5)]
    assert [t.text for t in found.texts] == ["car 0.50"]  # the other is too low for one


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result bag of a replay."""
    folder = tmp_path_factory.mktemp("scene")
    tiny_bundle.write_bundle(folder / "bundle")
    params = tiny_drive.write_params(folder / "params.yaml")
    bag = tiny_drive.write_drive(folder / "drive", frames=5)
    arguments = [str(bag), "--bundle", str(folder / "bundle"), "--params", str(params), "--out", str(folder / "out")]
    assert main(arguments) == 0
    return folder / "out" / "detections"


def test_the_bag_explains_itself_and_shows_what_was_detected(result: Path) -> None:
    with AnyReader([result]) as reader:  # knows no foxglove_msgs but what the bag says
        found = {c.topic: c.msgtype for c in reader.connections}
        messages = [(c.topic, reader.deserialize(raw, c.msgtype)) for c, _, raw in reader.messages()]
    topics = {camera: image_boxes_topic(camera) for camera in tiny_drive.CAMERAS}
    assert {t: kind for t, kind in found.items() if "foxglove" in kind} == {
        SCENE_TOPIC: SCENE_TYPE,
        **dict.fromkeys(topics.values(), ANNOTATIONS_TYPE),
    }
    scenes = [m for topic, m in messages if topic == SCENE_TOPIC]
    arrays = [objects_from_message(m) for m in read_detection_arrays(result).values()]
    assert len(scenes) == len(arrays) == 5 and sum(map(len, arrays)) > 5
    for scene, expected in zip(scenes, arrays):
        centres = [(e.cubes[0].pose.position.x, e.cubes[0].pose.position.y) for e in scene.entities]
        np.testing.assert_allclose(np.reshape(centres, (-1, 2)), expected.boxes[:, :2], atol=1e-6)
    for camera, topic in topics.items():
        stamps = [m.timestamp.sec * 10**9 + m.timestamp.nanosec for t, m in messages if t == topic]
        assert stamps == [stamp + tiny_drive.OFFSETS[camera] for stamp in tiny_drive.anchor_stamps(5)]
    assert sum(len(m.points) for t, m in messages if t in topics.values()) > 5


def test_an_image_that_was_not_used_shows_none(tmp_path: Path) -> None:
    tiny_bundle.write_bundle(tmp_path / "bundle")
    params = tiny_drive.write_params(tmp_path / "params.yaml", images__noise="mask")
    bag = tiny_drive.write_drive(tmp_path / "drive", frames=2)  # its images are noise
    arguments = [str(bag), "--bundle", str(tmp_path / "bundle"), "--params", str(params), "--out", str(tmp_path)]
    main(arguments)
    drawn = list(read_bag(tmp_path / "detections", {image_boxes_topic(camera) for camera in tiny_drive.CAMERAS}))
    assert len(drawn) == 4 and not any(len(m.message.points) for m in drawn)
