"""Images that show nothing: each kind is found, and no real or rendered image is taken for one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_images import CALIBRATION, EGO, SPEC, smooth_scene

from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.model_spec import ImageSpec
from bev_perception.preprocess.contents import (
    FROZEN_NS,
    MASK,
    MOVED_M,
    OFF,
    TELL,
    TURNED_RAD,
    ImageChecks,
    Seen,
    check_images,
    judge,
    look_at,
    remember,
)
from bev_perception.preprocess.images import prepare_images
from bev_perception.structures import CameraFrame, CameraView, EgoPose, SensorFrame

RECORDED = Path(__file__).parents[2] / "shared" / "data" / "nuscenes"
SHAPE = (SPEC.image.height, SPEC.image.width, 3)
RNG = np.random.default_rng(0)


def found(image, checks=None):
    look = look_at(image)
    fault = judge(look, remember(look, None, EGO), EGO, checks or ImageChecks())
    return fault.reason if fault else ""


def noise(mean, deviation, shape=SHAPE):
    return RNG.normal(mean, deviation, shape).clip(0, 255).astype(np.uint8)


def striped(values):
    return np.broadcast_to(np.asarray(values, np.uint8)[..., None], SHAPE).copy()


BLIND = {
    "nothing at all": (np.zeros(SHAPE, np.uint8), "image_black"),
    "a lens cap and a warm sensor": (noise(4, 2.5), "image_black"),
    "black level of 8": (noise(8, 1), "image_black"),
    "blinded by the sun": (np.full(SHAPE, 255, np.uint8), "image_uniform"),
    "a driver's grey": (np.full(SHAPE, 128, np.uint8), "image_uniform"),
    "covered by a bag": (noise(90, 0.8), "image_uniform"),
    "colour bars": (striped(np.repeat(np.arange(8) * 32, SHAPE[1] // 8)[None]), "image_uniform"),
    "one line read again and again": (striped(smooth_scene(SHAPE[1], 1)[..., 1]), "image_uniform"),
    "lines of one value each": (striped(smooth_scene(1, SHAPE[0])[..., 1]), "image_uniform"),
    "grey with the black corners of an undistorted lens": (
        cv2.ellipse(np.zeros(SHAPE, np.uint8), (176, 64), (220, 78), 0, 0, 360, (128, 128, 128), -1), "image_uniform",
    ),
    "noise of full strength": (RNG.integers(0, 256, SHAPE, np.uint8), "image_noise"),
    "noise in the dark": (noise(30, 9), "image_noise"),
}  # fmt: skip


@pytest.mark.parametrize(("image", "reason"), BLIND.values(), ids=BLIND)
def test_what_a_blind_camera_sends_is_named(image, reason):
    assert found(image) == reason
    switched_off = dataclasses.replace(ImageChecks(), **{reason.removeprefix("image_"): OFF})
    assert found(image, switched_off) != reason


@pytest.mark.parametrize("shape", [(8, 16, 3), (16, 32, 3), (90, 160, 3), (512, 1408, 3)])
def test_small_and_large_images_can_be_looked_at(shape):
    assert found(np.zeros(shape, np.uint8)) == "image_black"
    assert found(np.full(shape, 200, np.uint8)) == "image_uniform"
    assert found(smooth_scene(shape[1] * 4, shape[0] * 4)[::4, ::4]) in ("", "image_noise")


def network_images(images, width, height, spec=SPEC.image):
    """As the pipeline prepares them."""
    model = dataclasses.replace(SPEC, image=spec)
    calibration = dataclasses.replace(CALIBRATION, width=width, height=height)
    for encoding, data in images:
        view = CameraView(CameraFrame("a", 0, encoding, data), calibration, EGO)
        prepared, _, valid, _ = prepare_images(SensorFrame(0, EGO, (view, None), ()), model)
        assert valid[0] == 1.0
        yield prepared[0]


def test_pure_noise_from_a_sensor_is_still_noise_when_it_is_small():
    raw = [
        ("bgr8", RNG.integers(0, 256, (900, 1600, 3), np.uint8)),
        ("mono8", RNG.integers(0, 99, (900, 1600), np.uint8)),
    ]
    assert [found(image) for image in network_images(raw, 1600, 900)] == ["image_noise"] * 2


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"no real recordings in {RECORDED}")
@pytest.mark.parametrize("size", [(128, 352), (256, 704)])
def test_no_real_image_is_taken_for_blind(size):
    """Six cameras of a keyframe and a front camera over ten seconds; also as dark and as flat as dusk and fog would."""
    files = sorted(RECORDED.glob("*/*CAM_*.jpg"))
    assert len(files) >= 25
    spec = ImageSpec(*size)
    images = list(network_images((("jpeg", np.fromfile(f, np.uint8)) for f in files), 1600, 900, spec))
    for file, image in zip(files, images):
        assert found(image) == "", f"{file.name}: {look_at(image)}"
        assert look_at(image).roughness < 0.5
        for gain, lift in ((0.2, 0), (0.15, 210), (0.1, 10)):  # night without lamps, fog, dusk
            weak = np.round(image * gain + lift).astype(np.uint8)
            assert found(weak) == "", f"{file.name} at {gain}: {look_at(weak)}"
    checksums = [look_at(image).checksum for image in images]
    assert len(set(checksums)) == len({f.read_bytes() for f in files})


def at(milliseconds, x=0.0, yaw=0.0, epoch=0):
    pose = make_transform(rotation_from_yaw(yaw), np.array([x, 0.0, 0.0]))
    return EgoPose(milliseconds * 1_000_000, pose, epoch=epoch)


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (at(83), ""), (at(FROZEN_NS // 10**6 - 1), ""), (at(FROZEN_NS // 10**6), "image_frozen"),
        (at(83, x=MOVED_M * 1.01), "image_frozen"), (at(83, x=MOVED_M * 0.99), ""),
        (at(83, yaw=TURNED_RAD * 1.01), "image_frozen"), (at(83, yaw=TURNED_RAD * 0.99), ""),
        (at(83, x=50.0, epoch=1), ""),  # odometry jumped: no motion
        (at(-500), ""),  # time went back
        (at(0, x=5.0), ""),
    ],
)  # fmt: skip
def test_the_same_picture_is_frozen_when_it_lasts_or_the_vehicle_moved(later, reason):
    look = look_at(smooth_scene(SHAPE[1], SHAPE[0]))
    seen = remember(look, None, at(0))
    assert judge(look, seen, at(0), ImageChecks()) is None
    fault = judge(look, remember(look, seen, later), later, ImageChecks())
    assert (fault.reason if fault else "") == reason


def test_one_grey_level_makes_another_picture():
    image = smooth_scene(SHAPE[1], SHAPE[0])
    seen = remember(look_at(image), None, at(0))
    changed = image.copy()
    changed[SHAPE[0] // 8 :, :, 1] ^= 1
    assert remember(look_at(image), seen, at(83)) is seen
    assert remember(look_at(changed), seen, at(83)).since.stamp_ns == 83_000_000


def drive(checks, frames):
    """frames: (image, ego) of a single camera -> reasons masked, reasons told, and whether it was valid, frame by
    frame."""
    seen: dict[str, Seen] = {}
    for image, ego in frames:
        inputs = {
            "images": image[None].copy(), "img_from_ego": np.full((1, 4, 4), 7, np.float32),
            "camera_valid": np.ones(1, np.float32),
        }  # fmt: skip
        view = CameraView(CameraFrame("a", ego.stamp_ns, "bgr8", image), CALIBRATION, ego)
        masked, told, seen = check_images(inputs, (view,), ("a",), checks, seen)
        assert (inputs["camera_valid"][0] == 0) == bool(masked)
        if masked:
            assert not inputs["images"].any() and np.array_equal(inputs["img_from_ego"][0], np.eye(4))
        yield [f.reason for f in masked.values()], [f.reason for f in told.values()]


def test_a_stuck_driver_is_masked_while_it_lasts():
    pictures = [smooth_scene(SHAPE[1], SHAPE[0], seed=k) for k in range(3)]
    frames = [
        (pictures[0], at(0)),
        *((pictures[1], at(83 * k, x=0.9 * k)) for k in range(1, 5)),
        (pictures[2], at(415)),
    ]
    reasons = list(drive(ImageChecks(), frames))
    assert reasons == [([], [])] * 2 + [(["image_frozen"], [])] * 3 + [([], [])]


def test_what_is_done_is_a_choice():
    frames = [(np.zeros(SHAPE, np.uint8), at(83 * k)) for k in range(3)]
    for choice, expected in ((MASK, (["image_black"], [])), (TELL, ([], ["image_black"]))):
        assert list(drive(ImageChecks(black=choice), frames)) == [expected] * 3
    assert list(drive(ImageChecks(OFF, OFF, OFF, OFF), frames)) == [([], [])] * 3


def test_a_camera_without_an_image_is_remembered():
    picture = smooth_scene(SHAPE[1], SHAPE[0])
    seen = {"a": remember(look_at(picture), None, at(0))}
    inputs = {"images": picture[None], "camera_valid": np.zeros(1, np.float32)}
    view = CameraView(CameraFrame("a", 83_000_000, "bgr8", picture), CALIBRATION, at(83))
    for views in ((None,), (view,)):
        assert check_images(inputs, views, ("a",), ImageChecks(), seen) == ({}, {}, seen)


def test_what_is_just_not_blind_is_used():
    """The limits are small steps above what blind cameras send."""
    dark = noise(10.6, 1.0)
    assert 10.0 < look_at(dark).mean < 11.0 and found(dark, ImageChecks(uniform=OFF)) == ""
    flat = noise(128, 2.0)
    assert 1.5 < look_at(flat).deviation < 2.5 and found(flat, ImageChecks(noise=OFF)) == ""
