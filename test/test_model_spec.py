"""The spec's JSON and the bundle on disk: everything that is wrong is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from bev_perception import __version__, model_spec
from bev_perception.grid import BevGrid
from bev_perception.model_spec import (
    CLASSES,
    FORMAT,
    MINOR,
    RUNTIME,
    BundleError,
    HealthSpec,
    ImageSpec,
    ModelSpec,
    NmsGroup,
    RadarSpec,
    TemporalSpec,
    check_runtime,
    parse_spec,
)
from bev_perception.mounts import CameraMount
from bev_perception.preprocess.radar import rasterise

SPEC = ModelSpec(
    "m", ("a", "b"), ("r",), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), onnx_sha256="0" * 64
)


def test_json_round_trip():
    assert parse_spec(SPEC.to_json()) == SPEC


def test_shapes_follow_from_the_facts():
    shapes = {t.name: t.shape for t in (*SPEC.inputs(), *SPEC.outputs())}
    assert shapes["images"] == (2, 128, 352, 3) and shapes["radar_valid"] == (1,)
    assert shapes["prev_bev"] == shapes["bev"] == (64, 128, 128)
    assert shapes["radar_bev"] == (7, 128, 128) and shapes["boxes"] == (200, 10)


def names(tensors):
    return [t.name for t in tensors]


def test_a_model_without_cameras_radars_or_memory_lacks_their_tensors():
    cameras, memory = (
        ["images", "img_from_ego", "camera_valid"],
        ["prev_bev", "prev_from_curr", "prev_valid", "prev_dt"],
    )
    radars, peaks = ["radar_bev", "radar_valid"], ["scores", "labels", "cells", "boxes"]
    assert names(SPEC.inputs()) == cameras + radars + memory and names(SPEC.outputs()) == [*peaks, "bev"]
    assert names(dataclasses.replace(SPEC, cameras=()).inputs()) == radars + memory
    assert names(dataclasses.replace(SPEC, radars=()).inputs()) == cameras + memory
    stateless = dataclasses.replace(SPEC, temporal=TemporalSpec(state_channels=0))
    assert names(stateless.inputs()) == cameras + radars and names(stateless.outputs()) == peaks
    assert parse_spec(stateless.to_json()) == stateless


def test_pillars_replace_the_map():
    spec = dataclasses.replace(SPEC, radar=RadarSpec(format="pillars", max_pillars=7, pillar_points=3))
    radar = {t.name: (t.shape, t.dtype) for t in spec.inputs() if t.name.startswith("radar_")}
    assert radar == {
        "radar_points": ((7, 3, 6), "float32"), "radar_counts": ((7,), "int32"), "radar_cells": ((7,), "int32"),
        "radar_valid": ((1,), "float32"),
    }  # fmt: skip
    assert spec.pillar_grid().shape == (1024, 1024) and parse_spec(spec.to_json()) == spec
    with pytest.raises(ValueError, match=r"radar.pillar_step must divide grid.step .* 0.3 and 0.8"):
        dataclasses.replace(SPEC, radar=RadarSpec(format="pillars", pillar_step=0.3))


def test_older_bundles_load_and_mean_what_they_meant():
    data = json.loads(SPEC.to_json())
    for key in ("format", "pillar_step", "max_pillars", "pillar_points"):
        del data["radar"][key]
    assert parse_spec(json.dumps(data)) == SPEC


def test_a_bundle_of_before_versions_were_stated_is_of_the_first():
    data = json.loads(SPEC.to_json())
    assert (data["format"], data["minor"], data["runtime"]) == (FORMAT, MINOR, RUNTIME)
    del data["minor"], data["runtime"]
    read = parse_spec(json.dumps(data))
    assert read == SPEC and read.to_json() == SPEC.to_json(), "what is written again is of this version"


def test_whoever_adds_a_field_raises_the_version():
    """When this fails: raise MINOR in model_spec.py (it says how), and write the fields of that version here."""
    kinds = (ModelSpec, BevGrid, ImageSpec, RadarSpec, TemporalSpec, NmsGroup, CameraMount, HealthSpec)
    names = " ".join(f"{kind.__name__}.{f.name}" for kind in kinds for f in dataclasses.fields(kind))
    assert (FORMAT, MINOR, hashlib.sha256(names.encode()).hexdigest()[:12]) == (1, 3, "34b51d715b59")
    assert tuple(map(int, RUNTIME.split("."))) <= tuple(map(int, __version__.split(".")[:2]))


@pytest.mark.parametrize(("needed", "runs"), [("0.0", True), ("0.1", True), ("0.10", False), ("1.0", False)])
def test_versions_are_numbers_not_texts(needed, runs, monkeypatch):
    monkeypatch.setattr(model_spec, "__version__", "0.2.9")
    if runs:
        check_runtime(needed, "here")
    else:
        with pytest.raises(BundleError, match=f"here: needs bev_perception {needed} or newer, this is 0.2.9"):
            check_runtime(needed, "here")


def edited(path, value):
    data = json.loads(SPEC.to_json())
    node = data
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format 'list'"),
        (
            edited(["format"], 2),
            r"format 2\.\d+, bev_perception .* reads 1\.0 to 1\.\d+; update bev_perception on this",
        ),
        (edited(["format"], 0), r"format 0\.\d+, bev_perception .* reads 1\.0 to 1\.\d+; export the bundle again with"),
        (edited(["format"], True), "format True, this version reads 1"),
        (edited(["minor"], 99), r"format 1\.99, .* update bev_perception on this machine to 0\.1 or newer, or export"),
        (edited(["minor"], -1), "minor -1, expected a number from 0 on"),
        (edited(["runtime"], "7.0"), r"needs bev_perception 7\.0 or newer, this is .*; update bev_perception on this"),
        (edited(["runtime"], "new"), r"runtime 'new', expected major\.minor, such as"),
        (edited(["surprise"], 1), r"unknown keys \['surprise'\]"),
        (edited(["top_k"], None), r"missing keys \['top_k'\]"),
        (edited(["grid"], 3), "grid must be an object"),
        (edited(["grid", "step"], None), r"grid: .*missing keys \['step'\]"),
        (edited(["grid", "step"], 0.7), "whole number"),
        (edited(["image", "width"], "352"), r"image\.width must be int, found '352'"),
        (edited(["image", "interpolation"], "cubic"), "image.interpolation must be one of"),
        (edited(["image", "color_order"], "gbr"), "image.color_order must be one of"),
        (edited(["radar", "channels"], ["height"]), "radar.channels must be some of"),
        (edited(["radar", "format"], "voxels"), "radar.format must be one of"),
        (edited(["radar", "max_pillars"], 0), "must be positive"),
        (edited(["radar", "sweeps"], None), r"radar: .*missing keys \['sweeps'\]"),
        (edited(["temporal", "state_channels"], -1), "temporal.state_channels must be 0"),
        (dataclasses.replace(SPEC, cameras=(), radars=()).to_json(), "`cameras` and `radars` are both empty"),
        (edited(["top_k"], True), "top_k must be int, found True"),
        (edited(["cameras"], "CAM_FRONT"), "cameras must be a list, found 'CAM_FRONT'"),
        (edited(["nms_radius", "car"], None), "`nms_radius` must name exactly the classes"),
        (edited(["score_threshold", "ufo"], 0.5), "`score_threshold` must name exactly the classes"),
        (edited(["score_threshold", "car"], 1.379), r"score_threshold.car must be within \[0, 1\], found 1.379"),
        (edited(["nms_radius", "car"], -1.0), "nms_radius.car must be within"),
        (edited(["radar", "sweeps"], 0), "radar.sweeps must be within"),
        (edited(["radar", "max_age_s"], -0.6), "radar.max_age_s must be within"),
        (edited(["radar", "rcs_dbsm"], [5.0, -5.0]), "radar.rcs_dbsm must be a lower and a higher number"),
        (edited(["radar", "channels"], ["rcs", "rcs"]), "each once"),
        (edited(["temporal", "min_age_s"], 0.7), "min_age_s <= interval_s <= max_age_s"),
        (edited(["cameras"], ["a", "a"]), r"\['a'\] stand there twice"),
        (edited(["radars"], ["a"]), r"\['a'\] stand there twice"),
        (edited(["cameras"], ["a/b"]), r"names of sensors and classes must match .* found \['a/b'\]"),
        (edited(["name"], "a\ud800"), "that of the model"),
        (edited(["grid", "x_max"], 1e9), "cells along x, at most"),
        (edited(["image", "width"], -5), "image.width must be within"),
        (edited(["top_k"], 10**12), "top_k must be within"),
        (edited(["temporal", "state_channels"], 10**9), "more than .* numbers"),
        (SPEC.to_json().replace('"top_k": 200', '"top_k": 200, "top_k": 100'), r"\['top_k'\] stand twice"),
        (SPEC.to_json().replace('"step": 0.8', '"step": NaN'), "NaN is no number"),
        (SPEC.to_json().replace('"step": 0.8', '"step": 1e999'), "1e999 is beyond what a float holds"),
        (SPEC.to_json().replace('"step": 0.8', '"step": 1' + 400 * "0"), "has 401 digits"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_malformed_specs_name_what_is_wrong(text, message):
    with pytest.raises(BundleError, match=message):
        parse_spec(text)


def test_every_radar_channel_can_be_made():
    maps = rasterise(np.ones((1, 7), np.float32), SPEC.grid, SPEC.radar.channels)
    assert maps.shape == (7, 128, 128) and (np.abs(maps).sum(axis=(1, 2)) > 0).all()
