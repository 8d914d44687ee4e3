"""What model hubs read of a card: the YAML before its text, as Hugging Face's model cards have it.

https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from bev_perception.model_spec import ModelSpec

FENCE = "---\n"
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")  # such as apache-2.0, mit, other, unknown
DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
TASK = {"type": "object-detection", "name": "3D object detection in bird's-eye view"}
ERRORS = {"ate": "mATE", "ase": "mASE", "aoe": "mAOE", "ave": "mAVE", "aae": "mAAE"}


@dataclass(frozen=True)
class Origin:
    """What only its author knows of a model: the licence of its weights by the hub's name for it, and the data sets
    that it learnt from and was scored on, as `name` or `owner/name`."""

    licence: str = "unknown"
    datasets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not LICENCE.fullmatch(self.licence):
            raise ValueError(f"licence must be a name such as apache-2.0, other or unknown, found {self.licence!r}")
        if odd := [name for name in self.datasets if not DATASET.fullmatch(name)]:
            raise ValueError(f"data sets must be named like nuscenes or owner/name, found {odd}")


def card_metadata(spec: ModelSpec, scores: Mapping[str, Mapping[str, Any]], origin: Origin) -> dict[str, Any]:
    """Spec, scores (JSON of training.evaluate; may be empty) and origin -> what stands before a card."""
    sensors = [*(["camera"] if spec.cameras else []), *(["radar"] if spec.radars else [])]
    found: dict[str, Any] = {
        "license": origin.licence,
        "library_name": "onnx",
        "pipeline_tag": "object-detection",
        "tags": ["3d-object-detection", "birds-eye-view", "autonomous-driving", "ros2", *sensors],
    }
    if origin.datasets:
        found["datasets"] = list(origin.datasets)
    return found | ({"model-index": model_index(spec.name, scores, origin.datasets)} if scores else {})


def model_index(
    name: str, scores: Mapping[str, Mapping[str, Any]], datasets: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Sensors, or what else was scored -> Scores.to_dict(), as the hub lists results; numbers that are not defined are
    left out."""
    dataset = datasets[0] if datasets else "unknown"
    results = [
        {
            "task": dict(TASK),
            "dataset": {"type": dataset, "name": dataset, "config": word, "split": "val"},
            "metrics": [
                {"type": kind, "value": round(float(value), 4), "name": kind}
                for kind, value in (
                    ("mAP", score["mean_ap"]),
                    ("NDS", score["nds"]),
                    *((shown, score.get("errors", {}).get(key)) for key, shown in ERRORS.items()),
                )
                if value is not None
            ],
        }
        for word, score in scores.items()
    ]
    return [{"name": name, "results": results}]


def join_card(metadata: Mapping[str, Any], body: str) -> str:
    """The card's text, with its metadata before."""
    return f"{FENCE}{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=120)}{FENCE}\n{body}"


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """A card's metadata, none for cards of before, and its text. Raises ValueError for metadata that are no YAML."""
    if not card.startswith(FENCE) or f"\n{FENCE}" not in card:
        return {}, card
    head, _, body = card.removeprefix(FENCE).partition(f"\n{FENCE}")
    try:
        metadata = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise ValueError(f"MODEL_CARD.md: what stands before its text is no YAML ({error}); mend it") from error
    if not isinstance(metadata, dict):
        raise ValueError("MODEL_CARD.md: what stands before its text has no keys; mend it")
    return metadata, body.lstrip("\n")
