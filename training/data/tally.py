"""What the tables of a data set hold, and what of it is kept and dropped, by reason and by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.model_spec import CLASSES
from training.data.class_names import IGNORED, OF_NO_CLASS, RACK

WHY = {
    OF_NO_CLASS: "of a category that the benchmark leaves out",
    IGNORED: "ignored by --classes",
    RACK: "bicycle racks, in which no cycle is scored",
}
NO_POINT = "without a LiDAR or radar point (num_lidar_pts and num_radar_pts are 0)"

Counts = dict[str, Counter[str]]  # reason -> name -> annotations


@dataclass(frozen=True)
class Tally:
    """categories, labels: names and what they are (class_names.labels_of). counts (scenes, categories, 2) int64:
    annotations without and with a LiDAR or radar point. remarks: what is odd in the tables."""

    categories: tuple[str, ...]
    labels: tuple[int, ...]
    counts: np.ndarray
    remarks: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        return {
            "categories": self.categories, "labels": self.labels, "counts": self.counts.tolist(),
            "remarks": self.remarks,
        }  # fmt: skip

    def annotations(self, scenes: Sequence[int] | None = None) -> int:
        """Of some scenes, or of all."""
        return int(self._of(scenes).sum())

    def kept(self, scenes: Sequence[int] | None = None) -> Counter[str]:
        """Class -> annotations that the benchmark scores and training sees."""
        kept: Counter[str] = Counter()
        for label, count in zip(self.labels, self._of(scenes)[:, 1].tolist()):
            if label >= 0 and count:
                kept[CLASSES[label]] += count
        return kept

    def dropped(self, scenes: Sequence[int] | None = None) -> Counts:
        """Reason -> category name -> annotations."""
        dropped: Counts = {}
        for name, label, (bare, seen) in zip(self.categories, self.labels, self._of(scenes).tolist()):
            count = bare if label >= 0 else bare + seen
            if count:
                dropped.setdefault(WHY.get(label, NO_POINT), Counter())[name] += count
        return dropped

    def _of(self, scenes: Sequence[int] | None) -> np.ndarray:
        """(categories, 2)"""
        counts = self.counts if scenes is None else self.counts[list(scenes)]
        return counts.sum(axis=0)  # type: ignore[no-any-return]


def tally_from_plain(plain: Mapping[str, Any]) -> Tally:
    counts = np.array(plain["counts"], dtype=np.int64).reshape(-1, len(plain["categories"]), 2)
    return Tally(tuple(plain["categories"]), tuple(plain["labels"]), counts, tuple(plain["remarks"]))


def in_words(kept: Counter[str], dropped: Counts) -> str:
    """Lines that begin with spaces."""
    lines = [f"  kept {kept.total()}: {_listed(kept)}"]
    lines += [f"  dropped {names.total()} {why}: {_listed(names)}" for why, names in dropped.items()]
    return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
