"""docs/bundle.md from bev_perception/model_spec.py, inference/proof.py, frame_proof.py and the shipped bundle."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

from bev_perception.bundle import FACTS_KEY, FILES_LIMIT, load_bundle
from bev_perception.frame_proof import FRAME_TOLERANCES, KEPT, MATCH_M
from bev_perception.grid import BevGrid
from bev_perception.inference.proof import TIME_LIMIT_S, TOLERANCES
from bev_perception.model_spec import (
    ADDED_LATER,
    BOX_CHANNELS,
    COLOR_ORDERS,
    FORMAT,
    INTERPOLATIONS,
    MINOR,
    OLDEST,
    PILLAR_COLUMNS,
    PRECISIONS,
    RADAR_CHANNELS,
    RADAR_FORMATS,
    RUNTIME,
    SPREAD_CHANNELS,
    SPREAD_PARTS,
    HealthSpec,
    ImageSpec,
    ModelSpec,
    RadarSpec,
    TemporalSpec,
    TensorSpec,
)
from bev_perception.plain import to_plain
from docs.pages.markdown import code, join, table, written_by

SHIPPED = Path(__file__).resolve().parents[2] / "bev_perception" / "bundles" / "demo"
HEAD = """\
A bundle is a directory that holds one model and every fact that a vehicle must know about it. `training.export` writes
it, the parameter `bundle` names it, and the node proves it before using it. Whoever copies a whole bundle to a vehicle
has nothing else to configure about the model.

    python -m training.export runs/demo/last.ckpt bundles/mine --golden-data data/synthetic --scores scores.json

