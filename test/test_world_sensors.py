"""The sensors see the world they are in: what they report lies where the actors are and moves as they do."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bev_perception.preprocess.contents import OFF, ImageChecks, judge, look_at, remember
from bev_perception.structures import EgoPose
from training.world import lidar as lidar_module
from training.world.actors import ActorState
from training.world.camera import render_camera
from training.world.lidar import column_offsets_ns, scan_lidar
from training.world.radar import DTYPE, MAX_RETURNS, scan_radar
from training.world.raycast import body_mesh
from training.world.rig import NS, RIG, scan_rng
from training.world.shot import Shot, scaled_K
from training.world.world import Conditions, World, make_world

DAY = Conditions("day", 0.7, 0.8)
STAMP = 3 * NS
CAMERAS = [name for name, mount in RIG.items() if mount.kind == "camera"]
RADARS = [name for name, mount in RIG.items() if mount.kind == "radar"]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(3, 6.0, DAY)


def intrinsics(name: str) -> np.ndarray:
    K = RIG[name].K
    assert K is not None
    return K


def outside(points: np.ndarray, state: ActorState) -> np.ndarray:
    """How far beyond the faces of the actor's box world points lie, (N,) metres; negative inside."""
    c, s = np.cos(state.yaw), np.sin(state.yaw)
    local = (points - state.center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return (np.abs(local) - state.size_lwh / 2).max(1)


def test_shapes_fill_their_boxes_and_stay_inside(world: World) -> None:
    for actor in world.actors:
        widest = np.zeros(3)
        for phase in (0.0, 0.25, 0.75):
            corners = np.abs(body_mesh(actor, phase).triangles.reshape(-1, 3)).max(0)
            assert np.all(corners <= actor.size_lwh / 2 + 0.025), (actor.name, corners, actor.size_lwh)
            widest = np.maximum(widest, corners)
        assert np.all(widest >= actor.size_lwh / 2 * 0.75), (actor.name, widest, actor.size_lwh)


@pytest.mark.parametrize("name", CAMERAS)
def test_depth_pixels_of_an_actor_lie_in_its_box(world: World, name: str) -> None:
    mount, stamp = RIG[name], STAMP + RIG[name].phase_ns
    image = render_camera(world, mount, stamp, 0.1, scan_rng(world.seed, name, stamp))
    h, w = image.depth.shape
    assert image.bgr.shape == (h, w, 3) == (90, 160, 3) and image.bgr.dtype == np.uint8
    assert image.instance.dtype == np.int32 and image.depth.dtype == np.float32
    v, u = np.nonzero(image.instance >= 0)
    assert len(u) > 50
    points = np.linalg.inv(scaled_K(intrinsics(name), 0.1)) @ np.stack([u, v, np.ones_like(u)]) * image.depth[v, u]
    pose = world.ego_pose(stamp) @ mount.ego_from_sensor
    points = (pose[:3, :3] @ points).T + pose[:3, 3]
    states = world.actor_states(stamp)
    for track in np.unique(image.instance[v, u]):
        assert outside(points[image.instance[v, u] == track], states[track]).max() < 0.04, states[track].name


def test_a_lone_actor_covers_the_pixels_of_its_box(world: World) -> None:
    """The projected box encloses the visible pixels, and a nearby one is hardly smaller than they are."""
    name, checked = "CAM_FRONT", 0
    mount = RIG[name]
    for stamp in (NS, 2 * NS, 4 * NS):
        image = render_camera(world, mount, stamp, 0.22, scan_rng(world.seed, name, stamp))
        K, states = scaled_K(intrinsics(name), 0.22), world.actor_states(stamp)
        camera_from_world = np.linalg.inv(world.ego_pose(stamp) @ mount.ego_from_sensor)
        tracks, counts = np.unique(image.instance[image.instance >= 0], return_counts=True)
        for track in tracks[counts > 20]:
            s = states[track]
            c, n = np.cos(s.yaw), np.sin(s.yaw)
            corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * s.size_lwh / 2
            corners = corners @ np.array([[c, n, 0], [-n, c, 0], [0, 0, 1]]) + s.center
            seen = camera_from_world[:3, :3] @ corners.T + camera_from_world[:3, 3:]
            if seen[2].min() < 0.5:
                continue
            uv = (K @ seen)[:2] / seen[2]
            v, u = np.nonzero(image.instance == track)
            assert uv[0].min() - 0.6 <= u.min() and u.max() <= uv[0].max() + 0.6
            assert uv[1].min() - 0.6 <= v.min() and v.max() <= uv[1].max() + 0.6
            checked += 1
    assert checked > 10


def test_scaled_intrinsics_keep_the_corners() -> None:
    K = intrinsics("CAM_FRONT")
    small = scaled_K(K, 0.25)
    for corner in ((-0.5, -0.5), (1599.5, 899.5)):
        ray = np.linalg.inv(K) @ [*corner, 1.0]
        assert np.allclose((small @ ray)[:2], (np.array(corner) + 0.5) * 0.25 - 0.5)
    with pytest.raises(ValueError, match="scale"):
        Shot(make_world(3, 1.0), RIG["CAM_FRONT"], STAMP, 1.5)
    with pytest.raises(ValueError, match="not a camera"):
        Shot(make_world(3, 1.0), RIG["LIDAR_TOP"], STAMP, 0.5)


def test_weather_and_light_show(world: World) -> None:
    """Night is darker than day; fog takes contrast away."""
    mean, spread = {}, {}
    for label, conditions in {
        "day": DAY,
        "night": Conditions("night", 0.0, -0.3),
        "fog": Conditions("day", 0.7, 0.8, fog=0.8, cloud=0.9),
    }.items():
        other = World(world.seed, world.duration_s, conditions, world.ego, world.actors, world.town)
        image = render_camera(other, RIG["CAM_BACK"], STAMP, 0.1, scan_rng(3, "CAM_BACK", STAMP)).bgr
        mean[label], spread[label] = image.mean(), image.std()
    assert mean["night"] < 0.75 * mean["day"]
    assert spread["fog"] < spread["day"]


def radar_scans(world: World) -> list[tuple[str, int, np.ndarray]]:
    scans = []
    for name in RADARS:
        for k in range(6):
            stamp = NS // 2 + k * 700_000_000 + RIG[name].phase_ns
            scans.append((name, stamp, scan_radar(world, RIG[name], stamp, scan_rng(world.seed, name, stamp))))
    return scans


def test_radar_fields_and_doppler(world: World) -> None:
    still_relative, still_over_ground, passed, total = [], [], 0, 0
    for name, stamp, scan in radar_scans(world):
        assert scan.dtype == DTYPE and len(scan[:0].dtype.descr) == 18 and len(scan) <= MAX_RETURNS
        assert np.all(scan["z"] == 0)
        away = np.stack([scan["x"], scan["y"]], 1) / np.hypot(scan["x"], scan["y"])[:, None]
        for a, b in (("vx", "vy"), ("vx_comp", "vy_comp")):  # radial: along the ray
            assert np.abs(scan[a] * away[:, 1] - scan[b] * away[:, 0]).max() < 1e-4
        relative = scan["vx"] * away[:, 0] + scan["vy"] * away[:, 1]
        over_ground = scan["vx_comp"] * away[:, 0] + scan["vy_comp"] * away[:, 1]
        # The compensation is the sensor's own speed along the ray.
        vx, vy, yaw_rate = world.ego_twist(stamp)
        sensor = RIG[name].ego_from_sensor
        own = sensor[:2, :2].T @ [vx - yaw_rate * sensor[1, 3], vy + yaw_rate * sensor[0, 3]]
        assert np.allclose(over_ground - relative, away @ own, atol=1e-4)
        good = (scan["invalid_state"] == 0) & (scan["ambig_state"] == 3) & (scan["dyn_prop"] < 7)
        passed, total = passed + good.sum(), total + len(scan)
        still = good & np.isin(scan["dyn_prop"], (1, 3)) & (np.abs(vx) > 2)
        still_relative.append(relative[still])
        still_over_ground.append(over_ground[still])
    assert passed / total > 0.75
    stationary = np.concatenate(still_over_ground)
    assert len(stationary) > 200
    assert np.sqrt(np.mean(stationary**2)) < 0.3
    assert np.sqrt(np.mean(np.concatenate(still_relative) ** 2)) > 1.0


def test_radar_returns_are_where_things_are(world: World) -> None:
    """Most returns of a moving vehicle's speed lie at its box; vehicles nearby are mostly hit."""
    near = 0
    for name, stamp, scan in radar_scans(world):
        pose = world.ego_pose(stamp) @ RIG[name].ego_from_sensor
        points = np.stack([scan["x"], scan["y"], np.zeros(len(scan))], 1) @ pose[:3, :3].T + pose[:3, 3]
        for state in world.actor_states(stamp, 30.0):
            if state.name not in ("car", "truck", "bus", "trailer"):
                continue
            flat = points.copy()
            flat[:, 2] = state.center[2]
            near += int((outside(flat, state) < 0.7).sum())
    assert near > 60


def point_columns(points: np.ndarray) -> np.ndarray:
    """The column of each point (P, >= 2) of a sweep, from its azimuth: the key to motion correction."""
    turn = (np.deg2rad(200.0) - np.arctan2(points[:, 1], points[:, 0])) % (2 * np.pi)
    columns = lidar_module.COLUMNS
    return np.round(turn / (2 * np.pi) * columns).astype(np.intp) % columns


def test_lidar_points_of_an_actor_lie_in_its_box_once_corrected() -> None:
    mount, world = RIG["LIDAR_TOP"], make_world(0, 6.0, DAY)
    # The fastest moment of a fast drive.
    stamp = max((k * 50_000_000 for k in range(10, 110)), key=lambda s: world.ego_twist(s)[0])
    sweep = scan_lidar(world, mount, stamp, scan_rng(world.seed, mount.name, stamp))
    assert sweep.points.dtype == np.float32 and sweep.points.shape[1] == 5
    assert len(sweep.points) == len(sweep.instance) > 15000
    assert set(np.unique(sweep.points[:, 4])) <= set(range(lidar_module.BEAMS))
    columns = point_columns(sweep.points)
    assert np.all(np.diff(columns) >= 0)  # columns come in the order of time
    offsets = column_offsets_ns()[columns]
    worst, naive, checked = [], [], 0
    for track in np.unique(sweep.instance[sweep.instance >= 0]):
        of = np.flatnonzero(sweep.instance == track)
        corrected = np.empty((len(of), 3))
        beyond = np.empty(len(of))
        for k, i in enumerate(of):
            pose = world.ego_pose(stamp + int(offsets[i])) @ mount.ego_from_sensor
            corrected[k] = pose[:3, :3] @ sweep.points[i, :3].astype(float) + pose[:3, 3]
            state = world.actors[track].state(stamp + int(offsets[i]))
            beyond[k] = outside(corrected[k : k + 1], state)[0]
        late = world.ego_pose(stamp) @ mount.ego_from_sensor
        raw = sweep.points[of, :3] @ late[:3, :3].T + late[:3, 3]
        # Noise (3 sigma), rounded-up meshes, and what the actor moves while it stands still for a quarter of the sweep.
        slack = 0.09 + 0.5 * lidar_module.SWEEP_NS / NS / lidar_module.SLICES * np.linalg.norm(state.velocity)
        worst.append(np.quantile(beyond, 0.98) - slack)
        naive.append(np.mean(outside(raw, state) > slack) - np.mean(beyond > slack))
        checked += len(of)
    assert checked > 2000
    assert max(worst) < 0.0
    assert max(naive) > 0.3  # without correction many of somebody's points miss the box: the sweep is really distorted


_PRINT_HASH = """
import hashlib, sys
from training.world.world import make_world
from bev_perception.preprocess.contents import OFF, ImageChecks, judge, look_at, remember
from bev_perception.structures import EgoPose
from training.world.camera import render_camera
from training.world.radar import scan_radar
from training.world.lidar import scan_lidar
from training.world.rig import RIG, scan_rng
world, digest = make_world(11, 5.0), hashlib.sha256()
def feed(scan):
    digest.update(scan.tobytes())
stamp = 4_000_000_000
if sys.argv[1] == "warm":  # scans made before must not matter
    for t in range(0, 3_500_000_000, 500_000_000):
        render_camera(world, RIG["CAM_BACK"], t, 0.05, scan_rng(11, "CAM_BACK", t))
rng = lambda name: scan_rng(11, name, stamp)
image = render_camera(world, RIG["CAM_FRONT"], stamp, 0.1, rng("CAM_FRONT"))
feed(image.bgr); feed(image.instance); feed(image.depth)
feed(scan_radar(world, RIG["RADAR_FRONT"], stamp, rng("RADAR_FRONT")))
feed(scan_lidar(world, RIG["LIDAR_TOP"], stamp, rng("LIDAR_TOP")).points)
print(digest.hexdigest())
"""


def test_same_seed_same_bytes_in_two_processes() -> None:
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PRINT_HASH, how], env=environment, check=True, capture_output=True, text=True
        )
        for how in ("cold", "warm")
    ]
    hashes = [output.stdout.strip() for output in outputs]
    assert len(hashes[0]) == 2 * hashlib.sha256().digest_size
    assert hashes[0] == hashes[1]


