"""Which check tells of which reason that the intake counts. Every reason has one: what is in no row goes to `other`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from bev_perception.rig.finding import Finding, Verdict
from bev_perception.rig.summary import Heard, Summary
from bev_perception.sensors.sensor_calibration import MOUNT_UNLIKE

OTHER = "other"
# check -> reasons; those with a star stand for all that fit.
REASONS: dict[str, tuple[str, ...]] = {
    "types": ("wrong_type",),
    "recording": ("message_damaged", "message_too_large", "conversion_failed"),
    "stamps": ("stamp_not_set", "stepped_back", "restarted", "duplicate", "clock_not_started"),
    "clocks": ("future_stamp", "too_old", "too_late"),
    "camera_info": ("camera_info_*", "image_size_differs", "size_mismatch"),
    "images": ("image_*", "video_*", "too_flat", "truncated", "undecodable", "bits_exceeded"),
    "frame_ids": ("wrong_frame",),
    "extrinsics": ("mount_*", "bad_transform", "bad_calibration", "calibration_lost", "calibration_changed"),
    "radar_messages": ("cloud_*", "return_*", "radar_*", "too_many_returns"),
    "odometry": ("pose_*", "not_finite", "not_a_rotation", "no_twist", "twist_disagrees"),
    # Counted frame by frame for what was absent: told as a share of the frames.
    "frames_made": ("late", "stale", "out_of_tolerance", "no_scan", "never_seen", "no_calibration", "no_pose",
                    "pose_jump", "overloaded", "too_close"),
}  # fmt: skip
FEW = 0.01  # a share of a topic's messages below which a refusal is worth a warning only
EXPLAINED = "docs/reasons.md says what to look at"
HARMLESS = ("duplicate", "radar_returns_not_finite", "calibration_changed", "return_*", "twist_disagrees", "restarted")


def check_of(reason: str) -> str:
    for check, reasons in REASONS.items():
        if any(fnmatch.fnmatchcase(reason, pattern) for pattern in reasons):
            return check
    return OTHER


def refusals(summary: Summary, check: str, expected: str) -> Iterator[Finding]:
    """A finding for each reason of this check that an input was refused for."""
    allowed = () if summary.config.refuse_unlike else (MOUNT_UNLIKE,)
    for heard in summary.heard.values():
        for reason, number in heard.refused.items():
            if check_of(reason) != check or not number:
                continue
            detail = summary.details.get(f"{heard.sensor}/{reason}", "")
            text = f"{heard.sensor}: {reason}, {number} of {max(heard.times.count, number)} messages"
            yield Finding(
                check,
                _verdict(reason, number, heard, allowed),
                f"{text}: {detail}" if detail else text,
                expected,
                EXPLAINED,
            )


def _verdict(reason: str, number: int, heard: Heard, allowed: tuple[str, ...]) -> Verdict:
    """allowed: reasons that the parameters allow."""
    harmless = any(fnmatch.fnmatchcase(reason, pattern) for pattern in (*HARMLESS, *allowed))
    return "warning" if harmless or number < FEW * heard.times.count else "error"
