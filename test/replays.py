"""A replay, and a result bag, at once: for the short drives of tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bev_perception.evaluation.result_bag import open_detection_bag
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.replay import Replay
from bev_perception.structures import Composition, Detections


@dataclass(frozen=True)
class ReplayResult:
    """A whole run: (record time, detections) of every frame, counters as in the node's status. See Replay and Found."""

    detections: list[tuple[int, Detections]]
    candidates: list[tuple[int, Detections]]
    counters: Counter[str]
    details: dict[str, str]
    skipped: int


def replay(
    bag: str | Path,
    bundle_path: str | Path,
    config: NodeConfig,
    only: Mapping[int, Composition | None] | None = None,
    score_floor: float | None = None,
) -> ReplayResult:
    """Every frame of a recording (or those of `only`, see Replay) at once: for drives that fit into memory."""
    run = Replay(bag, bundle_path, config, only, score_floor)
    frames = list(run)
    published = [(f.record_ns, f.published) for f in frames]
    return ReplayResult(
        published, [(f.record_ns, f.candidates) for f in frames], run.counters, run.details, run.skipped
    )


def write_detections(
    path: str | Path, detections: Iterable[tuple[int, Detections]], spec: ModelSpec, frame_id: str = "base_link"
) -> Path:
    """All (record time ns, Detections) pairs at once, as open_detection_bag writes them. Returns the .mcap file."""
    path = Path(path)
    with open_detection_bag(path, spec, frame_id) as bag:
        for record_ns, found in detections:
            bag.add(record_ns, found)
    return path / f"{path.name}.mcap"