def test_wrong_mounts_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="not a radar"):
        scan_radar(world, RIG["LIDAR_TOP"], 0, scan_rng(0, "LIDAR_TOP", 0))
    with pytest.raises(ValueError, match="not a LiDAR"):
        scan_lidar(world, RIG["CAM_FRONT"], 0, scan_rng(0, "CAM_FRONT", 0))


@pytest.mark.parametrize(
    "conditions", [Conditions("night", 0.0, -0.3, 0.8, 0.0, 1.0), Conditions("day", 0.0, 0.5, 0.8, 0.0, 1.0)]
)
def test_no_image_of_night_or_fog_is_taken_for_that_of_a_blind_camera(world: World, conditions: Conditions) -> None:
    """Rendered at the network's size nothing averages the noise away: at night in fog it is most of the image, which
    is why noise is only told."""
    thick = World(world.seed, world.duration_s, conditions, world.ego, world.actors, world.town)
    checksums = set()
    for name in ("CAM_FRONT", "CAM_BACK_LEFT"):
        for stamp in (STAMP, STAMP + 83_333_333):
            bgr = render_camera(thick, RIG[name], stamp, 0.22, scan_rng(3, name, stamp)).bgr
            look = look_at(bgr[-128:])
            ego = EgoPose(stamp, thick.ego_pose(stamp))
            assert judge(look, remember(look, None, ego), ego, ImageChecks(noise=OFF)) is None, look
            checksums.add(look.checksum)
    assert len(checksums) == 4
