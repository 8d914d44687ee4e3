"""The bundle on disk: every altered fact is refused by its name, nothing outside is read, nothing hangs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx
import tiny_bundle
from onnx import TensorProto, helper

from bev_perception.bundle import (
    FACTS_KEY,
    GOLDEN,
    GOLDEN_FRAME,
    MODEL,
    SPEC,
    Bundle,
    load_bundle,
    open_bundle,
    with_facts,
)
from bev_perception.files import aside
from bev_perception.inference.backend import open_backend
from bev_perception.inference.proof import self_test
from bev_perception.model_spec import BundleError, ModelSpec, parse_facts, parse_spec
from bev_perception.onnx_file import read_metadata, with_metadata
from bev_perception.upgrade_bundle import main, upgrade_bundle

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "bev_perception" / "bundles" / "demo"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle.write_bundle(tmp_path / "bundle")


def test_a_bundle_is_read_as_it_was_written(bundle: Bundle) -> None:
    loaded = load_bundle(bundle.path)
    assert loaded.spec == bundle.spec
    inputs, outputs = loaded.golden()
    assert set(inputs) == {t.name for t in loaded.spec.inputs()}
    assert {"scores", "labels", "cells", "boxes"} <= set(outputs)


@pytest.mark.parametrize("name", [MODEL, SPEC, GOLDEN, GOLDEN_FRAME])
def test_a_missing_file_is_named(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_bundle(bundle.path)


def test_a_replacement_that_was_interrupted_is_named(bundle: Bundle) -> None:
    os.rename(bundle.path, aside(bundle.path))
    with pytest.raises(BundleError, match=r"its replacement was interrupted; the one before lies whole in .*\.before"):
        load_bundle(bundle.path)


def test_an_altered_onnx_is_refused(bundle: Bundle) -> None:
    bundle.onnx_path.write_bytes(bundle.onnx_path.read_bytes() + b"x")
    with pytest.raises(BundleError, match="was altered or belongs to another bundle"):
        load_bundle(bundle.path)


def leaves(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in tree.items():
        inside = isinstance(value, dict) and value
        found += leaves(value, (*prefix, key)) if inside else [(*prefix, key)]
    return found


MOUNTED = ("height_m", "pitch_deg", "yaw_deg", "roll_deg", "view_deg")
# What the self-test let pass, and the fact that is named.
SPECIMENS: dict[str, Any] = {
    "classes": lambda v: v[::-1],
    "cameras": lambda v: v[::-1],
    "image.color_order": lambda v: "rgb",
    "image.interpolation": lambda v: "linear",
    "radar.channels": lambda v: [v[1], v[0], *v[2:]],
    "radar.format": lambda v: "pillars",
    "radar.rcs_dbsm": lambda v: [v[0], v[1] - 1],
    "radar.z_m": lambda v: [v[0], v[1] - 1],
    "grid.x_min": lambda v: v - 0.5,
    "grid.x_max": lambda v: v + 0.5,
    "grid.y_min": lambda v: v - 0.5,
    "grid.y_max": lambda v: v + 0.5,
    "grid.step": lambda v: v * 2,
    "radars": lambda v: ["RADAR_FRONT"],
    "name": lambda v: "other",
    "nms": lambda v: [{"classes": ["car"], "iou": 0.2, "scale": [], "most": 0}],
    "weights_sha256": lambda v: {"w.bin": "0" * 64},
    "precision": lambda v: "int8",
    "mounts": lambda v: {tiny_bundle.SPEC.cameras[0]: {key: [0.0, 1.0] for key in MOUNTED}},
    "spread": lambda v: ["aleatoric"],
}
OTHERWISE = {int: lambda v: v + 1, float: lambda v: v * 1.01}
NO_FACTS = ("onnx_sha256", "format", "minor", "runtime")  # but of the file itself
FACTS = [path for path in leaves(json.loads(tiny_bundle.SPEC.to_json())) if path[0] not in NO_FACTS]


@pytest.mark.parametrize("path", FACTS, ids=".".join)
def test_every_altered_fact_is_refused_by_its_name(tmp_path: Path, path: tuple[str, ...]) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    data = json.loads((bundle.path / SPEC).read_text())
    node = data
    for key in path[:-1]:
        node = node[key]
    name = ".".join(path)
    node[path[-1]] = SPECIMENS.get(name, OTHERWISE.get(type(node[path[-1]])))(node[path[-1]])
    assert parse_spec(json.dumps(data)) != bundle.spec, "the specimen is a spec that could be"
    (bundle.path / SPEC).write_text(json.dumps(data))
    with pytest.raises(BundleError, match=rf"was altered or belongs to another model: `{name}"):
        load_bundle(bundle.path)


def test_the_order_of_keys_and_the_writing_of_numbers_are_no_facts(bundle: Bundle) -> None:
    data = json.loads((bundle.path / SPEC).read_text())
    data["nms_radius"]["car"] = 1  # 1.0
    (bundle.path / SPEC).write_text(json.dumps(dict(reversed(data.items()))))
    assert load_bundle(bundle.path).spec == bundle.spec


def test_a_bundle_of_before_is_refused_with_the_way_out(bundle: Bundle, tmp_path: Path) -> None:
    age(bundle)
    (bundle.path / "model.sig").write_text("of the old files")
    with pytest.raises(BundleError, match=r"does not carry its facts.*upgrade_bundle .* or export it again"):
        load_bundle(bundle.path)
    upgraded = upgrade_bundle(bundle.path, tmp_path / "new")
    assert load_bundle(tmp_path / "new").spec == upgraded.spec and not (tmp_path / "new" / "model.sig").exists()
    old, new = onnx.load(bundle.path / MODEL), onnx.load(tmp_path / "new" / MODEL)
    assert old.graph.SerializeToString(deterministic=True) == new.graph.SerializeToString(deterministic=True)
    assert {p.key for p in new.metadata_props} - {p.key for p in old.metadata_props} == {FACTS_KEY}


def age(bundle: Bundle, model: bytes | None = None) -> None:
    """Make it one of an older version: no facts in the ONNX, no golden frame."""
    model = model or tiny_bundle.make_model().SerializeToString()
    (bundle.path / MODEL).write_bytes(model)
    spec = dataclasses.replace(bundle.spec, onnx_sha256=hashlib.sha256(model).hexdigest())
    (bundle.path / SPEC).write_text(spec.to_json())
    (bundle.path / GOLDEN_FRAME).unlink()


def test_an_upgrade_refuses_what_its_golden_sample_refuses(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    age(bundle, tiny_bundle.make_model(seed=8).SerializeToString())  # other weights
    assert main([str(bundle.path), str(tmp_path / "new")]) == 1
    assert "`scores` differs from the golden sample" in capsys.readouterr().err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bundle"], "nothing is left behind"
    (tmp_path / "new").mkdir()
    assert main([str(bundle.path), str(tmp_path / "new")]) == 1
    assert "is there already" in capsys.readouterr().err


def test_the_shipped_bundle_states_its_facts_for_this_version() -> None:
    """A field that came later is not in its text; it means what was done before."""
    bundle = load_bundle(SHIPPED)
    stated = parse_facts(read_metadata(bundle.model())[FACTS_KEY], "the shipped ONNX")
    assert dataclasses.replace(bundle.spec, onnx_sha256="") == stated


# ---- files outside


@pytest.mark.parametrize("name", [MODEL, SPEC, GOLDEN, GOLDEN_FRAME])
def test_a_link_out_of_the_bundle_is_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    shutil.move(bundle.path / name, tmp_path / name)
    (bundle.path / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match=f"{name} leads to {tmp_path / name}"):
        loaded = load_bundle(bundle.path)
        loaded.golden()
        loaded.arrays(GOLDEN_FRAME)


def external_model(folder: Path, location: str) -> bytes:
    """The tiny model with its weights in another file, which is written into `folder`."""
    onnx.save_model(
        tiny_bundle.make_model(), folder / "tmp.onnx", save_as_external_data=True, location="tmp.bin", size_threshold=0
    )
    model = onnx.load(folder / "tmp.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (folder / "tmp.onnx").unlink()
    (folder / "tmp.bin").rename(folder / "weights.bin")
    return model.SerializeToString()


def test_weights_in_a_file_of_the_bundle_are_the_same_network(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(bundle, external_model(bundle.path, "weights.bin"))
    decoy = tmp_path / "elsewhere"
    decoy.mkdir()
    (decoy / "weights.bin").write_bytes(bytes((bundle.path / "weights.bin").stat().st_size))
    monkeypatch.chdir(decoy)  # ONNX Runtime alone would read the weights of a model in memory from here
    with pytest.raises(BundleError, match=r"keeps weights in 'weights.bin', which the spec's `weights_sha256`"):
        open_bundle(bundle.path).model()
    upgraded = upgrade_bundle(bundle.path, tmp_path / "new")
    assert list(upgraded.spec.weights_sha256) == ["weights.bin"]
    backend = open_backend(upgraded, threads=1)
    assert self_test(backend, upgraded)["candidates_lost"] == 0
    data = bytearray((tmp_path / "new" / "weights.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "new" / "weights.bin").write_bytes(data)
    with pytest.raises(BundleError, match=r"weights\.bin has sha256"):
        open_backend(upgraded)


@pytest.mark.parametrize("location", ["../weights.bin", "OUTSIDE/weights.bin", "a/../weights.bin", "", "."])
def test_weights_outside_the_bundle_are_refused(bundle: Bundle, tmp_path: Path, location: str) -> None:
    location = location.replace("OUTSIDE", str(tmp_path))
    model = external_model(bundle.path, location)
    shutil.copy(bundle.path / "weights.bin", tmp_path / "weights.bin")
    age(bundle, model)
    with pytest.raises(BundleError, match=r"a bundle holds its files itself|copy the whole bundle"):
        upgrade_bundle(bundle.path, tmp_path / "new")
    spec = dataclasses.replace(open_bundle(bundle.path).spec, weights_sha256={location: "0" * 64})
    with pytest.raises(BundleError, match=r"a bundle holds its files itself|copy the whole bundle"):
        Bundle(bundle.path, spec).model()


# ---- sizes and time


def test_large_files_are_refused_before_they_are_read(bundle: Bundle) -> None:
    for name, size in ((SPEC, 2**21), (GOLDEN, 2**28), (MODEL, 2**32)):
        whole = (bundle.path / name).read_bytes()
        os.truncate(bundle.path / name, size)  # a hole: it takes no room
        with pytest.raises(BundleError, match=rf"{name}: has {size} bytes, at most"):
            loaded = load_bundle(bundle.path)
            loaded.golden()
        (bundle.path / name).write_bytes(whole)


def test_an_array_that_promises_more_than_there_is_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of 4 TB in a file of a kilobyte, and a kilobyte that unpacks to a megabyte."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    with zipfile.ZipFile(bundle.path / GOLDEN, "w") as archive:
        archive.writestr("in.images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(BundleError, match=r"\[1000000, 1000000\] does not fit 0 bytes"):
        bundle.golden()
    np.savez_compressed(bundle.path / GOLDEN, zeros=np.zeros(2**17))
    monkeypatch.setattr("bev_perception.bundle.ARRAY_LIMIT", 2**20)
    with pytest.raises(BundleError, match="bytes unpacked, at most 1048576"):
        bundle.golden()


def endless_model() -> Any:
    """The tiny model, whose peaks go through a loop that never ends."""
    model = tiny_bundle.make_model()
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["again"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go_on", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
        [value("again", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    loop = helper.make_node("Loop", ["", "always", "peaks"], ["looped"], body=body)
    at = next(i for i, node in enumerate(model.graph.node) if "flat" in node.output)
    model.graph.node[at].input[0] = "looped"
    model.graph.node.insert(at, loop)
    return model


def test_a_network_without_end_is_stopped(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", endless_model())
    backend = open_backend(bundle, threads=1)
    with pytest.raises(BundleError, match=r"self-test .* did not answer within 0\.3 s; it loops without end"):
        self_test(backend, bundle, limit_s=0.3)


def test_what_the_engine_raises_is_a_bundle_error(tmp_path: Path) -> None:
    """A graph that fits the spec and fails at run time: an index beyond its map."""
    model = tiny_bundle.make_model()
    at = next(i for i, node in enumerate(model.graph.node) if "columns" in node.output)
    model.graph.node[at].input[1] = "beyond"
    model.graph.initializer.append(helper.make_tensor("beyond", TensorProto.INT64, [20], [10**6] * 20))
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", model)
    with pytest.raises(BundleError, match=r"the engine failed|refuses it"):
        self_test(open_backend(bundle, threads=1), bundle)


# ---- the ONNX file


def test_facts_are_replaced_and_other_metadata_stay() -> None:
    model = tiny_bundle.make_model()
    model.metadata_props.add(key="author", value="Zoë")
    other = dataclasses.replace(tiny_bundle.SPEC, name="other")
    data = with_facts(with_facts(model.SerializeToString(), tiny_bundle.SPEC), other)
    assert read_metadata(data) == {"author": "Zoë", FACTS_KEY: other.facts()}
    found = {p.key: p.value for p in onnx.load_from_string(data).metadata_props}
    assert found == read_metadata(data), "onnx reads the same"


def test_metadata_that_state_a_key_twice_are_refused() -> None:
    twice = with_metadata(b"", "a", "1") + with_metadata(b"", "a", "2")
    with pytest.raises(ValueError, match="states `a` twice"):
        read_metadata(twice)


def test_facts_of_another_version_are_understood(bundle: Bundle) -> None:
    """Facts that were added later and that an older file lacks mean what they meant then."""
    facts = json.loads(bundle.spec.facts())
    for key in ("rcs_dbsm", "max_speed_mps", "z_m"):
        del facts["radar"][key]
    model = with_metadata(bundle.onnx_path.read_bytes(), FACTS_KEY, json.dumps(facts))
    bundle.onnx_path.write_bytes(model)
    spec: ModelSpec = dataclasses.replace(bundle.spec, onnx_sha256=hashlib.sha256(model).hexdigest())
    (bundle.path / SPEC).write_text(spec.to_json())
    assert load_bundle(bundle.path).spec == spec
