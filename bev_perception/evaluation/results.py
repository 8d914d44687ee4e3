"""A recorded live run -> scores, losses, latencies, pictures, report and summary."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception.evaluation.bag import (
    DETECTIONS_TOPIC,
    STATUS_TOPIC,
    BagError,
    read_bag,
    read_detection_arrays,
    read_ground_truth,
    stamp_ns,
)
from bev_perception.evaluation.compare import compare_runs
from bev_perception.evaluation.metrics import Scores, in_common, score, scores_from_dict
from bev_perception.evaluation.objects import Objects, objects_from_message
from bev_perception.evaluation.pictures import Picture, draw_drive
from bev_perception.evaluation.report import Latency, ReportData, write_report
from bev_perception.files import write_atomic
from bev_perception.inference.pace import too_slow
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig

REMARK = (
    "A synthetic drive that the model was never trained on, played through the ROS 2 node. "
    "The scores hold for this world; they say nothing about real roads."
)


@dataclass(frozen=True)
class LiveRun:
    """What the result bag of a live run holds, with the scores. status: the last PerceptionStatus, None if none came.

    ages_ms: (seconds since the first frame, milliseconds from stamp to recording) of each frame.
    """

    messages: dict[int, Any]
    detections: dict[int, Objects]
    ground_truth: dict[int, Objects]
    scores: Scores
    status: Any
    ages_ms: list[tuple[float, float]]

    @property
    def frames(self) -> int:
        return len(self.detections)

    @property
    def backend(self) -> str:
        return str(self.status.backend) if self.status is not None else "unknown engine"

    def draw(self, bag: Path, spec: ModelSpec, config: NodeConfig) -> tuple[list[Picture], list[Picture]]:
        """(chosen frames, animation)."""
        return draw_drive(bag, spec, config, self.detections, self.ground_truth)


def read_live_run(bag: Path, result: Path, spec: ModelSpec) -> LiveRun:
    """Read a result bag and score it against the ground truth of the drive. Raises BagError without detections."""
    messages: dict[int, Any] = {}
    ages: dict[int, float] = {}
    status = None
    for message in read_bag(result, {DETECTIONS_TOPIC, STATUS_TOPIC}):
        if message.topic == STATUS_TOPIC:
            status = message.message if message.message.frames_processed else status
            continue
        stamp = stamp_ns(message.message.header)
        messages[stamp] = message.message
        ages[stamp] = (message.record_ns - stamp) / 1e6
    if not messages:
        raise BagError(f"{result} has no detections: the node published nothing; see its log and the status in the bag")
    found = {stamp: objects_from_message(m) for stamp, m in messages.items()}
    wanted, found = in_common(read_ground_truth(bag), found)
    first = min(messages)
    return LiveRun(
        messages, found, wanted, score(wanted, found), status, [((s - first) / 1e9, a) for s, a in sorted(ages.items())]
    )


def report_data(
    live: LiveRun, pictures: tuple[list[Picture], list[Picture]], offline: Path, facts: dict[str, str]
) -> ReportData:
    """Everything for the report; `offline` is the folder of the replay of the same frames."""
    agreement = compare_runs(live.messages, read_detection_arrays(offline / "detections"))
    curve = scores_from_dict(json.loads((offline / "scores.json").read_text()))
    used: Counter[str] = Counter()
    names: dict[str, None] = {}
    for message in live.messages.values():
        used.update(message.sensors_used)
        names |= dict.fromkeys([*message.sensors_used, *message.sensors_missing])
    total = len(live.messages)
    latencies: list[Latency] = []
    counters = {}
    if live.status is not None:
        latencies = [
            Latency(s.stage, s.p50_ms, s.p95_ms, s.p99_ms, s.max_ms, int(s.count)) for s in live.status.latencies
        ]
        counters = {
            "frames processed": int(live.status.frames_processed),
            "frames dropped, a newer one was there": int(live.status.frames_dropped),
        }
        counters |= {
            c.name: int(c.value) for c in live.status.counters if c.value and not c.name.startswith("frame_dropped")
        }
        counters |= {"temporal memory emptied": int(live.status.memory_resets)}
    return ReportData(
        title="bev_perception: a drive through ROS 2",
        facts=facts,
        scores=curve,
        published=live.scores,
        latencies=latencies,
        counters=counters,
        sensors={name: (used[name], total) for name in names},
        ages_ms=live.ages_ms,
        agreement=(agreement.sentence(), agreement.agrees),
        chosen=pictures[0],
        animation=pictures[1],
        command="make demo",
        remark=REMARK,
    )


def summarize(data: ReportData, live: LiveRun, out: Path, period_ms: float) -> dict[str, Any]:
    """Write report.html, frames/*.jpg and summary.json; the summary, with `text` for the terminal, is returned.
    period_ms: from one frame of the drive to the next."""
    report = write_report(out / "report.html", data)
    shutil.rmtree(out / "frames", ignore_errors=True)
    for k, picture in enumerate(data.chosen):
        write_atomic(out / "frames" / f"{k}.jpg", picture.jpeg)
    s, published = data.scores, live.scores
    assert s is not None
    e = s.errors
    stages = {row.stage: row for row in data.latencies}
    latency = {
        stage: f"{stages[stage].p50:.0f} ms median, {stages[stage].p95:.0f} ms p95" if stage in stages else "unknown"
        for stage in ("total", "infer")
    }
    dropped = data.counters.get("frames dropped, a newer one was there", 0)
    slow = too_slow(stages["infer"].p50, period_ms) if "infer" in stages else ""
    assert data.agreement is not None
    text = "\n".join(
        [
            f"  NDS {s.nds:.3f}   mAP {s.mean_ap:.3f} ({s.mean_ap_present:.3f} over the classes present); "
            f"as published: NDS {published.nds:.3f}  mAP {published.mean_ap:.3f}",
            f"  mATE {e.ate:.2f} m  mASE {e.ase:.2f}  mAOE {e.aoe:.2f} rad  mAVE {e.ave:.2f} m/s  mAAE {e.aae:.2f}",
            f"  {len(live.messages)} frames processed, {dropped} dropped",
            f"  stamp to publication {latency['total']}; of that the engine ({live.backend}) {latency['infer']}",
            *([f"  {slow}"] if slow else []),
            f"  live and offline: {data.agreement[0]}",
            f"  result bag: {out / 'result'}",
            f"  report:     {report}",
        ]
    )
    summary = {
        "text": text,
        "scores": s.to_dict(),
        "scores_published": published.to_dict(),
        "frames": len(live.messages),
        "frames_dropped": dropped,
        "latency_ms": {row.stage: row.__dict__ for row in data.latencies},
        "counters": dict(data.counters),
        "live_offline": {"identical": data.agreement[1], "sentence": data.agreement[0]},
        "facts": dict(data.facts),
    }
    write_atomic(out / "summary.json", json.dumps(summary, indent=1, default=float) + "\n")
    return summary
