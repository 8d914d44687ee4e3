"""Does what was measured fit together? Radars against odometry, colours against the sky, poses against their twist."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bev_perception.rig.direction import Direction
from bev_perception.rig.doppler import middle_deg, yaw_off_deg
from bev_perception.rig.finding import Finding, Verdict, or_fine
from bev_perception.rig.refusals import refusals
from bev_perception.rig.summary import Motion, Summary

LEAST_SCANS = 10
YAW_WARNING_DEG, YAW_ERROR_DEG = 2.0, 6.0
SPEED_SHARE = 0.06  # of the speed by odometry
CAMERA_WARNING_DEG, CAMERA_ERROR_DEG = 1.0, 4.0
LEFT_SHARE = 0.15  # of the speed, in what is called compensated
UNITS = {3.6: "km/h", 2.237: "mph", 1 / 3.6: "a 3.6th of m/s"}
TURNED_ROUND_DEG = 150.0
RED_SKY, BLUE_SKY = -5.0, 3.0  # grey levels, blue minus red
LEAST_SKIES = 5
LEAST_METRES = 20.0
SHIFT_SHARE = 0.002
DRIVE = "a drive of half a minute at more than 2 m/s, past standing things"


def check_radar_yaw(summary: Summary) -> list[Finding]:
    """Where each radar looks, by the Doppler speeds of what stands, against the extrinsics."""
    told: list[str] = []

    def turned() -> Iterator[Finding]:
        for name, motion in summary.motions.items():
            if not _tells(motion) or _is_over_ground(motion):
                yield _unknown("radar_yaw", name, summary)
                continue
            off_deg = middle_deg(yaw_off_deg(motion.found, motion.expected))
            told.append(f"{name} {off_deg:+.1f}")
            if abs(off_deg) > TURNED_ROUND_DEG:
                text = f"{name}: standing things go away when the vehicle comes nearer ({off_deg:+.0f} degrees)"
                mend = "turn the radar's rotation by 180 degrees, or the sign of its speeds (positive: away)"
                yield Finding("radar_yaw", "error", text, "that they come nearer", mend)
            elif abs(off_deg) > YAW_WARNING_DEG:
                text = f"{name}: its yaw in the extrinsics is {-off_deg:+.1f} degrees from where it looks"
                expected = f"{YAW_WARNING_DEG:g} degrees at most, of {len(motion.found)} scans"
                mend = f"turn it by {off_deg:+.1f} degrees about z in the extrinsics"
                verdict: Verdict = "error" if abs(off_deg) > YAW_ERROR_DEG else "warning"
                yield Finding("radar_yaw", verdict, text, expected, mend)

    found = list(turned())
    return or_fine(found, "radar_yaw", f"degrees by which each is turned: {', '.join(told) or 'there are no radars'}")


def check_radar_speed(summary: Summary) -> list[Finding]:
    """How fast each radar moves by its returns, against odometry."""
    told: list[str] = []
    ratios = {name: _speed_ratio(m) for name, m in summary.motions.items() if _tells(m) and not _is_over_ground(m)}
    alike = len(ratios) > 1 and np.ptp(list(ratios.values())) < SPEED_SHARE

    def off() -> Iterator[Finding]:
        for name in summary.motions:
            if name not in ratios:
                yield _unknown("radar_speed", name, summary)
                continue
            ratio = ratios[name]
            told.append(f"{name} {ratio:.2f}")
            if abs(ratio - 1) <= SPEED_SHARE:
                continue
            unit = next((word for factor, word in UNITS.items() if abs(ratio / factor - 1) < SPEED_SHARE), "")
            mend = f"its speeds are in {unit}: the driver must send m/s" if unit else "the driver's unit of speed"
            if alike:
                mend = "all radars say the same: odometry's speed is wrong (its unit, wheel size or scale)"
            text = f"{name}: standing things come at {ratio:.2f} times the speed of odometry"
            yield Finding("radar_speed", "error", text, f"1 within {SPEED_SHARE:.0%}", mend)

    found = list(off())
    return or_fine(found, "radar_speed", f"times the speed of odometry: {', '.join(told) or 'there are no radars'}")


def check_radar_compensation(summary: Summary) -> list[Finding]:
    """Whether speeds are over ground or relative, as `velocity` says, by what stands."""
    told: list[str] = []

    def otherwise() -> Iterator[Finding]:
        for name, motion in summary.motions.items():
            said = summary.config.radars[name].fields.velocity
            if len(motion.over_ground) >= LEAST_SCANS:
                left = motion.over_ground
                speed = np.hypot(*motion.over_ground_expected.T)
                share = float(np.median(np.hypot(*left.T) / speed))
                along = float(np.median(np.sum(left * motion.over_ground_expected, axis=1) / speed**2))
                told.append(f"{name} {share:.0%}")
                if share <= LEFT_SHARE:
                    continue
                text = f"{name}: standing things move at {share:.0%} of the vehicle's speed"
                mend = "it is compensated by another motion: its driver's odometry, mounting, or both"
                if along > 1 - 2 * LEFT_SHARE:
                    mend = f"it is not compensated: set radars.{name}.fields.velocity: relative"
                yield Finding("radar_compensation", "error", text, f"{LEFT_SHARE:.0%} at most ({said})", mend)
            elif _is_over_ground(motion):
                text = f"{name}: standing things stand in its speeds"
                mend = f"set radars.{name}.fields.velocity: compensated"
                yield Finding("radar_compensation", "error", text, f"that they come nearer ({said})", mend)
            elif _tells(motion):
                told.append(f"{name} relative")
            else:
                yield _unknown("radar_compensation", name, summary)

    found = list(otherwise())
    fine = f"speed left in what stands: {', '.join(told) or 'there are no radars'}"
    return or_fine(found, "radar_compensation", fine)


def _tells(motion: Motion) -> bool:
    return len(motion.found) >= LEAST_SCANS


def _speed_ratio(motion: Motion) -> float:
    return float(np.median(np.hypot(*motion.found.T) / np.hypot(*motion.expected.T)))


def _is_over_ground(motion: Motion) -> bool:
    """Speeds that are called relative, though all that stands has none."""
    return _tells(motion) and _speed_ratio(motion) < LEFT_SHARE


def _unknown(check: str, name: str, summary: Summary) -> Finding:
    motion = summary.motions[name]
    if not motion.scans:
        return Finding(check, "unknown", f"{name}: no scan is in any frame", "scans in frames", "the other findings")
    if summary.drive.top_mps < 2.0 or summary.drive.metres < LEAST_METRES:
        text = f"{name}: the vehicle drove {summary.drive.metres:.0f} m, {summary.drive.top_mps:.1f} m/s at most"
        return Finding(check, "unknown", text, DRIVE, "record one and ask again")
    if len(motion.over_ground) >= LEAST_SCANS or _is_over_ground(motion):
        text = f"{name}: it sends no speeds relative to itself, and those over ground do not tell"
        return Finding(check, "unknown", text, "fields vx, vy beside them", "let the driver send both, if it can")
    text = f"{name}: {len(motion.found)} of {motion.scans} scans have enough that stands"
    return Finding(check, "unknown", text, f"{LEAST_SCANS} or more", DRIVE)


def check_colors(summary: Summary) -> list[Finding]:
    """A sky is blue or grey; where it is red, red and blue are often exchanged."""
    skies = {
        name: float(np.median(p.sky_blue)) for name, p in summary.pictures.items() if len(p.sky_blue) >= LEAST_SKIES
    }

    def red() -> Iterator[Finding]:
        for name, blue in skies.items():
            if blue > RED_SKY:
                continue
            others = [value for other, value in skies.items() if other != name]
            encodings = ", ".join(summary.pictures[name].encodings)
            text = f"{name}: the bright upper part of its images is redder than blue, by {-blue:.0f} of 255"
            doubt = "as in no other camera; " if others and min(others) > BLUE_SKY else "or is it evening? "
            mend = f"{doubt}look at a picture: if red and blue are exchanged, mend the driver's encoding ({encodings})"
            yield Finding("colors", "warning", text, "a sky that is blue or grey", mend)

    if not skies:
        return [Finding("colors", "unknown", "no image shows a bright sky", "a drive by day", "look at a picture")]
    return or_fine(red(), "colors", f"skies of {len(skies)} cameras are blue or grey")


def check_camera_direction(summary: Summary) -> list[Finding]:
    """Where each camera looks, by what moves in its images, against the extrinsics."""
    told: list[str] = []

    def turned() -> Iterator[Finding]:
        for name in summary.config.cameras:
            direction = summary.directions.get(name, Direction(0))
            if not direction.tells:
                why = (
                    "points cannot be followed from image to image"
                    if direction.pairs
                    else "nothing moves in its images"
                )
                yield Finding("camera_direction", "unknown", f"{name}: {why}", "images that follow each other", DRIVE)
                continue
            told.append(f"{name} {direction.here_px:.2f}")
            off_deg = max(map(abs, direction.turn.values()), default=0.0)
            if direction.is_off and off_deg >= CAMERA_WARNING_DEG:
                text = f"{name}: what stands moves as if it looked elsewhere ({direction.here_px:.2f} px off its lines)"
                expected = f"{direction.least_px:.2f} px, as with another direction"
                mend = f"turn it by {direction.turn_words()} in the extrinsics; look first: calibration_check"
                verdict: Verdict = "error" if off_deg > CAMERA_ERROR_DEG else "warning"
                yield Finding("camera_direction", verdict, text, expected, mend)

    found = list(turned())
    return or_fine(found, "camera_direction", f"pixels off the lines of motion: {', '.join(told) or 'no cameras'}")


def check_odometry_frame(summary: Summary) -> list[Finding]:
    config = summary.config.odometry
    name = config.frame.lstrip("/").rpartition("/")[2]
    if name.startswith("map"):
        text = f"odometry.frame is {config.frame!r}"
        mend = "take the odometry before localisation (REP-105), and set odometry.*"
        return [Finding("odometry_frame", "error", text, "a continuous frame: a map jumps when it is corrected", mend)]
    return [Finding("odometry_frame", "ok", f"{config.frame} -> {summary.config.base_frame}")]


def check_odometry(summary: Summary) -> list[Finding]:
    drive = summary.drive
    found = list(refusals(summary, "odometry", "finite poses whose twist is theirs, in base_link's axes"))
    if drive.steps and drive.shifts > max(1, SHIFT_SHARE * drive.steps):
        share = f"{drive.shifts} of {drive.steps} steps from pose to pose"
        text = f"{share} are off their twist, by {drive.off_m:.2f} m at most"
        mend = "a frame that is corrected (map, a filter with GPS)? take the odometry before it (REP-105)"
        found.append(Finding("odometry", "error", text, "poses that move as their twist says", mend))
    if not drive.steps and not found:
        text = "no two poses within half a second"
        return [Finding("odometry", "error", text, "20 Hz or more", "its topic, frames and stamps")]
    text = f"{drive.metres:.0f} m, {np.degrees(drive.radians):.0f} degrees turned, {drive.top_mps:.1f} m/s at most"
    return or_fine(found, "odometry", f"{text}; steps are within {drive.off_m:.2f} m of the twist")
