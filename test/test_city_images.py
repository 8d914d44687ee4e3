"""The detailed look of the city: noise, edges, leaves, ambient light, lens and sensor, each against what it must be."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from training.world import edges as edges_module
from training.world.camera import render_camera
from training.world.edges import edges, open_above, through_leaves
from training.world.facades import clad
from training.world.mesh import Material, box, join
from training.world.noise import covered, draws, fractal, grain
from training.world.raycast import Hits
from training.world.rig import NS, RIG, scan_rng
from training.world.sensor import CURVE, Sensor, Sun, develop, draw_sensor, expose, flare, smear, stray
from training.world.shot import Shot
from training.world.styles import STYLES
from training.world.surfaces import ground_grain, leaves
from training.world.town import Town
from training.world.world import Conditions, World, make_world

F = np.float32
STAMP = 2 * NS
DAY = Conditions("day", 0.7, 0.8)
CITY = STYLES["city"]


@pytest.fixture(scope="module")
def city() -> World:
    return make_world(3, 4.0, DAY, CITY)


def empty(world: World, *meshes: object) -> World:
    """The world without anybody and with these meshes alone."""
    town = Town(world.town.ground, join(list(meshes)), np.zeros((0, 3)), [])  # type: ignore[arg-type]
    return World(world.seed, world.duration_s, world.conditions, world.ego, [], town, world.style)


def test_draws_are_even_and_depend_on_every_key() -> None:
    at = np.arange(40_000)
    values = draws(at, 3)
    assert values.dtype == F and 0 <= values.min() and values.max() < 1
    counts, _ = np.histogram(values, 20, (0, 1))
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000)
    assert np.array_equal(values, draws(at, 3))
    for other in (draws(at, 4), draws(at + 1, 3), draws(-at, 3)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


def test_noise_of_a_wide_pixel_is_its_mean() -> None:
    u = np.random.default_rng(0).uniform(-50, 50, (2, 20_000)).astype(F)
    near = grain(*u, 40, np.full(20_000, 0.01, F))
    far = grain(*u, 40, np.full(20_000, 1.0, F))
    assert 0.2 < near.std() < 0.6 and np.allclose(far * 40, near, atol=1e-5)
    x, y = np.floor(np.abs(u) * 16 + 0.5) / 16 + F(0.03)
    assert np.array_equal(fractal(x, y, 16), fractal(x + 32, y + 64, 16))  # 512 texels on


@pytest.mark.parametrize("footprint", [0.003, 0.02, 0.5])
def test_a_line_covers_its_share_of_a_pixel(footprint: float) -> None:
    distance = np.linspace(-0.4, 0.4, 41).astype(F)
    samples = distance[:, None] + np.linspace(-0.5, 0.5, 4001) * footprint
    expected = (np.abs(samples) <= 0.012).mean(1)
    assert np.allclose(covered(distance, 0.012, np.full(41, footprint, F)), expected, atol=2e-3)


def hits(owner: np.ndarray, material: np.ndarray, t: np.ndarray) -> Hits:
    n = owner.size
    up = np.tile(np.array([0, 0, 1], F), (n, 1))
    return Hits(
        t.ravel().astype(F), up * 0, up, up, material.ravel().astype(np.uint8), owner.ravel(), owner.ravel() >= 0
    )


def test_edges_are_where_object_or_depth_change() -> None:
    owner, material = np.full((6, 8), -1), np.full((6, 8), Material.MATTE)
    t = np.full((6, 8), 10.0)
    owner[:, 4:] = 5
    expected = np.zeros((6, 8), bool)
    expected[:, 3:5] = True
    assert np.array_equal(edges(hits(owner, material, t), (6, 8)).reshape(6, 8), expected)
    t[:3] = 20.0
    expected[2:4] = True
    assert np.array_equal(edges(hits(owner, material, t), (6, 8)).reshape(6, 8), expected)
    # The ground goes off towards the horizon without an edge, and the sky has none in itself.
    flat = hits(np.full((6, 8), -1), np.full((6, 8), Material.GROUND), np.geomspace(5, 90, 48).reshape(6, 8))
    assert not edges(flat, (6, 8)).any()
    sky = hits(np.full((6, 8), -1), np.full((6, 8), Material.GROUND), np.full((6, 8), np.inf))
    assert not edges(sky, (6, 8)).any()


def test_edges_are_smooth_and_the_rest_is_as_before(city: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a picture of five times the size, averaged: more rays come nearer to it, where there are edges."""
    wall = box((30.0, 0.0, 2.0), (0.3, 6.0, 4.0), (0.6, 0.6, 0.6), Material.SIGN).placed(0, 0, 0, 0.3)
    scene = empty(city, wall.placed(*city.ego_pose(STAMP)[:2, 3], 0, float(city.ego.at(2.0)[2])))
    scene.conditions = replace(DAY, sun_elevation=0.9)
    quiet = Sensor(1.0, np.ones(3, F), 0.0, 0.0, 0.0, 100, 0.0)
    monkeypatch.setattr("training.world.camera.draw_sensor", lambda *_: quiet)
    monkeypatch.setattr("training.world.camera.SUBPIXELS", edges_module.SUBPIXELS)

    def take(scale: float) -> np.ndarray:
        return render_camera(scene, RIG["CAM_FRONT"], STAMP, scale, np.random.default_rng(0)).bgr.astype(float)

    true = cv2.resize(take(0.5), (160, 90), interpolation=cv2.INTER_AREA)
    smooth = np.abs(take(0.1) - true)
    monkeypatch.setattr("training.world.camera.SUBPIXELS", ((0.0, 0.0), (0.0, 0.0)))
    rough = np.abs(take(0.1) - true)
    edge = edges(Shot(scene, RIG["CAM_FRONT"], STAMP, 0.1).cast(*_rays(scene)), (90, 160)).reshape(90, 160)
    assert edge.sum() > 40
    assert smooth[edge].mean() < 0.75 * rough[edge].mean()


