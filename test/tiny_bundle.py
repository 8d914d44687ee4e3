"""A small bundle with exactly the interface of ModelSpec, so that engines are tested without a trained student.

The graph has a student's kinds of operators (uint8 image, convolutions, ego-motion warp by GridSample, max-pool NMS,
top-K); `reference` computes the same in plain numpy, and the golden sample comes from it, not from an engine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model

from bev_perception.bundle import GOLDEN, GOLDEN_FRAME, MODEL, Bundle, load_bundle, with_facts
from bev_perception.bundle import SPEC as SPEC_FILE
from bev_perception.frame_proof import record_golden_frame
from bev_perception.golden_pattern import pattern_frames
from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, TemporalSpec

SPEC = ModelSpec(
    name="tiny",
    cameras=("cam_a", "cam_b"),
    radars=("radar_a",),
    score_threshold=dict.fromkeys(CLASSES, 0.1),
    nms_radius=dict.fromkeys(CLASSES, 1.0),
    grid=BevGrid(-4.0, 4.0, -3.0, 3.0, 0.5),  # 16 x 12 cells
    image=ImageSpec(height=8, width=16),
    temporal=TemporalSpec(state_channels=6),
    top_k=20,
)

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (uint8[2,8,16,3] images, float[2,4,4] img_from_ego, float[2] camera_valid, float[7,16,12] radar_bev,
      float[1] radar_valid, float[6,16,12] prev_bev, float[4,4] prev_from_curr, float[1] prev_valid, float[1] prev_dt)
  => (float[20] scores, int64[20] labels, int64[20] cells, float[20,10] boxes, float[6,16,12] bev)
{
  pixels = Cast <to = 1> (images)
  brightness = ReduceMean <axes = [1, 2, 3], keepdims = 0> (pixels)
  scaled = Mul (brightness, c_255)
  seen = Mul (scaled, camera_valid)
  projected = ReduceMean <axes = [1, 2], keepdims = 0> (img_from_ego)
  both = Mul (seen, projected)
  light = ReduceSum <keepdims = 0> (both)

  masked = Mul (radar_bev, radar_valid)
  radar = Unsqueeze (masked, axis_0)
  radar_features = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (radar, w_radar)

  moved = MatMul (c_centers, prev_from_curr)
  xy = Slice (moved, c_0, c_2, c_1)
  normalised = Div (xy, c_half)
  yx_grid = Gather <axis = 1> (normalised, c_swap)
  flow = Reshape (yx_grid, s_grid)
  prev = Unsqueeze (prev_bev, axis_0)
  warped = GridSample <align_corners = 0, mode = "bilinear", padding_mode = "zeros"> (prev, flow)
  weight = Mul (prev_valid, prev_dt)
  memory = Mul (warped, weight)

  sum = Add (radar_features, memory)
  lit = Add (sum, light)
  features = Relu (lit)
  mixed = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (features, w_mix)
  state = Tanh (mixed)
  bev = Squeeze (state, axis_0)

  logits = Conv <kernel_shape = [1, 1]> (state, w_heat)
  heat = Sigmoid (logits)
  highest = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (heat)
  is_peak = Equal (heat, highest)
  peaks = Where (is_peak, heat, c_zero)
  flat = Reshape (peaks, s_flat)
  scores, index = TopK (flat, c_k)
  labels = Div (index, c_cells)
  before = Mul (labels, c_cells)
  cells = Sub (index, before)
  maps = Conv <kernel_shape = [1, 1]> (state, w_box)
  rows = Reshape (maps, s_rows)
  columns = Gather <axis = 1> (rows, cells)
  boxes = Transpose (columns)
}
"""


