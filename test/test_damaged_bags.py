"""Recordings that are damaged, foreign or unusual: what can be read is read, and the mend is named."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import tiny_drive
from bag_copies import Row, chunks_of, copy_bag, cut, rows_of, the_file
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer

from bev_perception.bags.recording import open_bag
from bev_perception.bags.storage import BagError
from bev_perception.evaluation.bag import bag_duration_s, bag_topics, read_bag

MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
PLUGINS = pytest.mark.parametrize("plugin", [MCAP, SQLITE], ids=["mcap", "sqlite3"])


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_drive.write_drive(tmp_path_factory.mktemp("whole") / "drive", frames=4)


@pytest.fixture(scope="module")
def rows(drive: Path) -> list[Row]:
    return rows_of(drive)


def read(bag: Path) -> tuple[list[Row], list[str]]:
    """(everything that can be read, what was noted)."""
    notes: list[str] = []
    with open_bag(bag, notes.append) as recording:
        return [(c.topic, c.msgtype, ns, bytes(raw)) for c, ns, raw in recording.messages()], notes


def opened(bag: Path) -> tuple[int, list[str]]:
    """(number of messages that can be read as what they are, what was noted)."""
    notes: list[str] = []
    return sum(1 for _ in read_bag(bag, None, notes.append)), notes


@PLUGINS
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "file"])
def test_a_whole_recording_is_read_as_rosbags_reads_it(drive, rows, tmp_path, plugin, alone) -> None:
    bag = copy_bag(drive, tmp_path / "copy", plugin)
    bag = the_file(bag) if alone else bag
    found, notes = read(bag)
    assert found == rows and not notes
    assert opened(bag) == (len(rows), [])
    assert bag_topics(bag) == {topic: kind for topic, kind, _, _ in rows}
    assert bag_duration_s(bag) == pytest.approx((rows[-1][2] - rows[0][2]) / 1e9)


@PLUGINS
@pytest.mark.parametrize("compression", [CompressionMode.MESSAGE, CompressionMode.FILE, CompressionMode.STORAGE])
def test_compressed_recordings(drive, rows, tmp_path, plugin, compression) -> None:
    if compression is CompressionMode.STORAGE and plugin is SQLITE:
        pytest.skip("sqlite3 compresses nothing itself")
    bag = copy_bag(drive, tmp_path / "copy", plugin, compression=compression)
    assert read(bag) == (rows, [])
    if compression is CompressionMode.FILE:
        file = the_file(bag)
        cut(file, file.stat().st_size * 2 // 3)
        try:
            found, notes = read(bag)
        except BagError as error:
            assert "not a readable" in str(error)
        else:
            assert 0 < len(found) < len(rows) and notes


def test_chunks_that_overlap_in_time_are_merged(drive, rows, tmp_path) -> None:
    """As recorders with several threads write them: every second message a chunk later."""
    held: list[Row] = []

    def late(row: Row) -> Iterable[Row]:
        held.append(row)
        if len(held) == 20:
            yield from held[::2]
            yield from held[1::2]
            held.clear()

    bag = copy_bag(drive, tmp_path / "copy", change=late, per_chunk=10)
    found, notes = read(bag)
    whole = rows[: len(rows) // 20 * 20]
    assert [ns for _, _, ns, _ in found] == [ns for _, _, ns, _ in whole]
    assert sorted(found) == sorted(whole) and not notes


@PLUGINS
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "file"])
def test_a_topic_in_a_foreign_encoding_costs_itself_alone(drive, rows, tmp_path, plugin, alone) -> None:
    bag = copy_bag(drive, tmp_path / "copy", plugin, foreign=("protobuf", "json"))
    bag = the_file(bag) if alone else bag
    found, notes = read(bag)
    assert [row for row in found if not row[0].startswith("/foreign")] == rows and not notes
    count, notes = opened(bag)
    assert count == len(rows) and len(notes) == 2
    assert any("/foreign/protobuf is encoded as 'protobuf', 'cdr' is expected" in note for note in notes)
    assert {"/foreign/json", "/odometry"} <= set(bag_topics(bag))


def test_a_file_of_another_profile_is_read(drive, rows, tmp_path) -> None:
    """Recorders that know many languages leave the profile empty."""
    bag = copy_bag(drive, tmp_path / "copy")
    file = the_file(bag)
    file.write_bytes(file.read_bytes().replace(b"\x04\x00\x00\x00ros2", b"\x04\x00\x00\x00none", 1))
    found, notes = read(bag)
    assert found == rows
    (note,) = notes
    assert "is read from front to end" in note and "mcap recover" not in note, "there is nothing to mend"


def test_an_empty_recording_is_one(drive, tmp_path) -> None:
    bag = copy_bag(drive, tmp_path / "copy", change=lambda row: [])
    assert read(bag) == ([], []) and bag_topics(bag) == {}


def test_a_definition_that_cannot_be_parsed_costs_its_topic_alone(drive, rows, tmp_path) -> None:
    bag = copy_bag(drive, tmp_path / "copy", SQLITE)
    with sqlite3.connect(the_file(bag)) as database:
        database.execute(
            "UPDATE message_definitions SET encoded_message_definition = 'float64 [' WHERE topic_type LIKE 'nav_msgs%'"
        )
        database.execute("UPDATE message_definitions SET encoding = 'unknown' WHERE topic_type LIKE '%CameraInfo'")
        database.execute("UPDATE message_definitions SET encoding = 'unknown' WHERE topic_type LIKE 'bev%'")
    count, notes = opened(bag)
    lost = [row for row in rows if row[0] in ("/odometry", "/ground_truth/detections")]
    assert count == len(rows) - len(lost), "camera_info is a standard type"
    assert len(notes) == 2 and any("the definition of nav_msgs/msg/Odometry is not readable" in n for n in notes)
    assert any("has no definition of bev_perception_msgs/msg/Detection3DArray" in n for n in notes)


@pytest.mark.parametrize("kept", [0.4, 0.8, -1, -40], ids=["early", "late", "last_byte", "footer"])
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.STORAGE], ids=["plain", "zstd"])
def test_an_mcap_that_was_cut_off_is_read_up_to_the_cut(drive, rows, tmp_path, kept, compression) -> None:
    bag = copy_bag(drive, tmp_path / "copy", compression=compression)
    file = the_file(bag)
    size = file.stat().st_size
    keep = int(size * kept) if kept > 0 else size + kept
    whole_chunks = sum(end <= keep for _, end in chunks_of(file))
    cut(file, keep)
    found, notes = read(bag)
    assert found == rows[: whole_chunks * 8] and whole_chunks > 1
    assert any(f"mcap recover {file}" in note and f"of {keep} bytes" in note for note in notes)
    with open_bag(bag, notes.append) as recording:
        assert (recording.start_ns, recording.end_ns) == (found[0][2], found[-1][2] + 1)


@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.STORAGE], ids=["plain", "zstd"])
@pytest.mark.parametrize("index", [True, False], ids=["indexed", "cut"])
def test_a_damaged_chunk_costs_itself_alone(drive, rows, tmp_path, compression, index) -> None:
    bag = copy_bag(drive, tmp_path / "copy", compression=compression)
    file = the_file(bag)
    begin, end = chunks_of(file)[5]
    data = bytearray(file.read_bytes())
    data[begin + 60 : end - 20] = b"\xff" * (end - begin - 80)
    file.write_bytes(data if index else data[:-8])
    found, notes = read(bag)
    assert found == rows[:40] + rows[48:]
    (told,) = (note for note in notes if "is damaged at byte" in note)
    assert f"byte {begin}" in told and "mcap recover" in told


@pytest.mark.parametrize("kept", [0.5, 0.7, 0.95])
def test_a_sqlite3_file_that_was_cut_off_is_read_as_far_as_it_goes(drive, rows, tmp_path, kept) -> None:
    bag = copy_bag(drive, tmp_path / "copy", SQLITE)
    file = the_file(bag)
    cut(file, int(file.stat().st_size * kept))
    found, notes = read(bag)
    assert 0 < len(found) < len(rows) and not set(found) - set(rows) and len(set(found)) == len(found)
    assert len(notes) == 1 and "was cut off" in notes[0] and ".recover" in notes[0] and "ros2 bag reindex" in notes[0]


def test_a_sqlite3_file_with_a_damaged_page_is_read_as_far_as_it_goes(drive, rows, tmp_path) -> None:
    bag = copy_bag(drive, tmp_path / "copy", SQLITE)
    file = the_file(bag)
    data = bytearray(file.read_bytes())
    place = data.index(next(raw for topic, _, _, raw in rows[40:] if topic == "/odometry")) // 4096 * 4096
    data[place : place + 4096] = b"\xff" * 4096
    file.write_bytes(data)
    found, notes = read(bag)
    assert 20 < len(found) < len(rows) and not set(found) - set(rows) and len(set(found)) == len(found)
    assert len(notes) == 1 and "is damaged (database disk image is malformed)" in notes[0] and ".recover" in notes[0]


MULTIPLIED = "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\n"  # each such line has twice what the last one has
METADATA = {
    "no": None, "empty": "", "cut": "a: [", "bare": "rosbag2_bagfile_information: {}", "gone": "gone",
    "nested": "[" * 20_000, "text": "rosbag2_bagfile_information: text", "aliases": MULTIPLIED,
}  # fmt: skip


@PLUGINS
@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_without_metadata_the_files_are_read(drive, rows, tmp_path, plugin, metadata) -> None:
    bag = copy_bag(drive, tmp_path / "copy", plugin)
    path = bag / "metadata.yaml"
    text = path.read_text().replace("copy.", "other.") if metadata == "gone" else metadata
    if metadata is MULTIPLIED:  # before what would be read
        text = MULTIPLIED + path.read_text()
    path.unlink() if text is None else path.write_text(text)
    found, notes = read(bag)
    assert found == rows and len(notes) == 1 and f"ros2 bag reindex {bag}" in notes[0]


def test_split_recordings(drive, rows, tmp_path) -> None:
    """Files in the order of their numbers where metadata.yaml is missing, and the others where one is missing."""
    bag = tmp_path / "split"
    bag.mkdir()
    third = len(rows) // 3
    for number, part in ((2, rows[:third]), (10, rows[third : 2 * third]), (11, rows[2 * third :])):
        chosen = set(part)
        piece = copy_bag(drive, tmp_path / f"part{number}", change=lambda row, chosen=chosen: [row] * (row in chosen))
        shutil.move(the_file(piece), bag / f"split_{number}.mcap")
    assert read(bag)[0] == rows
    names = "".join(f"  - split_{n}.mcap\n" for n in (2, 10, 11))
    (bag / "metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  relative_file_paths:\n{names}")
    assert read(bag) == (rows, [])
    (bag / "split_10.mcap").unlink()
    found, notes = read(bag)
    assert found == rows[:third] + rows[2 * third :] and "names split_10.mcap, which is not there" in notes[0]
    (bag / "split_10.mcap").write_bytes(b"")
    found, notes = read(bag)
    assert found == rows[:third] + rows[2 * third :] and "the recording's other files are read" in notes[-1]


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"no bag", b"\x89MCAP0\r\n", b"SQLite format 3\0" + bytes(90)])
def test_what_is_no_recording_is_one_clear_error(tmp_path, name, content) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(BagError, match="is not a readable rosbag2 file") as error:
        bag_topics(file)
    assert str(file) in str(error.value) and ("rosbags-convert" in str(error.value)) == (name == "a.bag")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(BagError, match=r"not a readable rosbag2 recording: metadata.yaml is missing"):
        bag_topics(folder)
    with pytest.raises(BagError, match="does not exist"):
        bag_topics(tmp_path / "nothing")


@PLUGINS
def test_whatever_bytes_are_damaged_no_parser_shows(drive, tmp_path, plugin) -> None:
    """100 files with a few bytes altered, anywhere: read, or one clear error."""
    kept = {"/odometry", "/tf_static", "/camera/cam_a/camera_info"}
    small = copy_bag(drive, tmp_path / "copy", plugin, change=lambda row: [row] * (row[0] in kept), per_chunk=15)
    file, draw = the_file(small), random.Random(7)
    whole, readable = file.read_bytes(), 0
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 3, 30))):
            place = draw.randrange(len(data))
            data[place : place + draw.choice((1, 4, 64))] = draw.randbytes(draw.choice((1, 4, 64)))
        file.write_bytes(data)
        try:
            readable += opened(small)[0] > 0
        except BagError as error:
            assert str(file) in str(error)
    assert readable > 25


def test_memory_is_that_of_a_chunk_however_long_the_recording(tmp_path, drive) -> None:
    """40 MB of messages, 1 MB each, through less than 8 MB."""
    big = next(row for row in rows_of(drive) if row[0] == "/odometry")
    some = [(big[0], big[1], big[2] + i, bytes(1_000_000)) for i in range(40)]
    done: list[int] = []

    def once(row: Row) -> Iterable[Row]:
        yield from () if done else some
        done.append(1)

    bag = copy_bag(drive, tmp_path / "copy", change=once, per_chunk=1)
    for cut_off in (False, True):
        if cut_off:
            cut(the_file(bag), the_file(bag).stat().st_size - 30)
        tracemalloc.start()
        with open_bag(bag, note=lambda text: None) as recording:
            assert sum(len(raw) for _, _, raw in recording.messages()) == 40_000_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8_000_000


def test_definitions_in_idl(tmp_path) -> None:
    text = (
        "=" * 80 + "\nIDL: std_msgs/msg/String\nmodule std_msgs { module msg { struct String { string data; }; }; };\n"
    )
    with Writer(tmp_path / "bag", version=9, storage_plugin=MCAP) as writer:
        connection = writer.add_connection("/a", "std_msgs/msg/String", msgdef=text, rihs01="RIHS01_0")
        writer.write(connection, 5, b"\x00\x01\x00\x00\x04\x00\x00\x00abc\x00")
    assert [(m.record_ns, m.message.data) for m in read_bag(tmp_path / "bag")] == [(5, "abc")]