def _rays(scene: World) -> tuple[np.ndarray, np.ndarray]:
    shot = Shot(scene, RIG["CAM_FRONT"], STAMP, 0.1)
    return shot.rays(*shot.pixels())


def test_light_from_above_is_shut_out_by_what_stands_near(city: World) -> None:
    """A long high wall takes half of an even sky's light from its foot, a roof nearly all, open ground none."""
    pose = city.ego_pose(STAMP)
    ahead = pose[:2, 3] + pose[:2, 0] * 12
    yaw = float(city.ego.at(2.0)[2])
    roof = box((0.0, 0.0, 2.0), (14.0, 14.0, 0.1), (0.5,) * 3, Material.MATTE).placed(*ahead, 0, yaw)
    shot = Shot(empty(city, roof), RIG["CAM_FRONT"], STAMP, 0.1)
    met = shot.cast(*shot.rays(*shot.pixels()))
    ground = (met.material == Material.GROUND) & np.isfinite(met.t)
    light = open_above(shot, met)
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    away = np.abs((met.point[:, :2] - ahead) @ turn).max(axis=1)
    # Rays that go 5 m without reaching the height of 2 m get by: a share of 0.4**2 of what a level place is lit with.
    assert np.allclose(light[ground & (away < 1)], 0.2 + 0.8 * 0.4**2, atol=0.04)
    assert np.allclose(light[ground & (away > 13)], 1.0) and np.allclose(light[~ground], 1.0)
    side = box((0.0, 4.0, 20.0), (60.0, 0.2, 40.0), (0.5,) * 3, Material.MATTE).placed(*ahead, 0, yaw)
    shot = Shot(empty(city, side), RIG["CAM_FRONT"], STAMP, 0.2)
    met = shot.cast(*shot.rays(*shot.pixels()))
    across = (met.point[:, :2] - ahead) @ np.array([-np.sin(yaw), np.cos(yaw)])
    foot = (met.material == Material.GROUND) & np.isfinite(met.t) & (np.abs(across - 3.6) < 0.2) & (met.t < 15)
    assert foot.sum() > 20
    assert open_above(shot, met)[foot].mean() == pytest.approx(0.2 + 0.8 * 0.5, abs=0.08)


