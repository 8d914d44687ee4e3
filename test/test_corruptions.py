"""What spoils images, scans and rigs: closed forms, and what must not change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="frames come from the synthetic data set")
pytest.importorskip("torch", reason="needs torch")

from tiny_set import SPEC, open_set

from bev_perception.geometry import invert
from bev_perception.preprocess.encodings import decode_image
from bev_perception.structures import RADAR_COLUMNS
from training.data.sensor_frame import sensor_frame
from training.robustness import image_corruptions as images
from training.robustness import lost, radar_corruptions, rig_errors
from training.robustness.conditions import CONDITIONS, Cell, cells, losses
from training.robustness.coverage import seen_by
from training.robustness.lost import Loss
from training.robustness.moment import Moment, Track, track_of

LEVELS = {name: condition.levels for name, condition in CONDITIONS.items() if condition.of == "camera" and "l" in name}


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    return open_set(tiny_dataset)[4:8]


@pytest.fixture(scope="module")
def frame(keyframes):
    return sensor_frame(keyframes[1], SPEC)


@pytest.fixture(scope="module")
def track(keyframes):
    return track_of(keyframes)


def moment_of(track: Track, condition: str = "any", index: int = 1, seed: int = 0) -> Moment:
    return Moment(SPEC, "scene-0001", index, track, condition, seed)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int = 90, width: int = 160) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    stripes = ((columns // 8) % 2 * 120 + rows).astype(np.uint8)
    return np.stack([stripes, stripes // 2, 255 - stripes], axis=-1)


# ---- images


def test_colours_are_rounded_down_as_pillow_posterises() -> None:
    for level, bits in ((1, 4), (2, 3), (3, 2)):
        found = images.quantise_colours(picture(), level, rng())
        assert len(np.unique(found)) <= 2**bits and (found <= picture()).all()
        np.testing.assert_array_equal(found, picture() & (0xFF << (8 - bits) & 0xFF))


def test_brightness_is_added_to_the_largest_colour() -> None:
    grey = np.full((4, 4, 3), 51, dtype=np.uint8)  # V = 0.2
    assert (images.brighten(grey, 4, rng()) == round(0.6 * 255)).all()
    assert (images.brighten(np.full((4, 4, 3), 250, dtype=np.uint8), 5, rng()) == 255).all()


def test_low_light_is_a_gamma_of_two_with_noise_about_it() -> None:
    ramp = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (400, 1))[..., None], 3, axis=2)
    found = images.darken(ramp, 3, rng()).astype(np.float64) / 255.0
    middle = np.arange(128, 250)  # clipping at black and the rounding are far from here
    mean = 0.3 * (middle / 255.0) ** 2
    np.testing.assert_allclose(found.mean(axis=(0, 2))[middle], mean, atol=0.01)
    noise = np.sqrt(mean / 50 + 0.026**2)  # of photons and of reading
    np.testing.assert_allclose(found.std(axis=(0, 2))[middle], noise, rtol=0.12)


def test_blur_keeps_the_light_and_spreads_along_one_direction() -> None:
    point = np.zeros((161, 161, 3), dtype=np.uint8)
    point[80, 80] = 255
    spread = images._blur(point, 15, 8.0, 0.0)[..., 0] > 0
    assert spread.any(axis=1).sum() == 1 and spread.any(axis=0).sum() > 1
    flat = np.full((60, 1600, 3), 77, dtype=np.uint8)
    assert (images.motion_blur(flat, 5, rng()) == 77).all()


def test_lengths_shrink_with_the_image() -> None:
    def length(width: int) -> int:
        line = np.zeros((9, width, 3), dtype=np.uint8)
        line[:, width // 2] = 255
        return int((images._blur(line, 15, 12.0, 0.0)[4, :, 0] > 2).sum())

    assert length(1600) == pytest.approx(4 * length(400), rel=0.35) and length(400) > 2


def test_plasma_is_a_field_from_0_to_1_without_an_edge() -> None:
    field = images.plasma(64, 2.0, rng(3))
    assert field.shape == (64, 64) and field.min() == 0.0 and field.max() == pytest.approx(1.0)
    inside = np.abs(np.diff(field, axis=1)).mean()
    assert np.abs(field[:, 0] - field[:, -1]).mean() < 3 * inside  # its edges meet
    assert np.abs(np.diff(images.plasma(64, 4.0, rng(3)), axis=1)).mean() < inside  # a faster decay is smoother


def test_fog_hides_contrast_and_snow_adds_light() -> None:
    for level in (2, 4, 5):
        assert images.fog(picture(), level, rng()).std() < picture().std()
    assert images.snow(np.zeros((90, 160, 3), dtype=np.uint8), 3, rng()).mean() > 20


@pytest.mark.parametrize("name", [name for name, c in CONDITIONS.items() if c.of == "camera" and c.unit == "level"])
def test_harder_is_further_from_the_image(name: str, frame, track) -> None:
    condition, distances = CONDITIONS[name], []
    clean = decode_image(frame.cameras[0].frame, 160).astype(float)
    for level in condition.levels:
        view = condition.spoil(frame, level, moment_of(track)).cameras[0]
        image = decode_image(view.frame, 160)
        assert image.shape == clean.shape and image.dtype == np.uint8
        distances.append(np.abs(image - clean).mean())
    assert 0.3 < distances[0] < distances[-1], distances


# ---- radars


def scan(count: int = 200) -> np.ndarray:
    points = rng(5).normal(0, 1, (count, len(RADAR_COLUMNS))).astype(np.float32)
    points[:, :2] = points[:, :2] * 8 + (30, 0)
    return points


def test_noise_of_azimuth_keeps_range_and_radial_speed() -> None:
    before = scan()
    after = radar_corruptions.noisy_azimuth(before, 2.0, rng())
    np.testing.assert_allclose(np.hypot(*after[:, :2].T), np.hypot(*before[:, :2].T), rtol=1e-5)
    radial = [(p[:, 0] * p[:, 4] + p[:, 1] * p[:, 5]) / np.hypot(*p[:, :2].T) for p in (before, after)]
    np.testing.assert_allclose(*radial, atol=1e-4)
    turned = np.degrees(np.arctan2(after[:, 1], after[:, 0]) - np.arctan2(before[:, 1], before[:, 0]))
    assert turned.std() == pytest.approx(2.0, rel=0.15)


def test_clutter_and_ghosts_are_added_behind_what_was_there() -> None:
    before = scan()
    after = radar_corruptions.clutter(before, 0.5, rng())
    assert len(after) == 300
    np.testing.assert_array_equal(after[:200], before)
    assert (np.abs(np.degrees(np.arctan2(after[200:, 1], after[200:, 0]))) <= 60).all()
    ghosts = radar_corruptions.ghosts(before, 1.0, rng())[200:]
    ratio = np.hypot(*ghosts[:, :2].T) / np.hypot(*before[:, :2].T)
    assert len(ghosts) == 200 and (ratio >= 1.2 - 1e-5).all() and (ratio <= 2.0 + 1e-5).all()
    np.testing.assert_allclose(ghosts[:, 3], before[:, 3] - 6.0, rtol=1e-5)


def test_what_is_weak_at_its_range_goes_first() -> None:
    before = scan()
    power = before[:, 3] - 40 * np.log10(np.hypot(*before[:, :2].T))
    kept = radar_corruptions.blocked(before, 6.0, rng())
    assert len(kept) == (power - 6.0 >= power.min()).sum() < len(before)
    fewer = radar_corruptions.blocked(before, 20.0, rng())
    assert len(fewer) <= len(kept)
    assert len(radar_corruptions.blocked(before[:0], 6.0, rng())) == 0
    disturbed = radar_corruptions.interference(before, 6.0, rng())
    false = disturbed[-20:]
    assert np.degrees(np.arctan2(false[:, 1], false[:, 0])).std() < 1e-3


# ---- rigs


def test_a_turned_camera_is_off_by_that_angle_and_the_same_in_every_frame(frame, track) -> None:
    first = rig_errors.cameras_turned(frame, 2.0, moment_of(track))
    again = rig_errors.cameras_turned(frame, 2.0, moment_of(track, index=3))
    for before, after, later in zip(frame.cameras, first.cameras, again.cameras, strict=True):
        error = invert(before.calibration.ego_from_cam) @ after.calibration.ego_from_cam
        angle = np.degrees(np.arccos((np.trace(error[:3, :3]) - 1) / 2))
        assert angle == pytest.approx(2.0, abs=1e-6) and np.allclose(error[:3, 3], 0)
        np.testing.assert_array_equal(after.calibration.ego_from_cam, later.calibration.ego_from_cam)
    shifted = rig_errors.cameras_shifted(frame, 0.1, moment_of(track)).cameras[0]
    offset = shifted.calibration.ego_from_cam[:3, 3] - frame.cameras[0].calibration.ego_from_cam[:3, 3]
    assert np.linalg.norm(offset) == pytest.approx(0.1)


def test_a_turned_radar_turns_about_its_own_axis(frame, track) -> None:
    turned = rig_errors.radars_turned(frame, 4.0, moment_of(track)).radars[0][0]
    error = invert(frame.radars[0][0].ego_from_radar) @ turned.ego_from_radar
    assert abs(np.degrees(np.arctan2(error[1, 0], error[0, 0]))) == pytest.approx(4.0)


def test_what_is_stamped_late_stands_where_the_vehicle_is_later() -> None:
    stamps = np.arange(0, 3_000_000_000, 500_000_000)
    poses = np.tile(np.eye(4), (len(stamps), 1, 1))
    poses[:, 0, 3] = stamps / 1e9 * 10.0  # 10 m/s
    track = Track(stamps, poses)
    np.testing.assert_allclose(track.at(250_000_000)[0, 3], 2.5)
    np.testing.assert_allclose(track.at(3_000_000_000)[0, 3], 30.0)


def test_late_images_and_scans(frame, track) -> None:
    late = rig_errors.cameras_late(frame, 100.0, moment_of(track))
    ego = frame.cameras[0].ego
    expected = ego.odom_from_ego @ invert(track.at(ego.stamp_ns)) @ track.at(ego.stamp_ns + 100_000_000)
    np.testing.assert_allclose(late.cameras[0].ego.odom_from_ego, expected, atol=1e-9)
    np.testing.assert_array_equal(late.radars[0][0].ego.odom_from_ego, frame.radars[0][0].ego.odom_from_ego)
    scans = rig_errors.radars_late(frame, 100.0, moment_of(track))
    assert not np.allclose(scans.radars[0][0].ego.odom_from_ego, frame.radars[0][0].ego.odom_from_ego)


def test_odometry_with_a_scale_goes_further_and_turns() -> None:
    stamps = np.arange(0, 5_000_000_001, 500_000_000)
    poses = np.tile(np.eye(4), (len(stamps), 1, 1))
    poses[:, 0, 3] = stamps / 1e9 * 10.0
    said = rig_errors._drifted(Track(stamps, poses), 10.0, int(stamps[-1]))
    assert np.degrees(np.arctan2(said[1, 0], said[0, 0])) == pytest.approx(5.0)  # a degree a second
    assert np.hypot(said[0, 3], said[1, 3]) == pytest.approx(55.0, rel=0.002)
    exact = rig_errors._drifted(Track(stamps, poses), 0.0, 1_700_000_000)
    np.testing.assert_allclose(exact[0, 3], 17.0)


# ---- what is lost


def test_black_cameras_are_the_same_ones_in_the_whole_run(frame, track) -> None:
    def black(index: int, scene: str = "scene-0001") -> list[bool]:
        moment = dataclasses.replace(moment_of(track, "camera_crash", index), scene=scene)
        views = lost.cameras_black(frame, 4, moment).cameras
        return [view.frame.data.max() == 0 for view in views]

    assert black(1) == black(2) == black(1, "another") and 1 <= sum(black(1)) <= 4
    shares = [
        sum(not lost.images_black(frame, 4, moment_of(track, "x", i)).cameras[0].frame.data.any() for i in range(60))
    ]
    assert shares[0] / 60 == pytest.approx(4 / 6, abs=0.17)


def test_losses_of_a_scene_hold_each_other(frame, track) -> None:
    few, many = (lost.lost_sensors(Loss(c, r), moment_of(track, "lost")) for c, r in ((2, 1), (4, 5)))
    assert len(few) == 3 and few < many
    spoilt = lost.without(frame, Loss(2, 1), moment_of(track, "lost"))
    assert set(spoilt.missing) == set(few)
    assert sum(view is None for view in spoilt.cameras) == 2


def test_cells_are_those_that_the_sensors_allow() -> None:
    every = cells(SPEC)
    assert every[0] == Cell() and len({cell.name for cell in every}) == len(every)
    assert len([cell for cell in every if cell.loss]) == len(losses(SPEC)) == 16
    assert Loss(6, 5) not in losses(SPEC) and Loss(6, 1) in losses(SPEC)
    camera_only = dataclasses.replace(SPEC, radars=())
    assert not [c for c in cells(camera_only) if c.condition in CONDITIONS and CONDITIONS[c.condition].of == "radar"]
    assert Loss(6, 0) not in losses(camera_only)
    with pytest.raises(ValueError, match="no condition rain"):
        cells(SPEC, ("rain",))


def test_draws_depend_on_seed_and_place_alone(frame, track) -> None:
    def image(**changes) -> np.ndarray:
        moment = dataclasses.replace(moment_of(track, "fog-1"), **changes)
        return Cell("fog", 0).spoil(frame, moment).cameras[2].frame.data

    np.testing.assert_array_equal(image(), image())
    for changes in ({"seed": 1}, {"index": 2}, {"scene": "scene-0000"}, {"condition": "snow-1"}):
        assert (image() != image(**changes)).any(), changes


# ---- what is seen


def test_a_place_is_seen_by_the_camera_that_looks_there(frame) -> None:
    ahead, behind, left = np.array([[20.0, 0, 1]]), np.array([[-20.0, 0, 1]]), np.array([[0.0, 15, 1]])
    assert seen_by(frame, {"CAM_FRONT"})(ahead).all() and not seen_by(frame, {"CAM_FRONT"})(behind).any()
    assert seen_by(frame, {"CAM_BACK"})(behind).all()
    assert seen_by(frame, {"RADAR_FRONT"})(ahead).all() and not seen_by(frame, {"RADAR_FRONT"})(left).any()
    assert not seen_by(frame, set())(np.concatenate([ahead, behind, left])).any()
