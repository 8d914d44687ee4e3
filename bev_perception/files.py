"""Files that are never seen half written."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Write beside the target, sync, replace: whatever happens, the file is the old one or the new one.

    Folders are made. Several processes may write the same file: the last one wins, whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())  # the name must not become visible before the bytes, even if the power goes
    os.replace(part, path)
