"""What a data set calls its objects, and which of the model's classes that is.

Names of nuScenes' categories are known. A set with names of its own says what they are in the file of --classes, YAML:

    sedan: car
    delivery van: truck
    tram: ignore
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nuscenes.eval.detection.utils import category_to_detection_name

from bev_perception.model_spec import CLASSES
from bev_perception.yaml_file import read_yaml

BIKE_RACK = "static_object.bicycle_rack"
# Categories of nuScenes that its benchmark leaves out.
NOT_SCORED = frozenset(
    """
    animal human.pedestrian.personal_mobility human.pedestrian.stroller human.pedestrian.wheelchair
    movable_object.debris movable_object.pushable_pullable vehicle.emergency.ambulance vehicle.emergency.police
    """.split()
)
RACK, OF_NO_CLASS, IGNORED, UNKNOWN = -1, -2, -3, -4  # beside indices into CLASSES
IGNORE = "ignore"
PLAIN_KEY = re.compile(r"[A-Za-z_][\w./-]*")

ClassNames = tuple[tuple[str, str], ...]  # (own name, one of CLASSES or IGNORE), sorted


def read_class_names(path: Path) -> ClassNames:
    """The file of --classes. Raises ValueError naming what is none of the model's classes; OSError."""
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: expected lines `own name: class`, such as `sedan: car`, found {content!r:.60}")
    wrong = {name: value for name, value in content.items() if value not in (*CLASSES, IGNORE)}
    if wrong:
        near = {name: difflib.get_close_matches(str(value), CLASSES, 1) for name, value in wrong.items()}
        lines = [
            f"{name}: {wrong[name]!r}{f' (did you mean {near[name][0]}?)' if near[name] else ''}" for name in wrong
        ]
        raise ValueError(f"{path}: {'; '.join(lines)}; a class is one of {', '.join(CLASSES)}, or {IGNORE}")
    return tuple(sorted(content.items()))


def labels_of(names: Iterable[str], given: ClassNames) -> list[int]:
    """For each category name its index into CLASSES, RACK, OF_NO_CLASS (the benchmark's rule), IGNORED (by --classes)
    or UNKNOWN. What --classes says comes before what nuScenes says."""
    own = dict(given)
    return [_label(name, own) for name in names]


def _label(name: str, own: Mapping[str, str]) -> int:
    if name in own:
        return IGNORED if own[name] == IGNORE else CLASSES.index(own[name])
    known = category_to_detection_name(name)
    if known in CLASSES:
        return CLASSES.index(known)
    if name == BIKE_RACK:
        return RACK
    return OF_NO_CLASS if name in NOT_SCORED else UNKNOWN


def check_known(names: Sequence[str], labels: Sequence[int], counts: Sequence[int]) -> None:
    """counts: annotations of each category. Raises ValueError where some are of a name that nobody knows: it lists
    these with their counts and shows a file of --classes to start from."""
    unknown = sorted((-count, name) for name, label, count in zip(names, labels, counts) if label == UNKNOWN and count)
    if not unknown:
        return
    found = ", ".join(f"{name!r} ({-count})" for count, name in unknown)
    lines = "\n".join(f"{_key(name)}: {_guess(name)}" for _, name in unknown)
    raise ValueError(
        f"category.json: {-sum(count for count, _ in unknown)} annotations are of names that are none of nuScenes': "
        f"{found}. Expected a line for each in the file of --classes, with one of {', '.join(CLASSES)}, or {IGNORE}. "
        f"A file to start from, guessed by the names, which you should correct:\n\n{lines}\n"
    )


def _key(name: str) -> str:
    return name if PLAIN_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _guess(name: str) -> str:
    """The first of CLASSES all of whose words are among those of the name."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    return next((c for c in CLASSES if set(c.split("_")) <= words or c.replace("_", "") in words), IGNORE)
