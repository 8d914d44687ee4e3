"""What differs between TensorRT's versions, on stand-ins with the names that each has."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pytest

from bev_perception.inference import builder, tensorrt_api

ROOT = Path(__file__).parents[1]


class Layer(types.SimpleNamespace):
    """What of ILayer the types need. outputs: (tensor, type)."""

    def __init__(self, kind: str, *outputs: tuple[str, str]) -> None:
        super().__init__(type=types.SimpleNamespace(name=kind), num_outputs=len(outputs), told={}, precision=None)
        self.outputs = outputs

    def get_output(self, index: int) -> Any:
        name, dtype = self.outputs[index]
        return types.SimpleNamespace(name=name, dtype=types.SimpleNamespace(name=dtype))

    def set_output_type(self, index: int, dtype: str) -> None:
        self.told[index] = dtype


def version(*flags: str, network: tuple[str, ...], name: str = "tensorrt", **more: Any) -> Any:
    """A module with these builder flags and network flags."""
    return types.SimpleNamespace(
        __name__=name,
        BuilderFlag=types.SimpleNamespace(**{flag: flag for flag in flags}),
        NetworkDefinitionCreationFlag=types.SimpleNamespace(**{flag: i for i, flag in enumerate(network)}),
        DataType=types.SimpleNamespace(FLOAT="float", HALF="half"),
        **more,
    )


V8 = version("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "TF32", network=("EXPLICIT_BATCH", "EXPLICIT_PRECISION"))
V10 = version("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "TF32", network=("EXPLICIT_BATCH", "STRONGLY_TYPED"))
V11 = version("TF32", network=())
VERSIONS = {"8.6": (V8, 1), "10": (V10, 2), "11": (V11, 0)}


@pytest.mark.parametrize("name", VERSIONS)
def test_each_version_has_its_networks(name):
    trt, flag = VERSIONS[name]
    builder = types.SimpleNamespace(create_network=lambda flags: flags)
    assert tensorrt_api.create_network(trt, builder) == flag
    assert tensorrt_api.strongly_typed(trt) == (name != "8.6")


def test_where_types_are_not_the_networks_own_each_layer_is_told():
    layers = [
        Layer("CAST", ("x_fp16", "HALF")),
        Layer("CONVOLUTION", ("y_fp16", "FLOAT")),  # the ONNX has it in FP16, whatever TensorRT 8 would take
        Layer("SHUFFLE", ("within", "HALF")),  # of the parser's making
        Layer("TOPK", ("scores", "FLOAT"), ("index", "INT32")),
        Layer("QUANTIZE", ("q", "INT8")),
        Layer("SHAPE", ("s", "INT32")),
    ]
    network = types.SimpleNamespace(num_layers=len(layers), get_layer=lambda i: layers[i])
    flags: list[str] = []
    config = types.SimpleNamespace(set_flag=flags.append)
    types_of = {"x_fp16": 10, "y_fp16": 10, "scores": 1, "index": 7, "q": 3}
    assert tensorrt_api.constrain_types(V8, network, config, types_of) == 3
    assert [(layer.precision, layer.told) for layer in layers] == [
        (None, {}), ("half", {0: "half"}), ("half", {0: "half"}), ("float", {0: "float"}), (None, {}), (None, {}),
    ]  # fmt: skip
    assert flags == ["OBEY_PRECISION_CONSTRAINTS", "FP16", "INT8"]
    flags.clear()
    assert tensorrt_api.constrain_types(V8, types.SimpleNamespace(num_layers=0), config, {"x": 1}) == 0
    assert flags == ["OBEY_PRECISION_CONSTRAINTS"], "fp32 is not a mixture"
    for trt in (V10, V11):
        flags.clear()
        assert tensorrt_api.constrain_types(trt, network, config, types_of) == 0 and flags == []


def test_memory_of_a_context_by_either_name():
    assert tensorrt_api.context_bytes(types.SimpleNamespace(device_memory_size=5)) == 5
    assert tensorrt_api.context_bytes(types.SimpleNamespace(device_memory_size=5, device_memory_size_v2=6)) == 6


def test_errors_of_the_parser_by_either_name():
    old = types.SimpleNamespace(node=lambda: 7, desc=lambda: "no")
    new = types.SimpleNamespace(node=lambda: 7, desc=lambda: "no", node_name=lambda: "n", node_operator=lambda: "Det")
    assert tensorrt_api.parser_error(old) == "node 7 : no" and tensorrt_api.parser_error(new) == "node n (Det): no"


def test_without_a_progress_monitor_nothing_is_told():
    assert tensorrt_api.make_progress(V8, types.SimpleNamespace(), print) is None


class Timings:
    """What of IBuilderConfig keeps a timing cache. fits: whether an earlier one is taken."""

    def __init__(self, fits: bool) -> None:
        self.fits, self.cache = fits, None

    def create_timing_cache(self, data: bytes) -> Any:
        return types.SimpleNamespace(serialize=lambda: data + b"+")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if cache.serialize() != b"+" and not self.fits:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


def test_timings_of_earlier_builds_are_read_and_renewed(tmp_path):
    file, lines = tmp_path / "timings", []
    for fits, content in ((True, b"+"), (True, b"++"), (False, b"+")):
        config = Timings(fits)
        builder._take_timings(V10, config, str(file), lines.append)
        builder._keep_timings(V10, config, str(file), lines.append)
        assert file.read_bytes() == content
    assert [line.split(":")[0].split(" ")[0:2] for line in lines] == [
        ["timings", "for"], ["timings", "of"], ["timings", "for"], ["timings", "begin"], ["timings", "for"],
    ]  # fmt: skip
    builder._keep_timings(V10, Timings(True), "", lines.append)
    (tmp_path / "folder").mkdir()
    config = Timings(True)
    builder._take_timings(V10, config, str(tmp_path / "folder"), lines.append)
    builder._keep_timings(V10, config, str(tmp_path / "folder"), lines.append)
    assert "is no regular file" in lines[-2] and "cannot be written" in lines[-1]


def test_versions_differ_in_one_file_only():
    names = r"hasattr\(|STRONGLY_TYPED|EXPLICIT_BATCH|OBEY_PRECISION|device_memory_size|IProgressMonitor|node_operator"
    for file in (ROOT / "bev_perception").rglob("*.py"):
        text = file.read_text()
        if "tensorrt" in text and file.name not in ("tensorrt_api.py", "parameter_table.py"):
            found = [line.strip() for line in text.splitlines() if re.search(names, line)]
            assert found == [], file
