"""What follows what in sample_annotation and instance, where some rows are gone or new: arrays, no rows, in memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.tables.rows import Row

ANNOTATIONS, INSTANCES = "sample_annotation", "instance"
BLOCK = 4096  # rows that are in memory at a time


@dataclass(frozen=True)
class Chains:
    """Of N rows of sample_annotation, by number: kept (N,) bool; instance (N,) its number; token (N,) bytes; before and
    after (N,): the kept rows of its instance before and after it in time, -1 for none."""

    kept: NDArray[np.bool_]
    instance: NDArray[np.int64]
    token: NDArray[np.bytes_]
    before: NDArray[np.int64]
    after: NDArray[np.int64]

    @classmethod
    def of(cls, kept: Any, instance: Any, stamp: Any, token: Any) -> Chains:
        """(N,) each; stamp: the time of a row's sample."""
        kept, instance = np.array(kept, dtype=bool), np.array(instance, dtype=np.int64)
        before, after = links(kept, instance, np.array(stamp, dtype=np.int64))
        return cls(kept, instance, np.array(token, dtype=np.bytes_), before, after)

    def neighbours(self, row: int) -> Row:
        """What a row says of those before and after it."""
        return {"prev": self._name(self.before[row]), "next": self._name(self.after[row])}

    def ends(self) -> dict[int, Row]:
        """Number of an instance of which rows are kept -> what its own row says of them."""
        rows = np.flatnonzero(self.kept)
        count = np.bincount(self.instance[rows])
        first = {int(self.instance[i]): int(i) for i in rows[self.before[rows] < 0]}
        last = {int(self.instance[i]): int(i) for i in rows[self.after[rows] < 0]}
        return {
            number: {
                "nbr_annotations": int(count[number]),
                "first_annotation_token": self._name(row),
                "last_annotation_token": self._name(last[number]),
            }
            for number, row in first.items()
        }

    def _name(self, row: int | np.int64) -> str:
        return str(self.token[row].decode()) if row >= 0 else ""


def links(
    kept: NDArray[np.bool_], instance: NDArray[np.int64], stamp: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each kept row the kept one of its instance before and after it in time, -1 for none."""
    rows = np.flatnonzero(kept)
    rows = rows[np.lexsort((stamp[rows], instance[rows]))]
    before, after = np.full(len(kept), -1), np.full(len(kept), -1)
    same = instance[rows][1:] == instance[rows][:-1]
    before[rows[1:][same]] = rows[:-1][same]
    after[rows[:-1][same]] = rows[1:][same]
    return before, after


def chained(
    annotations: Callable[[], Iterable[Row]], instances: Callable[[], Iterable[Row]], stamps: Mapping[str, int]
) -> dict[str, Iterator[Row]]:
    """Both tables row by row, with what hangs together in them made anew: rows of an instance follow each other by
    time, rows without an instance go, and instances without rows.

    annotations, instances: give the rows, each time the same. stamps: sample token -> its time. Raises ValueError for a
    row of a sample that is not there.
    """
    number_of = {row["token"]: number for number, row in enumerate(instances())}
    instance, stamp, token = array("q"), array("q"), [np.zeros(0, dtype=np.bytes_)]
    rows_left = iter(annotations())
    while block := list(islice(rows_left, BLOCK)):
        if unknown := [row for row in block if row["sample_token"] not in stamps]:
            raise ValueError(f"{ANNOTATIONS} {unknown[0]['token']!r} is of no sample that there is; copy the set again")
        instance.extend(number_of.get(row["instance_token"], -1) for row in block)
        stamp.extend(stamps[row["sample_token"]] for row in block)
        token.append(np.array([row["token"].encode() for row in block]))
    chains = Chains.of(np.array(instance) >= 0, instance, stamp, np.concatenate(token))

    def rows() -> Iterator[Row]:
        for number, row in enumerate(annotations()):
            if chains.kept[number]:
                yield row | chains.neighbours(number)

    def left() -> Iterator[Row]:
        ends = chains.ends()
        for number, row in enumerate(instances()):
            if number in ends:
                yield row | ends[number]

    return {ANNOTATIONS: rows(), INSTANCES: left()}
