"""What is not wrong with the usual car: other kinds of messages, transforms, and what only another start can mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bev_perception.ros.car import Change, Sending
from bev_perception.ros.fault_table.fault import (
    ALL,
    ANCHOR,
    CAMERA,
    CLOUD,
    COMPRESSED,
    INVALID,
    NEVER_SEEN,
    RADAR,
    SILENT,
    SOMETIMES,
    Fault,
    camera,
    edited,
    jpeg,
    lost,
    of,
    radar,
    setting,
    shorter,
    unchanged,
    without_motion,
)
from bev_perception.sensors.video import is_keyframe

STREAMED, PACKED, PLANES = CAMERA, COMPRESSED, ANCHOR  # H.264, PNG, NV12
POSES, TWISTS, TRANSFORMS = of(ALL, "pose"), of(ALL, "twist"), of(ALL, "tf")
STATIC = of(ALL, "tf_static")


def mounted(sensor: str, edit: Callable[[Any], None]) -> Callable[[Any], None]:
    """Another transform of one sensor in a TFMessage."""

    def edit_transforms(message: Any) -> None:
        for transform in message.transforms:
            if transform.child_frame_id == sensor.lower():
                edit(transform)

    return edit_transforms


def from_the_other_side(message: Any) -> None:
    placed = {transform.child_frame_id: transform for transform in message.transforms}
    placed["cam_front_left"].transform = placed["cam_front_right"].transform


def of_every_transform(edit: Callable[[Any], None]) -> Callable[[Any], None]:
    def edit_transforms(message: Any) -> None:
        for transform in message.transforms:
            edit(transform)

    return edit_transforms


def returned(name: str, value: float) -> Callable[[Any], None]:
    """One value in every return of a RadarScan."""

    def edit(message: Any) -> None:
        for item in message.returns:
            setattr(item, name, value)

    return edit


def without_keyframes(which: Callable[[Sending], bool]) -> Change:
    return lambda s: () if which(s) and is_keyframe("h264", bytes(s.message.data)) else (s,)


UPWARDS = {f"transform__rotation__{axis}": value for axis, value in zip("xyzw", (0.0, 0.0, 0.0, 1.0))}
STREAMS: tuple[Fault, ...] = (
    Fault("H.264, PNG, NV12, RadarScan, PoseStamped with TwistStamped; all are used", unchanged),
    Fault(
        "one packet of H.264 in five is lost",
        lost(of(STREAMED, "image"), 0.2),
        {STREAMED: (SOMETIMES, "video_packet_lost|video_no_keyframe|late|out_of_tolerance")},
        counter=f"{STREAMED}/video_packet_lost",
        seconds=3.0,
    ),
    Fault(
        "packets of H.264 without keyframes",
        lambda: without_keyframes(of(STREAMED, "image")),
        camera(INVALID, "video_packet_lost|video_no_keyframe"),
        seconds=3.0,
    ),
    Fault("a cut PNG", edited(of(PACKED, "image"), shorter), jpeg(INVALID, "image_truncated")),
    Fault(
        "NV12 of odd height",
        edited(of(PLANES, "image"), setting(height=197)),
        {PLANES: (INVALID, "image_size")},
    ),
    Fault("half an NV12 image", edited(of(PLANES, "image"), shorter), {PLANES: (INVALID, "image_truncated")}),
    Fault(
        "a RadarScan whose ranges are not numbers",
        edited(CLOUD, returned("range", float("nan"))),
        radar(INVALID, "cloud_not_finite"),
    ),
    Fault(
        "a RadarScan whose angles are in degrees",
        edited(CLOUD, returned("azimuth", 57.0)),
        radar(INVALID, "return_angle"),
    ),
    Fault("a RadarScan of returns 10 km away", edited(CLOUD, returned("range", 1e4)), radar(INVALID, "return_too_far")),
    without_motion("TwistStamped stops, PoseStamped goes on", lost(TWISTS), INVALID, "no_twist"),
    without_motion("PoseStamped stops, TwistStamped goes on", lost(POSES), SILENT, "stale"),
    without_motion("PoseStamped in map", edited(POSES, setting(header__frame_id="map")), INVALID, "wrong_frame"),
)
FRAMES: tuple[Fault, ...] = (
    Fault("extrinsics from /tf_static, ego motion from /tf; both are used", unchanged),
    Fault(
        "a camera's transform says that it looks at the sky",
        edited(STATIC, mounted(CAMERA, setting(**UPWARDS))),
        camera(INVALID, "no_calibration: mount_pitch"),
        counter=f"{CAMERA}/calibration_lost",
        seconds=3.0,
    ),
    Fault(
        "the camera at the front left has the transform of the one at the right",
        edited(STATIC, from_the_other_side),
        {"CAM_FRONT_LEFT": (INVALID, "no_calibration: mount_side")},
        counter="CAM_FRONT_LEFT/calibration_lost",
        seconds=3.0,
    ),
    Fault(
        "a camera's transform hangs on another frame",
        edited(STATIC, mounted(CAMERA, setting(header__frame_id="trailer"))),
        camera(INVALID, "no_calibration: no static transforms from"),
        counter=f"{CAMERA}/calibration_lost",
        seconds=3.0,
    ),
    Fault(
        "a radar's transform hangs on another frame",
        edited(STATIC, mounted(RADAR, setting(header__frame_id="trailer"))),
        radar(INVALID, "no_calibration: no static transforms from"),
        counter=f"{RADAR}/calibration_lost",
        seconds=3.0,
    ),
    Fault(
        "a camera sits 10 cm elsewhere; it is used",
        edited(STATIC, mounted(CAMERA, setting(transform__translation__x=1.1))),
        counter=f"{CAMERA}/calibration_changed",
        seconds=3.0,
    ),
    Fault(
        "a camera's transform is not a number; the one from before is used",
        edited(STATIC, mounted(CAMERA, setting(transform__translation__x=float("nan")))),
        counter="tf_static/bad_transform",
        seconds=3.0,
    ),
    Fault("/tf_static stops; what it said still holds", lost(STATIC)),
    without_motion("/tf stops", lost(TRANSFORMS), SILENT, "stale"),
    without_motion(
        "/tf has the vehicle below map",
        edited(TRANSFORMS, of_every_transform(setting(header__frame_id="map"))),
        INVALID,
        "wrong_frame",
    ),
)
WRONG_TOPIC: tuple[Fault, ...] = (
    Fault(
        "a camera on another topic than the parameters say",
        unchanged,
        camera(NEVER_SEEN, "never_seen: nothing on /camera/cam_front/image_raw (0 publishers)"),
        lasting=True,
        seconds=8.0,
    ),
)
OTHER_QOS: tuple[Fault, ...] = (
    Fault(
        "a radar best effort, its subscription reliable",
        unchanged,
        radar(NEVER_SEEN, "never_seen: qos_incompatible: a publisher of /radar/radar_front/points offers another"),
        lasting=True,
        seconds=8.0,
    ),
)
