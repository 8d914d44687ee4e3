"""What is asked of a deployment, and how far it is: as bev_perception_msgs has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from bev_perception.deployment.rollout import IDLE

SCORE_BINS = 10  # tenths, as in bev_perception_msgs/Deployment


@dataclass(frozen=True)
class Goal:
    """shadow_s, watch_s: seconds, 0 for none. gate: YAML text. rollback: to the bundle before; source is not used."""

    source: Path
    shadow_s: float = 60.0
    watch_s: float = 60.0
    gate: str = ""
    asked_by: str = ""
    rollback: bool = False


@dataclass(frozen=True)
class Progress:
    """For status and feedback: as bev_perception_msgs/Deployment."""

    step: str = IDLE
    candidate: str = ""
    candidate_sha256: str = ""
    event: str = ""
    share: float = 0.0
    frames: int = 0
    agreement: float = math.nan
    p50_ms: float = math.nan
    p99_ms: float = math.nan
    scores: tuple[int, ...] = (0,) * SCORE_BINS
    scores_publishing: tuple[int, ...] = (0,) * SCORE_BINS
    not_finite: int = 0
    memory_mib: float = math.nan
