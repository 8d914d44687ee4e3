"""How well a model scored, stated in its bundle for machines: `scores.json`, which a bundle may have.

The card says the same for people. The file names the ONNX that it is about, and the data by its counts, so that scores
of another model or of other data are never compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bev_perception.bundle import Bundle, read_table
from bev_perception.plain import to_plain

SCORES = "scores.json"
FORMAT = 1
LIMIT = 2**20  # bytes


@dataclass(frozen=True)
class StatedScores:
    """The official numbers in [0, 1]. frames and objects (class -> count): what they were measured on. ap: class -> AP.

    onnx_sha256: of the ONNX file that was scored. Raises ValueError for numbers that are no scores.
    """

    onnx_sha256: str
    mean_ap: float
    nds: float
    frames: int
    objects: dict[str, int]
    ap: dict[str, float]
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, this version reads {FORMAT}")
        odd = {k: v for k, v in {"mean_ap": self.mean_ap, "nds": self.nds, **self.ap}.items() if not 0 <= v <= 1}
        if odd:
            raise ValueError(f"scores are within [0, 1], found {odd}")

    def to_json(self) -> str:
        return json.dumps(to_plain(self), indent=2) + "\n"

    def same_data(self, other: StatedScores) -> bool:
        """Whether both were measured on as many frames with as many objects of each class."""
        return (self.frames, self.objects) == (other.frames, other.objects)


def scores_json(scores: Mapping[str, Any], onnx_sha256: str) -> str:
    """The file's text, of one variant of what the evaluation writes (Scores.to_dict)."""
    classes = scores["classes"]
    stated = StatedScores(
        onnx_sha256=onnx_sha256,
        mean_ap=scores["mean_ap"],
        nds=scores["nds"],
        frames=scores["frames"],
        objects={name: row["ground_truth"] for name, row in classes.items()},
        ap={name: row["ap"] for name, row in classes.items()},
    )
    return stated.to_json()


def read_scores(bundle: Bundle) -> StatedScores | None:
    """None where the bundle states none. Raises BundleError where what it states is malformed or of another model."""
    mend = "score this model and export it again, or take the file out of the bundle"
    return read_table(bundle, SCORES, StatedScores, lambda stated: None, LIMIT, mend)
