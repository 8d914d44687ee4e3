"""Copies of a recording as others would have written it, and what happens to recordings, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapReader, Schema, write_schema

NO_DEFINITION = b"this is no definition of ROS 2"
Row = tuple[str, str, int, bytes]  # topic, type, record time, serialised message


def rows_of(bag: Path) -> list[Row]:
    """Everything in a whole recording, by rosbags alone."""
    with AnyReader([bag]) as reader:
        return [(c.topic, c.msgtype, ns, bytes(raw)) for c, ns, raw in reader.messages()]


def copy_bag(
    bag: Path,
    target: Path,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    change: Callable[[Row], Iterable[Row]] = lambda row: [row],
    compression: CompressionMode = CompressionMode.NONE,
    foreign: tuple[str, ...] = (),
    per_chunk: int = 8,
) -> Path:
    """The recording written anew, in MCAP with `per_chunk` messages in a chunk; `change` may alter, drop and add rows;
    foreign: encodings in each of which a topic is added that ROS 2 does not know."""
    from bev_perception.evaluation.result_bag import make_typestore

    store = make_typestore()
    with AnyReader([bag]) as reader:
        rows = [(c.topic, c.msgtype, ns, bytes(raw)) for c, ns, raw in reader.messages()]
    writer = Writer(target, version=9, storage_plugin=plugin)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        others = [add_foreign(writer, encoding) for encoding in foreign]
        connections: dict[tuple[str, str], Any] = {}
        for number, (topic, kind, ns, raw) in enumerate(row for old in rows for row in change(old)):
            if (topic, kind) not in connections:
                connections[topic, kind] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic, kind], ns, raw)
            for other in others:
                writer.write(other, ns, b"\x08\x96\x01 not a message of ROS 2")
            if plugin is StoragePlugin.MCAP and number % per_chunk == per_chunk - 1:
                writer.storage.close_chunk()
    if foreign and plugin is StoragePlugin.MCAP:  # schemas of protobuf are binary, which rosbags does not write
        file = the_file(target)
        file.write_bytes(file.read_bytes().replace(NO_DEFINITION, b"\xff" * len(NO_DEFINITION)))
    return target


def add_foreign(writer: Writer, encoding: str) -> Any:
    """A topic whose schema and messages are of another language, as Foxglove's own tools record."""
    name, storage = f"foxglove.{encoding.title()}", writer.storage
    if hasattr(storage, "schemas"):
        storage.schemas.append(Schema(len(storage.schemas) + 1, name, encoding, NO_DEFINITION.decode()))
        write_schema(storage.chunk.bio, storage.schemas[-1])
        writer.added_types.add(name)
    return writer.add_connection(
        f"/foreign/{encoding}", name, msgdef="not a definition", rihs01="RIHS01_0", serialization_format=encoding
    )


def chunks_of(file: Path) -> list[tuple[int, int]]:
    """(begin, end) of each chunk of an MCAP file."""
    reader = McapReader(file)
    reader.open()
    found = [(c.chunk_start_offset, c.chunk_start_offset + c.chunk_length) for c in reader.chunks]
    reader.close()
    return found


def the_file(bag: Path) -> Path:
    (file,) = (path for path in bag.iterdir() if path.name != "metadata.yaml")
    return file


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
