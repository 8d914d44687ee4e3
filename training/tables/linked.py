"""A data set made of another one: some of its tables are new, all else are links."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bev_perception.files import replace_folder, work_folder


@contextmanager
def linked_set(out: Path, root: Path, version: str, new: Collection[str], marker: str) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends: links to all of `root` that is not hidden, and to its
    tables, but those that are `new` (names without .json). Links lead to the files themselves: a set made of such a set
    needs of it what is new there alone.

    marker: name of a file in it that says who wrote it, which the block writes. A set of before is replaced. Raises
    ValueError where `out` is something else; OSError.
    """
    if out.is_dir() and any(out.iterdir()) and (not (out / marker).is_file() or (out / marker).is_symlink()):
        raise ValueError(f"{out} is there and was not written here (it holds no {marker}); name another folder")
    with work_folder(out) as work:
        for path in sorted(root.iterdir()):
            if not path.name.startswith(".") and path.name not in (version, marker) and not _holds(path, out):
                _link(work / path.name, path, out / path.name)
        (work / version).mkdir()
        for path in sorted((root / version).iterdir()):
            if path.stem not in new:
                _link(work / version / path.name, path, out / version / path.name)
        yield work
        replace_folder(work, out)


def _holds(path: Path, out: Path) -> bool:
    """Whether a folder is, or has within it, the set that is written: a link to it would lead in a circle."""
    return out.resolve().is_relative_to(path.resolve())


def _link(at: Path, to: Path, final: Path) -> None:
    """final: where `at` will stand."""
    at.symlink_to(os.path.relpath(to.resolve(), final.parent.resolve()))
