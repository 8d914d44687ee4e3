"""What Lightning and torch say in every run, whatever it does: left out, so that what a run says is worth reading."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Logger -> beginnings of its messages, regular expressions. A GPU that is there is told.
MESSAGES = {
    "lightning.pytorch.utilities.rank_zero": (
        r"GPU available: False",
        r"TPU available: False",
        r"💡 Tip: ",
        r"`Trainer\.fit` stopped: `max_steps=\d+` reached",
    ),
    "torch.onnx._internal.exporter._registration": ("torchvision is not installed",),  # nothing here is of torchvision
}
# Beginnings of warnings, regular expressions.
WARNINGS = (
    r".* does not have many workers",  # as many as were asked for, or as fit the cores
    r"Checkpoint directory .* exists and is not empty",  # a run directory is made before it is trained in
    r"Found .* in eval mode at the start of training",  # batch norm with stored statistics, and teachers
    r"`isinstance.treespec, LeafSpec.` is deprecated",  # between Lightning and torch
)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, or in a function that this decorates: MESSAGES and WARNINGS are left out; all others are told as ever."""
    loggers = [logging.getLogger(name) for name in MESSAGES]
    for logger in loggers:
        logger.addFilter(_tells)
    try:
        with warnings.catch_warnings():
            for beginning in WARNINGS:
                warnings.filterwarnings("ignore", beginning)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_tells)


def _tells(record: logging.LogRecord) -> bool:
    return re.match("|".join(MESSAGES[record.name]), record.getMessage()) is None
