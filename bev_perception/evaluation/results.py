"""A recorded live run -> scores, losses, latencies, pictures, report and summary."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception.bags.recording import open_bag
from bev_perception.evaluation.bag import (
    DETECTIONS_TOPIC,
    STATUS_TOPIC,
    BagError,
    read_bag,
    read_detection_arrays,
    read_ground_truth,
    stamp_ns,
)
from bev_perception.evaluation.benchmark import curve
from bev_perception.evaluation.compare import compare_runs
from bev_perception.evaluation.followed_object import FollowedObject, Follower
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.metrics import Scores, in_common, score, scores_from_dict
from bev_perception.evaluation.objects import Objects, objects_from_message
from bev_perception.evaluation.outage import Outage
from bev_perception.evaluation.pictures import draw_drive
from bev_perception.evaluation.reliability import score_reliability
from bev_perception.evaluation.report_page.data import Drive, FrameRow, Health, Latency, Pace, ReportData
from bev_perception.evaluation.report_page.page import write_report
from bev_perception.evaluation.result_folder import DETECTIONS, SCORES, TALLY, WORTH
from bev_perception.evaluation.statuses import Status, status_of
from bev_perception.evaluation.tally_file import read_tally
from bev_perception.evaluation.worst_frames import Scene
from bev_perception.evaluation.worth import read_worth
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

    ages_ms: stamp -> milliseconds from it to the recording of its detections. resets: (stamp ns of the status that said
    so, reason) of each time that the memory was emptied. statuses: from the first frame on.
    """

    messages: dict[int, Any]
    detections: dict[int, Objects]
    ground_truth: dict[int, Objects]
    scores: Scores
    status: Any
    ages_ms: dict[int, float]
    resets: tuple[tuple[int, str], ...] = ()
    statuses: tuple[Status, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.detections)

    @property
    def backend(self) -> str:
        return str(self.status.backend) if self.status is not None else "unknown engine"

    def draw(self, bag: Path, spec: ModelSpec, config: NodeConfig) -> tuple[list[Scene], list[Scene]]:
        """(worst frames, animation)."""
        return draw_drive(bag, spec, config, self.detections, self.ground_truth)


def read_live_run(bag: Path, result: Path, spec: ModelSpec) -> LiveRun:
    """Read a result bag and score it against the ground truth of the drive. Raises BagError without detections."""
    messages: dict[int, Any] = {}
    ages: dict[int, float] = {}
    status = None
    resets: list[tuple[int, str]] = []
    statuses: list[Status] = []
    for message in read_bag(result, {DETECTIONS_TOPIC, STATUS_TOPIC}):
        if message.topic == STATUS_TOPIC:
            if message.message.frames_processed:
                status = message.message
                statuses.append(status_of(status))
            if message.message.memory_resets > len(resets):
                said = (stamp_ns(message.message.header), str(message.message.last_memory_reset_reason))
                resets += [said] * (int(message.message.memory_resets) - len(resets))
            continue
        stamp = stamp_ns(message.message.header)
        messages[stamp] = message.message
        ages[stamp] = (message.record_ns - stamp) / 1e6
    if not messages:
        raise BagError(f"{result} has no detections: the node published nothing; see its log and the status in the bag")
    found = {stamp: objects_from_message(m) for stamp, m in messages.items()}
    wanted, found = in_common(read_ground_truth(bag), found)
    return LiveRun(messages, found, wanted, score(wanted, found), status, ages, tuple(resets), tuple(statuses))


