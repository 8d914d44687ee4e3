"""Every check of what was heard, by name."""

from __future__ import annotations

from collections.abc import Callable

from bev_perception.rig import content_checks, input_checks, place_checks, time_checks
from bev_perception.rig.finding import Finding, merged
from bev_perception.rig.summary import Summary

Check = Callable[[Summary], list[Finding]]

# The cause before the consequence.
CHECKS: dict[str, Check] = {
    "recording": input_checks.check_recording,
    "topics": input_checks.check_topics,
    "types": input_checks.check_types,
    "qos": input_checks.check_qos,
    "frame_ids": input_checks.check_frame_ids,
    "stamps": time_checks.check_stamps,
    "clocks": time_checks.check_clocks,
    "jitter": time_checks.check_jitter,
    "rates": input_checks.check_rates,
    "gaps": input_checks.check_gaps,
    "camera_offsets": time_checks.check_camera_offsets,
    "images": input_checks.check_images,
    "camera_info": input_checks.check_camera_info,
    "colors": content_checks.check_colors,
    "extrinsics": input_checks.check_extrinsics,
    "camera_direction": content_checks.check_camera_direction,
    "odometry_frame": content_checks.check_odometry_frame,
    "odometry": content_checks.check_odometry,
    "radar_messages": input_checks.check_radar_messages,
    "radar_compensation": content_checks.check_radar_compensation,
    "radar_speed": content_checks.check_radar_speed,
    "radar_yaw": content_checks.check_radar_yaw,
    "radar_place": place_checks.check_radar_place,
    "camera_place": place_checks.check_camera_place,
    "other": input_checks.check_other,
    "frames_made": input_checks.check_frames_made,
}


def check_all(summary: Summary) -> list[Finding]:
    return merged(finding for check in CHECKS.values() for finding in check(summary))
