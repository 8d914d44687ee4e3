"""Processes of a pool, which end with the one that began it."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Initializer of a pool: the worker ends when its parent has. A parent that is killed cannot tell its workers to
    stop, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
