"""Processes that work for another one: which signals they mind, and that they end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any


def end_with_parent() -> None:
    """Initializer of a pool: the worker ends when its parent has. A parent that is killed cannot tell its workers to
    stop, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def outlive_signals(worker: int) -> None:
    """In a loader process: Ctrl-C, which a terminal sends to all processes, is the main process's business, and so is a
    SIGTERM to all processes of a job while the main process waits for one; it saves, and ends its loaders. Otherwise a
    SIGTERM ends this process, as it does without this."""
    main = os.getppid()

    def note(number: int, frame: Any) -> None:
        if not catches_sigterm(main):
            os._exit(0)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def catches_sigterm(process: int) -> bool:
    """Whether a process has a handler for it (Linux); False where it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
