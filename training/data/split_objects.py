"""The objects of a split: what a network is shown and asked for, and what of the tables it is not, by reason."""

from __future__ import annotations

from collections import Counter

import numpy as np

from bev_perception.model_spec import CLASSES
from training.data.nuscenes import Keyframes
from training.data.tally import NO_POINT, Counts, in_words
from training.processes import rank_and_world

NOT_OF_MODEL, OFF_GRID = "of a class that the model does not have", "outside the model's grid"
# Reason -> what mends it.
MEND = {
    NO_POINT: "count the points in each box and write them into sample_annotation.json (where they are not known, 1)",
    OFF_GRID: "give the boxes in the global frame of ego_pose.json, or take a run with a larger spec.grid",
}
MEND_CLASSES = "say in the file of --classes which of the model's classes they are"


def objects_of(keyframes: Keyframes) -> tuple[Counter[str], Counts]:
    """Class -> objects of the keyframes that are kept; reason -> name -> annotations that are not."""
    index, arrays = keyframes.data_index, keyframes.data_index.arrays
    scenes = sorted(set(arrays["frame_scene"][keyframes.rows].tolist()))
    ends = np.concatenate([[0], arrays["box_end"]])
    wanted = np.zeros(len(arrays["box_class"]) + 1, dtype=np.int64)
    np.add.at(wanted, ends[keyframes.rows], 1)
    np.add.at(wanted, ends[keyframes.rows + 1], -1)
    seen = (wanted.cumsum()[:-1] > 0) & (arrays["box_points"].sum(axis=1) > 0)
    labels, places = arrays["box_class"][seen], arrays["box"][seen, :2]
    of_model = np.isin(labels, [CLASSES.index(name) for name in keyframes.spec.classes])
    near = keyframes.spec.grid.cells(places)[1]
    dropped = index.tally.dropped(scenes)
    for why, rows in ((NOT_OF_MODEL, ~of_model), (OFF_GRID, of_model & ~near)):
        if rows.any():
            dropped[why] = _named(labels[rows])
    return _named(labels[of_model & near]), dropped


def _named(labels: np.ndarray) -> Counter[str]:
    counts = np.bincount(labels, minlength=len(CLASSES)).tolist()
    return Counter({name: count for name, count in zip(CLASSES, counts) if count})


def has_annotations(keyframes: Keyframes) -> bool:
    """False for the benchmark's test split, whose annotations are not published."""
    arrays, index = keyframes.data_index.arrays, keyframes.data_index
    return index.tally.annotations(sorted(set(arrays["frame_scene"][keyframes.rows].tolist()))) > 0


def require_objects(keyframes: Keyframes, split: str) -> None:
    """Print, in the first process, what of the split is kept and dropped. Raises ValueError where nothing is kept: a
    network would be trained on nothing, or be scored 0 for whatever it finds."""
    kept, dropped = objects_of(keyframes)
    index, count = keyframes.data_index, sum(kept.values()) + sum(names.total() for names in dropped.values())
    if kept:
        if rank_and_world()[0] == 0:
            told = f"split {split!r}: {len(keyframes)} keyframes, {count} annotations"
            print(f"{told}\n{in_words(kept, dropped)}", flush=True)
        return
    where = f"{index.dataroot} ({index.version}): the split {split!r} has {len(keyframes)} keyframes"
    if not count:
        raise ValueError(
            f"{where} and no annotation in sample_annotation.json; there is nothing to train on or to score. Give a "
            "split with annotations (splits.json), or write what a network finds with training.evaluate --results FILE"
        )
    main = max(dropped, key=lambda why: dropped[why].total())
    raise ValueError(
        f"{where} and {count} annotations, of which none is left:\n{in_words(kept, dropped)}\nExpected at least one of "
        f"{', '.join(keyframes.spec.classes)} with a point in it; {MEND.get(main, MEND_CLASSES)}"
    )
