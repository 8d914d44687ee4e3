"""Engines on disk: found by what they were made of, never used unverified, never half written.

An engine fits one ONNX file, one TensorRT version, one GPU and one precision; a file that is merely there may be any of
them. So the name holds a hash of all four, a sidecar repeats them with the engine's own hash, and whatever is read or
built must give the golden sample's answers before it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bev_perception.files import write_atomic
from bev_perception.places import SET_VARIABLE, cache_places, in_first, is_own
from bev_perception.plain import from_plain, parse_json, to_plain

Opened = TypeVar("Opened")
Log = Callable[[str], None]

# Raise when the way engines are built changes, so that those built in the old way are not reused.
RECIPE = 1


class EngineCacheError(ValueError):
    """A cached engine that must not be used; the message is the named reason."""


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on. builder: "tensorrt" or "tensorrt_rtx"; gpu: name with compute capability."""

    model: str
    onnx_sha256: str
    builder: str
    version: str
    gpu: str
    precision: str
    recipe: int = RECIPE

    @property
    def file_name(self) -> str:
        """Readable in front, unique by the hash at the end."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]
        readable = "_".join((self.model, self.precision, self.gpu, self.builder, self.version))
        return re.sub(r"[^A-Za-z0-9._-]+", "-", readable)[:120] + f"_{digest}.engine"


@dataclass(frozen=True)
class Sidecar:
    """What lies beside an engine: made for `key`, `written` when (UTC), its size in bytes and its hash, and how far it
    was from the golden sample, by output."""

    key: EngineKey
    written: str
    size: int
    sha256: str
    golden_differences: dict[str, float]


def engine_places(wanted: str | Path = "") -> list[Path]:
    """The folder that was asked for, if one was, and those that take its place where it cannot be used."""
    return [*([Path(os.path.expanduser(wanted))] if str(wanted) else []), *cache_places("engines")]


def open_cached(
    places: Sequence[Path],
    key: EngineKey,
    build: Callable[[], bytes],
    prove: Callable[[bytes], tuple[Opened, dict[str, float]]],
    *,
    force: bool = False,
    log: Log = print,
) -> tuple[Opened, Path | None]:
    """The engine for `key`, opened and proven, and its path; None where no place could keep it.

    prove(engine) opens the bytes and runs the golden sample; it returns what it opened and its figures, or raises. All
    places are looked through, since one that cannot be written may well hold an engine. A cached engine that is
    altered, made for something else or not provable is logged with the reason and rebuilt. A new engine that is not
    provable raises and nothing is written. It is kept in the first place that can be written; where there is none, the
    log says what to set, and the engine is used all the same. Only one process builds at a time, the others wait and
    read.
    """
    keep = _place_to_keep(places, log)
    with _lock((keep / key.file_name).with_suffix(".lock"), log) if keep else contextlib.nullcontext():
        if force:
            log("building: asked to, whatever the cache holds")
        elif found := _find(places, key, prove, log):
            return found
        engine = build()
        opened, figures = prove(engine)
        return opened, _keep(keep, key, engine, figures, log)


def _place_to_keep(places: Sequence[Path], log: Log) -> Path | None:
    try:
        return in_first(places, "engine cache", log, lambda place: place)
    except OSError as error:
        log(str(error))
        return None


def _find(
    places: Sequence[Path], key: EngineKey, prove: Callable[[bytes], tuple[Opened, dict[str, float]]], log: Log
) -> tuple[Opened, Path] | None:
    """The first engine that can be used."""
    problems = []
    for path in (place / key.file_name for place in places if is_own(place)):
        try:
            opened, _ = prove(read_engine(path, key))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except Exception as error:  # whatever makes a cached engine unusable, a fresh one is the mend
            problems.append(f"cached engine {path.name}: {error}")
        else:
            log(f"using the cached engine {path}")
            return opened, path
    log(f"building again: {'; '.join(problems)}" if problems else f"building: the cache has no engine {key.file_name}")
    return None


def _keep(place: Path | None, key: EngineKey, engine: bytes, figures: dict[str, float], log: Log) -> Path | None:
    if place is None:
        return None
    path = place / key.file_name
    try:
        write_engine(path, key, engine, figures)
    except OSError as error:  # the engine is proven, and the vehicle waits for it
        why = error.strerror or error
        log(f"the engine is used but not kept: {path} cannot be written ({why}); {SET_VARIABLE}")
        return None
    log(f"wrote {path} ({len(engine) / 2**20:.1f} MiB)")
    return path


def read_engine(path: Path, key: EngineKey) -> bytes:
    """The engine's bytes, verified against its sidecar and `key`.

    Raises FileNotFoundError when there is none, EngineCacheError naming what is wrong with it.
    """
    engine = path.read_bytes()
    try:
        sidecar: Sidecar = from_plain(Sidecar, parse_json(_sidecar(path).read_text()), "sidecar")
    except FileNotFoundError as error:
        raise EngineCacheError("its sidecar is missing") from error
    except ValueError as error:
        raise EngineCacheError(f"its sidecar is not readable ({error})") from error
    for name, expected in dataclasses.asdict(key).items():
        found = getattr(sidecar.key, name)
        if found != expected:
            raise EngineCacheError(f"made for {name} {found!r}, needed is {expected!r}")
    if len(engine) != sidecar.size:
        raise EngineCacheError(f"it has {len(engine)} bytes, {sidecar.size} were written")
    if hashlib.sha256(engine).hexdigest() != sidecar.sha256:
        raise EngineCacheError("its bytes were altered (sha256 differs from the sidecar)")
    return engine


def write_engine(path: Path, key: EngineKey, engine: bytes, figures: dict[str, float]) -> None:
    """Write engine and sidecar, each atomically; the engine first: a crash between leaves a pair that is refused."""
    for leftover in path.parent.glob(f".{path.stem}.*.part"):
        leftover.unlink()  # of a process that was killed while it wrote; the caller holds the lock
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sidecar = Sidecar(key, written, len(engine), hashlib.sha256(engine).hexdigest(), figures)
    write_atomic(path, engine)
    write_atomic(_sidecar(path), json.dumps(to_plain(sidecar), indent=2) + "\n")


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


@contextlib.contextmanager
def _lock(path: Path, log: Log) -> Iterator[None]:
    """Exclusive between processes and threads; the kernel frees it when its holder dies."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("waiting: another process is building this engine")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