def test_rays_pass_a_crown_in_parts_and_stop_behind_it(city: World) -> None:
    pose = city.ego_pose(STAMP)
    yaw = float(city.ego.at(2.0)[2])

    def there(mesh: object, metres: float) -> object:
        return mesh.placed(*(pose[:2, 3] + pose[:2, 0] * metres), 0, yaw)  # type: ignore[attr-defined]

    crown = there(box((0.0, 0.0, 2.0), (0.5, 6.0, 4.0), (0.1, 0.2, 0.1), Material.FOLIAGE), 12)
    wall = there(box((0.0, 0.0, 5.0), (0.5, 40.0, 10.0), (0.5,) * 3, Material.MATTE), 25)
    shot = Shot(empty(city, crown, wall), RIG["CAM_FRONT"], STAMP, 0.1)
    origins, directions = shot.rays(*shot.pixels())
    before, after = shot.cast(origins, directions), through_leaves(shot, origins, directions)
    leaf = before.material == Material.FOLIAGE
    assert np.array_equal(after.t[~leaf], before.t[~leaf]) and np.array_equal(
        after.material[~leaf], before.material[~leaf]
    )
    seen = after.material[leaf] == Material.MATTE
    assert 0.03 < seen.mean() < 0.6
    on = origins[leaf] + directions[leaf] * after.t[leaf][:, None]
    assert np.allclose(on, after.point[leaf], atol=1e-3)
    assert np.allclose(after.t[leaf][seen], 25 - 0.25 - RIG["CAM_FRONT"].ego_from_sensor[0, 3], atol=0.01)


def test_surfaces_keep_their_mean_and_lose_their_grain_afar() -> None:
    rng = np.random.default_rng(1)
    point = np.column_stack([rng.uniform(-80, 80, (20_000, 2)), np.zeros(20_000)]).astype(F)
    asphalt = np.full((20_000, 3), 0.1, F)
    near, far = (ground_grain(point, asphalt, np.full(20_000, size, F)) for size in (0.01, 2.0))
    assert near.mean() == pytest.approx(1, abs=0.12) and far.mean() == pytest.approx(1, abs=0.12)
    assert far.std() < 0.8 * near.std() and near.min() >= 0.25
    albedo, normal = leaves(point, np.tile(np.array([0, 0, 1], F), (20_000, 1)), asphalt, np.full(20_000, 0.01, F))
    assert 0.4 < albedo.mean() / 0.1 < 1.1 and np.ptp(normal[:, 0]) > 1


def test_walls_of_a_house_are_built_one_way_and_panes_shine() -> None:
    rng = np.random.default_rng(2)
    point = np.column_stack([rng.uniform(0, 30, 30_000), np.zeros(30_000), rng.uniform(0, 15, 30_000)]).astype(F)
    normal = np.tile(np.array([0, -1, 0], F), (30_000, 1))
    shares = []
    for tone in np.linspace(0.1, 0.6, 12):
        colour = np.full((30_000, 3), tone, F)
        albedo, turned, gloss, glow = clad(point, normal, colour, np.full(30_000, 0.02, F), 0.0)
        assert np.isfinite(albedo).all() and albedo.min() >= 0 and not glow.any()
        assert np.array_equal(turned[gloss == 0], normal[gloss == 0])
        shares.append(round(float((gloss > 0.1).mean()), 2))
        lit = clad(point, normal, colour, np.full(30_000, 0.02, F), 1.0)[3]
        assert 0 < (lit.sum(1) > 0).mean() < 0.5
    assert len(set(shares)) >= 3  # several ways of building


def test_exposure_halves_the_difference_of_day_and_night_and_more() -> None:
    image = np.random.default_rng(0).uniform(0.1, 1, (40, 60, 3)).astype(F)
    day, dusk, night = (expose(image * F(k), 1.0).mean() for k in (1, 0.1, 0.01))
    assert dusk / day == pytest.approx(0.1**0.25, rel=1e-3)
    assert night / day == pytest.approx(0.01**0.25, rel=1e-3)
    assert np.all(np.diff(CURVE.astype(int)) >= 0) and CURVE[0] == 0 and CURVE[-1] == 255


