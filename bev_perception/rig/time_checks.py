"""Do stamps, clocks and triggers allow what was measured at different times to be put together?"""

from __future__ import annotations

from collections.abc import Iterator

from bev_perception.rig.finding import Finding, Verdict, or_fine
from bev_perception.rig.refusals import refusals
from bev_perception.rig.summary import Heard, Summary
from bev_perception.sensors.sensor_calibration import TF_STATIC
from bev_perception.structures import ODOMETRY
from bev_perception.sync_config import MS, NS

AHEAD_NS = 20 * MS  # as in health: no message comes before it was measured
DRIFT_NS, DRIFT_PER_HOUR_NS = 10 * MS, 20 * MS
JITTER_SHARE = 0.25  # of the period
FREE_RUNNING = 0.9  # agreement of phases below which two cameras are not triggered together
PTP = "synchronise the clocks of sensor and computer (PTP)"


def _measured(summary: Summary) -> Iterator[Heard]:
    """The inputs that measure something, of which anything came."""
    for name in (*summary.config.cameras, *summary.config.radars, ODOMETRY):
        if name in summary.heard and summary.heard[name].times.count:
            yield summary.heard[name]


def check_stamps(summary: Summary) -> list[Finding]:
    def wrong() -> Iterator[Finding]:
        for heard in _measured(summary):
            times = heard.times
            if times.unstamped:
                text = f"{heard.sensor}: {times.unstamped} of {times.count} messages have no stamp"
                yield Finding("stamps", "error", text, "the time of measurement", "the driver must stamp its messages")
            if times.back:
                text = f"{heard.sensor}: stamps go back {times.back} times in {times.count}"
                mend = "two publishers on the topic, or a driver whose clock was set back"
                yield Finding("stamps", "error", text, "stamps that rise", mend)
            if times.repeated:
                text = f"{heard.sensor}: {times.repeated} of {times.count} stamps repeat the one before"
                mend = "two publishers on the topic, or a driver that repeats stamps"
                yield Finding("stamps", "warning", text, "a stamp of its own for each measurement", mend)

    def restarted() -> Iterator[Finding]:
        for name, number in summary.counters.items():
            if name.startswith("reset/") and number:
                text = f"everything was forgotten {number} times: {name.removeprefix('reset/')}"
                yield Finding("stamps", "warning", text, "time that goes on", "a recording that starts over, or clocks")

    def refused() -> Iterator[Finding]:
        told = {heard.sensor for heard in _measured(summary) if heard.times.unstamped or heard.times.back}
        told |= {heard.sensor for heard in _measured(summary) if heard.times.repeated}
        for finding in refusals(summary, "stamps", "stamps that rise"):
            if finding.found.partition(":")[0] not in told and not finding.found.startswith(TF_STATIC):
                yield finding

    seen = sum(1 for _ in _measured(summary))
    return or_fine([*wrong(), *restarted(), *refused()], "stamps", "every message has one, and they rise", seen)


PLAYED_NS = 60 * NS  # so far behind is no way but another day
PLAYED = "--use-sim-time where a recording is played with its /clock; else synchronise the clocks"


def check_clocks(summary: Summary) -> list[Finding]:
    """A header's stamp against when the message came (was recorded)."""
    late_ns = summary.config.sync["deadline_ns"]

    def off() -> Iterator[Finding]:
        for heard in _measured(summary):
            times = heard.times
            if not times.span_ns:
                continue
            if times.least_delay_ns < -AHEAD_NS:
                text = f"{heard.sensor}: stamps are up to {-times.least_delay_ns / MS:.0f} ms ahead of the clock"
                yield Finding("clocks", "error", text, "a stamp before the message came", PTP)
            elif times.delay_ns > late_ns:
                text = f"{heard.sensor}: stamps are {times.delay_ns / MS:.0f} ms behind the clock (median)"
                played = summary.live and times.delay_ns > PLAYED_NS
                mend = PLAYED if played else f"{PTP}, a shorter way, or a longer sync.deadline_ms"
                yield Finding("clocks", "error", text, f"at most {late_ns / MS:.0f} ms (sync.deadline_ms)", mend)
            allowed = max(DRIFT_NS, DRIFT_PER_HOUR_NS * times.span_ns / (3600 * NS))
            if abs(times.drift_ns) > allowed:
                text = f"{heard.sensor}: its clock moved by {times.drift_ns / MS:+.0f} ms in {times.span_ns / NS:.0f} s"
                yield Finding("clocks", "warning", text, f"at most {allowed / MS:.0f} ms", f"{PTP}, continuously")

    found = [*off()]
    told = {finding.found.partition(":")[0] for finding in found}
    found += [f for f in refusals(summary, "clocks", "stamps near the clock") if f.found.partition(":")[0] not in told]
    delays = [heard.times.delay_ns / MS for heard in _measured(summary)]
    span = f"{min(delays):.0f} to {max(delays):.0f} ms" if delays else "not known"
    return or_fine(found, "clocks", f"from stamp to arrival {span} (medians), no drift", len(delays))


def check_jitter(summary: Summary) -> list[Finding]:
    def uneven() -> Iterator[Finding]:
        for heard in _measured(summary):
            times = heard.times
            if times.period_ns and times.jitter_ns > JITTER_SHARE * times.period_ns:
                text = f"{heard.sensor}: steps between stamps differ by {times.jitter_ns / MS:.0f} ms"
                expected = f"a quarter of its period of {times.period_ns / MS:.0f} ms at most"
                mend = "stamp when it is measured (trigger, exposure), not when the message is made"
                yield Finding("jitter", "warning", text, expected, mend)

    return or_fine(uneven(), "jitter", "stamps come evenly", sum(1 for _ in _measured(summary)))


def check_camera_offsets(summary: Summary) -> list[Finding]:
    """When each camera fires within the anchor's period, against `offset_ms`."""
    config = summary.config
    if not config.cameras:
        return [Finding("camera_offsets", "ok", "the model has no cameras")]
    period_ms, tolerance_ms = config.sync["period_ns"] / MS, config.sync["camera_tolerance_ns"] / MS
    others = [name for name in config.cameras if name != config.anchor]
    if others and not summary.phases:
        needed = f"images of {config.anchor} and of another camera"
        return [Finding("camera_offsets", "unknown", "no two cameras to compare", needed, "the findings above")]

    def off() -> Iterator[Finding]:
        for name, (phase_ms, agreement) in summary.phases.items():
            said = config.cameras[name].offset_ns / MS
            if agreement < FREE_RUNNING:
                text = f"{name} fires at any time within {config.anchor}'s period"
                mend = "trigger them together; without, images are up to half a period apart"
                yield Finding("camera_offsets", "warning", text, "a fixed offset", mend)
                continue
            # what is written may be a period away from what was measured
            away = (phase_ms - said + period_ms / 2) % period_ms - period_ms / 2
            if abs(away) > min(tolerance_ms / 2, 10.0):
                verdict: Verdict = "error" if abs(away) > tolerance_ms else "warning"
                text = f"{name} fires {phase_ms:+.1f} ms from {config.anchor}"
                mend = f"set cameras.{name}.offset_ms: {said + away:.1f}"
                yield Finding("camera_offsets", verdict, text, f"{said:+.1f} ms (offset_ms)", mend)

    return or_fine(off(), "camera_offsets", f"{len(others)} cameras fire when `offset_ms` says, {config.anchor} at 0")
