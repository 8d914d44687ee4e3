"""The data flow on the vehicle as a figure: threads, queues, clocks, and who drops what.

The places of boxes are set by hand; numbers and names that the code decides are read from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bev_perception.parameter_table import PARAMETERS
from bev_perception.ros.inputs import TICK_S
from docs.figures.svg import FAINT, GREY, INK, Drawing

WIDTH, HEIGHT = 940.0, 696.0
LEFT = 128.0  # where boxes begin, right of the lanes' names
STAMPS, WALL, LOST = "#1a73e8", "#c26401", "#c5221f"  # clock of the stamps, wall clock, what is dropped
LANE, BOX, LINE = "#f6f8fa", "#ffffff", "#8c959f"


def data_flow() -> str:
    """SVG."""
    default = {row.name: row.default for row in PARAMETERS}
    d = Drawing(WIDTH, HEIGHT, "Data flow on the vehicle: threads, queues, clocks")
    _legend(d)
    _topics(d, default["qos.depth"])
    _executor(d, default["sync.deadline_ms"], TICK_S * 1e3)
    _worker(d)
    _status(d, default["publish.status_rate_hz"])
    replay = (
        "The replay runs the same intake, synchroniser and step in one thread: time is the recording's, there is no",
        "queue, and nothing is dropped; of the frames that a live run processed it gives the same bytes. Evaluation",
        "feeds the step with the frames of a data set.",
    )
    d.lines(LEFT, 650, replay, 11.5, 16, GREY)
    return str(d)


def _legend(d: Drawing) -> None:
    items = ((STAMPS, "clock of the stamps: ROS time, /clock or the recording's"), (WALL, "wall clock"),
             (LOST, "dropped here, counted as"))  # fmt: skip
    x = LEFT
    for color, words in items:
        d.box(x, 10, 11, 11, color, color)
        d.text(x + 17, 20, words, 11.5, color)
        x += 17 + len(words) * 6.8 + 22


def _topics(d: Drawing, depth: int) -> None:
    d.text(12, 58, "topics", 12, bold=True)
    names = ("camera images", "camera_info", "radar clouds", "odometry", "/tf_static")
    x = LEFT
    for name, width in zip(names, (160, 140, 160, 140, 140)):
        d.box(x, 38, width, 30, BOX, LINE)
        d.text(x + width / 2, 57, name, 12, INK, "middle")
        d.arrow([(x + width / 2, 68), (x + width / 2, 82)], LINE)
        x += width + 16
    d.box(LEFT, 82, 804, 24, "#fff8e1", "#e8a10a")
    d.text(LEFT + 10, 98, "DDS queues", 12, bold=True)
    _note(
        d, LEFT + 98, 98, f"the newest {depth} messages of a topic (qos.depth; more of odometry and /tf_static)", GREY
    )
    _note(d, LEFT + 590, 98, "while callbacks are late (uncounted)", LOST)


def _executor(d: Drawing, deadline_ms: float, tick_ms: float) -> None:
    _lane(d, 118, 138, ("executor", "thread"), ("one of rclpy:", "callbacks"), [STAMPS])
    d.box(LEFT - 8, 126, 812, 122, "none", LINE, "4 3")
    _note(d, LEFT + 112, 143, "one lock: executor and status thread take turns", GREY)
    d.arrow([(LEFT + 102, 106), (LEFT + 102, 154)], LINE)
    top = 154
    _box(d, LEFT + 4, top, 196, "conversions", ("message -> CameraFrame,", "RadarScan, EgoPose: views"))
    _box(d, LEFT + 234, top, 196, "SensorIntake", ("frame, size, calibration fit?", "measurement -> synchroniser"))
    _box(d, LEFT + 464, top, 330, "FrameSynchronizer", ("a buffer for each sensor, and the poses",))
    _note(d, LEFT + 474, top + 50, f"a frame is due when complete, or {deadline_ms:g} ms after its stamp", STAMPS)
    _note(d, LEFT + 360, 264, f"deadlines: every {tick_ms:g} ms, once all that has arrived was taken in", WALL)
    d.arrow([(LEFT + 200, top + 31), (LEFT + 234, top + 31)], LINE)
    d.arrow([(LEFT + 430, top + 31), (LEFT + 464, top + 31)], LINE)
    _note(d, LEFT + 4, 230, "SENSOR/image_truncated,", LOST)
    _note(d, LEFT + 4, 243, "cloud_fields, ...", LOST)
    _note(d, LEFT + 234, 230, "SENSOR/wrong_frame,", LOST)
    _note(d, LEFT + 234, 243, "clock_not_started, ...", LOST)
    _note(d, LEFT + 464, 230, "SENSOR/too_old, future_stamp, duplicate, too_close;", LOST)
    _note(d, LEFT + 464, 243, "frame/no_pose, no_sensor", LOST)


def _worker(d: Drawing) -> None:
    _lane(d, 322, 178, ("worker", "threads"), ("bev_pipeline,", "bev_publish"), [STAMPS, WALL])
    # From the synchroniser to the slot.
    d.arrow([(LEFT + 620, 248), (LEFT + 620, 286), (LEFT + 182, 286)], LINE)
    _note(d, LEFT + 360, 280, "SensorFrame: offer() returns at once", GREY)
    d.box(LEFT + 4, 268, 178, 36, "#fff8e1", "#e8a10a")
    d.text(LEFT + 93, 283, "slot of one frame", 12, INK, "middle", bold=True)
    _note(d, LEFT + 93, 298, "the newest wins", GREY, "middle")
    _note(d, LEFT + 190, 303, "frame_dropped_newer_arrived", LOST)
    d.arrow([(LEFT + 93, 304), (LEFT + 93, 366)], LINE)
    d.box(LEFT - 8, 342, 610, 148, "none", "#4285f4")
    _note(d, LEFT + 102, 358, "BevPipeline.step: the algorithm, on the vehicle and in replay", INK)
    top = 366
    _box(d, LEFT + 4, top, 132, "preprocess", ("images, radar", "maps or pillars"))
    _box(d, LEFT + 160, top, 132, "memory", ("state of earlier,", "ego motion since"))
    _box(d, LEFT + 316, top, 132, "backend.infer", ("ONNX Runtime", "or TensorRT"))
    _box(d, LEFT + 472, top, 116, "decode", ("thresholds,", "NMS"))
    _box(d, LEFT + 640, top, 150, "bev_publish", ("every Detections ->", "messages, in order"))
    for x, to in ((136, 160), (292, 316), (448, 472), (588, 640)):
        d.arrow([(LEFT + x, top + 31), (LEFT + to, top + 31)], LINE)
    d.arrow([(LEFT + 382, top + 62), (LEFT + 382, top + 84), (LEFT + 226, top + 84), (LEFT + 226, top + 62)], LINE)
    _note(d, LEFT + 238, top + 78, "bev, the next state", GREY)
    _note(d, LEFT + 4, top + 78, "radar/points_over_limit", LOST)
    _note(
        d, LEFT + 4, top + 100, "A sensor that is missing or broken is a mask and a named reason, never an error.", GREY
    )
    _note(d, LEFT + 4, top + 115, "A frame of a new epoch (time or calibration jumped) empties the memory.", GREY)
    _note(d, LEFT + 640, top + 80, "age = now - stamp", STAMPS)
    _note(d, LEFT + 640, top + 96, "duration of each stage", WALL)
    _note(d, LEFT + 640, top + 112, "step_failed,", LOST)


def _status(d: Drawing, rate_hz: float) -> None:
    _lane(d, 512, 110, ("status", "thread"), ("bev_status",), [WALL])
    _box(d, LEFT + 4, 534, 240, "Telemetry", ("counters by reason, percentiles,", "resets of the memory"))
    _box(d, LEFT + 276, 534, 220, "health", ("what the newest frame did", "with each, and why"))
    _box(
        d,
        LEFT + 540,
        534,
        250,
        "PerceptionStatus, /diagnostics",
        ("also when data, callbacks or the", "simulated clock stop"),
    )
    d.text(LEFT + 260, 570, "+", 15, GREY, "middle")
    d.arrow([(LEFT + 496, 565), (LEFT + 540, 565)], LINE)
    _note(d, LEFT + 790, 528, f"{rate_hz:g} Hz", WALL, "end")
    _note(
        d,
        LEFT + 4,
        612,
        "Each thread counts into Telemetry; health is asked of intake and measurements, under the lock.",
        GREY,
    )


def _lane(
    d: Drawing, top: float, height: float, name: Sequence[str], what: Sequence[str], clocks: Sequence[str]
) -> None:
    d.box(0.5, top, WIDTH - 1, height, LANE, FAINT)
    d.lines(12, top + 24, name, 13, 16, bold=True)
    d.lines(12, top + 24 + 16 * len(name), what, 11, 14, GREY)
    for i, color in enumerate(clocks):
        d.box(12 + 17 * i, top + 32 + 16 * len(name) + 14 * (len(what) - 1), 11, 11, color, color)


def _note(d: Drawing, x: float, y: float, words: str, color: str, anchor: str = "start") -> None:
    d.text(x, y, words, 11, color, anchor)


def _box(d: Drawing, x: float, y: float, width: float, name: str, rows: Sequence[str]) -> None:
    d.box(x, y, width, 62, BOX, LINE)
    d.text(x + 10, y + 19, name, 12.5, bold=True)
    d.lines(x + 10, y + 35, rows, 11, 15, GREY)
