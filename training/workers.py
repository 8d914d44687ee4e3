"""Processes that work for another one: which signals they mind, and that they end with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any


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
