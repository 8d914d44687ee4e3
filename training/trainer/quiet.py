"""What Lightning says in every run, whatever the run does: left out, so that what a run says is worth reading."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = "lightning.pytorch.utilities.rank_zero"
# Beginnings of messages to LOGGER, regular expressions. A GPU that is there is told.
MESSAGES = (
    r"GPU available: False",
    r"TPU available: False",
    r"💡 Tip: ",
    r"`Trainer\.fit` stopped: `max_steps=\d+` reached",
)
# Beginnings of warnings, regular expressions.
WARNINGS = (
    r".* does not have many workers",  # as many as were asked for, or as fit the cores
    r"Checkpoint directory .* exists and is not empty",  # a run directory is made before it is trained in
    r"Found .* in eval mode at the start of training",  # batch norm with stored statistics, and teachers
    r"`isinstance.treespec, LeafSpec.` is deprecated",  # between Lightning and torch
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within, or in a function that this decorates: MESSAGES and WARNINGS are left out; all others are told as ever."""
    logger = logging.getLogger(LOGGER)
    logger.addFilter(_tells)
    try:
        with warnings.catch_warnings():
            for beginning in WARNINGS:
                warnings.filterwarnings("ignore", beginning)
            yield
    finally:
        logger.removeFilter(_tells)


def _tells(record: logging.LogRecord) -> bool:
    return re.match("|".join(MESSAGES), record.getMessage()) is None
