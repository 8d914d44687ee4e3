"""Pictures from where other cameras would stand: depth, surfaces, and training clips whose cameras are moved."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("embreex", reason="needs the ray caster of the training extra")

import real_keyframe  # noqa: E402
from tiny_set import RADAR_SPEC, SPEC, item_of, open_set  # noqa: E402

from bev_perception.geometry import transform_points  # noqa: E402
from training.data.augment import NO_AUGMENTATION, Augmentation, changes, moves_pixels  # noqa: E402
from training.data.clips import ClipDataset  # noqa: E402
from training.data.config import DataConfig  # noqa: E402
from training.data.moved_images import moved_images  # noqa: E402
from training.data.nuscenes import open_nuscenes  # noqa: E402
from training.data.prepared import prepare, prepare_clouds  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.data.view_change import Move, ViewChange, draw_move, moved, photo, projection, views  # noqa: E402
from training.views.depth import FAR_M, lattice, lattice_depth  # noqa: E402
from training.views.mesh import Photo, Scene  # noqa: E402
from training.world.camera import render_camera  # noqa: E402
from training.world.lidar import scan_lidar  # noqa: E402
from training.world.rig import NS, NUSCENES, Sensor, scan_rng  # noqa: E402
from training.world.rigs import with_cameras  # noqa: E402
from training.world.shot import scaled_K  # noqa: E402
from training.world.world import Conditions, make_world  # noqa: E402

SIZE = (90, 160)
AHEAD = Sensor("c", "camera", 0.0, 0.0, 1.5, 0.0, 12.0, focal=1260.0, center_v=450.0).mount
K = scaled_K(AHEAD.K, 0.1) if AHEAD.K is not None else np.eye(3)
NOTHING = np.zeros((0, 3)), np.zeros((0, 7))


def depth_of(points: np.ndarray = NOTHING[0], boxes: np.ndarray = NOTHING[1]) -> tuple[np.ndarray, np.ndarray]:
    """Depth and the rows of the lattice, of a camera at 1.5 m that looks ahead."""
    return lattice_depth(AHEAD.ego_from_sensor, K, SIZE, 5, points, boxes), lattice(SIZE, 5)[0]


def test_the_road_is_where_a_plane_is() -> None:
    depth, rows = depth_of()
    slope = (rows - K[1, 2]) / K[1, 1]
    expected = np.where(slope > 0, np.minimum(1.5 / np.maximum(slope, 1e-9), FAR_M), FAR_M)
    np.testing.assert_allclose(depth, np.repeat(expected[:, None], depth.shape[1], 1))


def test_a_box_hides_the_road_and_what_is_above_it_stands_with_it() -> None:
    box = np.array([[20.0, 0.0, 1.0, 4.0, 2.0, 2.0, 0.0]])  # its face 18 m ahead
    depth, rows = depth_of(boxes=box)
    middle = depth[:, depth.shape[1] // 2]
    on_it = np.abs((rows - K[1, 2]) / K[1, 1] * 18 - 0.5) < 0.95  # from 0.05 to 1.95 m above the road
    np.testing.assert_allclose(middle[on_it], 18.0)
    np.testing.assert_allclose(middle[: np.flatnonzero(on_it)[0]], 18.0, err_msg="a wall, for all that is known")
    np.testing.assert_allclose(depth[:, 0], depth_of()[0][:, 0], err_msg="beside it the road is free")


def test_lidar_is_believed_where_something_stands() -> None:
    wall = np.array([[15.0, y, z] for y in np.linspace(-3, 3, 61) for z in np.linspace(0.6, 3.0, 25)])
    depth, rows = depth_of(points=wall)
    seen = np.abs((rows - K[1, 2]) / K[1, 1] * 15 + 0.3) < 1.1
    np.testing.assert_allclose(depth[seen, depth.shape[1] // 2], 15.0)
    road = np.array([[x, 0.0, 0.02] for x in np.linspace(5, 40, 60)])
    np.testing.assert_allclose(depth_of(points=road)[0], depth_of()[0], err_msg="returns of the road are no walls")


def test_an_image_and_its_projection_are_told_apart() -> None:
    rng = np.random.default_rng(3)
    for mount in NUSCENES.mounts.values():
        if mount.K is None:
            continue
        whole = projection(mount.K, mount.ego_from_sensor) * rng.uniform(0.5, 2.0)
        found = photo(np.zeros((2, 2, 3), np.uint8), whole)
        np.testing.assert_allclose(found.K, mount.K, atol=1e-8)
        np.testing.assert_allclose(found.ego_from_cam, mount.ego_from_sensor, atol=1e-9)


def test_cameras_move_as_those_of_another_rig_stand() -> None:
    move = Move(0.8, -10.0, 12.0, 0.7)
    rig = with_cameras("m", up_m=0.8, pitch_deg=-10.0, yaw_deg=12.0, zoom=0.7).mounts
    for name, mount in NUSCENES.mounts.items():
        if mount.K is not None:
            matrix, pose = moved(mount.K, mount.ego_from_sensor, move)
            np.testing.assert_allclose(matrix, rig[name].K, atol=1e-9)
            np.testing.assert_allclose(pose, rig[name].ego_from_sensor, atol=1e-12)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Photo]]:
    """The same moment of a town by three rigs."""
    stamp, found = 2 * NS, {}
    clear = Conditions("day", 0.8, 0.9)
    for rig in (NUSCENES, with_cameras("raised", up_m=0.8), with_cameras("turned", yaw_deg=12.0)):
        world = make_world(12, 4.0, clear, rig=rig)
        photos = []
        for name, mount in rig.mounts.items():
            if mount.K is not None:
                image = render_camera(world, mount, stamp, 0.1, scan_rng(12, name, stamp)).bgr
                photos.append(Photo(image, scaled_K(mount.K, 0.1), mount.ego_from_sensor))
        found[rig.name] = photos
    return found


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    world = make_world(12, 4.0, Conditions("day", 0.8, 0.9))
    mount = NUSCENES.mounts["LIDAR_TOP"]
    points = scan_lidar(world, mount, 2 * NS, scan_rng(12, "LIDAR_TOP", 2 * NS)).points
    return transform_points(mount.ego_from_sensor, points[:, :3].astype(np.float64))


def away(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other)[where].mean())


def test_who_stays_sees_what_was_seen(drawn: dict[str, list[Photo]], cloud: np.ndarray) -> None:
    scene = Scene(drawn["nuscenes"], cloud, NOTHING[1], stride=2)
    for camera in drawn["nuscenes"]:
        picture, seen = scene.seen_from(camera.K, camera.ego_from_cam, SIZE)
        assert seen.mean() > 0.8 and away(picture, camera.image, seen) < 3


@pytest.mark.parametrize("rig", ["raised", "turned"])
def test_who_moves_sees_nearly_what_is_drawn_from_there(
    drawn: dict[str, list[Photo]], cloud: np.ndarray, rig: str
) -> None:
    scene = Scene(drawn["nuscenes"], cloud, NOTHING[1], stride=2)
    warped, unmoved, shown = 0.0, 0.0, 0.0
    for camera, before in zip(drawn[rig], drawn["nuscenes"]):
        picture, seen = scene.seen_from(camera.K, camera.ego_from_cam, SIZE)
        warped, unmoved = warped + away(picture, camera.image, seen), unmoved + away(before.image, camera.image, seen)
        shown += float(seen.mean()) / 6
    assert shown > 0.6 and warped < 0.6 * unmoved


def test_what_no_photo_shows_is_told_and_painted(drawn: dict[str, list[Photo]]) -> None:
    front = drawn["nuscenes"][1]
    scene = Scene([front], *NOTHING)
    wide = front.K @ np.diag([0.5, 0.5, 1.0])
    picture, seen = scene.seen_from(wide, front.ego_from_cam, SIZE)
    assert 0.1 < seen.mean() < 0.4 and picture[~seen].mean() > 20
    back = front.ego_from_cam.copy()
    back[:3, [0, 2]] *= -1
    assert not scene.seen_from(front.K, back, SIZE)[1].any(), "behind the vehicle nothing is known"


LIVELY = dataclasses.replace(Augmentation(), view=ViewChange(share=1.0), drop_camera=0.0, drop_all_cameras=0.0)
MOVED = dataclasses.replace(NO_AUGMENTATION, view=ViewChange(share=1.0))


def test_a_clip_is_moved_as_a_whole_and_the_same_every_time(tiny_dataset: Path) -> None:
    dataset = ClipDataset(open_set(tiny_dataset), SPEC, DataConfig(MOVED, history=1), seed=4)
    item, still = item_of(dataset, 3), item_of(ClipDataset(open_set(tiny_dataset), SPEC, DataConfig(history=1)), 3)
    for name in ("img_from_ego", "prev.img_from_ego"):
        for before, after in zip(still[name].reshape(-1, 4, 4), item[name].reshape(-1, 4, 4)):
            a, b = (photo(np.zeros((1, 1, 3), np.uint8), p.astype(np.float64)) for p in (before, after))
            up, zoom = b.ego_from_cam[2, 3] - a.ego_from_cam[2, 3], b.K[0, 0] / a.K[0, 0]
            first = photo(np.zeros((1, 1, 3), np.uint8), item["img_from_ego"][0].astype(np.float64))
            base = photo(np.zeros((1, 1, 3), np.uint8), still["img_from_ego"][0].astype(np.float64))
            assert up == pytest.approx(first.ego_from_cam[2, 3] - base.ego_from_cam[2, 3], abs=1e-4)
            assert zoom == pytest.approx(first.K[0, 0] / base.K[0, 0], rel=1e-4) and (abs(up) > 1e-3)
    assert item["images"].shape == still["images"].shape and away(item["images"], still["images"], ...) > 5
    for name, value in item_of(dataset, 3).items():
        np.testing.assert_array_equal(value, item[name])
    of_cameras = ("images", "img_from_ego", "depth", "semantic")
    same = {name for name in item if not name.endswith(of_cameras)}
    for name in same:
        np.testing.assert_array_equal(item[name], still[name], err_msg="radars and targets stay where they are")


def test_depth_targets_are_those_of_the_moved_cameras(tiny_dataset: Path) -> None:
    config = DataConfig(MOVED, depth_stride=8)
    item = item_of(ClipDataset(open_set(tiny_dataset), SPEC, config, seed=4), 3)
    still = item_of(
        ClipDataset(open_set(tiny_dataset), SPEC, dataclasses.replace(config, augmentation=NO_AUGMENTATION)), 3
    )
    assert item["depth"].shape == still["depth"].shape and not np.array_equal(item["depth"], still["depth"])


def test_other_augmentation_is_part_of_the_new_camera(tiny_dataset: Path) -> None:
    item = item_of(ClipDataset(open_set(tiny_dataset), SPEC, DataConfig(LIVELY), seed=4), 3)
    assert np.isfinite(item["img_from_ego"]).all() and item["images"].std() > 10


ASKED = ViewChange(share=0.5)
ELSEWHERE = ViewChange(zoom=(0.5, 2.0))  # ranges of cameras that never move


@pytest.mark.parametrize(
    ("augmentation", "named"),
    [
        (NO_AUGMENTATION, ()),
        (dataclasses.replace(NO_AUGMENTATION, view=ELSEWHERE), ()),
        (dataclasses.replace(NO_AUGMENTATION, view=ASKED), ("view",)),
        (dataclasses.replace(NO_AUGMENTATION, view=ASKED, contrast=0.1), ("contrast", "view")),
    ],
)
def test_a_share_of_moved_cameras_is_what_changes_pixels(augmentation: Augmentation, named: tuple) -> None:
    assert changes(augmentation) == named and moves_pixels(augmentation) == bool(named)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"share": 1.5}, "view.share is a share of the clips from 0 to 1, found 1.5"),
        ({"up_m": (1.0, 0.0)}, r"view.up_m must be \(least, most\), found"),
        ({"zoom": (0.0, 1.0)}, r"view.zoom must be \(least, most\), above 0, found"),
    ],
)
def test_views_that_cannot_be(change: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ViewChange(**change)


def test_what_is_seen_from_elsewhere_is_drawn_of_all_that_each_camera_received(tiny_dataset: Path) -> None:
    """The network's images lack the upper rows of what was received: a camera that looks up sees them, each its own."""
    keyframe = open_set(tiny_dataset)[0]
    prepared = prepare(keyframe, SPEC, DataConfig(MOVED))
    assert set(prepared.sources) == set(SPEC.cameras)
    marks = {name: 40 + 30 * i for i, name in enumerate(SPEC.cameras)}
    lost = {}
    for name, source in prepared.sources.items():
        image = np.zeros_like(source.image)
        image[: image.shape[0] // 4] = marks[name]
        lost[name] = dataclasses.replace(source, image=image)
    dark = dataclasses.replace(prepared, images=np.zeros_like(prepared.images), sources=lost)
    up, lonely = Move(pitch_deg=12.0), dataclasses.replace(dark, sources={SPEC.cameras[1]: lost[SPEC.cameras[1]]})
    draw = (up, np.zeros((0, 3)), np.zeros((0, 7)), np.random.default_rng(0), NO_AUGMENTATION)
    images, _ = moved_images(dark, SPEC, *draw)
    for name, image in zip(SPEC.cameras, images, strict=True):
        assert abs(float(np.median(image[: SPEC.image.height // 8])) - marks[name]) < 8, name
    assert moved_images(dataclasses.replace(dark, sources={}), SPEC, *draw)[0].max() == 0, "the network's have none"
    alone, _ = moved_images(lonely, SPEC, *draw)
    top = np.median(alone[1][: SPEC.image.height // 8])
    assert abs(float(top) - marks[SPEC.cameras[1]]) < 8, "of the others there is what the network has"


@pytest.fixture(scope="module")
def real_keyframe_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (real_keyframe.SOURCE / "scene-0061_s0.json").is_file():
        pytest.skip(f"no real keyframe in {real_keyframe.SOURCE}")
    return real_keyframe.write_real_set(tmp_path_factory.mktemp("real"))


def test_a_real_keyframe_is_seen_from_elsewhere(real_keyframe_set: Path) -> None:
    """Standing still its cameras see what they saw; what moves shows most of the scene."""
    (keyframe,) = open_nuscenes(Source(real_keyframe_set, "v1.0-mini"), "train", SPEC, DataConfig(LIVELY))
    prepared, cloud = prepare(keyframe, SPEC), prepare_clouds(keyframe, DataConfig()).lidar[:, :3].astype(np.float64)
    cameras = [photo(image, projected) for image, projected in zip(prepared.images, prepared.img_from_ego)]
    size, affines = (SPEC.image.height, SPEC.image.width), [np.eye(3)] * 6
    pictures, projections = views(cameras, cameras, affines, Move(), cloud, keyframe.boxes, size)
    for projected, before in zip(projections, prepared.img_from_ego):
        np.testing.assert_allclose(projected / projected[2, :3].max(), before / before[2, :3].max(), atol=1e-6)
    scene = Scene(cameras, cloud, keyframe.boxes)
    for camera, picture in zip(cameras, pictures):
        same, seen = scene.seen_from(camera.K, camera.ego_from_cam, size)
        np.testing.assert_array_equal(same, picture)
        assert seen.mean() > 0.65 and away(same, camera.image, seen) < 6
        elsewhere = moved(camera.K, camera.ego_from_cam, Move(up_m=0.8, yaw_deg=12.0))
        assert scene.seen_from(*elsewhere, size)[1].mean() > 0.5


def test_nobody_is_moved_whom_nobody_asked_to(tiny_dataset: Path) -> None:
    never = dataclasses.replace(MOVED, view=ViewChange(share=0.0))
    with_none = item_of(ClipDataset(open_set(tiny_dataset), SPEC, DataConfig(never), seed=4), 3)
    without = item_of(ClipDataset(open_set(tiny_dataset), SPEC, DataConfig(), seed=4), 3)
    for name, value in without.items():
        np.testing.assert_array_equal(with_none[name], value)
    radars = ClipDataset(open_set(tiny_dataset, RADAR_SPEC), RADAR_SPEC, DataConfig(MOVED), seed=4)
    assert "images" not in item_of(radars, 3)
    drawn = [draw_move(np.random.default_rng(k), ViewChange(share=0.35)) for k in range(400)]
    assert 0.25 < np.mean([move is not None for move in drawn]) < 0.45
