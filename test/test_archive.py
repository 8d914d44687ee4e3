"""The bundle as one file: the same bytes every time, and no archive writes outside its folder or beyond its size."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import tiny_bundle

from bev_perception import archive as module
from bev_perception.archive import main, pack_bundle, unpack_bundle
from bev_perception.bundle import GOLDEN, MODEL, SPEC, load_bundle
from bev_perception.files import aside, sha256_of
from bev_perception.model_spec import RUNTIME, BundleError

ROOT = Path(__file__).resolve().parent.parent
REGULAR = (stat.S_IFREG | 0o644) << 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "bundle"
    tiny_bundle.write_bundle(path)
    (path / "MODEL_CARD.md").write_text("# tiny\n")
    return path


@pytest.fixture(scope="module")
def packed(bundle: Path) -> bytes:
    pack_bundle(bundle, bundle.parent / "tiny.zip")
    return (bundle.parent / "tiny.zip").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_packed_is_unpacked(bundle: Path, packed: bytes, tmp_path: Path, capsys: Any) -> None:
    assert main(["pack", str(bundle), str(tmp_path / "tiny.zip")]) == 0
    row = {"file": "tiny.zip", "sha256": sha256_of(tmp_path / "tiny.zip"), "bytes": len(packed), "runtime": RUNTIME}
    assert json.loads(capsys.readouterr().out) == row
    assert main(["unpack", str(tmp_path / "tiny.zip"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith("verified\n")
    assert contents(tmp_path / "out") == contents(bundle)
    assert {f.name for f in tmp_path.iterdir()} == {"out", "tiny.zip"}
    assert zipfile.ZipFile(tmp_path / "tiny.zip").testzip() is None


def test_the_same_bundle_gives_the_same_bytes(bundle: Path, packed: bytes, tmp_path: Path) -> None:
    """Copied in another order, at another time, with other rights, in another time zone."""
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    for file in sorted(bundle.iterdir(), reverse=True):
        shutil.copyfile(file, copy / file.name)
        os.chmod(copy / file.name, 0o600)
        os.utime(copy / file.name, (1e9, 1e9))
    command = [sys.executable, "-m", "bev_perception.archive", "pack", "copy", "copy.zip"]
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "TZ": "Asia/Tokyo"}, check=True)
    assert (tmp_path / "copy.zip").read_bytes() == packed


def test_archives_of_others_may_be_compressed(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name in contents(bundle):
            file.write(bundle / name, name)
    unpack_bundle(tmp_path / "a.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(bundle)


# ---- what is refused before anything is written


def written(path: Path, *members: tuple[Any, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for info, data in members:
            file.writestr(info, data)
    return path


def member(name: str, mode: int = REGULAR) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode
    return info


NAMES = [
    "../evil", "/etc/evil", "a/b", "a\\b", "..", ".", ".hidden", "C:evil", "a\nb", "a b", "-rf", "ä", "a" * 200, "e/",
]  # fmt: skip
KINDS = {"link": stat.S_IFLNK, "device": stat.S_IFCHR, "pipe": stat.S_IFIFO, "folder": stat.S_IFDIR}


def refused(archive: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with these words, before a folder was made."""
    place = archive.parent / "place"
    place.mkdir(exist_ok=True)

    def never(*_: Any) -> None:
        raise AssertionError("it began to write")

    with monkeypatch.context() as patch:
        patch.setattr(module, "work_folder", never)
        with pytest.raises(BundleError, match=said):
            unpack_bundle(archive, place / "out")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_names_that_leave_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    archive = written(tmp_path / "a.zip", (member("x" * len(name.encode())), b"evil"))
    data = archive.read_bytes().replace(b"x" * len(name.encode()), name.encode())
    archive.write_bytes(data)
    refused(archive, "expected names like 'model.onnx'; an archive holds the files of a bundle", monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    archive = written(tmp_path / "a.zip", (member(MODEL, (KINDS[kind] | 0o777) << 16), b"/etc/passwd"))
    refused(archive, f"{MODEL} is a link, folder or device, expected a regular file", monkeypatch)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [(SPEC, SPEC), (SPEC, SPEC.upper())])
