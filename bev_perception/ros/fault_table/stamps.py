"""What is not sent, and what is sent with stamps that are not right."""

from __future__ import annotations

from bev_perception.ros.fault_table.fault import (
    ALL,
    ANCHOR,
    CAMERA,
    CLOUD,
    EVERY_CLOUD,
    EVERY_IMAGE,
    EVERYTHING,
    IMAGE,
    INVALID,
    LATE,
    NO_OUTPUT,
    POSE,
    RADAR,
    SENSORS,
    SILENT,
    SOMETIMES,
    SUSPECT,
    Fault,
    camera,
    held,
    lost,
    of,
    radar,
    repeated,
    shifted,
    unchanged,
    unstamped,
    without_motion,
)
from bev_perception.structures import ODOMETRY

# What a frame may say that lacks the message with the wrong stamp.
STRAY_IMAGE = {CAMERA: (SOMETIMES, "stepped_back|out_of_tolerance|late")}
STRAY_SCAN = {RADAR: (SOMETIMES, "stepped_back|no_scan")}
STRAY_POSE = {ODOMETRY: (SOMETIMES, "stepped_back")}
ANYONE_WITHOUT_POSE = {SENSORS: (SOMETIMES, "no_pose")}

SENDING: tuple[Fault, ...] = (
    Fault("nothing", unchanged),
    Fault("one camera sends nothing", lost(IMAGE), camera(SILENT, "stale")),
    Fault("the anchor camera sends nothing", lost(of(ANCHOR, "image")), {ANCHOR: (SILENT, "stale")}),
    Fault("no camera sends anything", lost(EVERY_IMAGE), {"cameras": (SILENT, "stale")}, seconds=3.0),
    Fault("one image in five is lost", lost(IMAGE, 0.2), {CAMERA: (SOMETIMES, "out_of_tolerance")}),
    Fault("one radar sends nothing", lost(CLOUD), radar(SILENT, "stale")),
    Fault("no radar sends anything", lost(EVERY_CLOUD), {"radars": (SILENT, "stale")}, seconds=3.0),
    without_motion("odometry sends nothing", lost(POSE), SILENT, "stale"),
    Fault(
        "nine of ten poses are lost", lost(POSE, 0.9), {ODOMETRY: (SOMETIMES, "no_pose|stale"), **ANYONE_WITHOUT_POSE}
    ),
    Fault("nobody sends anything", lost(EVERYTHING), {ALL: (SILENT, "stale")}, seconds=3.5, level=NO_OUTPUT, used=0),
    Fault("camera_info stops; what it said still holds", lost(of(CAMERA, "info"))),
)
STAMPS: tuple[Fault, ...] = (
    Fault(
        "one image is from 1.5 s ago",
        shifted(IMAGE, -1500, 0, 5),
        STRAY_IMAGE,
        counter=f"{CAMERA}/stepped_back",
        once=True,
    ),
    Fault(
        "one scan is from 1.5 s ago",
        shifted(CLOUD, -1500, 0, 5),
        STRAY_SCAN,
        counter=f"{RADAR}/stepped_back",
        once=True,
    ),
    Fault(
        "one pose is from 1.5 s ago",
        shifted(POSE, -1500, 0, 50),
        STRAY_POSE,
        counter=f"{ODOMETRY}/stepped_back",
        once=True,
    ),
    Fault(
        "every other image is from 1.5 s ago",
        shifted(IMAGE, -1500, 2),
        STRAY_IMAGE,
        counter=f"{CAMERA}/stepped_back",
    ),
    Fault(
        "every other scan is from 1.5 s ago",
        shifted(CLOUD, -1500, 2),
        STRAY_SCAN,
        counter=f"{RADAR}/stepped_back",
    ),
    Fault(
        "every other pose is from 1.5 s ago",
        shifted(POSE, -1500, 2),
        STRAY_POSE,
        counter=f"{ODOMETRY}/stepped_back",
    ),
    Fault("a camera's clock is 0.2 s ahead", shifted(IMAGE, 200), camera(INVALID, "future_stamp")),
    Fault("a camera's clock is 0.03 s ahead", shifted(IMAGE, 30), camera(SUSPECT, "clock_ahead")),
    Fault("a camera's clock is an hour ahead", shifted(IMAGE, 3.6e6), camera(INVALID, "future_stamp")),
    Fault("a camera's clock is 0.3 s behind", shifted(IMAGE, -300), camera(LATE, "too_late")),
    Fault("a camera's clock is 5 s behind", shifted(IMAGE, -5000), camera(INVALID, "too_old")),
    Fault("a radar's clock is 0.2 s ahead", shifted(CLOUD, 200), radar(INVALID, "future_stamp")),
    Fault("a radar's clock is 5 s behind", shifted(CLOUD, -5000), radar(INVALID, "too_old")),
    without_motion("odometry's clock is 0.2 s ahead", shifted(POSE, 200), INVALID, "future_stamp"),
    without_motion("odometry's clock is 5 s behind", shifted(POSE, -5000), INVALID, "too_old"),
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
    without_motion("poses come 0.3 s late", held(POSE, 30), INVALID, "no_pose"),
    Fault("images without a stamp", lambda: unstamped(IMAGE), camera(INVALID, "stamp_not_set")),
    Fault("scans without a stamp", lambda: unstamped(CLOUD), radar(INVALID, "stamp_not_set")),
    without_motion("poses without a stamp", lambda: unstamped(POSE), INVALID, "stamp_not_set"),
    Fault(
        "all stamps are from 1.5 s ago",
        shifted(EVERYTHING, -1500),
        {ALL: (ALL, "")},
        seconds=3.5,
        may=("reset/time_jump_back",),
    ),
    Fault(
        "all clocks are 0.2 s ahead",
        shifted(EVERYTHING, 200),
        {ALL: (LATE, "future_stamp: the stamps of all sensors")},
        seconds=3.5,
        level=NO_OUTPUT,
        used=0,
    ),
)
