"""Chosen frames to a labelling tool, and its labels back.

    python -m training.data_engine.exchange export chosen.json --as cuboids --out to_label.json
    python -m training.data_engine.exchange import labelled.json chosen.json --out data/labelled
    python -m training.data_engine.exchange view chosen.json --out data/chosen

`--as cuboids` is one JSON file in the manner of Segments.ai's and CVAT's cuboids: for each frame its files with their
calibrations, and boxes, both in the vehicle's frame at the sample's time. `--as nuscenes` is a data set of links in
which the chosen samples have no annotation yet. Either comes back filled in; OUT is then a data set to train on.
`view` makes one with the labels that the pool has, or with none: a teacher needs none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bundle import load_bundle
from bev_perception.files import open_atomic, read_text
from bev_perception.geometry import invert, make_transform, rotation_from_quaternion, rotation_from_yaw
from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.parameters import SHIPPED_BUNDLE
from bev_perception.plain import parse_json
from training.command_line import errors_as_text
from training.data.nuscenes import LIDAR, Keyframe, open_nuscenes
from training.data.sensor_frame import sensor_from_ego
from training.data.source import Source
from training.data_engine.chosen_list import ChosenList, read_list
from training.data_engine.views import rows_of, stamps_of, write_view
from training.tables.chains import ANNOTATIONS, INSTANCES, chained
from training.tables.files import TableWriter
from training.tables.rows import Row, pose_fields
from training.tables.vocabulary import CATEGORY_OF, token_of

FORMAT, LIMIT = "bev_perception cuboids 1", 2**31  # bytes
ANGLES = ("x", "y", "z")


@dataclass(frozen=True)
class Labels:
    """annotations: rows of sample_annotation; instances: of instance, for all of them."""

    annotations: Sequence[Row]
    instances: Sequence[Row]


def keyframes_of(chosen: ChosenList, spec: ModelSpec) -> Iterator[Keyframe]:
    """The chosen frames of the pool, in the order of the list. Raises ValueError for a token that the pool lacks."""
    source = Source(Path(chosen.pool), chosen.version)
    keyframes = open_nuscenes(source, sorted({frame.drive for frame in chosen.frames}), spec)
    row_of = {token: row for row, token in enumerate(keyframes.tokens())}
    lacking = [frame.token for frame in chosen.frames if frame.token not in row_of]
    if lacking:
        raise ValueError(f"{source.root} has no sample {lacking[0]}, one of {len(lacking)} that the list names")
    return (keyframes[row_of[frame.token]] for frame in chosen.frames)


def export_cuboids(chosen: ChosenList, out: Path, spec: ModelSpec, labelled: bool = False) -> None:
    """One file, written sample by sample. labelled: with the boxes that the pool has, to be corrected; else without."""
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    head = json.dumps({"format": FORMAT, "categories": categories}).removesuffix("}")
    with open_atomic(out) as file:
        file.write(f'{head}, "samples": '.encode())
        samples = TableWriter(file)
        for keyframe in keyframes_of(chosen, spec):
            samples.add(_sample(keyframe, spec, labelled))
        samples.end()
        file.write(b"}\n")


def _sample(keyframe: Keyframe, spec: ModelSpec, labelled: bool) -> Row:
    boxes = zip(keyframe.boxes.tolist(), keyframe.labels.tolist()) if labelled else ()
    return {
        "name": keyframe.token,
        "attributes": {
            "timestamp": str(keyframe.stamp_ns),
            "scene": keyframe.scene,
            "ego_pose": _pose(keyframe.global_from_ego),
            "images": [
                {
                    "name": name, "url": file.path, "intrinsics": np.asarray(file.K).tolist(),
                    "extrinsics": _pose(invert(sensor_from_ego(keyframe, file))),
                }
                for name, file in keyframe.cameras.items()
            ],
            "pcd": [
                {"name": LIDAR, "url": file.path, "extrinsics": _pose(invert(sensor_from_ego(keyframe, file)))}
                for file in keyframe.lidar[:1]
            ],
        },
        "label": {
            "annotations": [
                {
                    "id": number, "type": "cuboid", "category_id": CLASSES.index(spec.classes[label]) + 1,
                    "position": dict(zip(ANGLES, box[:3])), "dimensions": dict(zip(ANGLES, box[3:6])),
                    "yaw": box[6], "track_id": None,
                }
                for number, (box, label) in enumerate(boxes, 1)
            ]
        },
    }  # fmt: skip


def import_cuboids(path: Path, chosen: ChosenList) -> Labels:
    """Labels of all samples of the list. `track_id` is what makes boxes of one scene one object; without, each box is
    one. Points are counted as one where the tool does not count them (`num_points`), or the benchmark would not score.

    Raises ValueError naming the sample and what of it cannot be used.
    """
    told = parse_json(read_text(path, LIMIT))
    if not isinstance(told, Mapping) or told.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a file of `export --as cuboids` ({FORMAT!r}), filled in")
    source = Source(Path(chosen.pool), chosen.version)
    samples = {row["token"] for row in rows_of(source, "sample")}
    names = {row["name"]: row["token"] for row in rows_of(source, "category")}
    categories = {row["id"]: row["name"] for row in told["categories"]}
    asked, there, annotations, instances = {frame.token for frame in chosen.frames}, set(), [], {}
    for sample in told["samples"]:
        token = sample.get("name")
        if token not in samples:
            raise ValueError(f"{path}: {source.root} has no sample {token!r}")
        if token not in asked:
            raise ValueError(f"{path}: sample {token} is not in the list; take it out, or give the list that has it")
        there.add(token)
        try:
            global_from_ego = _transform(sample["attributes"]["ego_pose"])
            for box in sample["label"]["annotations"]:
                category = names[CATEGORY_OF[categories[box["category_id"]]]]
                track = box.get("track_id")
                named = (sample["attributes"]["scene"], track) if track is not None else (token, "box", box["id"])
                instance = token_of("labelled", *named)
                row = {
                    "token": token_of("labelled", instance, token), "category_token": category, "nbr_annotations": 0,
                    "first_annotation_token": "", "last_annotation_token": "",
                }  # fmt: skip
                instances[instance] = {**row, "token": instance}
                annotations.append(_row(box, token, instance, global_from_ego))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: sample {token}: {type(error).__name__}: {error}; see the exported file"
            ) from error
    lacking = [frame.token for frame in chosen.frames if frame.token not in there]
    if lacking:
        raise ValueError(f"{path} has not {len(lacking)} of the chosen samples, such as {lacking[0]}; label them too")
    return Labels(annotations, list(instances.values()))


def _row(box: Mapping[str, Any], sample: str, instance: str, global_from_ego: np.ndarray) -> Row:
    place, (length, width, height) = ([float(box[part][a]) for a in ANGLES] for part in ("position", "dimensions"))
    if not np.isfinite([*place, float(box["yaw"])]).all() or not min(length, width, height) > 0:
        raise ValueError(f"box {box['id']} has a place or size that cannot be")
    ego_from_box = make_transform(rotation_from_yaw(float(box["yaw"])), np.array(place))
    return {
        "token": token_of("labelled", instance, sample), "sample_token": sample, "instance_token": instance,
        "visibility_token": "", "attribute_tokens": [], **pose_fields(global_from_ego @ ego_from_box),
        "size": [width, length, height], "prev": "", "next": "", "num_lidar_pts": int(box.get("num_points", 1)),
        "num_radar_pts": 0,
    }  # fmt: skip


def export_nuscenes(chosen: ChosenList, out: Path, spec: ModelSpec, labelled: bool = False) -> None:
    """A data set of links; its sample_annotation and instance are the pool's without those of the chosen samples."""
    source, tokens = Source(Path(chosen.pool), chosen.version), [frame.token for frame in chosen.frames]
    write_view(out, source, tokens, None if labelled else merged(source, tokens, Labels((), ())))