def weights(spec: ModelSpec = SPEC, seed: int = 7) -> dict[str, np.ndarray]:
    """The initialisers of GRAPH."""
    rng = np.random.default_rng(seed)
    x, y = spec.grid.shape
    c = spec.temporal.state_channels
    centers = np.concatenate([spec.grid.centers().reshape(-1, 2), np.zeros((x * y, 1)), np.ones((x * y, 1))], axis=1)

    def normal(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    integers = {
        "axis_0": [0], "c_0": [0], "c_1": [1], "c_2": [2], "c_swap": [1, 0], "c_k": [spec.top_k], "c_cells": [x * y],
        "s_grid": [1, x, y, 2], "s_flat": [-1], "s_rows": [10, x * y],
    }  # fmt: skip
    return {
        "w_radar": normal(c, 7, 3, 3), "w_mix": normal(c, c, 3, 3),
        "w_heat": normal(10, c, 1, 1), "w_box": normal(10, c, 1, 1),
        "c_255": np.float32([1 / 255]), "c_zero": np.float32([0]),
        "c_half": np.float32([spec.grid.x_max, spec.grid.y_max]), "c_centers": centers.astype(np.float32),
        **{name: np.array(value, dtype=np.int64) for name, value in integers.items()},
    }  # fmt: skip


def make_inputs(spec: ModelSpec = SPEC, seed: int = 0) -> dict[str, np.ndarray]:
    """Random valid inputs; the previous frame was a metre behind."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for tensor in spec.inputs():
        if tensor.dtype == "uint8":
            inputs[tensor.name] = rng.integers(0, 256, tensor.shape, dtype=np.uint8)
        else:
            inputs[tensor.name] = rng.normal(size=tensor.shape).astype(np.float32)
    for name in ("camera_valid", "radar_valid", "prev_valid"):
        inputs[name] = np.ones_like(inputs[name])
    inputs["prev_from_curr"] = np.eye(4, dtype=np.float32)
    # The graph multiplies row vectors: the translation stands in the last row.
    inputs["prev_from_curr"][3, :2] = 1.1, 0.2
    inputs["prev_dt"][:] = 0.5
    return inputs


def reference(inputs: dict[str, np.ndarray], spec: ModelSpec = SPEC, seed: int = 7) -> dict[str, np.ndarray]:
    """The graph in float64 numpy."""
    w = {name: value.astype(np.float64) for name, value in weights(spec, seed).items()}
    i = {name: value.astype(np.float64) for name, value in inputs.items()}
    x, y = spec.grid.shape
    light = (i["images"].mean(axis=(1, 2, 3)) / 255 * i["camera_valid"] * i["img_from_ego"].mean(axis=(1, 2))).sum()
    at = (w["c_centers"] @ i["prev_from_curr"])[:, :2] / w["c_half"]
    rows = (at[:, 0] + 1) * x / 2 - 0.5
    columns = (at[:, 1] + 1) * y / 2 - 0.5
    memory = _bilinear(i["prev_bev"], rows, columns).reshape(-1, x, y) * i["prev_valid"] * i["prev_dt"]
    features = np.maximum(_conv(i["radar_bev"] * i["radar_valid"], w["w_radar"]) + memory + light, 0)
    bev = np.tanh(_conv(features, w["w_mix"]))
    heat = 1 / (1 + np.exp(-_conv(bev, w["w_heat"])))
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    highest = np.max([padded[:, a : a + x, b : b + y] for a in range(3) for b in range(3)], axis=0)
    flat = np.where(heat == highest, heat, 0).ravel()
    index = np.argsort(-flat, kind="stable")[: spec.top_k]
    cells = index % (x * y)
    outputs = {
        "scores": flat[index],
        "labels": index // (x * y),
        "cells": cells,
        "boxes": _conv(bev, w["w_box"]).reshape(10, -1)[:, cells].T,
        "bev": bev,
    }
    return {t.name: outputs[t.name].astype(t.dtype) for t in spec.outputs()}


def _conv(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Same-size convolution, zeros outside."""
    _, x, y = maps.shape
    r = kernel.shape[2] // 2
    padded = np.pad(maps, ((0, 0), (r, r), (r, r)))
    return sum(
        np.einsum("oc,cxy->oxy", kernel[:, :, a, b], padded[:, a : a + x, b : b + y])
        for a in range(2 * r + 1)
        for b in range(2 * r + 1)
    )


def _bilinear(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(C, X, Y) read at P fractional positions, zeros outside -> (C, P)."""
    result = np.zeros((len(maps), len(rows)))
    for a in (0, 1):
        for b in (0, 1):
            r, c = np.floor(rows).astype(int) + a, np.floor(columns).astype(int) + b
            inside = (r >= 0) & (r < maps.shape[1]) & (c >= 0) & (c < maps.shape[2])
            share = (1 - np.abs(rows - r)) * (1 - np.abs(columns - c)) * inside
            result += share * maps[:, np.where(inside, r, 0), np.where(inside, c, 0)]
    return result


def make_model(graph: str = GRAPH, spec: ModelSpec = SPEC, seed: int = 7) -> onnx.ModelProto:
    """GRAPH with its initialisers."""
    model = parse_model(graph)
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights(spec, seed).items())
    onnx.checker.check_model(model)
    return model


class Reference:
    """`reference` as an engine: the golden frame comes from it, not from an engine either."""

    name = "numpy"
    spec = SPEC
    details: dict[str, str] = {}  # noqa: RUF012

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return reference(inputs)

    def fetch(self, value: np.ndarray) -> np.ndarray:
        return value


@cache
def golden_files(cameras: tuple[str, ...] = SPEC.cameras, radars: tuple[str, ...] = SPEC.radars) -> dict[str, bytes]:
    """golden.npz and golden_frame.npz of SPEC, with sensors of these names."""
    inputs = make_inputs(SPEC)
    golden = {f"in.{name}": value for name, value in inputs.items()}
    golden |= {f"out.{name}": value for name, value in reference(inputs).items()}
    file = io.BytesIO()
    np.savez(file, **golden)
    engine = Reference()
    engine.spec = dataclasses.replace(SPEC, cameras=cameras, radars=radars)
    return {GOLDEN: file.getvalue(), GOLDEN_FRAME: record_golden_frame(engine, pattern_frames(engine.spec))}


def write_bundle(path: Path, model: onnx.ModelProto | None = None, spec: ModelSpec = SPEC) -> Bundle:
    """Write the tiny bundle to `path` and load it. The golden files are those of SPEC and of the model by default."""
    path.mkdir(parents=True, exist_ok=True)
    data = with_facts((model or make_model()).SerializeToString(), spec)
    renamed = (len(spec.cameras), len(spec.radars)) == (len(SPEC.cameras), len(SPEC.radars))
    golden = golden_files(spec.cameras, spec.radars) if renamed else golden_files()
    spec = dataclasses.replace(spec, onnx_sha256=hashlib.sha256(data).hexdigest())
    for name, content in (golden | {MODEL: data, SPEC_FILE: spec.to_json().encode()}).items():
        (path / name).write_bytes(content)
    return load_bundle(path)