def test_smear_and_stray_light_move_light_and_make_little() -> None:
    image = np.zeros((20, 40, 3), F)
    image[10, 20] = 1.0
    for shift in (1.0, 3.0, -4.5):
        moved = smear(image, shift)
        assert moved.sum() == pytest.approx(3, rel=1e-5)
        weights = moved[10, :, 0]
        assert (weights * (np.arange(40) - 20)).sum() == pytest.approx(0, abs=1e-5)  # it stays in its place
        # A bar as wide as the way has the variance of one, and the pixel's own width.
        assert (weights * (np.arange(40) - 20) ** 2).sum() == pytest.approx(shift**2 / 12, abs=0.2)
    assert smear(image, 0.1) is image
    bright = np.full((64, 96, 3), 0.1, F)
    bright[30:34, 40:44] = 50.0
    before = bright.copy()
    stray(bright, 0.02)
    glow = bright - before
    assert (glow > 0).all() and glow[32, 30, 0] > glow[32, 90, 0]
    plain = np.full((64, 96, 3), 0.1, F)
    stray(plain, 0.02)
    assert np.allclose(plain, 0.102)


def test_ghosts_of_the_sun_lie_opposite_to_it() -> None:
    image = np.zeros((90, 160, 3), F)
    flare(image, Sun((130.0, 20.0), np.ones(3, F)))
    rows, columns = np.nonzero(image[..., 0] > 0.005)
    assert len(rows) and columns.min() < 80 and rows.max() > 45
    before = image.copy()
    flare(image, Sun((1000.0, 20.0), np.ones(3, F)))
    assert np.array_equal(image, before)


def test_sensors_differ_between_cameras_and_noise_grows_in_the_dark() -> None:
    day, night = (draw_sensor(np.random.default_rng(0), when) for when in ("day", "night"))
    assert draw_sensor(np.random.default_rng(1), "day").gain != day.gain
    assert draw_sensor(np.random.default_rng(0), "day").gain == day.gain
    grey = np.full((90, 160, 3), 0.3, F)
    spreads = [
        develop(grey, sensor, scale, 0.0, None, np.random.default_rng(0)).std(axis=(0, 1)).mean()
        for sensor, scale in ((replace(day, quality=100, veil=0.0), 1.0), (replace(night, quality=100, veil=0.0), 1.0))
    ]
    assert spreads[1] > 1.5 * spreads[0]


def test_a_rolling_shutter_sees_each_row_from_where_the_car_then_is() -> None:
    rolling = make_world(3, 4.0, DAY, replace(CITY, rolling_s=0.03))
    shot = Shot(rolling, RIG["CAM_BACK_LEFT"], STAMP, 0.1)
    u, v = shot.pixels()
    origins, directions = shot.rays(u, v)
    still, straight = Shot(replace_style(rolling), RIG["CAM_BACK_LEFT"], STAMP, 0.1).rays(u, v)
    for row in (0, 44, 89):
        late = ((row + 0.5) / 90 - 0.5) * 0.03
        pose = rolling.ego_pose(STAMP + round(late * 1e9)) @ RIG["CAM_BACK_LEFT"].ego_from_sensor
        at = v == row
        assert np.allclose(origins[at], pose[:3, 3], atol=1e-4)
        assert np.allclose(directions[at], shot.through(u[at], v[at]) @ pose[:3, :3].T, atol=1e-5)
    middle = (v == 44) | (v == 45)
    assert np.abs(origins[middle] - still[middle]).max() < 0.01
    assert np.abs(directions[middle] - straight[middle]).max() < 1e-3


def replace_style(world: World) -> World:
    return World(world.seed, world.duration_s, world.conditions, world.ego, world.actors, world.town, CITY)


@pytest.mark.parametrize(
    "weather", [DAY, Conditions("night", 0.0, -0.3, rain=0.7, cloud=0.9), Conditions("dusk", 0.0, 0.1, fog=0.6)]
)
def test_a_picture_can_be_taken_alone_and_shows_what_the_town_shows(weather: Conditions) -> None:
    """The same bytes whatever was drawn before; the objects in it are those of the plain look but for leaves."""
    a, b = (make_world(11, 4.0, weather, CITY) for _ in "ab")
    render_camera(b, RIG["CAM_FRONT"], NS, 0.05, scan_rng(11, "CAM_FRONT", NS))
    first, second = (render_camera(w, RIG["CAM_BACK"], STAMP, 0.1, scan_rng(11, "CAM_BACK", STAMP)) for w in (a, b))
    assert np.array_equal(first.bgr, second.bgr) and np.array_equal(first.instance, second.instance)
    assert first.bgr.std() > 5
