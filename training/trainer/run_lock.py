"""A folder has one run at a time: two would overwrite each other's checkpoints and logs."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def only_run_in(out: Path) -> Iterator[None]:
    """Within: no other process trains in `out`, on this machine or on others that share the folder.

    The lock is the process's (fcntl), so it goes when the process does, killed or not, and its loader processes do not
    hold it. Raises ValueError naming who has it. Where the file system has no locks this is said, and nothing is held.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise ValueError(
                    f"{out}: another run is at work here ({file.read().strip() or 'it has just begun'}); wait for it, "
                    "stop it, or choose another --out"
                ) from error
            print(f"{out}: cannot be locked ({error.strerror}): see to it that no other run uses it", flush=True)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
