"""Two thousand altered files, the same ones every time: a clear error or no harm; no traceback, nothing silently taken.

Specs, the other files of a bundle, parameter YAML and calibration YAML, 500 each. What is accepted must mean what it
meant before, or what another reader of the same text says that it means.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("onnx")
pytest.importorskip("hypothesis")
import tiny_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bev_perception.bundle import FACTS_KEY, GOLDEN, GOLDEN_FRAME, MODEL, SPEC, Bundle, load_bundle
from bev_perception.calibration import CalibrationError, load_extrinsics
from bev_perception.geometry import make_transform, rotation_from_quaternion
from bev_perception.golden_frame import read_golden_frame
from bev_perception.model_spec import BundleError
from bev_perception.onnx_file import read_metadata
from bev_perception.parameters import ParameterError, make_config, parse_yaml

CONFIG = Path(__file__).resolve().parent.parent / "bev_perception" / "config"
PARAMETERS = (CONFIG / "perception.param.yaml").read_text()
CALIBRATION = "".join((CONFIG / "nuscenes_like.calibration.yaml").read_text().splitlines(keepends=True)[:10])
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SHIPPED = load_bundle(CONFIG.parent / "bundles" / "demo").spec
FUZZ = settings(
    max_examples=500,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
# Texts that stand where a value stood: of JSON and of YAML, harmless and not.
TOKENS = [
    "null", "true", "0", "1", "-1", "2", "0.5", "-0.5", "1e3", "1e999", "-1e-320", "NaN", "Infinity", "-Infinity",
    "1:30", "010", "1_0", "0x10", "yes", "~", '""', '"x"', '"\\ud800"', '"a/b"', '"."', "[]", "{}", "[[]]", '[1, "x"]',
    '{"a": 1}', "1" * 30, "[" * 300, '"' + "x" * 2000 + '"', "*a", "&a 1", "!!int 3", "2026-01-01", "<<", "x", "'", "#",
    ":", "- 1", '["detections", ["markers"]]', '"~nobody/x"', '"\\u0000"', ".inf", ".nan", "\t", "é", "\x00", "\ufeff",
    "%", "@", "|",
]  # fmt: skip
tokens = st.sampled_from(TOKENS)
places = st.floats(0, 1, exclude_max=True)


def at(text: str | bytes, share: float) -> int:
    return int(share * len(text))


def altered_text(words: Callable[[str], list[tuple[int, int]]]) -> st.SearchStrategy[Callable[[str], str]]:
    """Changes of a text whose values stand at `words`, as functions."""

    def value(where: float, token: str) -> Callable[[str], str]:
        def change(text: str) -> str:
            spans = words(text)
            start, end = spans[int(where * len(spans))]
            return text[:start] + token + text[end:]

        return change

    def swap(one: float, other: float) -> Callable[[str], str]:
        def change(text: str) -> str:
            spans = words(text)
            (a, b), (c, d) = sorted(spans[int(x * len(spans))] for x in (one, other))
            return text if (a, b) == (c, d) else text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]

        return change

    def line(where: float, to: float, keep: bool) -> Callable[[str], str]:
        def change(text: str) -> str:
            lines = text.splitlines(keepends=True)
            moved = lines[int(where * len(lines))]
            if not keep:
                lines.remove(moved)
            lines.insert(int(to * len(lines)), moved)
            return "".join(lines)

        return change

    def splice(where: float, length: int, token: str) -> Callable[[str], str]:
        return lambda text: text[: at(text, where)] + token + text[at(text, where) + length :]

    one = st.one_of(
        st.builds(value, places, tokens),
        st.builds(value, places, st.floats(-1e3, 1e3).map(repr) | st.integers(-5, 400).map(str)),
        st.builds(swap, places, places),
        st.builds(line, places, places, st.booleans()),
        st.builds(splice, places, st.integers(0, 40), st.sampled_from(["", *TOKENS])),
    )
    return one


@cache
def json_values(text: str) -> list[tuple[int, int]]:
    """Spans of what stands behind a colon or in a list."""
    decoder, spans = json.JSONDecoder(), []
    for i, character in enumerate(text):
        if character in ":[," and not text[i + 1 :].lstrip().startswith("]"):
            start = i + 1 + len(text[i + 1 :]) - len(text[i + 1 :].lstrip())
            try:
                _, length = decoder.raw_decode(text[start:])
            except ValueError:
                continue
            spans.append((start, start + length))
    return spans


@cache
def yaml_values(text: str) -> list[tuple[int, int]]:
    """Spans of scalars."""
    scalars = [e for e in yaml.parse(text) if isinstance(e, yaml.ScalarEvent)]
    return [(e.start_mark.index, e.end_mark.index) for e in scalars]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("fuzz") / "bundle")


@pytest.fixture
def mended(bundle: Bundle) -> Iterator[Bundle]:
    kept = {file.name: file.read_bytes() for file in bundle.path.iterdir()}
    yield bundle
    for name, data in kept.items():
        (bundle.path / name).write_bytes(data)


@FUZZ
@given(change=altered_text(json_values))
def test_altered_specs_are_refused_or_mean_the_same(mended: Bundle, change: Callable[[str], str]) -> None:
    text = change(mended.spec.to_json())
    (mended.path / SPEC).write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = load_bundle(mended.path).spec
    except BundleError as error:
        assert len(str(error)) > 10
    else:
        assert found == mended.spec


def altered_bytes() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    def flip(where: float, bit: int) -> Callable[[bytes], bytes]:
        def change(data: bytes) -> bytes:
            i = at(data, where)
            return data[:i] + bytes([data[i] ^ (1 << bit)]) + data[i + 1 :]

        return change

    def splice(where: float, length: int, new: bytes) -> Callable[[bytes], bytes]:
        return lambda data: data[: at(data, where)] + new + data[at(data, where) + length :]

    # Headers and lists of contents stand at the ends.
    ends = st.one_of(places, st.floats(0, 0.01), st.floats(0.9, 1, exclude_max=True))
    return st.one_of(
        st.builds(flip, ends, st.integers(0, 7)),
        st.builds(splice, ends, st.sampled_from([0, 1, 2, 4, 8, 100, 10**9]), st.binary(max_size=9)),
        st.just(lambda data: b""),
        st.just(lambda data: data + data),
    )


ARRAYS = [
    np.zeros(()), np.zeros(0), np.zeros((3, 0)), np.full(3, np.nan), np.full((2, 22), np.inf), np.array(["a", "cam_a"]),
    np.arange(3), np.full(2, -(2**63)), np.zeros((2, 3, 4, 5), np.uint8), np.array(True), np.full((2, 16), 1e308),
]  # fmt: skip


READERS: dict[str, Callable[[Bundle], Any]] = {GOLDEN: Bundle.golden, GOLDEN_FRAME: read_golden_frame}
ARRAYS_BEFORE = {
    name: {key: array for key, array in np.load(io.BytesIO(data)).items()}
    for name, data in tiny_bundle.golden_files().items()
}


@FUZZ
@given(
    name=st.sampled_from([MODEL, MODEL, GOLDEN, GOLDEN_FRAME]),
    change=altered_bytes(),
    array=st.none() | st.tuples(places, st.sampled_from(range(len(ARRAYS)))),
)
def test_altered_files_are_refused_or_mean_the_same(
    mended: Bundle, name: str, change: Callable[[bytes], bytes], array: tuple[float, int] | None
) -> None:
    """Of the .npz files also arrays that are whole and wrong; of the ONNX with the hash that its bytes have."""
    data, spec = (mended.path / name).read_bytes(), (mended.path / SPEC).read_bytes()
    before = ARRAYS_BEFORE.get(name, {})
    altered = change(data)
    if array is not None and before:
        where, which = array
        file = io.BytesIO()
        np.savez(file, **(before | {sorted(before)[int(where * len(before))]: ARRAYS[which]}))
        altered = file.getvalue()
    (mended.path / name).write_bytes(altered)
    if name == MODEL:
        digest = hashlib.sha256(altered).hexdigest()
        (mended.path / SPEC).write_text(mended.spec.to_json().replace(mended.spec.onnx_sha256, digest))
    try:
        if name == MODEL:
            assert read_metadata(load_bundle(mended.path).model())[FACTS_KEY] == mended.spec.facts()
        elif array is not None:
            READERS[name](mended)  # what is whole and wrong is refused here or by the proof, and breaks nothing
        else:
            READERS[name](mended)
            found = mended.arrays(name)
            assert {key: value.tobytes() for key, value in found.items()} == {
                key: value.tobytes() for key, value in before.items()
            }
    except BundleError as error:
        assert len(str(error)) > 10
    finally:
        (mended.path / name).write_bytes(data)
        (mended.path / SPEC).write_bytes(spec)


def same(one: Any, other: Any) -> bool:
    """Equal, with one type, NaN being itself; a text of PyYAML's that is a number of YAML 1.2 counts as that."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, str) and "e" in other.lower():
        return one == float(other)
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inside = isinstance(value, dict)
        found |= flattened(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found


@FUZZ
@given(change=altered_text(yaml_values))
def test_altered_parameters_are_refused_or_mean_what_they_say(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[str], str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.param.yaml"
    text = change(PARAMETERS)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = parse_yaml(path)
        make_config({"bundle": "b", **found}, SHIPPED)
    except ParameterError as error:
        assert len(str(error)) > 10
        return
    sections = yaml.load(text, LOADER)
    bodies = [sections[name]["ros__parameters"] for name in ("/**", "bev_perception") if name in sections]
    expected: dict[str, Any] = {}
    for body in bodies:
        expected |= flattened(body)
    assert same(found, expected), (found, expected)


SEATS = list(yaml.load(CALIBRATION, LOADER)["sensors"])


@FUZZ
@given(change=altered_text(yaml_values))
def test_altered_calibrations_are_refused_or_mean_what_they_say(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[str], str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.calibration.yaml"
    text = change(CALIBRATION)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = load_extrinsics(path, "base_link", SEATS)
    except CalibrationError as error:
        assert len(str(error)) > 10
        return
    sensors = yaml.load(text, LOADER)["sensors"]
    for name, pose in found.items():
        quaternion = np.array([float(q) for q in sensors[name]["rotation_wxyz"]])
        translation = np.array([float(x) for x in sensors[name]["translation"]])
        assert np.isfinite(pose).all()
        np.testing.assert_allclose(pose, make_transform(rotation_from_quaternion(quaternion), translation))
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
