"""Is everything there that the node listens to, of the right type, often enough, and calibrated?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bev_perception.preprocess.encodings import ImageError
from bev_perception.preprocess.images import image_from_source
from bev_perception.rig.finding import Finding, Verdict, or_fine
from bev_perception.rig.refusals import EXPLAINED, OTHER, check_of, refusals
from bev_perception.rig.summary import Heard, Offer, Summary
from bev_perception.sensors.intake import Source, other_type
from bev_perception.sensors.sensor_calibration import TF_STATIC
from bev_perception.structures import ODOMETRY
from bev_perception.sync_config import MS, NS

RATE_SHARE = 0.9  # of the rate that is expected
ODOMETRY_HZ = 20.0
USED_SHARE = 0.95  # of the frames
INFO = " camera_info"


def check_recording(summary: Summary) -> list[Finding]:
    notes = [Finding("recording", "warning", text, "a whole recording", "mend it first") for text in summary.notes]
    damaged = refusals(summary, "recording", "messages that are whole and not too large")
    fine = f"{summary.source}, {summary.seconds:.1f} s, {len(summary.topics)} topics, nothing damaged"
    return or_fine([*notes, *damaged], "recording", fine)


def check_topics(summary: Summary) -> list[Finding]:
    taken = {heard.topic for heard in summary.heard.values()}

    def missing() -> Iterator[Finding]:
        for heard in summary.heard.values():
            if heard.topic in summary.topics:
                if not heard.times.count and not heard.refused:
                    yield Finding(
                        "topics", "error", f"{heard.sensor}: nothing came on {heard.topic}",
                        "messages", "is its driver running? " + EXPLAINED,
                    )  # fmt: skip
                continue
            alike = sorted(
                topic for topic, offers in summary.topics.items()
                if topic not in taken and any(offer.kind == heard.kind for offer in offers)
            )  # fmt: skip
            instead = f"of its type there is {', '.join(alike)}" if alike else "there is no other of its type"
            yield Finding(
                "topics", "error", f"{heard.sensor}: {heard.topic} is not there; {instead}",
                heard.kind, _mend(heard, summary),
            )  # fmt: skip

    return or_fine(missing(), "topics", f"all {len(taken)} that the parameters name are there")


def _mend(heard: Heard, summary: Summary) -> str:
    """What names a topic, and how to do without."""
    name = heard.sensor.removesuffix(INFO)
    if name in summary.config.cameras:
        return f"set cameras.{name}.{'info_topic' if heard.sensor.endswith(INFO) else 'topic'}, or `absent: [{name}]`"
    if name in summary.config.radars:
        return f"set radars.{name}.topic, or `absent: [{name}]`"
    return "set odometry.*" if heard.sensor == ODOMETRY else "set extrinsics.source: file and extrinsics.file"


def check_types(summary: Summary) -> list[Finding]:
    def wrong() -> Iterator[Finding]:
        for heard in summary.heard.values():
            found = [offer.kind for offer in summary.topics.get(heard.topic, ())]
            if found and heard.kind not in found:
                source = Source(heard.topic, heard.sensor, heard.kind, lambda message: None)
                text, _, hint = other_type(source, found[0]).partition("; ")
                yield Finding("types", "error", f"{heard.sensor}: {text}", heard.kind, hint or "another topic")

    return or_fine(wrong(), "types", "every topic has the type that the parameters ask for")


def check_qos(summary: Summary) -> list[Finding]:
    asked_reliable = summary.config.qos_reliability == "reliable"

    def unfit() -> Iterator[Finding]:
        for heard in summary.heard.values():
            for offer in summary.topics.get(heard.topic, ()):
                yield from _unfit(heard, offer, asked_reliable, summary.live)

    asked = summary.config.qos_reliability
    return or_fine(unfit(), "qos", f"every publisher offers what is asked for ({asked}, /tf_static latched)")


def _unfit(heard: Heard, offer: Offer, asked_reliable: bool, live: bool) -> Iterator[Finding]:
    if heard.sensor == TF_STATIC:
        if offer.latched is False:
            expected = "transient local (latched), so that who comes later hears it too"
            mend = (
                "publish it with a StaticTransformBroadcaster" if live else "the player must latch it (qos overrides)"
            )
            yield Finding("qos", "error" if live else "warning", f"{heard.topic} is not latched", expected, mend)
        if offer.reliable is False:
            mend = "publish it with a StaticTransformBroadcaster"
            yield Finding("qos", "error", f"{heard.topic} is best effort", "reliable", mend)
    elif asked_reliable and offer.reliable is False:
        mend = "set qos.reliability: best_effort, or mend the driver's QoS"
        yield Finding("qos", "error", f"{heard.sensor}: {heard.topic} is best effort", "reliable", mend)


def check_rates(summary: Summary) -> list[Finding]:
    period_hz = NS / summary.config.sync["period_ns"]
    scans_hz = summary.spec.radar.sweeps / summary.spec.radar.max_age_s

    def slow() -> Iterator[Finding]:
        for heard in summary.heard.values():
            rate = heard.times.rate_hz
            if not rate:
                continue
            if heard.sensor in summary.config.cameras:
                anchor = heard.sensor == summary.config.anchor
                if rate < RATE_SHARE * period_hz or (anchor and rate > period_hz / RATE_SHARE):
                    mend = f"set sync.period_ms: {1e3 / rate:.3f}" if anchor else "its frame rate, or sync.period_ms"
                    found = f"{heard.sensor}{' (the anchor)' if anchor else ''}: {rate:.2f} Hz"
                    yield Finding("rates", "error", found, f"{period_hz:.2f} Hz (sync.period_ms)", mend)
            elif heard.sensor in summary.config.radars and rate < 0.5 * scans_hz:
                expected = f"{scans_hz:.1f} Hz, {summary.spec.radar.sweeps} scans in {summary.spec.radar.max_age_s} s"
                mend = "the model learnt with more scans: raise the radar's rate"
                yield Finding("rates", "warning", f"{heard.sensor}: {rate:.2f} Hz", expected, mend)
            elif heard.sensor == ODOMETRY and rate < ODOMETRY_HZ:
                yield Finding(
                    "rates", "warning", f"odometry: {rate:.2f} Hz", f"{ODOMETRY_HZ:g} Hz or more",
                    "poses between are interpolated: raise the rate",
                )  # fmt: skip

    return or_fine(slow(), "rates", _rates(summary), _came(summary))


def _came(summary: Summary) -> int:
    """Inputs of which anything came."""
    return sum(bool(heard.times.count) for heard in summary.heard.values())


def _rates(summary: Summary) -> str:
    kinds: dict[str, Iterable[str]] = {
        "cameras": summary.config.cameras,
        "radars": summary.config.radars,
        ODOMETRY: (ODOMETRY,),
    }
    texts = []
    for kind, names in kinds.items():
        rates = [summary.heard[name].times.rate_hz for name in names if name in summary.heard]
        if rates:
            span = f"{min(rates):.1f}" if max(rates) - min(rates) < 0.1 else f"{min(rates):.1f} to {max(rates):.1f}"
            texts.append(f"{kind} {span} Hz")
    return ", ".join(texts)


def check_gaps(summary: Summary) -> list[Finding]:
    silence_ns = summary.config.sync["silence_ns"]
    limits = dict.fromkeys((*summary.config.cameras, *summary.config.radars), silence_ns) | {ODOMETRY: 500 * MS}

    def long() -> Iterator[Finding]:
        for name, limit_ns in limits.items():
            gap_ns = summary.heard[name].times.longest_gap_ns if name in summary.heard else 0
            if gap_ns > limit_ns:
                text = f"{name}: nothing for {gap_ns / NS:.2f} s"
                mend = "the driver, its cable, the DDS buffers; or a recorder that lost messages"
                yield Finding("gaps", "warning", text, f"at most {limit_ns / NS:g} s", mend)

    return or_fine(long(), "gaps", "no sensor was silent for long", _came(summary))


def check_frames_made(summary: Summary) -> list[Finding]:
    """Frames are what the network sees."""
    if not summary.frames:
        most = {n: c for n, c in summary.counters.items() if n.startswith("frame/")}
        why = max(most, key=lambda name: most[name]) if most else "no image of the anchor came"
        mend = f"the other findings; {EXPLAINED}"
        return [Finding("frames_made", "error", f"no frame can be made: {why}", "a frame in every period", mend)]

    def seldom() -> Iterator[Finding]:
        for name in (*summary.config.cameras, *summary.config.radars):
            share = summary.used.get(name, 0) / summary.frames
            if share >= USED_SHARE:
                continue
            reasons = {r: n for r, n in summary.heard[name].refused.items() if check_of(r) == "frames_made"}
            why = max(reasons, key=lambda reason: reasons[reason], default="")
            text = f"{name} is in {share:.0%} of {summary.frames} frames" + (f": {why}" if why else "")
            verdict: Verdict = "error" if share < 0.5 else "warning"
            yield Finding("frames_made", verdict, text, f"{USED_SHARE:.0%} or more", EXPLAINED)

    def lost() -> Iterator[Finding]:
        for name, number in summary.counters.items():
            kind, _, reason = name.partition("/")
            if kind != "frame" or number <= (1 - USED_SHARE) * (summary.frames + number):
                continue
            what = "went without what came late" if reason == "closed_by_deadline" else "could not be made"
            text = f"{number} frames {what}: {reason}; {summary.frames} were made"
            yield Finding("frames_made", "warning", text, f"{1 - USED_SHARE:.0%} at most", EXPLAINED)

    fine = f"{summary.frames} frames, every sensor in {USED_SHARE:.0%} of them or more"
    return or_fine([*seldom(), *lost()], "frames_made", fine)


def check_images(summary: Summary) -> list[Finding]:
    def unfit() -> Iterator[Finding]:
        for name, picture in summary.pictures.items():
            if len(picture.sizes) > 1:
                sizes = ", ".join(f"{w}x{h}" for w, h in picture.sizes)
                yield Finding("images", "warning", f"{name}: images of {sizes}", "one size", "the camera's mode")

            for width, height in picture.sizes:
                try:
                    image_from_source(width, height, summary.spec.image)
                except ImageError as error:
                    expected = "an image that fills the model's"
                    mend = "a camera mode with more rows, or a model for this camera"
                    yield Finding("images", "error", f"{name}: {error}", expected, mend)

    found = [*refusals(summary, "images", "images that can be read"), *unfit()]
    came = sum(bool(picture.sizes) for picture in summary.pictures.values())
    return or_fine(found, "images", _pictures(summary), came or not summary.pictures)


def _pictures(summary: Summary) -> str:
    kinds = {
        f"{w}x{h} {encoding}"
        for picture in summary.pictures.values() for (w, h) in picture.sizes for encoding in picture.encodings
    }  # fmt: skip
    return f"all can be read: {', '.join(sorted(kinds)) or 'no cameras'}"


def check_camera_info(summary: Summary) -> list[Finding]:
    found = list(refusals(summary, "camera_info", "the camera_info of the image as it is delivered"))
    cameras = summary.config.cameras
    came = [name for name in cameras if summary.heard[f"{name}{INFO}"].times.count]
    which = f"{len(came)} of {len(cameras)} cameras"
    return or_fine(
        found, "camera_info", f"K, size and distortion of {which} can be, and fit the images", len(came) or not cameras
    )


def check_frame_ids(summary: Summary) -> list[Finding]:
    found = refusals(summary, "frame_ids", "the frame of the parameters")
    return or_fine(found, "frame_ids", "every header names the frame of the parameters", _came(summary))


def check_extrinsics(summary: Summary) -> list[Finding]:
    where = "a transform from base_link to the sensor's frame on /tf_static"
    if summary.config.extrinsics_file is not None:
        where = f"a pose of the sensor in {summary.config.extrinsics_file}"
    refused = [f for f in refusals(summary, "extrinsics", "a pose that a sensor of a car can have")]
    told = " ".join(finding.found for finding in refused)
    gaps = [
        Finding("extrinsics", "error", f"{name}: {gap}", where, "publish it, or give extrinsics.file")
        for name, gap in summary.gaps.items()
        if not any(name in finding.found for finding in refused) and gap not in told
    ]
    count = len(summary.config.cameras) + len(summary.config.radars)
    return or_fine([*refused, *gaps], "extrinsics", f"poses of all {count} sensors are there and possible")


def check_radar_messages(summary: Summary) -> list[Finding]:
    found = refusals(
        summary, "radar_messages", "returns that a radar of a car can give, in the fields of the parameters"
    )
    radars = summary.config.radars
    came = [name for name in radars if summary.heard[name].times.count]
    fine = f"the scans of {len(came)} of {len(radars)} radars can be read"
    return or_fine(found, "radar_messages", fine, len(came) or not radars)


def check_other(summary: Summary) -> list[Finding]:
    return or_fine(refusals(summary, OTHER, "nothing refused"), OTHER, "nothing else was refused")
