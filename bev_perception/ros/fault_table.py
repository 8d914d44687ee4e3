"""What can go wrong with the sensors of a car, as changes of the messages that it sends; and what has to be said of it.

A row names the fault, what it does to the messages, and what the status must then say: of which sensor, in which state,
with which reason. Other sensors must stay OK, whatever happens to this one.
"""

from __future__ import annotations

import array
import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sensor_msgs.msg import PointField

from bev_perception.ros.car import Change, Sending, to_cloud, to_image
from bev_perception.structures import ODOMETRY

CAMERA, COMPRESSED, ANCHOR, RADAR = "CAM_FRONT", "CAM_BACK", "CAM_BACK_LEFT", "RADAR_FRONT"
MS = 1_000_000
ALL = "*"  # every sensor of the kind
LATE, SILENT, INVALID, SUSPECT = "late", "silent", "invalid", "suspect"
SOMETIMES = "sometimes"  # ok, or for the reason that is named: frames are lost now and then


@dataclass(frozen=True)
class Fault:
    """name: what is wrong, in words. change: what it does to messages; made anew for each run, it may remember.

    expect: sensor -> (state, how its reason begins) while the fault lasts; a sensor that is not named must be OK.
    counter: a reason that must have been counted. once: the fault is a moment, and nothing may be left of it.
    everybody: other sensors may be touched, too (time itself, the ego motion).
    """

    name: str
    change: Callable[[], Change]
    expect: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    counter: str = ""
    once: bool = False
    everybody: bool = False
    seconds: float = 2.0


def of(sensor: str, *kinds: str) -> Callable[[Sending], bool]:
    return lambda s: s.kind in kinds and sensor in (ALL, s.sensor)


def edited(which: Callable[[Sending], bool], edit: Callable[[Any], None]) -> Callable[[], Change]:
    """`edit` changes a copy of the message."""

    def change(s: Sending) -> Iterable[Sending]:
        if not which(s):
            return (s,)
        message = copy.deepcopy(s.message)
        edit(message)
        return (Sending(s.kind, s.sensor, message, s.stamp_ns),)

    return lambda: change


def lost(which: Callable[[Sending], bool], share: float = 1.0) -> Callable[[], Change]:
    def make() -> Change:
        rng = np.random.default_rng(0)
        return lambda s: () if which(s) and rng.random() < share else (s,)

    return make


def shifted(which: Callable[[Sending], bool], shift_ms: float, every: int = 1, first: int = 0) -> Callable[[], Change]:
    """Stamps moved; every: of so many messages one. every=0: one message in all."""

    def make() -> Change:
        count = [0]

        def change(s: Sending) -> Iterable[Sending]:
            if which(s):
                count[0] += 1
                wanted = count[0] == 1 + first if every == 0 else count[0] % every == 0
                if wanted:
                    return (Sending(s.kind, s.sensor, s.message, s.stamp_ns + round(shift_ms * MS)),)
            return (s,)

        return change

    return make


def repeated(which: Callable[[Sending], bool], times: int = 2, step_ms: float = 0.0) -> Callable[[], Change]:
    def change(s: Sending) -> Iterable[Sending]:
        if not which(s):
            return (s,)
        return [Sending(s.kind, s.sensor, s.message, s.stamp_ns + round(k * step_ms * MS)) for k in range(times)]

    return lambda: change


def held(which: Callable[[Sending], bool], messages: int) -> Callable[[], Change]:
    """Each message is sent so many messages of its sensor later: late by as many periods."""

    def make() -> Change:
        waiting: dict[tuple[str, str], list[Sending]] = {}

        def change(s: Sending) -> Iterable[Sending]:
            if not which(s):
                return (s,)
            queue = waiting.setdefault((s.kind, s.sensor), [])
            queue.append(Sending(s.kind, s.sensor, copy.deepcopy(s.message), s.stamp_ns))
            return (queue.pop(0),) if len(queue) > messages else ()

        return change

    return make


def setting(**values: Any) -> Callable[[Any], None]:
    """Dotted names with __ for the dot."""

    def edit(message: Any) -> None:
        for name, value in values.items():
            *path, last = name.split("__")
            owner = message
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, last, value)

    return edit


def pixels(make: Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]) -> Callable[[Any], None]:
    """Other pixels in an Image."""
    rng = np.random.default_rng(1)

    def edit(message: Any) -> None:
        message.data = to_image(make(rng, (message.height, message.width, 3)).astype(np.uint8), "").data

    return edit


