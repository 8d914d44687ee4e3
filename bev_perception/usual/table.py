"""What is usual, from a table that a bundle may have; `training.health` fits it on clean drives."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from bev_perception.bundle import Bundle, read_table
from bev_perception.model_spec import CAMERA_FEATURES, MAP_FEATURES, ModelSpec
from bev_perception.plain import to_plain
from bev_perception.usual.statistics import names_of, parts_of, sensors_of

HEALTH = "health.json"
FORMAT, LIMIT = 1, 16 * 2**20  # bytes
NEAR_LIMIT = 1e6  # a number beyond is none of a statistic, a deviation or a threshold

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class UsualPart:
    """Of one part of `usual.statistics`, D numbers a sensor.

    mean: sensor -> D, what it usually gives. deviation: D, of the smoothed. whitening: K rows of D; times the
    difference from the mean it gives K numbers that are independent and have deviation 1 in clean drives. threshold: of
    their length.
    """

    mean: dict[str, tuple[float, ...]]
    deviation: tuple[float, ...]
    whitening: Rows
    threshold: float


@dataclass(frozen=True)
class HealthTable:
    """What `health.json` holds.

    seconds: over which statistics are smoothed (an exponential mean). alarms_an_hour: how many false ones, of all parts
    and sensors together, the thresholds were set for. frames: clean ones that it was fitted to and its thresholds set
    on. onnx_sha256: of the network that it is about. Raises ValueError for what cannot be.
    """

    onnx_sha256: str
    seconds: float
    alarms_an_hour: float
    frames: tuple[int, int]
    parts: dict[str, UsualPart]
    format: int = field(default=FORMAT)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, this version reads {FORMAT}")
        if not 0.05 <= self.seconds <= 600 or not self.alarms_an_hour > 0:
            raise ValueError(
                f"seconds must be within [0.05, 600] and alarms_an_hour above 0, found {self.seconds}, "
                f"{self.alarms_an_hour}"
            )
        for name, part in self.parts.items():
            width = len(part.deviation)
            if not width or not part.whitening or {len(row) for row in part.whitening} != {width}:
                raise ValueError(f"{name}: whitening wants rows of {width} numbers, one for each deviation")
            if {len(mean) for mean in part.mean.values()} - {width}:
                raise ValueError(f"{name}: every mean wants {width} numbers, one for each deviation")
            numbers = [part.deviation, *part.whitening, *part.mean.values(), (part.threshold,)]
            if not all(np.isfinite(row).all() and np.abs(row).max() < NEAR_LIMIT for row in map(np.asarray, numbers)):
                raise ValueError(f"{name}: all numbers must be finite and below {NEAR_LIMIT:g}")
            if not part.threshold > 0 or not min(part.deviation) > 0:
                raise ValueError(f"{name}: threshold and deviations must be above 0")

    def to_json(self) -> str:
        return json.dumps(to_plain(self)) + "\n"


def check_table(table: HealthTable, spec: ModelSpec) -> None:
    """Raises ValueError where a table has parts or sensors that the model lacks, or lacks some that it has."""
    unknown = sorted(set(table.parts) - set(parts_of(spec)))
    if unknown or not table.parts:
        raise ValueError(f"it has the parts {', '.join(table.parts) or 'none'}, the model {', '.join(parts_of(spec))}")
    for name, part in table.parts.items():
        if set(part.mean) != set(sensors_of(name, spec)):
            raise ValueError(
                f"{name}: means are of {', '.join(sorted(part.mean))}, the model has "
                f"{', '.join(sorted(sensors_of(name, spec)))}"
            )
        wanted = part_width(name, spec)
        if len(part.deviation) != wanted:
            raise ValueError(f"{name}: {len(part.deviation)} statistics, this version and model have {wanted}")


def part_width(part: str, spec: ModelSpec) -> int:
    """How many numbers a sensor has in a part."""
    features = {CAMERA_FEATURES: spec.health.camera_width, MAP_FEATURES: spec.health.map_width}
    return features.get(part, len(names_of(part, 0)))


def read_health(bundle: Bundle) -> HealthTable | None:
    """None where the bundle has none. Raises BundleError where it is malformed or of another model."""
    mend = "fit it to this bundle again, or take the file out of the bundle"
    return read_table(bundle, HEALTH, HealthTable, lambda table: check_table(table, bundle.spec), LIMIT, mend)
