"""Engines on disk: found by what they were made of, never used unverified, never half written.

An engine fits one ONNX file, one TensorRT, CUDA, driver and GPU, one precision and one way to be built; a file that is
merely there may be any of them. So the name holds a hash of all (EngineKey), a sidecar repeats them with the engine's
own hash, and whatever is read or built must give the golden sample's answers before it is used.
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

from bev_perception.files import open_atomic
from bev_perception.places import cache_places, in_first, is_own
from bev_perception.plain import from_plain, parse_json, to_plain

Opened = TypeVar("Opened")
Log = Callable[[str], None]

# Raise when the way engines are built changes, so that those built in the old way are not reused.
RECIPE = 2


class EngineCacheError(ValueError):
    """A cached engine that must not be used; the message is the named reason."""


class NotNow(RuntimeError):
    """The machine cannot open an engine as things are. It says nothing against the engine: it is not built again."""


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on.

    builder: "tensorrt" or "tensorrt_rtx", version: its. cuda: the newest that the driver runs; driver: of the system.
    gpu, architecture: like "NVIDIA Orin" and "sm87". shapes: of inputs and outputs, with names and types. plugins:
    names and hashes of libraries with layers of their own. options: of the builder. "any" for what a builder that needs
    no GPU cannot know.
    """

    model: str
    onnx_sha256: str
    builder: str
    version: str
    cuda: str
    driver: str
    gpu: str
    architecture: str
    precision: str
    shapes: str
    plugins: str
    options: str
    recipe: int = RECIPE

    @property
    def file_name(self) -> str:
        """Readable in front, unique by the hash at the end."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]
        readable = "_".join((self.model, self.precision, self.gpu, self.architecture, self.builder, self.version))
        return re.sub(r"[^A-Za-z0-9._-]+", "-", readable)[:120] + f"_{digest}.engine"


@dataclass(frozen=True)
class Proof:
    """What was found of an engine when it was opened. golden_differences: how far it was from the golden sample, by
    output; layers: how many are in which precision, in words; device_bytes: what it takes on the GPU."""

    golden_differences: dict[str, float]
    layers: str = ""
    device_bytes: int = 0


@dataclass(frozen=True)
class Sidecar:
    """What lies beside an engine: made for `key`, `written` when (UTC), its size in bytes and its hash, its proof."""

    key: EngineKey
    written: str
    size: int
    sha256: str
    proof: Proof


Prove = Callable[[bytes], tuple[Opened, Proof]]


def engine_places(wanted: str | Path = "") -> list[Path]:
    """The folder that was asked for, if one was, and those that take its place where it cannot be used."""
    return [*([Path(os.path.expanduser(wanted))] if str(wanted) else []), *cache_places("engines")]


def open_cached(
    places: Sequence[Path],
    key: EngineKey,
    build: Callable[[], bytes],
    prove: Prove[Opened],
    *,
    force: bool = False,
    log: Log = print,
) -> tuple[Opened, Path | None]:
    """The engine for `key`, opened and proven, and its path; None where no place could keep it.

    prove(engine) opens the bytes and runs the golden sample; it returns what it opened and its proof, or raises. All
    places are looked through, since one that cannot be written may well hold an engine. A cached engine that is
    altered, made for something else or not provable is logged with the reason and rebuilt; where `prove` raises NotNow
    that is raised, and the engine stays. A new engine that is not provable raises and nothing is written. It is kept in
    the first place that takes it; where there is none, the log says what to set, and the engine is used all the same.
    Only one process builds at a time, the others wait and read.
    """
    keep = _place_to_keep(places, log)
    with _lock(keep / key.file_name, log) if keep else contextlib.nullcontext():
        if force:
            log(f"building {key.file_name}: asked to, whatever is in {_told(places)}")
        elif found := _find(places, key, prove, log):
            return found
        engine = build()
        opened, proof = prove(engine)
        return opened, _keep(places, keep, key, engine, proof, log)


def _place_to_keep(places: Sequence[Path], log: Log) -> Path | None:
    try:
        return in_first(places, "engine cache", log, lambda place: place)
    except OSError as error:
        log(str(error))
        return None


def _find(places: Sequence[Path], key: EngineKey, prove: Prove[Opened], log: Log) -> tuple[Opened, Path] | None:
    """The first engine that can be used."""
    problems = [f"{place} is not looked at: others can write it" for place in places if not is_own(place)]
    for path in (place / key.file_name for place in places if is_own(place)):
        try:
            opened, _ = prove(read_engine(path, key))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except NotNow as error:
            log(f"the cached engine {path} is not opened, and stays: {error}")
            raise
        except Exception as error:  # whatever makes a cached engine unusable, a fresh one is the mend
            problems.append(f"{path}: {error}")
        else:
            log(f"using the cached engine {path}: whole, made for just this, and checked again")
            return opened, path
    why = "; ".join(problems) if problems else f"there is none in {_told(places)}"
    log(f"building {'again ' if problems else ''}{key.file_name}: {why}")
    return None


def _told(places: Sequence[Path]) -> str:
    return " or ".join(map(str, places))


def _keep(
    places: Sequence[Path], locked: Path | None, key: EngineKey, engine: bytes, proof: Proof, log: Log
) -> Path | None:
    """In the first place that has room for it. locked: the one whose lock is held."""
    if locked is None:
        return None

    def write(place: Path) -> Path:
        with contextlib.nullcontext() if place == locked else _lock(place / key.file_name, log):
            write_engine(place / key.file_name, key, engine, proof)
        return place / key.file_name

    try:
        path = in_first(places, "engine cache", log, write)
    except OSError as error:  # the engine is proven, and the vehicle waits for it
        log(f"the engine is used but not kept: {error}")
        return None
    log(f"wrote {path} ({len(engine) / 2**20:.1f} MiB), the first place that takes it")
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


def write_engine(path: Path, key: EngineKey, engine: bytes, proof: Proof) -> None:
    """Write engine and sidecar beside what is there; both are on the disk before either gets its name, so that a disk
    that is full takes nothing away. A crash between the names leaves a pair that is refused. Raises OSError."""
    for leftover in path.parent.glob(f".{path.stem}.*.part"):
        leftover.unlink()  # of a process that was killed while it wrote; the caller holds the lock
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sidecar = Sidecar(key, written, len(engine), hashlib.sha256(engine).hexdigest(), proof)
    with open_atomic(_sidecar(path)) as facts:
        facts.write((json.dumps(to_plain(sidecar), indent=2) + "\n").encode())
        facts.flush()
        os.fsync(facts.fileno())
        with open_atomic(path) as file:
            file.write(engine)


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


@contextlib.contextmanager
def _lock(engine: Path, log: Log) -> Iterator[None]:
    """Exclusive between processes and threads; the kernel frees it when its holder dies."""
    with open(engine.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"waiting: another process is building {engine}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