def returns(edit_points: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], None]:
    """Other returns in a PointCloud2."""

    def edit(message: Any) -> None:
        points = np.frombuffer(message.data, np.float32).reshape(-1, len(message.fields)).copy()
        made = to_cloud(edit_points(points), message.header.frame_id)
        message.data, message.width, message.row_step = made.data, made.width, made.row_step

    return edit


def column(index: int, value: float, rows: slice = slice(None)) -> Callable[[Any], None]:
    def edit_points(points: np.ndarray) -> np.ndarray:
        points[rows, index] = value
        return points

    return returns(edit_points)


def shorter(message: Any) -> None:
    message.data = message.data[: len(message.data) // 2]


def focal(value: float) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        k = np.array(message.k)
        k[[0, 4]] = value
        message.k = k

    return edit


def moved_centre(pixels_right: float) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        k = np.array(message.k)
        k[2] += pixels_right
        message.k = k

    return edit


def jumping(metres: float, every: int) -> Callable[[], Change]:
    """The pose of the odometry moves by so much: every: messages between jumps; 0: one jump, for good."""

    def make() -> Change:
        count = [0]

        def change(s: Sending) -> Iterable[Sending]:
            if s.kind != ODOMETRY:
                return (s,)
            count[0] += 1
            steps = 1 if every == 0 else count[0] // every
            message = copy.deepcopy(s.message)
            message.pose.pose.position.y += metres * steps
            return (Sending(s.kind, s.sensor, message, s.stamp_ns),)

        return change

    return make


IMAGE, INFO = of(CAMERA, "image"), of(CAMERA, "info")
JPEG, CLOUD, POSE = of(COMPRESSED, "image"), of(RADAR, "radar"), of(ALL, ODOMETRY)
EVERY_IMAGE, EVERY_CLOUD = of(ALL, "image"), of(ALL, "radar")
EVERYTHING = of(ALL, "image", "info", "radar", ODOMETRY)


def camera(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {CAMERA: (state, reason)}


def jpeg(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {COMPRESSED: (state, reason)}


def radar(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {RADAR: (state, reason)}


def odometry(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {ODOMETRY: (state, reason)}


def text_of(format_: str, data: bytes | None = None) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        message.format = format_
        if data is not None:
            message.data = array.array("B", data)

    return edit


def padded(message: Any) -> None:
    message.data = message.data + array.array("B", bytes(2048))


def renamed(message: Any) -> None:
    message.fields = [
        PointField(name=f"{f.name}_", offset=f.offset, datatype=f.datatype, count=1) for f in message.fields
    ]


HUGE = array.array("B", bytes(4000 * 2500 * 3))


def huge(message: Any) -> None:
    message.width, message.height, message.step, message.data = 4000, 2500, 12000, HUGE


SENDING: tuple[Fault, ...] = (
    Fault("nothing", lambda: lambda s: (s,)),
    Fault("one camera sends nothing", lost(IMAGE), camera(SILENT, "stale")),
    Fault("the anchor camera sends nothing", lost(of(ANCHOR, "image")), {ANCHOR: (SILENT, "stale")}),
    Fault("no camera sends anything", lost(EVERY_IMAGE), {"cameras": (SILENT, "stale")}, seconds=3.0),
    Fault("one image in five is lost", lost(IMAGE, 0.2), {CAMERA: (SOMETIMES, "out_of_tolerance")}),
    Fault("one radar sends nothing", lost(CLOUD), radar(SILENT, "stale")),
    Fault("no radar sends anything", lost(EVERY_CLOUD), {"radars": (SILENT, "stale")}, seconds=3.0),
    Fault("odometry sends nothing", lost(POSE), odometry(SILENT, "stale"), everybody=True),
    Fault("nine of ten poses are lost", lost(POSE, 0.9), everybody=True),
    Fault("nobody sends anything", lost(EVERYTHING), {ALL: (SILENT, "stale")}, everybody=True),
    Fault("camera_info stops; what it said still holds", lost(of(CAMERA, "info"))),
)
STAMPS: tuple[Fault, ...] = (
    Fault("one image is from 1.5 s ago", shifted(IMAGE, -1500, 0, 5), counter=f"{CAMERA}/stepped_back", once=True),
    Fault("one scan is from 1.5 s ago", shifted(CLOUD, -1500, 0, 5), counter=f"{RADAR}/stepped_back", once=True),
    Fault("one pose is from 1.5 s ago", shifted(POSE, -1500, 0, 50), counter=f"{ODOMETRY}/stepped_back", once=True),
    Fault(
        "every other image is from 1.5 s ago",
        shifted(IMAGE, -1500, 2),
        {CAMERA: (SOMETIMES, "stepped_back")},
        counter=f"{CAMERA}/stepped_back",
    ),
    Fault(
        "every other scan is from 1.5 s ago",
        shifted(CLOUD, -1500, 2),
        {RADAR: (SOMETIMES, "stepped_back")},
        counter=f"{RADAR}/stepped_back",
    ),
    Fault(
        "every other pose is from 1.5 s ago",
        shifted(POSE, -1500, 2),
        {ODOMETRY: (SOMETIMES, "stepped_back")},
        counter=f"{ODOMETRY}/stepped_back",
    ),
    Fault("a camera's clock is 0.2 s ahead", shifted(IMAGE, 200), camera(INVALID, "future_stamp")),
    Fault("a camera's clock is 0.03 s ahead", shifted(IMAGE, 30), camera(SUSPECT, "clock_ahead")),
    Fault("a camera's clock is an hour ahead", shifted(IMAGE, 3.6e6), camera(INVALID, "future_stamp")),
    Fault("a camera's clock is 0.3 s behind", shifted(IMAGE, -300), camera(LATE, "too_late")),
    Fault("a camera's clock is 5 s behind", shifted(IMAGE, -5000), camera(INVALID, "too_old")),
    Fault("a radar's clock is 0.2 s ahead", shifted(CLOUD, 200), radar(INVALID, "future_stamp")),
    Fault("a radar's clock is 5 s behind", shifted(CLOUD, -5000), radar(INVALID, "too_old")),
    Fault("odometry's clock is 0.2 s ahead", shifted(POSE, 200), odometry(INVALID, "future_stamp"), everybody=True),
    Fault("odometry's clock is 5 s behind", shifted(POSE, -5000), odometry(INVALID, "too_old"), everybody=True),
    Fault("images are stamped 0.06 s late", shifted(IMAGE, -60)),
    Fault("every image comes twice", repeated(IMAGE), counter=f"{CAMERA}/duplicate"),
    Fault("every scan comes twice", repeated(CLOUD), counter=f"{RADAR}/duplicate"),
    Fault("every pose comes twice", repeated(POSE), counter=f"{ODOMETRY}/duplicate"),
    Fault(
        "the anchor sends twice as often",
        repeated(of(ANCHOR, "image"), 2, -30.0),
        {ANCHOR: (SOMETIMES, "too_late")},
        f"{ANCHOR}/too_close",
    ),
    Fault("images come 0.25 s late", held(IMAGE, 3), camera(LATE, "too_late")),
    Fault("scans come 0.3 s late", held(CLOUD, 4)),
    Fault("poses come 0.3 s late", held(POSE, 30), odometry(INVALID, "no_pose"), everybody=True),
    Fault("images without a stamp", lambda: _unstamped(IMAGE), camera(INVALID, "stamp_not_set")),
    Fault("scans without a stamp", lambda: _unstamped(CLOUD), radar(INVALID, "stamp_not_set")),
    Fault("poses without a stamp", lambda: _unstamped(POSE), odometry(INVALID, "stamp_not_set"), everybody=True),
    Fault("all stamps are from 1.5 s ago", shifted(EVERYTHING, -1500), {ALL: ("*", "")}, everybody=True),
    Fault("all clocks are 0.2 s ahead", shifted(EVERYTHING, 200), {ALL: (INVALID, "future_stamp")}, everybody=True),
)
IMAGES: tuple[Fault, ...] = (
    Fault("images of another frame", edited(IMAGE, setting(header__frame_id="roof")), camera(INVALID, "wrong_frame")),
    Fault(
        "images in an encoding nobody knows",
        edited(IMAGE, setting(encoding="32FC3")),
        camera(INVALID, "image_encoding"),
    ),
    Fault("images of 0 x 0 pixels", edited(IMAGE, setting(width=0, height=0)), camera(INVALID, "image_size")),
    Fault("rows shorter than their pixels", edited(IMAGE, setting(step=100)), camera(INVALID, "image_step")),
    Fault("half an image", edited(IMAGE, shorter), camera(INVALID, "image_truncated")),
    Fault("images without data", edited(IMAGE, setting(data=array.array("B"))), camera(INVALID, "image_truncated")),
    Fault(
        "images of another size than camera_info",
        edited(IMAGE, setting(height=100)),
        camera(INVALID, "image_size_differs"),
    ),
    Fault("yuv422 of odd width", edited(IMAGE, setting(encoding="yuv422", width=351)), camera(INVALID, "image_")),
    Fault("images of 30 MB", edited(IMAGE, huge), camera(INVALID, "message_too_large"), everybody=True, seconds=3.0),
    Fault("black images", edited(IMAGE, pixels(lambda rng, shape: np.zeros(shape))), camera(INVALID, "image_black")),
    Fault(
        "grey images", edited(IMAGE, pixels(lambda rng, shape: np.full(shape, 128))), camera(INVALID, "image_uniform")
    ),
    Fault(
        "noise for images",
        edited(IMAGE, pixels(lambda rng, shape: rng.integers(0, 256, shape))),
        camera(SUSPECT, "image_noise"),
    ),
    Fault("the same image for ever", lambda: _frozen(IMAGE), camera(INVALID, "image_frozen"), seconds=4.0),
    Fault(
        "all cameras are black", edited(of(ALL, "image"), lambda m: _blacken(m)), {"cameras": (INVALID, "image_black")}
    ),
    Fault("a cut JPEG", edited(JPEG, shorter), jpeg(INVALID, "image_truncated")),
    Fault("no JPEG at all", edited(JPEG, text_of("jpeg", bytes(range(256)) * 8)), jpeg(INVALID, "image_encoding")),
    Fault("an empty JPEG", edited(JPEG, text_of("jpeg", b"")), jpeg(INVALID, "image_truncated")),
    Fault("JPEG with padding behind its end; it is used", edited(JPEG, padded)),
    Fault("a wrong format in words; it is used", edited(JPEG, text_of("bgr8; png compressed bgr8"))),
    Fault(
        "a mosaic compressed as JPEG, of which the image is colour",
        edited(JPEG, text_of("bayer_rggb8; jpeg compressed bayer_rggb8")),
        jpeg(INVALID, "image_format"),
    ),
)
CALIBRATION: tuple[Fault, ...] = (
    Fault("K is zero", edited(INFO, focal(0.0)), camera(INVALID, "no_calibration: camera_info_matrix")),
    Fault(
        "K is not a number", edited(INFO, focal(float("nan"))), camera(INVALID, "no_calibration: camera_info_matrix")
    ),
    Fault("a focal length in millimetres", edited(INFO, focal(4.0)), camera(INVALID, "no_calibration")),
    Fault("a principal point outside the image", edited(INFO, moved_centre(400.0)), camera(INVALID, "no_calibration")),
    Fault(
        "D is not a number",
        edited(INFO, setting(d=[float("nan")] * 5)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "plumb_bob with 3 coefficients",
        edited(INFO, setting(d=[0.1, 0.2, 0.3])),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "rational_polynomial with 7 coefficients",
        edited(INFO, setting(distortion_model="rational_polynomial", d=[0.1] * 7)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "equidistant with 2 coefficients",
        edited(INFO, setting(distortion_model="equidistant", d=[0.1] * 2)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "a distortion model nobody knows",
        edited(INFO, setting(distortion_model="barrel", d=[0.1] * 5)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "camera_info of another size",
        edited(INFO, setting(width=640, height=480)),
        camera(INVALID, "image_size_differs"),
    ),
    Fault(
        "camera_info of 0 x 0",
        edited(INFO, setting(width=0, height=0)),
        camera(INVALID, "no_calibration: camera_info_size"),
    ),
    Fault(
        "camera_info of another camera",
        edited(INFO, setting(header__frame_id="cam_back")),
        camera(INVALID, "no_calibration"),
    ),
    Fault(
        "the lens is turned by 3 pixels; it is used",
        edited(INFO, moved_centre(3.0)),
        counter=f"{CAMERA}/calibration_changed",
    ),
    Fault("K jitters by 0.001 pixels; nothing happens", lambda: _jitter()),
)
RADARS: tuple[Fault, ...] = (
    Fault("scans of another frame", edited(CLOUD, setting(header__frame_id="roof")), radar(INVALID, "wrong_frame")),
    Fault("fields of other names", edited(CLOUD, renamed), radar(INVALID, "cloud_fields")),
    Fault("half a cloud", edited(CLOUD, shorter), radar(INVALID, "cloud_truncated")),
    Fault("a point_step of 0", edited(CLOUD, setting(point_step=0)), radar(INVALID, "cloud_")),
    Fault(
        "a header of four billion points",
        edited(CLOUD, setting(width=4_000_000_000)),
        radar(INVALID, "too_many_returns"),
    ),
    Fault("all returns are not numbers", edited(CLOUD, column(0, float("nan"))), radar(INVALID, "cloud_not_finite")),
    Fault(
        "some returns are not numbers; the others are used",
        edited(CLOUD, column(4, float("inf"), slice(5))),
        counter=f"{RADAR}/radar_returns_not_finite",
    ),
    Fault("one return at 1e6 m/s", edited(CLOUD, column(4, 1e6, slice(1))), counter=f"{RADAR}/return_too_fast"),
    Fault("one return of 1e6 dBsm", edited(CLOUD, column(3, 1e6, slice(1))), counter=f"{RADAR}/return_rcs"),
    Fault("returns 10 km away", edited(CLOUD, column(0, 1e4)), radar(INVALID, "return_too_far")),
    Fault(
        "100,000 returns", edited(CLOUD, returns(lambda p: np.tile(p, (800, 1)))), radar(INVALID, "too_many_returns")
    ),
    Fault(
        "empty scans, while other radars see",
        edited(CLOUD, returns(lambda p: p[:0])),
        radar(INVALID, "radar_empty"),
        seconds=6.0,
    ),
)
EGO_MOTION: tuple[Fault, ...] = (
    Fault(
        "poses in map", edited(POSE, setting(header__frame_id="map")), odometry(INVALID, "wrong_frame"), everybody=True
    ),
    Fault(
        "poses of another body",
        edited(POSE, setting(child_frame_id="trailer")),
        odometry(INVALID, "wrong_frame"),
        everybody=True,
    ),
    Fault(
        "positions are not numbers",
        edited(POSE, setting(pose__pose__position__x=float("nan"))),
        odometry(INVALID, "pose_not_finite"),
        everybody=True,
    ),
    Fault(
        "a twist that is infinite",
        edited(POSE, setting(twist__twist__linear__x=float("inf"))),
        odometry(INVALID, "pose_not_finite"),
        everybody=True,
    ),
    Fault(
        "a quaternion of zeros",
        edited(POSE, setting(pose__pose__orientation__w=0.0)),
        odometry(INVALID, "pose_rotation"),
        everybody=True,
    ),
    Fault("the pose jumps by 10 m, once", jumping(10.0, 0), everybody=True, once=True),
    Fault("the pose jumps by 10 m ten times a second", jumping(10.0, 10), {ALL: ("*", "")}, everybody=True),
    Fault(
        "the twist is in km/h",
        edited(POSE, setting(twist__twist__linear__x=18.0)),
        odometry(SUSPECT, "twist_disagrees"),
        everybody=True,
    ),
    Fault(
        "the twist is zero while the pose moves",
        edited(POSE, setting(twist__twist__linear__x=0.0)),
        odometry(SUSPECT, "twist_disagrees"),
        everybody=True,
    ),
    Fault("500 poses a second; they are used", repeated(POSE, 5, 2.0)),
)
FAULTS: dict[str, tuple[Fault, ...]] = {
    "What is not sent": SENDING,
    "Stamps and clocks": STAMPS,
    "Images": IMAGES,
    "Calibration": CALIBRATION,
    "Radar": RADARS,
    "Ego motion": EGO_MOTION,
}


def _unstamped(which: Callable[[Sending], bool]) -> Change:
    return lambda s: (Sending(s.kind, s.sensor, s.message, 0),) if which(s) else (s,)


def _frozen(which: Callable[[Sending], bool]) -> Change:
    first: list[Any] = []

    def change(s: Sending) -> Iterable[Sending]:
        if not which(s):
            return (s,)
        if not first:
            first.append(s.message)
        return (Sending(s.kind, s.sensor, first[0], s.stamp_ns),)

    return change


def _blacken(message: Any) -> None:
    """Any image message becomes black."""
    import cv2

    if hasattr(message, "format"):
        size = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR).shape
        message.data = array.array("B", cv2.imencode(".jpg", np.zeros(size, np.uint8))[1].tobytes())
    else:
        message.data = array.array("B", bytes(len(message.data)))


def _jitter() -> Change:
    rng = np.random.default_rng(2)

    def change(s: Sending) -> Iterable[Sending]:
        if not INFO(s):
            return (s,)
        message = copy.deepcopy(s.message)
        message.k = np.array(message.k) + rng.normal(0, 1e-3, 9) * np.array([1, 0, 1, 0, 1, 1, 0, 0, 0])
        return (Sending(s.kind, s.sensor, message, s.stamp_ns),)

    return change
