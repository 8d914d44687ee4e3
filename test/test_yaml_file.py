"""The one reader of YAML: what means one thing is read, what could mean two is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from bev_perception.calibration import CalibrationError, load_extrinsics
from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.parameters import ParameterError, make_config, parse_yaml
from bev_perception.yaml_file import SIZE_LIMIT, YamlError, parse_yaml_text, read_yaml

ROOT = Path(__file__).resolve().parent.parent
# Every name refers to the one before nine times: 10^9 values in 300 bytes.
LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
MERGES = "a: &a {x: 1}\nb: {<<: *a, y: 2}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("a: 1", {"a": 1}),
        ("a: -0.5\nb: 1e3\nc: .5\nd: 1.\ne: +2.5E-3", {"a": -0.5, "b": 1000.0, "c": 0.5, "d": 1.0, "e": 0.0025}),
        ("a: '1:30'\nb: \"on\"\nc: '010'", {"a": "1:30", "b": "on", "c": "010"}),
        ("a: true\nb: False\nc: null\nd:\ne: ~", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        ("a: .inf\nb: -.INF", {"a": math.inf, "b": -math.inf}),
        ("radar_fields: {x: px, y: py}", {"radar_fields": {"x": "px", "y": "py"}}),
        ("a: [1, 2.0, x]\nb:\n- c: d\n", {"a": [1, 2.0, "x"], "b": [{"c": "d"}]}),
        ("a: /camera/front\nb: package://x/y", {"a": "/camera/front", "b": "package://x/y"}),
        ("a: |\n  text\n  1:30\n", {"a": "text\n1:30\n"}),
        ("/**: {ros__parameters: {a: b}}", {"/**": {"ros__parameters": {"a": "b"}}}),
    ],
)  # fmt: skip
def test_what_means_one_thing_is_read(text: str, value: object) -> None:
    found = parse_yaml_text(text)
    assert found == value and repr(found) == repr(value), "types included"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3: key `a` a second time"),
        ("a: {b: 1, b: 1}", "key `b` a second time"),
        ("a: 1:30", r"line 1: `1:30` means different things"),
        ("a: 1:30.5", "`1:30.5` means"),
        ("a: 190:20:30", "means different things"),
        ("a: 010", "`010` means"),
        ("a: 0o10", "means"),
        ("a: 0x1F", "means"),
        ("a: 0b11", "means"),
        ("a: 1_000", "means"),
        ("a: 1_000.5", "means"),
        ("a: 010.5", "means"),
        ("a: yes", "`yes` means"),
        ("a: off", "means"),
        ("a: y", "means"),
        ("a: 2026-01-02", "means"),
        ("a: 123456789012345678901234567890", "means"),
        ("a: 1e999", "beyond what a number holds"),
        (LAUGHS, "alias `\\*a0`; write the value out"),
        (MERGES, "write every key out, merge keys are not read"),
        ("a: &a 1\nb: *a", "alias"),
        ("a: !!python/object/apply:os.system ['true']", "tag `tag:yaml.org,2002:python/object/apply:os.system`"),
        ("a: !!binary aGk=", "tag"),
        ("a: !!int 'x'", "tag"),
        ("a: !!set {b}", "tag"),
        ("? [1, 2]\n: 3", "a key that is no name"),
        ("{'': 3}", "a key that is no name"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("a: [", "cannot be read as YAML"),
        ("a: b: c", "cannot be read as YAML"),
        ("\x07", "cannot be read as YAML"),
        ("[" * 5000, "more than 32 levels"),
        ("{a: " * 50 + "}" * 50, "more than 32 levels"),
    ],
)
def test_what_could_mean_two_things_is_refused(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        parse_yaml_text(text)


def test_what_is_no_text_within_bounds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(YamlError, match=r"f\.yaml: cannot be read as YAML \(is not UTF-8 \(byte 3: 0xff\)\)"):
        read_yaml(path)
    path.write_text("# " + "x" * SIZE_LIMIT)
    with pytest.raises(YamlError, match="at most 262144 are read"):
        read_yaml(path)
    with pytest.raises(YamlError, match="is no regular file"):
        read_yaml(tmp_path)
    with pytest.raises(YamlError, match="is no regular file"):
        read_yaml("/dev/zero")


@pytest.mark.parametrize("path", sorted((ROOT / "bev_perception" / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_files_are_read_as_ever(path: Path) -> None:
    assert read_yaml(path) == yaml.safe_load(path.read_text())


def test_its_errors_are_those_of_who_reads(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(LAUGHS)
    with pytest.raises(ParameterError, match=r"f\.yaml: line 2: alias"):
        parse_yaml(path)
    with pytest.raises(CalibrationError, match=r"f\.yaml: line 2: alias"):
        load_extrinsics(path, "base_link", [])
    path.write_text("base_frame: base_link\nsensors:\n  A: {translation: [1:30, 0, 0], rotation_wxyz: [1, 0, 0, 0]}\n")
    with pytest.raises(CalibrationError, match="line 3: `1:30` means"):
        load_extrinsics(path, "base_link", ["A"])


def test_a_parameter_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("/**: {ros__parameters: {sync.deadline_ms: 1.0, sync: {deadline_ms: 2.0}}}")
    with pytest.raises(ParameterError, match=r"sync\.deadline_ms stands there twice"):
        parse_yaml(path)
    path.write_text("bev_perception: {ros__parameters: {a: 1}}\n/bev_perception: {ros__parameters: {a: 2}}")
    with pytest.raises(ParameterError, match="are the same node"):
        parse_yaml(path)


def test_two_sensors_on_one_topic_are_refused() -> None:
    spec = ModelSpec("m", ("a", "b"), ("r",), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0))
    for values, message in (
        ({"cameras.a.topic": "/x", "cameras.b.topic": "/x"}, r"cameras\.a\.topic, cameras\.b\.topic: all name"),
        ({"cameras.a.topic": "/x", "radars.r.topic": "x"}, r"cameras\.a\.topic, radars\.r\.topic"),
        ({"cameras.a.info_topic": "/camera/b/camera_info"}, r"cameras\.a\.info_topic, cameras\.b\.info_topic"),
        ({"odometry.topic": "/radar/r/points"}, r"odometry\.topic, radars\.r\.topic"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=message):
            make_config({"bundle": "b", **values}, spec)
    make_config({"bundle": "b"}, spec)
