"""A pool with redundancy, made of one without: some frames are there many times, as of a car that waits.

Every repetition is exactly like the others: the worst case for whoever chooses by score alone, since a real wait has
other noise in each frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from training.data_engine.store import Frames, Store

NUMBER = "#"  # between a token and its repetition's number


@dataclass(frozen=True)
class Waits:
    """One in `every` frames, by its token, is there `length` times."""

    every: int = 1
    length: int = 1

    @classmethod
    def of(cls, text: str) -> Waits:
        """`8x12`; "" for none. Raises ValueError for others."""
        if not text:
            return NO_WAITS
        every, _, length = text.partition("x")
        if not (every.isdigit() and length.isdigit() and min(int(every), int(length)) > 0):
            raise ValueError(f"--waits {text}: expected EVERYxLENGTH, such as 8x12")
        return cls(int(every), int(length))

    def tokens(self, token: str) -> list[str]:
        """The names of a frame's repetitions, itself first."""
        waits = int(hashlib.sha256(token.encode()).hexdigest(), 16) % self.every == 0
        return [token, *(f"{token}{NUMBER}{k}" for k in range(1, self.length if waits else 1))]


NO_WAITS = Waits()


def without_number(token: str) -> str:
    return token.partition(NUMBER)[0]


@dataclass(frozen=True)
class WaitingStore(Store):
    """A store whose frames are repeated when they are read."""

    waits: Waits = NO_WAITS

    def read(self, drive: str, names: Iterable[str] | None = None) -> Frames:
        frames = super().read(drive, names)
        named = [self.waits.tokens(token) for token in frames.tokens]
        repeated = frames.select(np.repeat(np.arange(len(frames)), [len(of) for of in named]))
        return Frames(drive, {**repeated.columns, "token": [token for of in named for token in of]})
