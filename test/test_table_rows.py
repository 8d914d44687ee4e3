"""Tables read a block at a time, against json of the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from training.bench.large_set import BOXES, KEYFRAMES, RATES_HZ, SECONDS, write_tables
from training.data import table_rows
from training.data.index import open_index
from training.data.table_rows import row_blocks

ROWS = [
    {"token": f"{i:04d}", "text": text, "numbers": [i, 0.1 * i], "none": None}
    for i, text in enumerate(["plain", '"}, {"', "}, {", "[{}, {}]", "é ☃", "\\", '\\"}, {"a": 1}, {'] * 30)
]


def test_rows_are_those_of_the_whole_whatever_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, text in enumerate([
        json.dumps(ROWS), json.dumps(ROWS, indent=0), json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\n " + json.dumps(ROWS, separators=(",", ":")) + "\n", "[]", "[\n]\n", json.dumps(ROWS[:1]),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        for size in (350, 1001, 5000, 1 << 20):
            monkeypatch.setattr(table_rows, "BLOCK_BYTES", size)
            assert [row for block in row_blocks(path) for row in block] == json.loads(text), (number, size)


@pytest.mark.parametrize("size", [300, 1 << 20])
@pytest.mark.parametrize("change", [lambda t: t[:-40], lambda t: t[:2000] + "}" + t[2000:], lambda t: "{" + t[1:]])
def test_what_is_no_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, change) -> None:
    monkeypatch.setattr(table_rows, "BLOCK_BYTES", size)
    path = tmp_path / "rows.json"
    path.write_text(change(json.dumps(ROWS)))
    with pytest.raises(ValueError, match=r"rows\.json: not JSON"):
        list(row_blocks(path))
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"rows\.json: a row is 1, expected an object"):
        list(row_blocks(path))


def test_tables_in_small_blocks_give_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the made-up set that nuScenes' size is measured with: its counts are nuScenes', too."""
    source = write_tables(tmp_path / "one", scenes=2)
    one = open_index(source.root, source.version)
    monkeypatch.setattr(table_rows, "BLOCK_BYTES", 20_000)
    other = write_tables(tmp_path / "two", scenes=2)
    two = open_index(other.root, other.version)
    assert one.digest == two.digest
    assert len(one.arrays["data_stamp"]) == 2 * sum(RATES_HZ.values()) * SECONDS
    assert len(one.arrays["frame_stamp"]) == 2 * KEYFRAMES and (one.arrays["frame_data"] >= 0).all()
    assert len(one.arrays["box"]) <= KEYFRAMES * sum(BOXES)
    moving = np.diff(one.arrays["frame_pose"][:KEYFRAMES, 0])
    np.testing.assert_allclose(moving, 0.5, atol=1e-6)
    np.testing.assert_allclose(one.arrays["box_velocity"], 0, atol=1e-6)
