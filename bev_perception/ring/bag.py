"""What the ring holds as a rosbag2 MCAP with the reason in its metadata."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.files import replace_folder, work_folder
from bev_perception.ring.buffer import Kept

PARAMS = "params.yaml"  # of the node, as a parameter file: with it the bag explains itself
PAUSE_BYTES = 2**18  # written before `pace` is asked


def write_bag(
    target: Path,
    messages: Sequence[Kept],
    typestore: Any,
    facts: Mapping[str, str],
    params: str,
    pace: Callable[[], None] = lambda: None,
) -> None:
    """`target` appears when it is whole. typestore: of rosbags, with all types of the messages. facts: into the custom
    data of metadata.yaml. pace(): called every PAUSE_BYTES.

    Raises OSError, which names the bag where the disk is full; then nothing is left.
    """
    with work_folder(target) as work:
        bag = work / target.name  # the file inside is named after its folder
        written = 0
        writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
        writer.open()
        try:
            for key, value in facts.items():
                writer.set_custom_data(key, value)
            connections: dict[str, Any] = {}
            for message in messages:
                if message.topic not in connections:
                    connections[message.topic] = writer.add_connection(message.topic, message.kind, typestore=typestore)
                writer.write(connections[message.topic], message.stamp_ns, message.data)
                written += len(message.data)
                if written > PAUSE_BYTES:
                    written = 0
                    pace()
        finally:
            writer.close()
        (bag / PARAMS).write_text(params)
        replace_folder(bag, target)


def size_of(folder: Path) -> int:
    """Bytes of all files below; 0 where there is no folder. Files that go while they are counted have none."""
    return sum(map(_bytes, folder.rglob("*"))) if folder.is_dir() else 0


def _bytes(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_size if S_ISREG(found.st_mode) else 0


def free_bytes(folder: Path) -> int:
    """Of the disk that the folder, or the nearest above that is there, lies on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