def import_nuscenes(path: Path, chosen: ChosenList) -> Labels:
    """What sample_annotation and instance of the folder say of the chosen samples."""
    source, wanted = Source(path, chosen.version), {frame.token for frame in chosen.frames}
    rows = [row for row in rows_of(source, ANNOTATIONS) if row["sample_token"] in wanted]
    of = {row["instance_token"] for row in rows}
    return Labels(rows, [row for row in rows_of(source, INSTANCES) if row["token"] in of])


# Name -> (what writes the chosen frames, what reads the labels back).
EXCHANGES: dict[str, tuple[Callable[..., None], Callable[[Path, ChosenList], Labels]]] = {
    "cuboids": (export_cuboids, import_cuboids),
    "nuscenes": (export_nuscenes, import_nuscenes),
}


def merged(pool: Source, tokens: Sequence[str], labels: Labels) -> dict[str, Iterator[Row]]:
    """The two tables of the pool, row by row, in which these samples are labelled as told."""
    asked, known = set(tokens), {row["token"] for row in labels.instances}

    def annotations() -> Iterator[Row]:
        yield from (row for row in rows_of(pool, ANNOTATIONS) if row["sample_token"] not in asked)
        yield from labels.annotations

    def instances() -> Iterator[Row]:
        yield from (row for row in rows_of(pool, INSTANCES) if row["token"] not in known)
        yield from labels.instances

    return chained(annotations, instances, stamps_of(pool))


def _pose(a_from_b: np.ndarray) -> dict[str, Any]:
    fields = pose_fields(a_from_b)
    return {
        "position": dict(zip(ANGLES, fields["translation"])),
        "heading": dict(zip(("qw", "qx", "qy", "qz"), fields["rotation"])),
    }


def _transform(pose: Mapping[str, Any]) -> np.ndarray:
    rotation = rotation_from_quaternion(np.array([pose["heading"][name] for name in ("qw", "qx", "qy", "qz")]))
    return make_transform(rotation, np.array([pose["position"][a] for a in ANGLES]))


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data_engine.exchange",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    to, back, view = (commands.add_parser(name) for name in ("export", "import", "view"))
    back.add_argument("labels", type=Path, help="what the tool gave back")
    for command in (to, back, view):
        command.add_argument("list", type=Path, help="file of training.select")
        command.add_argument("--out", type=Path, required=True)
    for command in (to, back):
        command.add_argument("--as", dest="form", choices=EXCHANGES, default="cuboids")
    to.add_argument("--labelled", action="store_true", help="with the boxes that the pool has, to be corrected")
    to.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE, help="whose cameras are exported")
    args = parser.parse_args(argv)
    chosen = read_list(args.list)
    source, tokens = Source(Path(chosen.pool), chosen.version), [frame.token for frame in chosen.frames]
    if args.command == "view":
        write_view(args.out, source, tokens)
        print(f"{args.out}: {len(tokens)} frames of {source.root}, to be trained on")
        return 0
    export, read = EXCHANGES[args.form]
    if args.command == "export":
        export(chosen, args.out, load_bundle(args.bundle).spec, args.labelled)
        print(f"{args.out}: {len(chosen.frames)} frames to label")
        return 0
    labels = read(args.labels, chosen)
    write_view(args.out, source, tokens, merged(source, tokens, labels))
    print(f"{args.out}: {len(tokens)} frames with {len(labels.annotations)} boxes, to be trained on")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
