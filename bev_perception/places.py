"""Where caches go: the best place that can be used, and what to set where none can.

A vehicle's file system may be read-only, a service may have no home, a disk may be full: none of these ends a run that
could go on without what it would have kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Kept = TypeVar("Kept")

VARIABLE = "XDG_CACHE_HOME"
SET_VARIABLE = f"set {VARIABLE} to a folder that can be written"


def cache_places(name: str) -> list[Path]:
    """The places for a cache of ours, best first: $XDG_CACHE_HOME, or else ~/.cache where there is a home; then a
    folder of this user below the system's temporary one, which may be gone after a restart."""
    home = os.path.expanduser("~")  # a user without a home keeps the "~"
    base = os.environ.get(VARIABLE) or (os.path.join(home, ".cache") if os.path.isabs(home) else "")
    lasting = [Path(base) / "bev_perception" / name] if base else []
    return [*lasting, _temporary() / name]


def is_own(place: Path) -> bool:
    """False for a folder below the temporary one that somebody else made, or can write: what lies there may be
    anybody's. Every other place is the business of whoever named it."""
    own = _temporary()
    if own not in (place, *place.parents) or not os.path.lexists(own):
        return True
    state = own.lstat()
    return not own.is_symlink() and state.st_uid == os.getuid() and not state.st_mode & 0o022


def in_first(
    places: Iterable[Path],
    what: str,
    say: Callable[[str], None],
    write: Callable[[Path], Kept],
    mend: str = SET_VARIABLE,
) -> Kept:
    """write(place) in the first place, made, in which a file can be written and write succeeds; those passed over are
    said, with the reason.

    Raises OSError naming all of them and what to do when there is none.
    """
    refused: list[str] = []
    for place in places:
        try:
            _make(place)
            kept = write(place)
        except OSError as error:
            refused.append(f"{place} ({error.strerror or error})")
            continue
        if refused:
            say(f"{what}: cannot write {', '.join(refused)}; using {place}")
        return kept
    raise OSError(f"{what}: cannot write {', '.join(refused)}; {mend}")


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"bev_perception-{os.getuid()}"


def _make(place: Path) -> None:
    if _temporary() in (place, *place.parents):
        _temporary().mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_own(place):
        raise PermissionError(f"{_temporary()} can be written by others")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place) as probe:  # a full disk still gives away names
        probe.write(bytes(4096))
