"""Tables of a nuScenes-format set that were altered: an error that names the file, or the same index as before."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from training.data.nuscenes import read_split
from training.data.source import Source
from training.data.table_fields import FIELDS
from training.data.tables import TABLES, index_arrays, table_paths

VERSION = "v1.0-trainval"
DRAWS = 240
SECONDS = 20  # that an alteration may take: far more than any does, far less than a run without end
VALUES: list[Any] = [
    None, True, "", "gone", "1.5", 0, -1, 2**70, 0.5, math.nan, math.inf, -math.inf, 1e300, [], {}, [[]], [None],
    ["gone"], [1, 2], [math.nan] * 3, [math.nan] * 4, [0, 0, 0], [0, 0, 0, 0], [1e12, 0, 0], [3.0, 0, 0, 0], ["1"] * 3,
    [True] * 3, [1, 2, [3]], [[1, 2], [3]], [[0] * 3] * 3, [["a"] * 3] * 3, {"a": 1}, "\0",
]  # fmt: skip
# Other values that are as good as those that were there: (table, field) -> why.
AS_GOOD = {
    ("attribute", "name"): "any name",
    ("category", "name"): "any name; what is of no class is left out",
    ("log", "vehicle"): "any name",
    ("scene", "name"): "any name",
    ("scene", "log_token"): "a log that is not there is of no synthetic vehicle",
    ("sensor", "channel"): "any name; what a run's spec asks for is looked for when it starts",
    ("sample_data", "filename"): "any name; files are looked for when they are read",
    ("sample_data", "is_key_frame"): "a sensor that has no key frame is missing in it",
    ("sample_data", "width"): "any size",
    ("sample_data", "height"): "any size",
    ("calibrated_sensor", "camera_intrinsic"): "none",
    ("sample_annotation", "num_lidar_pts"): "any count",
    ("sample_annotation", "num_radar_pts"): "any count",
    ("sample_annotation", "attribute_tokens"): "none",
    ("sample_annotation", "prev"): "none",
    ("sample_annotation", "next"): "none",
    ("sample_annotation", "translation"): "any place",
    ("calibrated_sensor", "translation"): "any place",
    ("ego_pose", "translation"): "any place",
}


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: json.loads((tiny_dataset / VERSION / f"{name}.json").read_text()) for name in TABLES}


@pytest.fixture
def folder(tiny_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset / VERSION, tmp_path / VERSION)
    return tmp_path


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise AssertionError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def arrays_of(root: Path) -> dict[str, Any]:
    """What an index holds, by name."""
    arrays, facts, _ = index_arrays(table_paths(root, VERSION))
    return {name: array.tobytes() for name, array in arrays.items()} | facts


def verdict(root: Path, table: str) -> str:
    """The message of the error that names a table; or "" with what is then in the index."""
    with within(SECONDS):
        try:
            arrays_of(root)
        except (ValueError, FileNotFoundError) as error:
            assert re.search(r"\w+\.json", str(error)), f"{table}: names no file: {error}"
            return str(error)
    return ""


def altered(rows: list[dict[str, Any]], table: str, draws: random.Random) -> tuple[str, str, Any]:
    """Change a table in place -> the kind of alteration, the field or "", and what stands there now."""
    kind = draws.choice(["value"] * 6 + ["other token", "missing key", "row twice", "row gone", "foreign row"])
    row = draws.choice(rows)
    name = draws.choice(sorted(FIELDS[table]))
    if kind == "value":
        row[name] = draws.choice(VALUES)
        return kind, name, row[name]
    if kind == "other token":
        name = draws.choice([n for n in FIELDS[table] if n.endswith(("token", "next", "prev"))])
        row[name] = draws.choice(rows)["token"]
        return kind, name, row[name]
    if kind == "missing key":
        del row[name]
    elif kind == "row twice":
        rows.append(dict(row))
    elif kind == "row gone":
        rows.remove(row)
    else:
        rows[rows.index(row)] = draws.choice([None, 3, "row", [], {}])
    return kind, name if kind == "missing key" else "", None


@pytest.mark.parametrize("seed", range(8))
def test_an_altered_table_is_named_or_changes_nothing(
    seed: int, folder: Path, whole: dict[str, list[dict[str, Any]]]
) -> None:
    draws, before, refused = random.Random(seed), arrays_of(folder), 0
    for _ in range(DRAWS // 8):
        table = draws.choice(TABLES)
        rows = json.loads(json.dumps(whole[table]))
        kind, name, value = altered(rows, table, draws)
        path = folder / VERSION / f"{table}.json"
        path.write_text(json.dumps(rows))
        what = f"{table}.json: {kind} {name} {value!r:.60}"
        said = verdict(folder, table)
        if said:
            refused += 1
        elif kind == "row gone":  # annotations at the ends of their chains, files between keyframes, unused rows
            assert table in ("attribute", "category", "instance", "log", "sample_annotation", "sample_data", "ego_pose")
        elif (table, name) not in AS_GOOD and kind != "other token":  # of the same table: another set that can be
            assert arrays_of(folder) == before, f"taken without a word: {what}"
        path.write_text(json.dumps(whole[table]))
    assert refused > DRAWS // 8 // 2


def test_an_error_names_the_row(folder: Path, whole: dict[str, list[dict[str, Any]]]) -> None:
    for table in TABLES:
        for name in FIELDS[table]:
            rows = json.loads(json.dumps(whole[table]))
            rows[-1][name] = {"a": 1}
            (folder / VERSION / f"{table}.json").write_text(json.dumps(rows))
            said = verdict(folder, table)
            assert f"{table}.json: row {len(rows) - 1} (from 0)" in said and f"has {name} = " in said, said
        (folder / VERSION / f"{table}.json").write_text(json.dumps(whole[table]))


@pytest.mark.parametrize("content", [b"", b"[", b"[{]", b"null", b"3", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_table(folder: Path, content: bytes) -> None:
    for table in TABLES:
        path = folder / VERSION / f"{table}.json"
        kept = path.read_bytes()
        for text in (content, kept[: len(kept) * 2 // 3]):
            path.write_bytes(text)
            assert f"{table}.json" in verdict(folder, table)
        path.write_bytes(kept)


def edit(folder: Path, table: str, change: Any) -> str:
    path = folder / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    return verdict(folder, table)


def test_a_chain_that_comes_back_ends(folder: Path) -> None:
    def cycle(rows: list[dict[str, Any]]) -> None:
        ends = [row for row in rows if not row["next"]]
        ends[0]["next"] = ends[0]["prev"]

    assert re.search(
        r"chain of `next` of scene 'scene-\d+', at '\w+', comes back to a sample", edit(folder, "sample", cycle)
    )


def test_a_chain_that_leads_elsewhere_or_back_in_time(folder: Path) -> None:
    def join(rows: list[dict[str, Any]]) -> None:
        end = next(row for row in rows if not row["next"])
        end["next"] = next(row for row in rows if row["scene_token"] != end["scene_token"] and not row["prev"])["token"]

    kept = (folder / VERSION / "sample.json").read_bytes()
    assert "leads into another scene" in edit(folder, "sample", join)
    (folder / VERSION / "sample.json").write_bytes(kept)
    assert "goes back in time" in edit(folder, "sample", lambda rows: rows[1].update(timestamp=1))


def test_stamps_of_another_unit_and_second_key_frames(folder: Path) -> None:
    kept = (folder / VERSION / "sample_data.json").read_bytes()

    def in_milliseconds(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["timestamp"] //= 1000

    def twice(rows: list[dict[str, Any]]) -> None:
        rows.append(next(row for row in rows if row["is_key_frame"]) | {"token": "another"})

    assert "(microseconds)" in edit(folder, "sample_data", in_milliseconds)
    (folder / VERSION / "sample_data.json").write_bytes(kept)
    assert "is a second key frame of its sample" in edit(folder, "sample_data", twice)


def test_a_vehicle_that_is_elsewhere_at_once(folder: Path) -> None:
    def other(rows: list[dict[str, Any]]) -> None:
        rows[len(rows) // 2]["translation"][0] += 50.0

    assert re.search(
        r"ego_pose\.json: row \d+ \(from 0\), at row \d+ \(from 0\), \S+ of sample_data\.json, the vehicle is 5\d m",
        edit(folder, "ego_pose", other),
    )


def test_neighbours_of_an_annotation_are_before_and_after_it(folder: Path) -> None:
    def itself(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row["prev"] and not row["next"])
        row["prev"] = row["token"]

    assert "which are not before and after it" in edit(folder, "sample_annotation", itself)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", '{"train": "scene-0000"}', '{"train": [3]}', '{"train": ["a", "a"]}']
)
def test_splits_that_are_none(folder: Path, content: str) -> None:
    (folder / "splits.json").write_text(content)
    with pytest.raises(ValueError, match=r"splits\.json: "):
        read_split(Source(folder), "train")
