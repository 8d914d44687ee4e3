"""From what a rig publishes to parameters for a model, each with the reason for it; and what must be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bev_perception.calibration import CalibrationError
from bev_perception.conversions import MessageError
from bev_perception.geometry import make_transform
from bev_perception.model_spec import ModelSpec
from bev_perception.mounts import mount_of, unlike
from bev_perception.parameter_table import USE
from bev_perception.rig.assign import Part, assign
from bev_perception.rig.found import CameraFound, RadarFound, find_cameras, find_odometry, find_radars, is_map
from bev_perception.rig.survey import TRANSFORMS, Survey, TopicSeen
from bev_perception.rig.timing import Timing, measure_timing
from bev_perception.sensors.camera_info import to_calibration
from bev_perception.sensors.intake import COMPRESSED, PACKET
from bev_perception.sensors.plausible import FORWARD, OPTICAL, camera_fault, radar_fault
from bev_perception.sync_config import MS

# Columns: an optical frame's right, down and forward axes in a frame that looks along x.
OPTICAL_IN_FORWARD = make_transform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.zeros(3))
SETTLE_MS, DEADLINE_MS = 40.0, 150.0  # the node's defaults
SLACK_MS = 20.0  # beyond the median way of a message


@dataclass(frozen=True)
class Mount:
    """Where a sensor sits, and where that is from. guess: it is not what the transform says."""

    ego_from_sensor: np.ndarray
    origin: str
    guess: bool = False


@dataclass(frozen=True)
class Proposal:
    """values: parameter -> value; remarks: parameter, or `cameras.NAME`, -> why it is that; guesses: those of the
    parameters that somebody must look at. mounts: the model's sensor -> its pose. asked: what only a person knows,
    without which the rig will not work. told: what is left unused, and other facts. timing: None without cameras."""

    values: Mapping[str, Any]
    remarks: Mapping[str, str]
    guesses: frozenset[str]
    mounts: Mapping[str, Mount]
    from_file: bool
    timing: Timing | None
    asked: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


@dataclass
class _Draft:
    values: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    guesses: set[str] = field(default_factory=set)
    mounts: dict[str, Mount] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any, remark: str = "", guess: bool = False) -> None:
        self.values[name] = value
        if remark:
            self.remarks[name] = remark
        if guess:
            self.guesses.add(name)


def propose(
    survey: Survey,
    spec: ModelSpec,
    model: Mapping[str, np.ndarray],
    given: Mapping[str, np.ndarray],
    base_frame: str = "",
) -> Proposal:
    """model: sensor -> pose in the rig that the model learnt from (model_poses). given: frame -> base_from_frame (4, 4)
    that a person knows, instead of a transform. base_frame: else that of odometry."""
    draft = _Draft()
    base_frame = _odometry(survey, draft, base_frame)
    cameras, radars = find_cameras(survey), find_radars(survey)
    seats = _Seats(survey, base_frame, given, draft)
    sits = {camera.name: mount for camera in cameras if (mount := seats.of(camera.images, OPTICAL)) is not None}
    stands = {radar.name: mount for radar in radars if (mount := seats.of(radar.scans, FORWARD)) is not None}
    of_cameras = assign(_poses(sits), {name: model[name] for name in spec.cameras if name in model}, OPTICAL)
    of_radars = assign(_poses(stands), {name: model[name] for name in spec.radars if name in model}, FORWARD)
    for camera in cameras:
        _camera(camera, of_cameras.get(camera.name), draft)
    for radar in radars:
        _radar(radar, of_radars.get(radar.name), draft)
    draft.mounts |= {part.sensor: sits[name] for name, part in of_cameras.items()}
    draft.mounts |= {part.sensor: stands[name] for name, part in of_radars.items()}
    parts = {part.sensor: name for name, part in of_cameras.items()}
    timing = measure_timing({sensor: survey.seen[topic].stamps for sensor, topic in parts.items()})
    if timing is not None:
        _timing(timing, spec, draft)
    _ways(survey, of_cameras, of_radars, draft)
    _mounts(cameras, of_cameras, spec, draft)
    absent = [name for name in (*spec.cameras, *spec.radars) if name not in draft.mounts]
    if absent:
        draft.put("absent", absent, "nothing of this rig looks where these do")
    from_file = any(mount.origin != "/tf_static" for mount in draft.mounts.values()) or _unlatched(survey)
    return Proposal(
        draft.values, draft.remarks, frozenset(draft.guesses), draft.mounts, from_file, timing,
        tuple(draft.asked), tuple(draft.told),
    )  # fmt: skip


def _poses(mounts: Mapping[str, Mount]) -> dict[str, np.ndarray]:
    return {name: mount.ego_from_sensor for name, mount in mounts.items()}


def _unlatched(survey: Survey) -> bool:
    return not any(seen.kind == TRANSFORMS and seen.topic.endswith("tf_static") for seen in survey.seen.values())


def _odometry(survey: Survey, draft: _Draft, base_frame: str) -> str:
    found = find_odometry(survey)
    if found is None:
        draft.asked.append(
            "odometry: there is no nav_msgs/Odometry, no PoseStamped with TwistStamped, and no /tf; record one of them"
        )
        return base_frame or "base_link"
    for name, value in found.values.items():
        draft.put(f"odometry.{name}", value)
    draft.remarks["odometry.source"] = found.reason
    if is_map(found.values["frame"]):
        draft.guesses.add("odometry.frame")
        draft.asked.append(f"odometry: {found.values['frame']} jumps when it is corrected; is there one in odom?")
    base = base_frame or found.base_frame
    draft.put("base_frame", base, "given" if base_frame else "the frame that odometry moves")
    return base


class _Seats:
    """Where sensors sit in base_frame."""

    def __init__(self, survey: Survey, base_frame: str, given: Mapping[str, np.ndarray], draft: _Draft) -> None:
        self._survey, self._base, self._given, self._draft = survey, base_frame, given, draft

    def of(self, seen: TopicSeen, looks_along: int) -> Mount | None:
        frame = seen.frame
        if frame in self._given:
            return Mount(self._given[frame], "given with --pose")
        try:
            pose = self._survey.tree.lookup(self._base, frame)
        except CalibrationError as error:
            how = f"give --pose {frame or 'FRAME'}=x,y,z,yaw (m, degrees), or publish the transform"
            self._draft.asked.append(f"{seen.topic}: where does it sit? {error}; {how}")
            return None
        fault = (camera_fault if looks_along == OPTICAL else radar_fault)(pose)
        if fault is None:
            return Mount(pose, "/tf_static")
        turned = pose @ OPTICAL_IN_FORWARD
        if looks_along == OPTICAL and camera_fault(turned) is None:
            text = f"{frame} is no optical frame (z forward); taken for one that looks along x"
            return Mount(turned, f"/tf_static, turned: {text}", guess=True)
        self._draft.asked.append(f"{seen.topic}: {fault.reason}: {fault.detail}")
        return None


def _camera(camera: CameraFound, part: Part | None, draft: _Draft) -> None:
    images = camera.images
    if part is None:
        draft.told.append(f"{images.topic} is not used: no camera of the model looks there, or its place is not known")
        return
    name = f"cameras.{part.sensor}"
    size = f"{images.size[0]}x{images.size[1]} " if images.size else ""
    rate = f"{size}{images.encoding}, {images.times.rate_hz:.1f} Hz"
    draft.remarks[name] = f"{_why(part)}; {rate}"
    draft.put(f"{name}.topic", images.topic)
    if camera.info is None:
        draft.asked.append(f"{images.topic}: no camera_info belongs to it; calibrate the camera (camera_calibration)")
    else:
        draft.put(f"{name}.info_topic", camera.info.topic)
    if images.kind == COMPRESSED:
        draft.put(f"{name}.compressed", True)
    if images.kind == PACKET:
        draft.put(f"{name}.packets", True)
    if camera.rectified:
        draft.put(f"{name}.rectified", True, "by the topic's name", guess=True)
    draft.put(f"{name}.frame_id", images.frame)
    if camera.others:
        draft.told.append(f"{part.sensor}: {images.topic} is taken; the same images are on {', '.join(camera.others)}")
    draft.told += [f"{images.topic}: {fault}" for fault in images.faults]


def _radar(radar: RadarFound, part: Part | None, draft: _Draft) -> None:
    scans = radar.scans
    if part is None:
        draft.told.append(f"{scans.topic} is not used: no radar of the model looks there, or its place is not known")
        return
    name = f"radars.{part.sensor}"
    draft.remarks[name] = f"{_why(part)}; {scans.times.rate_hz:.1f} Hz"
    draft.put(f"{name}.topic", scans.topic)
    if radar.kind != "cloud":
        draft.put(f"{name}.kind", radar.kind)
    draft.put(f"{name}.frame_id", scans.frame)
    for field_name, value in radar.fields.items():
        why = radar.guesses.get(field_name, "")
        draft.put(f"{name}.fields.{field_name}", value, why, guess=bool(why))
    draft.told += [f"{scans.topic}: {fault}" for fault in scans.faults]


def _mounts(cameras: Sequence[CameraFound], parts: Mapping[str, Part], spec: ModelSpec, draft: _Draft) -> None:
    """Cameras that are mounted otherwise than the model accepts are used all the same, as a guess that says so. Of each
    the image counts that the node will have: rectified, cut out and binned as camera_info says."""
    differ = []
    for camera in cameras:
        part, info = parts.get(camera.name), camera.info
        if part is None or info is None or info.info is None:
            continue
        try:
            seen = to_calibration(info.info, draft.mounts[part.sensor].ego_from_sensor, camera.rectified)
        except MessageError as error:
            draft.asked.append(f"{info.topic}: {error}")
            continue
        found, accepted = mount_of(seen.ego_from_cam, seen.K, seen.width), spec.mounts.get(part.sensor)
        if accepted is not None and (said := unlike(found, accepted)):
            differ.append(f"{part.sensor} {said}")
    if differ:
        draft.put("extrinsics.unlike", USE, f"{'; '.join(differ)}: train for this rig", guess=True)


def _why(part: Part) -> str:
    near = (
        f"looks to {part.looks_deg:+.0f} degrees, {abs(part.off_deg):.0f} from the model's and {part.off_m:.1f} m away"
    )
    return near + (f" (next best {part.next_best})" if part.next_best else "")


def _timing(timing: Timing, spec: ModelSpec, draft: _Draft) -> None:
    draft.put("anchor", timing.anchor, timing.reason)
    draft.put("sync.period_ms", round(timing.period_ms, 3), "median from stamp to stamp of the cameras")
    draft.put("sync.camera_tolerance_ms", round(timing.tolerance_ms, 1), "just below half a period")
    for sensor, offset in timing.offsets_ms.items():
        free = sensor in timing.running_free
        text = f"nine of ten within {timing.jitter_ms[sensor]:.1f} ms"
        if free:
            text = "fires at any time within a sweep: trigger it, or what it sees is up to half a period off"
        draft.put(f"cameras.{sensor}.offset_ms", offset, text, guess=free)


def _ways(survey: Survey, cameras: Mapping[str, Part], radars: Mapping[str, Part], draft: _Draft) -> None:
    """How long messages take decides how long a frame waits."""
    ways = {"sync.deadline_ms": (cameras, DEADLINE_MS), "sync.radar_settle_ms": (radars, SETTLE_MS)}
    for parameter, (topics, default) in ways.items():
        delays: Sequence[float] = [survey.seen[topic].times.delay_ns / MS for topic in topics]
        slowest = max(delays, default=0.0)
        if default - SLACK_MS < slowest < 10 * default:
            draft.put(parameter, round(slowest + 2 * SLACK_MS, 0), f"the slowest takes {slowest:.0f} ms", guess=True)