def report_data(
    live: LiveRun,
    pictures: tuple[list[Scene], list[Scene]],
    offline: Path,
    facts: dict[str, str],
    recording: Path | None = None,
    result: Path | None = None,
    health: Health | None = None,
    outage: Outage | None = None,
) -> ReportData:
    """Everything for the report; `offline` is the folder of the replay of the same frames. recording, result: the bags
    of the drive and of what was published, which the report leads to."""
    agreement = compare_runs(live.messages, read_detection_arrays(offline / DETECTIONS))
    scores = scores_from_dict(json.loads((offline / SCORES).read_text()))
    whole = read_tally(offline / TALLY)
    latencies: list[Latency] = []
    counters = {}
    pace = None
    if live.status is not None:
        latencies = [
            Latency(s.stage, s.p50_ms, s.p95_ms, s.p99_ms, s.max_ms, int(s.count)) for s in live.status.latencies
        ]
        processed, dropped = int(live.status.frames_processed), int(live.status.frames_dropped)
        pace = _pace(sorted(live.messages), processed, dropped)
        counters = {"frames processed": processed, "frames dropped, a newer one was there": dropped}
        counters |= {
            c.name: int(c.value) for c in live.status.counters if c.value and not c.name.startswith("frame_dropped")
        }
        counters |= {"temporal memory emptied": int(live.status.memory_resets)}
    return ReportData(
        title="bev_perception: a drive through ROS 2",
        facts=facts,
        scores=scores,
        published=live.scores,
        curves={name: curve(matched) for name, matched in whole.whole.items()},
        score_reliability=score_reliability(list(whole.whole.values())),
        worth=read_worth(offline / WORTH) if (offline / WORTH).exists() else None,
        health=health,
        outage=outage,
        pace=pace,
        latencies=latencies,
        latency_note="as the node reports it; total, and each frame, from its stamp to its publication",
        counters=counters,
        drives=[_drive(live, recording, pictures[0], scores)],
        agreement=(agreement.sentence(), agreement.agrees),
        animation=pictures[1],
        result=result,
        command="make demo",
        remark=REMARK,
    )


def _pace(stamps: list[int], processed: int, dropped: int) -> Pace:
    seconds = (stamps[-1] - stamps[0]) / 1e9
    rate = (len(stamps) - 1) / seconds if seconds else math.nan
    note = f"{dropped} of {processed + dropped} gave way to newer ones" if dropped else "none was dropped"
    return Pace(rate, dropped, processed + dropped, note)


def _drive(live: LiveRun, recording: Path | None, scenes: list[Scene], scores: Scores) -> Drive:
    used: Counter[str] = Counter()
    names: dict[str, None] = {}
    frames = []
    resets = list(live.resets)
    for stamp, message in sorted(live.messages.items()):
        used.update(message.sensors_used)
        names |= dict.fromkeys([*message.sensors_used, *message.sensors_missing])
        reset = "" if message.temporal_used else next((why for told, why in resets if told >= stamp), "")
        reasons = {name: "missing" for name in message.sensors_missing}
        reasons |= {i.name: i.missing for i in getattr(message, "inputs", ()) if i.missing}
        wrong = judge(live.ground_truth[stamp], live.detections[stamp]).totals() if stamp in live.ground_truth else None
        age = live.ages_ms.get(stamp)
        frames.append(FrameRow(stamp, reasons, bool(message.temporal_used), reset, age, wrong))
    start = 0
    if recording is not None:
        with open_bag(recording, lambda text: None) as bag:
            start = bag.start_ns
    counts = {name: used[name] for name in names}
    name = recording.name if recording else "the drive"
    return Drive(name, recording, start, counts, frames, scores, scenes, _followed(live))


def _followed(live: LiveRun) -> FollowedObject | None:
    follower = Follower()
    for stamp, wanted in sorted(live.ground_truth.items()):
        follower.add(stamp, wanted, live.detections[stamp], judge(wanted, live.detections[stamp]))
    return follower.best()


def summarize(data: ReportData, live: LiveRun, out: Path, period_ms: float) -> dict[str, Any]:
    """Write report.html, frames/*.jpg and summary.json; the summary, with `text` for the terminal, is returned.
    period_ms: from one frame of the drive to the next."""
    report = write_report(out / "report.html", data)
    shutil.rmtree(out / "frames", ignore_errors=True)
    for k, scene in enumerate(scene for drive in data.drives for scene in drive.scenes):
        write_atomic(out / "frames" / f"{k}.jpg", scene.jpeg)
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
