"""What was said of every frame, in columns: a Parquet file for each drive and view, below a folder that names both.

STORE/VIEW-DIGEST/DRIVE.parquet: the digest is of the networks and the data, so that what is there is never of others.
One drive is in memory at a time, so a pool of any size takes that of its longest drive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bev_perception.files import open_atomic

FORMAT = 1


@dataclass(frozen=True)
class Ragged:
    """Lists of different length, one for each of n frames. values (K,); ends (n,) where each stops among them."""

    values: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[np.ndarray]) -> Ragged:
        parts = [np.asarray(part, dtype=np.float32).ravel() for part in parts]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.float32), *parts]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)

    @property
    def rows(self) -> np.ndarray:
        """(K,) the frame that each value is of."""
        return np.repeat(np.arange(len(self.ends)), self.counts)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[(self.ends[i - 1] if i else 0) : self.ends[i]]

    def select(self, rows: np.ndarray) -> Ragged:
        return Ragged.of(self[int(i)] for i in rows)


Column = np.ndarray | Ragged | list[str]


@dataclass(frozen=True)
class Frames:
    """The frames of one drive, by time. columns: name -> (n,) or (n, D) array, n lists, or n texts."""

    drive: str
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def tokens(self) -> list[str]:
        return self.columns["token"]  # type: ignore[return-value]

    def array(self, name: str) -> np.ndarray:
        value = self.columns[name]
        assert isinstance(value, np.ndarray)
        return value

    def lists(self, name: str) -> Ragged:
        value = self.columns[name]
        assert isinstance(value, Ragged)
        return value

    def select(self, rows: np.ndarray) -> Frames:
        """These frames alone, also several times."""
        return Frames(self.drive, {name: _select(value, rows) for name, value in self.columns.items()})


def _select(value: Column, rows: np.ndarray) -> Column:
    if isinstance(value, Ragged):
        return value.select(rows)
    return [value[int(i)] for i in rows] if isinstance(value, list) else value[rows]


def digest_of(facts: Mapping[str, Any]) -> str:
    """Twelve digits for what a view was made from."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **facts}, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Store:
    """folder: STORE; views: view -> digest of what it is made from."""

    folder: Path
    views: Mapping[str, str]

    def path(self, view: str, drive: str) -> Path:
        return self.folder / f"{view}-{self.views[view]}" / f"{quote(drive, safe='')}.parquet"

    def lacking(self, drive: str) -> list[str]:
        """The views that are still to be made of a drive."""
        return [view for view in self.views if not self.path(view, drive).is_file()]

    def write(self, view: str, frames: Frames) -> None:
        with open_atomic(self.path(view, frames.drive)) as file:
            pq.write_table(pa.table({n: _to_arrow(v) for n, v in frames.columns.items()}), file, compression="zstd")

    def read(self, drive: str, names: Iterable[str] | None = None) -> Frames:
        """All views of a drive, or the named columns of them.

        Raises ValueError where views are of other frames than each other, OSError for a file that is not there.
        """
        wanted = None if names is None else {*names, "token"}
        columns: dict[str, Column] = {}
        tokens: Column | None = None
        for view in self.views:
            path = self.path(view, drive)
            try:
                file = pq.ParquetFile(path)
                table = file.read([n for n in file.schema_arrow.names if wanted is None or n in wanted])
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path}: no Parquet file ({error}); delete it, and it is made anew") from error
            found = {name: _from_arrow(table.column(name).combine_chunks()) for name in table.column_names}
            if tokens is not None and found["token"] != tokens:
                raise ValueError(f"{path}: is of other frames than the views beside it; delete it, and it is made anew")
            tokens = found["token"]
            columns |= found
        return Frames(drive, columns)


def _to_arrow(value: Column) -> pa.Array:
    if isinstance(value, Ragged):
        offsets = pa.array(np.concatenate([[0], value.ends]).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(value.values))
    if isinstance(value, list):
        return pa.array(value, pa.string())
    if value.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(value).ravel()), value.shape[1])
    return pa.array(value)


def _from_arrow(array: Any) -> Column:
    if isinstance(array, pa.ChunkedArray):  # of no rows
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    if pa.types.is_list(array.type):
        return Ragged(
            array.flatten().to_numpy(zero_copy_only=False).astype(np.float32),
            (array.offsets.to_numpy()[1:] - array.offsets[0].as_py()).astype(np.int64),
        )
    if pa.types.is_string(array.type):
        return array.to_pylist()  # type: ignore[no-any-return]
    return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
