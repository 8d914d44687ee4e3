"""A store of bundles, from which each vehicle takes its own: `ros2 run bev_perception fetch_bundle STORE --out DIR`.

A store is a folder, or a folder that any web server serves, with `manifest.json` and the archives that it names:

    {"format": 1, "releases": [
      {"version": "2", "file": "mine-2.zip", "sha256": "...", "bytes": 15123456, "runtime": "0.1", "share": 0.1},
      {"version": "1", "file": "mine-1.zip", "sha256": "...", "bytes": 15120000, "runtime": "0.1", "share": 1.0}]}

The newest release stands first. A vehicle takes the first one that its bev_perception runs and whose share it is in.
Where the bundle lies is printed last, alone on stdout; what was chosen and why on stderr.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bev_perception.archive import ARCHIVE_LIMIT, MEMBER_NAME, unpack_bundle
from bev_perception.bundle import Bundle, load_bundle
from bev_perception.download import Patience, Say, check_address, download, forget, read_address
from bev_perception.files import read_bytes, sha256_of
from bev_perception.missing import mend
from bev_perception.model_spec import BundleError, check_runtime
from bev_perception.plain import from_plain, parse_json
from bev_perception.signing import require_signature

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
MANIFEST_LIMIT = 2**20  # bytes
RELEASES = 1000
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
PATIENCE = Patience()
SHA256 = re.compile(r"[0-9a-f]{64}")
PART = re.compile(rf"\.{VERSION.pattern}-[0-9a-f]{{12}}\.archive")  # what was received so far


class StoreError(ValueError):
    """A store whose manifest or archive is not what it is to be; the message says how to mend it."""


@dataclass(frozen=True)
class Release:
    """One archive of the store.

    bytes: its size. runtime: the oldest bev_perception, major.minor, that runs it. share: of all vehicles, in [0, 1].
    """

    version: str
    file: str
    sha256: str
    bytes: int
    runtime: str
    share: float

    def __post_init__(self) -> None:
        for name, pattern in (("version", VERSION), ("file", MEMBER_NAME), ("sha256", SHA256)):
            if not pattern.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} must match {pattern.pattern}, found {getattr(self, name)[:100]!r}")
        if not 0 < self.bytes <= ARCHIVE_LIMIT:
            raise ValueError(f"bytes must be within [1, {ARCHIVE_LIMIT}], found {self.bytes}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be within [0, 1], found {self.share}")


@dataclass(frozen=True)
class Manifest:
    """What the store offers, the newest first."""

    format: int
    releases: tuple[Release, ...]

    def __post_init__(self) -> None:
        versions = [release.version for release in self.releases]
        if len(versions) > RELEASES or len(set(versions)) < len(versions):
            raise ValueError(f"releases: at most {RELEASES} versions, each once; found {len(versions)}")


@dataclass(frozen=True)
class Choice:
    """The release that a vehicle takes, if there is one for it, and one sentence for each that was looked at."""

    release: Release | None
    reasons: tuple[str, ...]


def parse_manifest(text: str, where: str = MANIFEST) -> Manifest:
    """Raises StoreError naming what is wrong."""
    mend = "upload the manifest again"
    try:
        data = parse_json(text)
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found != MANIFEST_FORMAT or isinstance(found, bool):
            mend = f"this version reads {MANIFEST_FORMAT}; update bev_perception on this machine, or {mend}"
            raise ValueError(f"{where}: format {found!r}")
        manifest: Manifest = from_plain(Manifest, data, f"{where}:")
        for release in manifest.releases:
            if not re.fullmatch(r"\d{1,4}\.\d{1,4}", release.runtime):
                raise ValueError(
                    f"{where}: runtime of {release.version}: {release.runtime[:20]!r}, expected major.minor"
                )
    except ValueError as error:
        said = str(error)
        raise StoreError(f"{said if said.startswith(where) else f'{where}: {said}'}; {mend}") from error
    return manifest


def place_of(vehicle_id: str, version: str) -> float:
    """A number in [0, 1) that a vehicle always has for a version, and that is even over all vehicles.

    A release with the share s is for vehicles below s: those that had it keep it while s grows. Another version begins
    with other vehicles.
    """
    digest = hashlib.sha256(f"{version}\0{vehicle_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def choose_release(manifest: Manifest, vehicle_id: str | None) -> Choice:
    """The first release that this bev_perception runs and whose share the vehicle is in; without an id only one that is
    for all. Raises ValueError for an id that says nothing."""
    if vehicle_id is not None and not vehicle_id.strip():
        raise ValueError(
            "the vehicle's id is empty, which would be the same for many; give each vehicle one of its own"
        )
    reasons: list[str] = []
    for release in manifest.releases:
        version = f"version {release.version}"
        try:
            check_runtime(release.runtime, version)
        except BundleError as error:
            reasons.append(str(error))
            continue
        share = f"{release.share:.2%} of the vehicles"
        if release.share == 1:
            return Choice(release, (*reasons, f"{version}: chosen, it is for all vehicles"))
        if vehicle_id is None:
            reasons.append(f"{version}: is for {share} so far, and without --vehicle-id this one is not among them")
            continue
        place = place_of(vehicle_id, release.version)
        if place < release.share:
            return Choice(release, (*reasons, f"{version}: chosen, it is for {share}, this one is at {place:.2%}"))
        reasons.append(f"{version}: is for {share} so far, this one is at {place:.2%}")
    return Choice(None, tuple(reasons))


def read_manifest(store: str | Path, patience: Patience = PATIENCE, say: Say = print) -> Manifest:
    """store: a folder, or an address of HTTP(S). Raises StoreError, OSError (DownloadError)."""
    where = _address(store, MANIFEST)
    data = _small(where, patience, say)
    try:
        return parse_manifest(data.decode(), str(where))
    except UnicodeDecodeError as error:
        raise StoreError(f"{where}: is not UTF-8 ({error}); upload the manifest again") from error


def fetch_release(
    store: str | Path,
    release: Release,
    out: str | Path,
    patience: Patience = PATIENCE,
    say: Say = print,
    public_key: str | Path | None = None,
) -> Bundle:
    """The bundle of a release, verified, in a folder of `out` that is named by its version and its hash.

    A bundle that is there already is not fetched again. Nothing of the archive is used before its sha256 is that of the
    manifest; what was received is kept when the line breaks, and the next call goes on. public_key: whose other half
    must have signed the bundle. Raises StoreError, BundleError, OSError; ImportError without model-signing where there
    is a key.
    """
    out = Path(out)
    folder = out / f"{release.version}-{release.sha256[:12]}"
    try:
        bundle = load_bundle(folder)
        if public_key is not None:
            require_signature(folder, public_key)
        say(f"{folder}: is there already")
        return bundle
    except BundleError:  # not there, or damaged: fetched, and then replaced
        pass
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{folder.name}.archive"
    source = _address(store, release.file)
    with _alone(out):
        resumed = part.exists()
        free = shutil.disk_usage(out).free + (part.stat().st_size if resumed else 0)
        if free < 2 * release.bytes:
            raise OSError(f"{out}: {free} bytes are free, {2 * release.bytes} are needed for {release.file}; make room")
        _bring(source, part, release, patience, say)
        if resumed and sha256_of(part) != release.sha256:
            say(f"{source}: what an earlier call received does not belong to it, it is received anew")
            forget(part)
            _bring(source, part, release, patience, say)
        found = sha256_of(part)
        if found != release.sha256:
            forget(part)
            raise StoreError(
                f"{source}: has sha256 {found[:12]}..., the manifest expects {release.sha256[:12]}...; nothing of it "
                "was used. Upload the archive again, and the manifest after it"
            )
        try:
            bundle = unpack_bundle(part, folder, public_key)
        except BundleError:  # it is what the manifest says, and no good bundle: another call would find the same
            forget(part)
            raise
        _forget_all(out)
    return bundle


def _forget_all(out: Path) -> None:
    """Also what was received of releases that were withdrawn before they were whole; the caller holds the lock."""
    for part in out.glob(".*.archive"):
        if PART.fullmatch(part.name):
            forget(part)


def _address(store: str | Path, name: str) -> str | Path:
    """Of a file of the store. Raises DownloadError for an address that is none, FileNotFoundError for no folder."""
    if isinstance(store, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", store):
        return f"{check_address(store)}/{quote(name)}"
    if not Path(store).is_dir():
        raise FileNotFoundError(f"{store} is no folder; a store is a folder with {MANIFEST}, or http(s)://... of one")
    return Path(store) / name


def _small(where: str | Path, patience: Patience, say: Say) -> bytes:
    if isinstance(where, str):
        return read_address(where, MANIFEST_LIMIT, patience, say)
    try:
        return read_bytes(where, MANIFEST_LIMIT)
    except ValueError as error:
        raise StoreError(f"{where}: {error}; a manifest is JSON") from error


def _bring(source: str | Path, part: Path, release: Release, patience: Patience, say: Say) -> None:
    """All bytes of the archive into `part`, which is a copy: what is hashed is what is unpacked."""
    if isinstance(source, str):
        download(source, part, release.bytes, patience, say)
        return
    if not source.is_file() or source.stat().st_size != release.bytes:
        found = f"{source.stat().st_size} bytes" if source.is_file() else "no file"
        raise StoreError(f"{source}: is {found}, the manifest says {release.bytes} bytes; copy it there again")
    shutil.copyfile(source, part)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError where another process is at it; the lock ends with the process, whatever ends that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{folder}: another process fetches into it; wait for it") from error
        yield
    finally:
        os.close(descriptor)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="fetch_bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="folder, or http(s)://... of one, with manifest.json")
    parser.add_argument("--vehicle-id", help="any text that is this vehicle's alone; for releases that are not for all")
    parser.add_argument("--out", type=Path, required=True, help="folder of bundles, to which a new one is added")
    parser.add_argument("--public-key", type=Path, help="whose other half must have signed the bundle")
    parser.add_argument("--timeout", type=float, default=Patience.timeout_s, help="s without a byte (%(default)s)")
    parser.add_argument("--tries", type=int, default=Patience.tries, help="in a row that bring nothing (%(default)s)")
    args = parser.parse_args(argv)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        patience = Patience(timeout_s=args.timeout, tries=args.tries)
        choice = choose_release(read_manifest(args.store, patience, say), args.vehicle_id)
        for reason in choice.reasons:
            say(reason)
        if choice.release is None:
            raise StoreError(f"{args.store}: has no release for this vehicle")
        print(fetch_release(args.store, choice.release, args.out, patience, say, args.public_key).path)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {mend(error) or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
