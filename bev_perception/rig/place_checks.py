"""Where sensors sit, by what stands and by boxes: what speeds and lines of motion do not show."""

from __future__ import annotations

from collections.abc import Iterator

from bev_perception.rig.finding import Finding, Verdict, or_fine
from bev_perception.rig.outlines import LEAST_OBJECTS, OutlineFit
from bev_perception.rig.perturb import TURNS
from bev_perception.rig.place import Placed
from bev_perception.rig.summary import Summary

LEAST_PAIRS, LEAST_SIDES = 1000, 300  # returns beside those of other radars, and on boxes: with fewer, right drives
# differ by half a metre
OTHERS_M, BOXES_M = 0.5, 0.6  # boxes are less exact: an echo comes from within a body
ERROR_M = 1.0
TURN_DEG = 2.0
ENOUGH_TO_TELL_WHICH = 3  # radars; of two, either may be the one
# Degrees and metres; sideways and ahead a small move shows little, as objects are far away.
LEAST_CHANGE = dict.fromkeys(TURNS, 1.0) | {"x": 0.4, "y": 0.4, "z": 0.2}
WITH_BOXES = "a drive of half a minute past parked and moving vehicles, with their true boxes"


def check_radar_place(summary: Summary) -> list[Finding]:
    """Whether what stands lies where other radars have it, and returns on the sides of boxes."""
    told: list[str] = []
    others = {name: placed for name, placed in summary.by_radars.items() if placed.pairs >= LEAST_PAIRS}
    boxes = {name: placed for name, placed in summary.by_boxes.items() if placed.pairs >= LEAST_SIDES}

    def elsewhere() -> Iterator[Finding]:
        for name in summary.motions:
            known = [
                (placed[name], least_m, by)
                for placed, least_m, by in ((others, OTHERS_M, "other radars"), (boxes, BOXES_M, "boxes"))
                if name in placed
            ]
            if not known:
                text = f"{name}: too little that stands is seen by other radars too, and there are too few boxes"
                expected = f"{LEAST_PAIRS} returns beside those of others, or {LEAST_SIDES} on boxes"
                mend = "a drive past standing things with two radars or more, or with the boxes of vehicles"
                yield Finding("radar_place", "unknown", text, expected, mend)
                continue
            told.append(f"{name} {known[0][0].metres:.2f}")
            off = next((row for row in known if row[0].metres > row[1] or abs(row[0].yaw_deg) > TURN_DEG), None)
            if off is not None:
                yield _elsewhere(name, *off, either=off[2] != "boxes" and len(others) < ENOUGH_TO_TELL_WHICH)

    found = list(elsewhere())
    return or_fine(found, "radar_place", f"metres from where it fits best: {', '.join(told) or 'no radars'}")


def _elsewhere(name: str, placed: Placed, least_m: float, by: str, either: bool) -> Finding:
    far = placed.metres > least_m
    text = f"{name}: what stands fits {by} {placed.metres:.2f} m and {placed.yaw_deg:+.1f} degrees from there"
    change = [f"move it by x {placed.x:+.2f}, y {placed.y:+.2f} m"] if far else []
    change += [f"turn it by {placed.yaw_deg:+.1f} degrees about z"] if abs(placed.yaw_deg) > TURN_DEG else []
    mend = f"{' and '.join(change)} in the extrinsics{', or the other radar the other way' if either else ''}"
    verdict: Verdict = "error" if placed.metres > ERROR_M else "warning"
    return Finding("radar_place", verdict, text, f"{least_m:g} m and {TURN_DEG:g} degrees at most", mend)


def check_camera_place(summary: Summary) -> list[Finding]:
    """Whether outlines of boxes lie on edges of the images, or would clearly better with a camera turned or moved."""
    told: list[str] = []

    def elsewhere() -> Iterator[Finding]:
        for name in summary.config.cameras:
            fit = summary.outlines.get(name, OutlineFit(0))
            if not fit.tells:
                text = f"{name}: {fit.boxes} boxes of {fit.objects} objects could be compared with its images"
                expected = f"{LEAST_OBJECTS} objects or more"
                yield Finding("camera_place", "unknown", text, expected, WITH_BOXES)
                continue
            told.append(f"{name} {fit.here:.2f}")
            if fit.changes and all(abs(value) >= LEAST_CHANGE[change] for change, value in fit.changes.items()):
                text = f"{name}: {fit.here:.2f} of the outlines of {fit.boxes} boxes lies on edges of its images"
                expected = f"{fit.here + fit.gain:.2f}, as with another pose"
                mend = f"change {fit.words()} in the extrinsics; look first: calibration_check"
                yield Finding("camera_place", "warning", text, expected, mend)

    found = list(elsewhere())
    return or_fine(found, "camera_place", f"share of outlines on edges: {', '.join(told) or 'no cameras'}")
