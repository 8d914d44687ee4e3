"""Which scenes of the training split are worth most: those in which the student misses most of what its teacher finds.

    python -m training.circle.choose DATA OUT --teacher TEACHER.json --student STUDENT.json --share 0.6

Both files are results of `training.evaluate --split train --results FILE`. No ground truth is looked at: what a teacher
finds is at hand for every drive. OUT becomes a data set of the same drives, by links into DATA: the chosen scenes are
its split `train`, the others its split `left`, and OUT/chosen.json says why. DATA stays as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.files import read_text, replace_folder, work_folder, write_atomic
from training.command_line import errors_as_text
from training.data.table_checks import check_splits

SCORE, MATCH_M = 0.3, 2.0  # what counts as found, and as the same object: nuScenes' middle match
LIMIT = 2**30  # bytes of a results file
LEFT = "left"
SPLITS, CHOSEN = "splits.json", "chosen.json"
LINKED = ("samples", "sweeps", "maps")  # of DATA, beside its tables
Row = Mapping[str, Any]


def missed(teacher: Sequence[Row], student: Sequence[Row]) -> int:
    """How many of a sample's boxes of the teacher have none of the student, of its class and within MATCH_M of it on
    the ground. Rows are those of a nuScenes results file; an object of the student is used once, by falling score."""
    free = [row for row in student if row["detection_score"] >= SCORE]
    count = 0
    for row in sorted(teacher, key=lambda row: -row["detection_score"]):
        if row["detection_score"] < SCORE:
            break
        alike = [other for other in free if other["detection_name"] == row["detection_name"]]
        apart = [math.dist(row["translation"][:2], other["translation"][:2]) for other in alike]
        if apart and min(apart) <= MATCH_M:
            free.remove(alike[int(np.argmin(apart))])
        else:
            count += 1
    return count


def worst(missed_of: Mapping[str, Sequence[int]], share: float) -> list[str]:
    """Names of the scenes with the most missed in a frame, so that they are `share` of all, one at least; in the order
    in which they were given. missed_of: scene -> what is missed in each of its frames."""
    means = {name: _mean(counts) for name, counts in missed_of.items()}
    chosen = sorted(means, key=lambda name: -means[name])[: max(1, round(share * len(means)))]
    return [name for name in means if name in chosen]


def _mean(counts: Sequence[int]) -> float:
    return sum(counts) / max(len(counts), 1)


def choose(
    tables: Path, teacher: Mapping[str, Sequence[Row]], student: Mapping[str, Sequence[Row]], share: float
) -> dict[str, Any]:
    """Scenes, what is missed in a frame of each, and which are chosen. tables: a folder of a data set; teacher,
    student: sample token -> rows. Raises ValueError where they lack a sample of the training split."""
    path = tables.parent / SPLITS
    scenes = {row["token"]: row["name"] for row in json.loads((tables / "scene.json").read_bytes())}
    splits = check_splits(json.loads(path.read_bytes()), path)
    found: dict[str, list[int]] = {name: [] for name in sorted(splits["train"])}
    for sample in json.loads((tables / "sample.json").read_bytes()):
        name, token = scenes[sample["scene_token"]], sample["token"]
        if name not in found:
            continue
        if token not in teacher or token not in student:
            raise ValueError(f"{token} of {name} is not in both results; write them anew with --split train")
        found[name].append(missed(teacher[token], student[token]))
    return {
        "chosen": worst(found, share),
        "missed_in_a_frame": {name: _mean(counts) for name, counts in found.items()},
        "frames": {name: len(counts) for name, counts in found.items()},
    }


def write_chosen(out: Path, root: Path, version: str, told: Mapping[str, Any]) -> None:
    """The data set `out`: that of `root`, whose training split is what `choose` told. An earlier one is replaced.

    Raises ValueError where `out` is there and is none of these; OSError.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / CHOSEN).is_file():
        raise ValueError(f"{out} is there and was not written here (it holds no {CHOSEN}); name another folder")
    splits = json.loads((root / SPLITS).read_bytes())
    splits[LEFT] = [name for name in told["missed_in_a_frame"] if name not in told["chosen"]]
    splits["train"] = list(told["chosen"])
    with work_folder(out) as work:
        for name in (version, *LINKED):
            if (root / name).exists():
                (work / name).symlink_to(os.path.relpath(root / name, out))
        write_atomic(work / SPLITS, json.dumps(splits, indent=1))
        write_atomic(work / CHOSEN, json.dumps(told, indent=1))
        replace_folder(work, out)


def read_results(path: Path) -> dict[str, list[Row]]:
    """Sample token -> rows. Raises ValueError for what is no results file."""
    try:
        results = json.loads(read_text(path, LIMIT))["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no results of `training.evaluate --results` ({error})") from error
    return dict(results)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.circle.choose",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="nuScenes-format data root")
    parser.add_argument("out", type=Path, help="data root to write, with links into DATA")
    parser.add_argument("--version", default="v1.0-trainval")
    parser.add_argument("--teacher", type=Path, required=True, help="what the teacher finds in the split train")
    parser.add_argument("--student", type=Path, required=True, help="what the student finds there")
    parser.add_argument("--share", type=float, default=0.6, help="of the scenes that is kept (%(default)g)")
    args = parser.parse_args(argv)
    if not 0 < args.share <= 1:
        parser.error(f"--share {args.share}: expected a share above 0, at most 1")
    told = choose(args.data / args.version, read_results(args.teacher), read_results(args.student), args.share)
    for name, mean in sorted(told["missed_in_a_frame"].items(), key=lambda item: -item[1]):
        print(f"{name}: {mean:5.1f} missed in a frame{', chosen' if name in told['chosen'] else ''}")
    write_chosen(args.out, args.data, args.version, told)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