| file | what it holds |
| --- | --- |
| `model.onnx` | the network, from resized images and radar to the best candidates; carries its facts in its metadata |
| `model_spec.json` | the facts: sensors, classes, grid, image size, radar form, memory, thresholds, hash of the ONNX |
| `golden.npz` | an input of the network and the output that it must give |
| `golden_frame.npz` | what the sensors of a vehicle gave, and the detections that it must lead to |
| `scores.json` | may be left out: scores for machines, and of how many frames; read by a [gate](redeploy.md#the-gate) |
| `uncertainty.json` | may be left out: what a detection is worth ([uncertainty.md](uncertainty.md)) |
| `health.json` | may be left out: what sensors and network usually give ([health.md](health.md)) |
| `MODEL_CARD.md` | for people: size, scores, how it was trained, limits; what model hubs read of it |
| `model.safetensors` | where it was asked for: the weights, for torch |
| `model.sig` | where it is signed: who made all of the above |"""
ENFORCED = """\
Each of these must hold; if one does not, `configure` of the node, the replay and `training.evaluate` fail with
what was found, what was expected and how to mend it:

1. The first four files are there, none larger than it can be, and none a link that leads out of the bundle.
2. `model_spec.json` is of a version that is read here, `format`.`minor` from {format}.0 to {format}.{minor}, and the
   `runtime` that it names is no newer than this package. It has every key below once and no other, each of its type and
   in its range. (Older bundles may lack {later}; what they meant is known.)
3. `score_threshold` and `nms_radius` name exactly the classes; there is at least one sensor; no name stands twice; the
   grid has a whole number of cells, and so has each of its cells of pillars.
4. The sha256 of `model.onnx` is `onnx_sha256`, and those of files in which it keeps weights are `weights_sha256`. They
   are checked again when the engine reads the files. Weights anywhere else are refused.
5. Every fact of `model_spec.json` is the one that `model.onnx` carries in its metadata (`{facts}`); what
   differs is named. Thresholds are changed by parameters, other facts by another export.
6. Inputs and outputs of the ONNX, or of the TensorRT engine, have the names, shapes and types that the spec implies.
7. The engine gives the golden outputs for the golden inputs, within the tolerance of its precision and within
   {limit:.0f} s.
8. The golden frame, driven through preprocessing, memory, engine and decoding, gives the recorded detections.

While it runs, every call checks names, shapes and types again. Detections carry the model's name and the hash of its
ONNX, so that a recording says which model made it."""
GOLDEN = """\
`golden.npz` has one array `in.NAME` for every input and `out.NAME` for every output, except `out.bev`: the state is as
large as the model, and the boxes that a golden `prev_bev` leads to prove it. With `--golden-data` the input is the
first validation keyframe of a data set that has an earlier one, with colours and state rounded to keep the file small;
without it, a pattern that touches every input.

An engine is compared by candidates, (label, cell), not by rows, because candidates of equal score may swap:"""
FRAME = """\
`golden_frame.npz` has two frames, an earlier one for the memory and the one that is looked at: images (JPEG; every
other camera is given them decoded, so that both ways are proved), calibrations, radar scans and poses, each by the name
of its sensor, and the strongest {kept} detections of the later frame with the names of their classes, and whether the
bundle's thresholds publish them. So it also notices what the golden sample cannot: another order of colours, other
radar planes or sweeps, other classes, other thresholds, and a version of this package that prepares or decodes
otherwise. With `--golden-data` the frames are the keyframe of the golden sample and the one before; without it, a drawn
scene, in which a trained network finds little.

Detections are compared with the nearest of the same class within {match:g} m:"""
UPGRADE = """\
A bundle of an earlier version has no golden frame, and its ONNX does not carry its facts. It is refused until it is
exported again, or upgraded:

    ros2 run bev_perception upgrade_bundle OLD NEW --bag BAG --params my.param.yaml

The network stays the same, byte by byte; the file around it and so its sha256 do not, and engines of TensorRT are built
anew. `--bag` takes the golden frame from a recording with all sensors; without it, it is of a drawn scene."""
VERSION = """\
`model_spec.json` states the version of the bundle, `format`.`minor` ({format}.{minor} today), and `runtime`, the oldest
bev_perception that runs it. A bundle of a newer version, or one that names a newer `runtime` than the package on the
vehicle, is refused with both versions and the way out: update the package, or export the bundle with the version that
the vehicle has. A bundle of the same `format` and a smaller `minor` is read as it was meant: what fields were added
later, and what bundles without them meant, is one table (`ADDED_LATER` in
[model_spec.py](../bev_perception/model_spec.py)). Bundles that state no `minor` are of {format}.0. Whoever writes a
bundle anew, by an upgrade or by quantising it, writes the version of today."""
ARCHIVE = """\
    ros2 run bev_perception archive pack bundles/mine mine.zip
    ros2 run bev_perception archive unpack mine.zip /opt/models/mine

`pack` verifies the bundle and writes one file, a zip, which any computer can look into. Its files are stored as they
are: weights and golden files hardly shrink, and so the same bundle gives the same bytes on every machine, and one
sha256. It prints what the manifest of a store says of the file ([fleet.md](fleet.md)).

`unpack` trusts nothing that the file says of itself. Before anything is written it reads the list at the end of the zip
and refuses names that lead out of the folder or into another, links and devices, names that stand twice or differ by
capitals alone, files that overlap, more than {members} files, more bytes than a bundle can have ({limit} in all), and
more than the disk has room for. While it unpacks, no file becomes longer than the list says. Nothing that is unpacked
is executed. The new folder lies beside its place until it is verified as a bundle and synced to the disk; then it takes
the name, and what had the name before goes. A kill at any step leaves one whole bundle: where it fell between the two
names the old one waits as `.NAME.before`, and the next `unpack`, export or quantisation to that name puts it back
first. A folder that is no bundle is never replaced."""
SIGNED = """\
Whoever signs a bundle says that it is theirs; a vehicle that is given the public key fetches and deploys no other
(`bev_perception.signing.require_signature`). What it began with, and what it goes back to, is not asked.
The signature is the file `model.sig`, in the format of
[OpenSSF model signing](https://github.com/sigstore/model-transparency), with a key of one's own, no service and no
network. Both computers need the package: `pip install model-signing pyopenssl`.

    openssl ecparam -name prime256v1 -genkey -noout -out fleet.key
    openssl ec -in fleet.key -pubout -out fleet.pub
    ros2 run bev_perception sign_bundle bundles/mine --key fleet.key
    ros2 run bev_perception sign_bundle bundles/mine --verify fleet.pub

It covers every file of the bundle, the card as well. No signature, one by another key, an altered, a missing and an
added file are refused, each in its own words, and so is a signature that leaves a file out. It says nothing of when: an
old bundle keeps its signature, so what a vehicle may go back to is for the store and its agent to decide. Whatever
writes a bundle anew (export, quantising, upgrade) gives one that has to be signed again."""
CARD = """\
`MODEL_CARD.md` has the number of parameters and the sizes of the network; when the export was given scores
(`--scores`), the official metric for every set of sensors, per class and per range; and the notes that its author wrote
(`--notes`): data, commands, what it is not good for.

Before the text stands what model hubs read, as
[Hugging Face's cards](https://huggingface.co/docs/hub/model-cards) have it: licence of the weights (`--licence`,
`unknown` where nobody said), data sets (`--datasets`), tags, and every score as a `model-index`. Its own reader,
`huggingface_hub.ModelCard.load`, is what the tests check it with; on a hub the file is called `README.md`. Quantising
replaces the scores by those that the 8-bit network reaches.

## For torch

With `--safetensors` the export adds `model.safetensors`: the weights by the names of the student's state dict, those
that only training needs included, in a [format](https://github.com/huggingface/safetensors) that can hold no code. No
vehicle reads it.

    from training.bundling.weights import read_student
    student = read_student("bundles/mine")     # the network, built as its run says, in eval mode"""
TAKES = """\
Shapes are those of the shipped model; the last rows stand for `radar_bev` in a model whose radar format is `pillars`.
What can be missing has an input that says whether it is there, 1 or 0."""
GIVES = "The last two rows are of bundles that were exported with `--health`, here with the widths of a small student."
FACTS: dict[type, dict[str, str]] = {
    ModelSpec: {
        "name": "Name of the model; detections and status carry it",
        "cameras": "Cameras, in the order of `images`; parameters and status use these names",
        "radars": "Radars, in the order of `radar_valid`",
        "classes": "Classes, in the order of `labels`",
        "score_threshold": "Class -> least score that is published; the parameter `score_threshold.*` overrides it",
        "nms_radius": "Class -> of two boxes of that class nearer than this (m, centres) the weaker one goes",
        "grid": "See below",
        "image": "See below",
        "radar": "See below",
        "temporal": "See below",
        "top_k": "Number of candidates, pairs of class and cell, that the graph gives, over all classes and cells",
        "nms": "Groups of classes that thin each other out (`NmsGroup`); a class in none is thinned out by itself",
        "onnx_sha256": "sha256 of `model.onnx`",
        "weights_sha256": "File of the bundle in which `model.onnx` keeps weights -> its sha256; mostly none",
        "health": "See below; 0 where the graph has no outputs for it",
        "precision": f"Of the graph: {', '.join(map(code, PRECISIONS))}, where its convolutions are in 8 bits "
        "([inference.md](inference.md#8-bits)); engines are proven with the tolerance that goes with it",
        "mounts": "Camera -> (low, high) of how it may be mounted: height above ground, degrees up, to the left and "
        "rolled to the right, horizontal field of view; a camera that is mounted otherwise is masked "
        "(`extrinsics.unlike`). Of a camera without: any. Export takes what the drives of `--golden-data` have",
        "spread": f"Parts of the variance of its errors that the graph gives, the first of {', '.join(SPREAD_PARTS)}; "
        "empty: it says nothing of them ([uncertainty.md](uncertainty.md))",
        "format": "Version of the bundle, the number before the point",
    },
    BevGrid: {
        "x_min": "Rear edge, m, in the ego frame (x forward)",
        "x_max": "Front edge, m",
        "y_min": "Right edge, m (y left)",
        "y_max": "Left edge, m",
        "step": "Size of a cell, m; the ranges are whole numbers of cells",
    },
    ImageSpec: {
        "height": "Rows of the network's image; what the scaled image has more is cut from the top",
        "width": "Columns of the network's image",
        "color_order": f"Order of the channels: {', '.join(map(code, COLOR_ORDERS))}",
        "interpolation": f"How images are scaled: {', '.join(map(code, INTERPOLATIONS))}. `linear` takes one bilinear "
        "sample for each pixel, `area` the mean of as many as the scale needs",
        "zoom": "The received image is scaled to so many times `width` columns, and its sides are cut away",
    },
    RadarSpec: {
        "sweeps": "Newest scans of each radar that are used",
        "max_age_s": "Scans older than this are not used, s",
        "format": f"Form of the input: {', '.join(map(code, RADAR_FORMATS))}",
        "channels": f"Of `map`: planes of `radar_bev`, some of {', '.join(map(code, RADAR_CHANNELS))}",
        "pillar_step": "Of `pillars`: size of their cells, m; divides the grid's into whole cells",
        "max_pillars": "Of `pillars`: how many there is room for; the nearest are kept",
        "pillar_points": "Of `pillars`: points in each; the newest are kept",
        "rcs_dbsm": "Least and largest radar cross section that reaches the network, dBsm",
        "max_speed_mps": "Largest radial speed over ground that does, m/s",
        "z_m": "Least and largest height above base_link that does, m",
    },
    HealthSpec: {
        "camera_width": "Numbers of each camera in `camera_features`",
        "map_width": "Numbers in `map_features`",
    },
    TemporalSpec: {
        "state_channels": "Channels of the state `bev`; 0: no memory",
        "interval_s": "Age of the earlier state that is wanted, s",
        "min_age_s": "Younger states are not used, s",
        "max_age_s": "Older states are not used, s; a longer gap between two frames empties the memory",
    },
}
TENSORS = {
    "images": "Cameras, rows, columns, colours, scaled as `image` says; normalisation is in the graph. Missing: 0",
    "img_from_ego": "Ego frame at the frame's stamp (m) -> (u depth, v depth, depth, 1) in the network's image; the "
    "vehicle's motion until the image was taken is in it. Missing: identity",
    "camera_valid": "1 where the camera contributes",
    "radar_bev": "Planes of `radar.channels` over the grid: all sweeps, moved to the frame's stamp; 0 where empty",
    "radar_points": f"Pillars, points, ({', '.join(PILLAR_COLUMNS)}) in m, dBsm, m/s over ground; 0 where empty",
    "radar_counts": "Points in each pillar",
    "radar_cells": "Flat cell of each pillar, ix * Y + iy of the pillars' grid; beyond it for rows without points",
    "radar_valid": "1 where the radar contributes",
    "prev_bev": "The output `bev` of an earlier frame",
    "prev_from_curr": "Ego frame of this frame -> ego frame of the earlier one",
    "prev_valid": "1 where there is an earlier state",
    "prev_dt": "Its age, s",
    "scores": "Score of each candidate in [0, 1]",
    "labels": "Its class",
    "cells": "Its flat cell, ix * Y + iy",
    "boxes": f"({', '.join(BOX_CHANNELS)}): place in the cell in cells, height of the centre in m, logarithms of "
    "metres, sine and cosine of the yaw, velocity over ground in m/s",
    "log_std": f"Where the spec has a spread: natural logarithms of standard deviations, for each part "
    f"({', '.join(SPREAD_PARTS)}) of {', '.join(SPREAD_CHANNELS)}; m, logarithms of metres, m/s, and the logit of the "
    "class",
    "bev": "State for a later frame; TensorRT keeps it on the GPU",
    "camera_features": "Mean and deviation of every channel of each image's features, for [health](health.md)",
    "map_features": "The same of the maps of cameras, radars and both",
}

# Keys of model_spec.json that are no facts of the model: what stands there when it is written today.
VERSIONS = (
    ("minor", MINOR, "Version of the bundle, the number after the point"),
    ("runtime", RUNTIME, "The oldest bev_perception, major.minor, that runs the bundle"),
)


def page() -> str:
    bundle = load_bundle(SHIPPED)
    spec = bundle.spec
    other = dataclasses.replace(spec, radar=dataclasses.replace(spec.radar, format="pillars"))
    names = {tensor.name for tensor in spec.inputs()}
    more = dataclasses.replace(spec, health=HealthSpec(128, 320)).outputs()[len(spec.outputs()) :]
    said = dataclasses.replace(spec, spread=SPREAD_PARTS).outputs()
    extra = [tensor for tensor in other.inputs() if tensor.name not in names]
    later = ", ".join(
        code(f"{part}{name}")
        for kind, part in ((RadarSpec, "radar."), (ImageSpec, "image."), (ModelSpec, ""))
        for name in (*ADDED_LATER[kind], *(OLDEST if kind is ModelSpec else ()))
    )
    enforced = ENFORCED.format(format=spec.format, minor=MINOR, later=later, facts=FACTS_KEY, limit=TIME_LIMIT_S)
    source = "bev_perception/model_spec.py, the shipped bundle and docs/pages/bundle.py"
    return join(
        *("# The model bundle", written_by(source), HEAD),
        *("## What the node enforces", enforced),
        *(
            "## The golden sample",
            GOLDEN,
            tolerances(),
            "## The golden frame",
            FRAME.format(kept=KEPT, match=MATCH_M),
            frame_tolerances(),
        ),
        *("## Versions", VERSION.format(format=FORMAT, minor=MINOR)),
        *("## As one file", ARCHIVE.format(members=FILES_LIMIT, limit="4 GiB")),
        *("## The signature", SIGNED),
        *("## Bundles of earlier versions", UPGRADE, "## The card", CARD),
        *("## model_spec.json", facts(spec), *nested_facts(spec)),
        *("## What the network takes", TAKES, tensor_table((*spec.inputs(), *extra))),
        *("## What the network gives", GIVES, tensor_table((*said, *more))),
    )


def facts(part: Any) -> str:
    """Every key of one dataclass of the spec. Raises ValueError for one that FACTS lacks or has too much."""
    names, texts = [f.name for f in dataclasses.fields(part)], FACTS[type(part)]
    if set(names) != set(texts):
        differ = sorted(set(names) ^ set(texts))
        raise ValueError(f"{type(part).__name__}: {', '.join(differ)}: say in FACTS what each key means, and no other")
    rows = [(code(name), shown(getattr(part, name)), texts[name]) for name in names]
    if isinstance(part, ModelSpec):
        rows += [(code(name), code(value), text) for name, value, text in VERSIONS]
    return table(("key", "in the shipped model", "meaning"), rows)


def nested_facts(spec: ModelSpec) -> list[str]:
    """A heading, the class's own words and a table for each part of the spec."""
    parts = []
    for name in (f.name for f in dataclasses.fields(spec) if dataclasses.is_dataclass(getattr(spec, f.name))):
        part = getattr(spec, name)
        parts += [f"### {name}", inspect.getdoc(type(part)) or "", facts(part)]
    return parts


def shown(value: Any) -> str:
    """As JSON has it, long ones by their first element."""
    if dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, dict | tuple) and not value:
        return "none"
    if isinstance(value, dict):
        name, first = next(iter(value.items()))
        return f"`{name}`: {json.dumps(to_plain(first))}, and {len(value) - 1} more"
    if isinstance(value, tuple):
        return ", ".join(map(code, value))
    return code(f"{value[:12]}..." if len(str(value)) > 40 else value)


def tensor_table(tensors: tuple[TensorSpec, ...]) -> str:
    rows = [(code(t.name), " x ".join(map(str, t.shape)), t.dtype, TENSORS[t.name]) for t in tensors]
    return table(("name", "shape", "type", "meaning"), rows)


def frame_tolerances() -> str:
    rows = [
        (precision, f"{t.score:g}", f"{t.box:g}", f"{t.unmatched:.0%}", f"{t.differing:.0%}")
        for precision, t in FRAME_TOLERANCES.items()
    ]
    head = (
        *("precision", "scores, absolute", "boxes and velocities, times the value where that is above 1; yaw, rad"),
        *("detections that may have given way to others", "others that may differ by more"),
    )
    return table(head, rows)


def tolerances() -> str:
    rows = [
        (precision, f"{t.score:g}", f"{t.box:g}", f"{t.state:g}", f"{t.unmatched:.0%}", f"{t.differing:.0%}")
        for precision, t in TOLERANCES.items()
    ]
    head = (
        *("precision", "scores, absolute", "boxes, times the value where that is above 1"),
        *("`bev`, times its largest value", "candidates that may move to another cell"),
        "others that may differ by more",
    )
    return table(head, rows)
