"""Images that show nothing: cheap looks at the network's small images, before anybody trusts them.

A camera that is covered, dark, or whose driver repeats itself sends images that are whole in every other respect.
Black, uniform and frozen images say nothing of the world, so their camera is masked. Noise is only told: images by day
have a tenth of the limit, but where nothing averages it away the noise of a dark night in fog exceeds it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.fault import Fault
from bev_perception.geometry import invert
from bev_perception.structures import CameraView, EgoPose

BLACK_MEAN, BLACK_DEVIATION = 10.0, 3.0  # grey levels, of 255
UNIFORM_DEVIATION = 1.5  # grey levels, along rows or along columns
NOISE_DEVIATION, NOISE_ROUGHNESS = 4.0, 0.8
FROZEN_NS = 1_000_000_000
MOVED_M, TURNED_RAD = 0.1, 0.01  # the vehicle did, so that the image would have changed

OFF, TELL, MASK = "off", "tell", "mask"
CHOICES = (OFF, TELL, MASK)


@dataclass(frozen=True)
class ImageChecks:
    """What to do about each finding: a word of CHOICES; see the parameters `images.*`."""

    black: str = MASK
    uniform: str = MASK
    noise: str = TELL
    frozen: str = MASK


@dataclass(frozen=True)
class Look:
    """What a glance at an image says, in grey levels: mean; deviation; how much rows change along themselves and
    columns along themselves over an eighth of a small image or so. roughness: mean square difference of neighbours
    over twice the variance, 1 for white noise. checksum: of all that was looked at."""

    mean: float
    deviation: float
    along_rows: float
    along_columns: float
    roughness: float
    checksum: int


@dataclass(frozen=True)
class Seen:
    """The last picture of a camera, and where the vehicle was when it came first."""

    checksum: int
    since: EgoPose


def look_at(image: np.ndarray) -> Look:
    """(H, W, 3) uint8 -> its green in some rows. The outermost eighths, which a lens may leave black, do not count."""
    height, width = image.shape[:2]
    top, left, step, far = height // 8, width // 8, max(1, height // 16), max(1, width // 32)
    rows = cv2.extractChannel(image[top : height - top : step, left : width - left], 1)
    mean = cv2.sumElems(rows)[0] / rows.size
    deviation = max(0.0, cv2.norm(rows, cv2.NORM_L2SQR) / rows.size - mean**2) ** 0.5
    roughness = _half_mean_square(rows[:, 1:], rows[:, :-1]) / deviation**2 if deviation else 0.0
    along_rows = _half_mean_square(rows[:, far:], rows[:, :-far]) ** 0.5
    along_columns = _half_mean_square(rows[1:], rows[:-1]) ** 0.5
    return Look(mean, deviation, along_rows, along_columns, roughness, zlib.crc32(rows.data))


def _half_mean_square(a: np.ndarray, b: np.ndarray) -> float:
    """Of the differences; of independent samples this is the variance."""
    return float(cv2.norm(a, b, cv2.NORM_L2SQR)) / (2 * a.size) if a.size else 0.0


def judge(look: Look, seen: Seen, ego: EgoPose, checks: ImageChecks) -> Fault | None:
    """The first finding of those that are not off; seen: as `remember` gives it, ego: at this image's stamp."""
    if checks.black != OFF and look.mean < BLACK_MEAN and look.deviation < BLACK_DEVIATION:
        return Fault("image_black", f"mean {look.mean:.1f} and deviation {look.deviation:.1f} of 255 grey levels")
    least = min(look.deviation, look.along_rows, look.along_columns)
    if checks.uniform != OFF and least < UNIFORM_DEVIATION:
        return Fault("image_uniform", f"mean {look.mean:.1f}, deviation {least:.1f} of 255 grey levels along an axis")
    if checks.noise != OFF and look.deviation > NOISE_DEVIATION and look.roughness > NOISE_ROUGHNESS:
        return Fault("image_noise", f"neighbours differ by {look.roughness:.2f} of what independent ones would")
    still_ns = ego.stamp_ns - seen.since.stamp_ns
    if checks.frozen != OFF and (still_ns >= FROZEN_NS or (still_ns > 0 and _moved(seen.since, ego))):
        return Fault("image_frozen", f"the same picture since {still_ns / 1e9:.3f} s, with new stamps")
    return None


def remember(look: Look, seen: Seen | None, ego: EgoPose) -> Seen:
    """What is to be known of a camera when its next image comes."""
    repeated = seen is not None and seen.checksum == look.checksum and seen.since.stamp_ns <= ego.stamp_ns
    return seen if repeated and seen is not None else Seen(look.checksum, ego)


def _moved(before: EgoPose, now: EgoPose) -> bool:
    """Whether another picture was to be expected."""
    if before.epoch != now.epoch:
        return False
    motion = invert(before.odom_from_ego) @ now.odom_from_ego
    turned = np.linalg.norm(motion[:3, :3] - np.eye(3)) / np.sqrt(2)  # of a small rotation the angle
    return bool(np.linalg.norm(motion[:3, 3]) > MOVED_M or turned > TURNED_RAD)


def check_images(
    inputs: dict[str, np.ndarray],
    views: tuple[CameraView | None, ...],
    cameras: tuple[str, ...],
    checks: ImageChecks,
    seen: dict[str, Seen],
) -> tuple[dict[str, Fault], dict[str, Fault], dict[str, Seen]]:
    """-> (camera -> why its image is now masked in `inputs`, camera -> what is only told, what to hand in next time).

    inputs: as `prepare_images` made them; valid cameras are looked at. A camera that gave no image is remembered.
    """
    masked: dict[str, Fault] = {}
    told: dict[str, Fault] = {}
    remembered = dict(seen)
    for i, (name, view) in enumerate(zip(cameras, views)):
        if view is None or not inputs["camera_valid"][i]:
            continue
        look = look_at(inputs["images"][i])
        remembered[name] = remember(look, seen.get(name), view.ego)
        fault = judge(look, remembered[name], view.ego, checks)
        if fault is None:
            continue
        if getattr(checks, fault.reason.removeprefix("image_")) == MASK:
            masked[name] = fault
            inputs["images"][i], inputs["img_from_ego"][i], inputs["camera_valid"][i] = 0, np.eye(4), 0.0
        else:
            told[name] = fault
    return masked, told, remembered
