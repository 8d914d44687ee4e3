"""What was seen: the drive as a film, the worst frames, one object over time, and how to open the recording."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from bev_perception.colors import CLASS_COLORS
from bev_perception.evaluation.draw import RADAR_MOVING_COLOR
from bev_perception.evaluation.followed_object import FollowedObject
from bev_perception.evaluation.paint import FALSE_COLOR, HIT_COLOR, MISSED_COLOR, TRUTH_COLOR, UNCOUNTED_COLOR
from bev_perception.evaluation.report_page.charts import Axis, Series, chart
from bev_perception.evaluation.report_page.data import Drive
from bev_perception.evaluation.report_page.markup import figure, legend, picture, text, wrong_text
from bev_perception.evaluation.worst_frames import Scene

SCENE_BYTES = 2_000_000  # of all large pictures, before base64
VERDICTS = (
    ("hit", HIT_COLOR),
    ("false alarm", FALSE_COLOR),
    ("missed", MISSED_COLOR),
    ("ground truth", TRUTH_COLOR),
    ("beyond the range that counts", UNCOUNTED_COLOR),
    ("moving radar return", RADAR_MOVING_COLOR),
)
CLASSES = (("ground truth", TRUTH_COLOR), *CLASS_COLORS.items(), ("moving radar return", RADAR_MOVING_COLOR))
HOW_TO_READ = (
    "The cameras with boxes and the newest radar returns; beside them, from above, ground truth (filled), "
    "detections (outlined), radar, and velocities as the way of a second. The tinted face of a box is its front; what "
    "was missed is crossed out. A click shows a picture in its own size."
)


def player(scenes: Sequence[Scene]) -> str:
    """The frames after each other, in the time that lay between them."""
    start = scenes[0].stamp_ns
    frames = "".join(
        picture(
            scene,
            f"{(scene.stamp_ns - start) / 1e9:.2f} s: {wrong_text(scene.wrong)}",
            f' data-ms="{(scene.stamp_ns - start) // 1_000_000}" data-said="{text(wrong_text(scene.wrong))}"'
            + (" hidden" if k else ""),
        )
        for k, scene in enumerate(scenes)
    )
    return (
        '<div class="player"><button type="button" class="zoom" aria-label="Enlarge this frame">'
        f"{frames}</button>"
        '<div class="controls"><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{len(scenes) - 1}" value="0" aria-label="frame">'
        f"<output>0.00 s</output></div><p class='said'>{text(wrong_text(scenes[0].wrong))}</p></div>"
        f"{_legend(scenes)}<p>{HOW_TO_READ}</p>"
    )


def worst(drives: Sequence[Drive]) -> str:
    """Of all drives, the frames with most false alarms and misses, as many as there is room for."""
    chosen = sorted(
        ((drive, scene) for drive in drives for scene in drive.scenes), key=lambda pair: -pair[1].errors()
    )  # fmt: skip
    made: list[str] = []
    room = SCENE_BYTES
    for drive, scene in chosen:
        room -= len(scene.jpeg)
        if made and room < 0:
            break
        where = f"{drive.name}, {_at(drive, scene)}"
        made.append(figure(scene, f"{where}: {wrong_text(scene.wrong)}", f"Cameras and bird's-eye view, {where}"))
    rest = len(chosen) - len(made)
    more = f"<p>{rest} more pictures are in the folders of the drives.</p>" if rest else ""
    return "".join(made) + more + (_legend([scene for _, scene in chosen]) if made else "")


def followed(drives: Sequence[Drive]) -> str:
    """The object, of all drives, that moved in most frames."""
    known = [(drive.followed.worth(), -k) for k, drive in enumerate(drives) if drive.followed]
    if not known:
        return ""
    drive = drives[-max(known)[1]]
    return _object(drive.name, drive.followed) if drive.followed else ""


def opening(drives: Sequence[Drive], result: Path | None, folder: Path) -> str:
    """Links to the recordings, from the report's folder, and the commands that open them."""
    recordings = [(f"Recording {drive.name}", drive.recording) for drive in drives if drive.recording]
    recordings += [("What was published", result)] if result else []
    links = "".join(f"<li>{text(name)}: {_link(path, folder)}</li>" for name, path in recordings[:50])
    links += f"<li>and {len(recordings) - 50} more</li>" if len(recordings) > 50 else ""
    if not recordings:
        return ""
    bag = shlex.quote(os.path.relpath(recordings[0][1], folder))
    command = f"ros2 bag play {bag} --clock --start-offset 0"
    return (
        f"<ul>{links}</ul><p>Links and paths are relative to this file and hold while it lies where it was made. "
        "Foxglove opens the .mcap file itself (Open local file); config/foxglove_layout.json arranges it. Through "
        "ROS 2, in this file's folder:</p>"
        f"<pre>{text(command)}</pre><p>A frame's time above, minus a second, is the offset at which to begin. "
        "Without a ros2 command: docs/commands.md.</p>"
    )


def _legend(scenes: Sequence[Scene]) -> str:
    judged = any(scene.wrong for scene in scenes)
    return legend((name.replace("_", " "), color) for name, color in (VERDICTS if judged else CLASSES))


def _at(drive: Drive, scene: Scene) -> str:
    if drive.start_ns:
        return f"{(scene.stamp_ns - drive.start_ns) / 1e9:.2f} s into the recording"
    return f"stamp {scene.stamp_ns / 1e9:.3f} s"


def _link(path: Path, folder: Path) -> str:
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return f'<a href="{quote(relative)}">{text(relative)}</a>'


def _object(where: str, one: FollowedObject) -> str:
    time = [m.seconds for m in one.moments]
    name = one.name.replace("_", " ")

    def pair(title: str, true: str, found: str, unit: str) -> str:
        series = [
            Series("ground truth", [(t, getattr(m, true)) for t, m in zip(time, one.moments)], "line", 2),
            Series("detected", [(t, getattr(m, found)) for t, m in zip(time, one.moments)], "dots", 0),
        ]
        return chart(
            title, series, Axis("s"), Axis(unit), f"{title} of a {name} from {time[0]:.1f} to {time[-1]:.1f} s"
        )

    off = Series("", [(t, m.off_m) for t, m in zip(time, one.moments)], "dots", 0)
    score = Series("", [(t, m.score) for t, m in zip(time, one.moments)], "dots", 1)
    far = Series("", [(t, m.metres) for t, m in zip(time, one.moments)], "line", 2)
    charts = [
        pair("Velocity in the line of sight", "along", "found_along", "m/s, away is positive"),
        pair("Velocity across it", "across", "found_across", "m/s, to its left"),
        chart("Off its place", [off], Axis("s"), Axis("m", low=0.0), "Distance between detection and object"),
        chart("Score", [score], Axis("s"), Axis("", 0.0, 1.0), "Score of the detection over time"),
        chart("Distance from the vehicle", [far], Axis("s"), Axis("m", low=0.0), "Distance of the object over time"),
    ]
    said = (
        f"A {name} of {where}, the object that moved in most frames: found in {one.found()} of {len(one.moments)} "
        "frames in which it counts. Where no dot stands it was missed."
    )
    return f'<p>{text(said)}</p><div class="charts">{"".join(charts)}</div>'
