"""The spec's JSON and the bundle on disk: everything that is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("onnx")
import tiny_bundle

from bev_perception.model_spec import CLASSES, BundleError, ModelSpec, load_bundle, parse_spec
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
        (edited(["format"], 2), "format 2, this version reads 1"),
        (edited(["surprise"], 1), r"unknown keys \['surprise'\]"),
        (edited(["top_k"], None), r"missing keys \['top_k'\]"),
        (edited(["grid"], 3), "`grid` must be an object"),
        (edited(["grid", "step"], None), r"grid: .*missing keys \['step'\]"),
        (edited(["grid", "step"], 0.7), "whole number"),
        (edited(["image", "width"], "352"), "`width` must be of type int, found '352'"),
        (edited(["image", "interpolation"], "cubic"), "image.interpolation must be one of"),
        (edited(["image", "color_order"], "gbr"), "image.color_order must be one of"),
        (edited(["radar", "channels"], ["height"]), "radar.channels must be some of"),
        (edited(["top_k"], True), "`top_k` must be of type int"),
        (edited(["cameras"], "CAM_FRONT"), "`cameras` must be of type"),
        (edited(["nms_radius", "car"], None), "`nms_radius` must name exactly the classes"),
        (edited(["score_threshold", "ufo"], 0.5), "`score_threshold` must name exactly the classes"),
    ],
)
def test_malformed_specs_name_what_is_wrong(text, message):
    with pytest.raises(BundleError, match=message):
        parse_spec(text)


def test_every_radar_channel_can_be_made():
    maps = rasterise(np.ones((1, 7), np.float32), SPEC.grid, SPEC.radar.channels)
    assert maps.shape == (7, 128, 128) and (np.abs(maps).sum(axis=(1, 2)) > 0).all()


def test_bundles_are_verified(tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "ok")
    loaded = load_bundle(tmp_path / "ok")
    assert loaded.spec == bundle.spec
    inputs, outputs = loaded.golden()
    assert set(inputs) == {t.name for t in loaded.spec.inputs()}
    assert {"scores", "labels", "cells", "boxes"} <= set(outputs)
    onnx = tmp_path / "ok" / "model.onnx"
    onnx.write_bytes(onnx.read_bytes() + b"x")
    with pytest.raises(BundleError, match="was altered or belongs to another bundle"):
        load_bundle(tmp_path / "ok")
    onnx.unlink()
    with pytest.raises(BundleError, match=r"model.onnx is missing"):
        load_bundle(tmp_path / "ok")