def test_names_that_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]) -> None:
    archive = written(tmp_path / "a.zip", *((name, b"{}") for name in names))
    refused(archive, "which are one file on some systems; each name stands once", monkeypatch)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = written(tmp_path / "a.zip", *((f"w{i}", b"") for i in range(65)))
    refused(archive, r"lists 65 files in \d+ bytes at \d+, expected at most 64", monkeypatch)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte that would be three of the limit, and members that share their bytes."""
    archive = written(tmp_path / "a.zip", (SPEC, bytes(3 * 2**20)), compression=zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 2**14
    refused(archive, rf"{SPEC} has 3145728 bytes, at most 1048576 are read", monkeypatch)
    many = [(f"w{i}", b"x") for i in range(9)]
    archive = written(tmp_path / "b.zip", *many)
    data = bytearray(archive.read_bytes())
    for at in places(data, b"PK\x01\x02"):
        data[at + 20 : at + 28] = struct.pack("<LL", 1, 2**29)  # what each says of its sizes
    archive.write_bytes(data)
    refused(archive, rf"has {9 * 2**29} bytes unpacked, at most {2**32 - 1}", monkeypatch)
    archive = written(tmp_path / "c.zip", *many)
    data = bytearray(archive.read_bytes())
    for at in places(data, b"PK\x01\x02"):
        data[at + 42 : at + 46] = bytes(4)  # all begin where the first does
    archive.write_bytes(data)
    refused(archive, "overlaps the file before it", monkeypatch)
    archive = written(tmp_path / "d.zip", ("w", b"x"))
    data = bytearray(archive.read_bytes())
    (at,) = places(data, b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<LL", 20, 20)
    archive.write_bytes(data)
    refused(archive, "its files reach into the list of files", monkeypatch)


def places(data: bytes | bytearray, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def test_other_files_and_other_zips(tmp_path: Path, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "has 0 bytes, expected a zip"),
        "text": (b"hello " * 100, "does not end like a zip"),
        "cut": (packed[:-1], "does not end like a zip"),
        "comment": (packed[:-2] + b"\x05\x00hello", "does not end like a zip"),
        "glued": (b"#!/bin/sh\n" + packed, "and the list at the end"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, said, monkeypatch)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR)  # so that opening it does not wait
    refused(tmp_path / "pipe", "is no regular file", monkeypatch)
    os.close(reader)
    written(tmp_path / "lzma", (MODEL, b"x"), compression=zipfile.ZIP_LZMA)
    refused(tmp_path / "lzma", "encrypted or packed otherwise than with Deflate", monkeypatch)


def test_a_full_disk_is_known_before(packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(packed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"bytes unpacked, 1000 are free at .*; make room"):
        unpack_bundle(tmp_path / "a.zip", tmp_path / "out")
    assert [f.name for f in tmp_path.iterdir()] == ["a.zip"]


# ---- what is refused while it is read, or afterwards, and leaves nothing


def lying(data: bytes, name: str, size: int) -> bytes:
    """The archive whose list gives this member another unpacked size."""
    changed = bytearray(data)
    (at,) = [p for p in places(data, b"PK\x01\x02") if data[p + 46 :].startswith(name.encode())]
    changed[at + 24 : at + 28] = struct.pack("<L", size)
    return bytes(changed)


def with_file(name: str, data: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data((folder / name).read_bytes())) and None


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no golden sample": (lambda folder: (folder / GOLDEN).unlink(), f"{GOLDEN} is missing"),
    "another ONNX": (with_file(MODEL, lambda data: data + b"x"), "was altered or belongs to another bundle"),
    "no spec": (with_file(SPEC, lambda data: b"{}"), "format None"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_no_bundle_replaces_none(bundle: Path, tmp_path: Path, what: str) -> None:
    change, said = DAMAGE[what]
    shutil.copytree(bundle, tmp_path / "bad")
    shutil.copytree(bundle, tmp_path / "out")
    change(tmp_path / "bad")
    archive = written(tmp_path / "a.zip", *contents(tmp_path / "bad").items())
    with pytest.raises(BundleError, match=said) as told:
        unpack_bundle(archive, tmp_path / "out")
    assert str(archive) in str(told.value) and ".part" not in str(told.value)
    with pytest.raises(BundleError, match=said):
        pack_bundle(tmp_path / "bad", tmp_path / "b.zip")
    assert contents(tmp_path / "out") == contents(bundle)
    assert {f.name for f in tmp_path.iterdir()} == {"a.zip", "bad", "out"}


def test_a_lying_size_does_not_get_through(bundle: Path, packed: bytes, tmp_path: Path) -> None:
    """The list says less than the data are, or more; compressed or not."""
    deflated = written(tmp_path / "d.zip", *contents(bundle).items(), compression=zipfile.ZIP_DEFLATED).read_bytes()
    for data in (packed, deflated):
        for size in (0, 10, len((bundle / MODEL).read_bytes()) + 1000):
            (tmp_path / "a.zip").write_bytes(lying(data, MODEL, size))
            with pytest.raises(BundleError, match=r"no intact zip|is not of the \d+ bytes"):
                unpack_bundle(tmp_path / "a.zip", tmp_path / "out")
            assert {f.name for f in tmp_path.iterdir()} == {"a.zip", "d.zip"}


def test_damaged_bytes_are_an_error_that_says_so(bundle: Path, packed: bytes, tmp_path: Path) -> None:
    """Any byte of the archive changed: refused, or the same bundle (a time or a system may change)."""
    rng = np.random.default_rng(3)
    whole = contents(bundle)
    for at in [*rng.integers(0, len(packed), 40), *range(len(packed) - 150, len(packed))]:
        data = bytearray(packed)
        data[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.zip").write_bytes(data)
        try:
            unpack_bundle(tmp_path / "a.zip", tmp_path / "out")
        except BundleError:
            assert not (tmp_path / "out").exists()
        else:
            assert contents(tmp_path / "out") == whole
            shutil.rmtree(tmp_path / "out")


# ---- the folder that is replaced


def test_a_folder_of_other_things_is_not_replaced(packed: bytes, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.zip").write_bytes(packed)
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("mine")
    assert main(["unpack", str(tmp_path / "a.zip"), str(home)]) == 1
    assert f"{home} is there and is no bundle" in capsys.readouterr().err
    assert contents(home) == {"thesis.txt": b"mine"} and not aside(home).exists()
    (home / "thesis.txt").unlink()
    assert unpack_bundle(tmp_path / "a.zip", home).spec == load_bundle(home).spec


def test_a_kill_at_any_step_leaves_the_old_bundle_or_the_new_one(bundle: Path, packed: bytes, tmp_path: Path) -> None:
    """Before each call that changes what is on the disk, in a child process that ends there."""
    (tmp_path / "a.zip").write_bytes(packed)
    out, new = tmp_path / "out", contents(bundle)
    old = new | {"MODEL_CARD.md": b"# the one before"}
    found = []
    for step in range(1, 100):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name, data in old.items():
            (out / name).write_bytes(data)
        status = killed_before(step, tmp_path / "a.zip", out)
        there = contents(out if out.exists() else aside(out))
        assert there in (old, new), f"step {step}"
        found.append(there == new)
        if status == 0:
            break
        unpack_bundle(tmp_path / "a.zip", out)  # goes on as if nothing had been
        assert contents(out) == new
        for left in set(tmp_path.iterdir()) - {out, tmp_path / "a.zip"}:
            left.rmdir()  # an empty folder at most: it had no lock yet
    assert status == 0 and step > len(new) + 4, "every file and every rename had its kill"
    assert found == sorted(found), "and never back"


def killed_before(step: int, archive: Path, out: Path) -> int:
    """The exit status of an `unpack` that ends before the call of this number: 9, or 0 where it has fewer."""
    child = os.fork()
    if not child:
        left = step

        def ending(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                return os._exit(9) if left == 0 else call(*args, **options)

            return wrapped

        for name in ("rename", "chmod", "fsync", "open", "mkdir", "unlink", "rmdir"):
            setattr(os, name, ending(getattr(os, name)))
        try:
            unpack_bundle(archive, out)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_only_whole_bundles_are_packed(bundle: Path, tmp_path: Path) -> None:
    for name, make, said in (
        ("folder", lambda p: p.mkdir(), "is no regular file"),
        ("link", lambda p: p.symlink_to("/etc/passwd"), "is no regular file"),
        ("odd name", lambda p: p.write_text(""), "expected names like"),
    ):
        shutil.copytree(bundle, tmp_path / "copy")
        make(tmp_path / "copy" / name)
        with pytest.raises(BundleError, match=said):
            pack_bundle(tmp_path / "copy", tmp_path / "a.zip")
        assert not (tmp_path / "a.zip").exists()
        shutil.rmtree(tmp_path / "copy")


def test_an_archive_is_a_file_outside_of_the_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    before = sorted(bundle.path.iterdir())
    for out, told in ((bundle.path / "mine.zip", "is in the bundle itself"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=f"{told}; name a file outside of the bundle, such as tiny.zip"):
            pack_bundle(bundle.path, out)
    assert sorted(bundle.path.iterdir()) == before and list(tmp_path.iterdir()) == [bundle.path]
