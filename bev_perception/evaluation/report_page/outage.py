"""The drive in which cameras fall silent one after the other: what is still found, and whether frames go on."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bev_perception.evaluation.outage import Outage, OutageFrame
from bev_perception.evaluation.report_page.charts import Axis, Series, chart
from bev_perception.evaluation.report_page.health import states
from bev_perception.evaluation.report_page.markup import number, table, text

LOST, WHOLE = "cameras fall silent", "with all cameras"


def outage(found: Outage | None) -> str:
    if found is None or not found.frames or not found.whole:
        return ""
    zero = found.whole[0].stamp_ns
    charts = [_cameras(found, zero), _boxes(found, zero), _recall(found), _ages(found, zero)]
    return (
        f"<p>{text(_told(found))}</p>{_verdict(found)}"
        f'<div class="charts">{"".join(charts)}</div>{_by_cameras(found)}'
        f"{states(found.statuses) if found.statuses else ''}"
    )


def _told(found: Outage) -> str:
    ends = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.ends.items())
    return (
        "The same drive, played a second time to the node, live over DDS as the first time; only that one camera "
        f"after the other sends nothing any more: {ends}. Radars and odometry go on. Held against the first time, in "
        "the same parts of the drive."
    )


def _verdict(found: Outage) -> str:
    frames, usual = len(found.frames), len(found.whole)
    deadline, usual_late = (sum(frame.deadline for frame in run) for run in (found.frames, found.whole))
    said = (
        f"{frames} frames, {usual} with all cameras; at most {found.gap_ms:.0f} ms from one to the next, "
        f"{found.whole_gap_ms:.0f} ms with all cameras. From stamp to publication {_middle(found.frames):.0f} ms "
        f"passed in the middle, {_middle(found.whole):.0f} ms with all cameras; {deadline} frames waited for a camera "
        f"until their deadline, {usual_late} with all cameras. A camera that has gone is waited for until it has been "
        "silent for sync.silence_ms, each frame for sync.deadline_ms from its stamp at most."
    )
    good = found.gap_ms < 2 * found.whole_gap_ms and frames > 0.95 * usual
    return f'<p class="{"good" if good else "bad"}"><b>Frames go on:</b> {text(said)}</p>'


def _middle(frames: Sequence[OutageFrame]) -> float:
    return median(frame.age_ms for frame in frames)


def _seconds(frames: Sequence[OutageFrame], zero: int) -> list[float]:
    return [(frame.stamp_ns - zero) / 1e9 for frame in frames]


def _cameras(found: Outage, zero: int) -> str:
    stairs: list[tuple[float, float | None]] = []
    for at, frame in zip(_seconds(found.frames, zero), found.frames):
        if stairs and stairs[-1][1] != frame.cameras:
            stairs.append((at, stairs[-1][1]))
        stairs.append((at, float(frame.cameras)))
    alt = f"Cameras in each frame: from {found.frames[0].cameras} down to {found.frames[-1].cameras}"
    return chart(
        "Cameras left", [Series("", stairs)], Axis("time, s"), Axis("cameras", 0.0, float(len(found.ends))), alt
    )


def _pair(found: Outage, zero: int, value: str) -> list[Series]:
    runs = ((LOST, found.frames, "line", 1), (WHOLE, found.whole, "dashed", 0))
    return [
        Series(name, [(t, float(getattr(f, value))) for t, f in zip(_seconds(frames, zero), frames)], kind, color)
        for name, frames, kind, color in runs
    ]


def _boxes(found: Outage, zero: int) -> str:
    alt = "Detections in each frame, while cameras fall silent and with all cameras"
    return chart("Detections in a frame", _pair(found, zero, "boxes"), Axis("time, s"), Axis("detections", 0.0), alt)


def _recall(found: Outage) -> str:
    known = {left: pair for left, pair in found.by_cameras.items() if pair[0].objects and pair[1].objects}
    series = [
        Series(name, [(float(left), pair[k].recall) for left, pair in known.items()], kind, color)
        for k, (name, kind, color) in enumerate(((LOST, "line", 1), (WHOLE, "dashed", 0)))
    ]
    alt = "Recall by cameras left: " + ", ".join(
        f"{n}: {a.recall:.2f} of {b.recall:.2f}" for n, (a, b) in known.items()
    )
    x, y = Axis("cameras left", 0.0, float(len(found.ends))), Axis("recall at 2 m", 0.0, 1.0)
    return chart("Objects that are found", series, x, y, alt)


def _ages(found: Outage, zero: int) -> str:
    alt = "Time from the stamp of each frame to its publication, while cameras fall silent and with all cameras"
    return chart("Stamp to publication", _pair(found, zero, "age_ms"), Axis("time, s"), Axis("ms", 0.0), alt)


def _by_cameras(found: Outage) -> str:
    rows = []
    for left, (lost, whole) in found.by_cameras.items():
        for name, f in ((str(left), lost), ("all, then", whole)):
            rows.append([
                text(name), str(f.frames), number(f.boxes_per_frame, 1), str(f.objects), number(f.recall, 2),
                number(f.mean_ap, 2), f"{f.age_p50_ms:.0f}", f"{f.age_max_ms:.0f}",
            ])  # fmt: skip
    head = ["cameras", "frames", "boxes", "objects", "recall", "mAP", "ms, p50", "ms, max"]
    note = (
        "As published: detections a frame, objects to find, recall at 2 m, mAP over the classes that are there, "
        "milliseconds from stamp to publication in the middle and at most. So few frames tell no more than the trend; "
        "that is why the same part of the drive with all cameras stands below each row."
    )
    return f"{table(head, rows, caption='By cameras that are left')}<p>{text(note)}</p>"
