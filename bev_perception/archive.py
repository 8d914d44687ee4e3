"""A bundle as one file, a zip.

    ros2 run bev_perception archive pack BUNDLE FILE.zip
    ros2 run bev_perception archive unpack FILE.zip BUNDLE

Zip, because Python has it without another package and every computer can look into it; members are stored as they are,
because weights and golden files hardly shrink and so that the bytes do not depend on the version of a compressor: the
same bundle gives the same archive, on every machine. Archives that others packed may be compressed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from bev_perception.bundle import (
    FILE_LIMIT,
    FILES_LIMIT,
    GOLDEN,
    GOLDEN_FRAME,
    MODEL,
    MODEL_LIMIT,
    SPEC,
    SPEC_LIMIT,
    Bundle,
    bundle_files,
    load_bundle,
    replace_bundle,
    require_replaceable,
)
from bev_perception.files import open_atomic, read_text, sha256_of, work_folder
from bev_perception.missing import mend
from bev_perception.model_spec import OLDEST, BundleError
from bev_perception.signing import require_signature

# Of a bundle's files, which lie in no folder. Bytes unpacked; what is not named here may be as large as a model.
MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MEMBER_LIMITS = {MODEL: MODEL_LIMIT, SPEC: SPEC_LIMIT, GOLDEN: FILE_LIMIT, GOLDEN_FRAME: FILE_LIMIT}
ARCHIVE_LIMIT = 2**32 - 1  # bytes of the archive, and of all that is in it; also where the plain zip format ends
END = struct.Struct("<4s4H2LH")  # the record at the end of a zip: magic, disks, entries, size and place of the list
LOCAL_HEADER = 30  # bytes before the name of a member, and its name again
CHUNK = 2**20
# What zipfile raises for damaged files: its own errors, and those of the decoders, names and numbers below it.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError, struct.error,
    UnicodeDecodeError,
)  # fmt: skip
WRITTEN = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can state; the real one would differ between machines


def pack_bundle(bundle: str | Path, out: str | Path) -> Bundle:
    """Write the archive of a bundle, verified before; the same bundle gives the same bytes. A file `out` is replaced.

    Raises BundleError for what `unpack_bundle` would refuse, ValueError where `out` is a folder or in the bundle,
    OSError.
    """
    source, out = load_bundle(bundle), Path(out)
    if out.is_dir() or out.resolve().parent == source.path.resolve():
        what, name = "a folder" if out.is_dir() else "in the bundle itself", f"{source.spec.name}.zip"
        raise ValueError(f"{out} is {what}; name a file outside of the bundle, such as {name}")
    source.model()  # or BundleError: weights that are not those that the spec names
    names = bundle_files(source.path)
    files = [source.path / name for name in names]
    check_members(names, [file.stat().st_size for file in files], str(source.path))
    with open_atomic(out) as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for file in files:
            member = zipfile.ZipInfo(file.name, WRITTEN)
            member.create_system = 3  # Unix, also where this is packed on another
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            member.file_size = file.stat().st_size
            with open(file, "rb") as source_file, archive.open(member, "w") as packed:
                shutil.copyfileobj(source_file, packed, CHUNK)
    return source


def unpack_bundle(archive: str | Path, out: str | Path, public_key: str | Path | None = None) -> Bundle:
    """Unpack an archive to the folder `out`; a bundle that is there is replaced once its successor is verified.

    Nothing is written before the archive's list of members is known to be harmless, and nothing outside the new folder;
    nothing that is unpacked is executed. public_key: whose other half must have signed the bundle.
    Raises BundleError for an archive that is damaged, too large or holds anything but the files of a bundle, or whose
    bundle `load_bundle` or the key refuses; ValueError where `out` is no folder; OSError; ImportError without
    model-signing where there is a key.
    """
    archive, out = Path(archive), Path(out)
    require_replaceable(out)
    try:
        with open(archive, "rb") as file:
            members = _members(file, archive)
            total = sum(member.file_size for member in members)
            with work_folder(out) as work:
                free = shutil.disk_usage(work).free
                if total > free:
                    raise OSError(f"{archive} has {total} bytes unpacked, {free} are free at {out.parent}; make room")
                with zipfile.ZipFile(file) as opened:
                    for member in members:
                        _unpack(opened, member, work, archive)
                bundle = _verified(work, archive, public_key)
                replace_bundle(work, out)
    except DAMAGED as error:
        raise BundleError(f"{archive}: is no intact zip ({error}); copy or download it again") from error
    return Bundle(out, bundle.spec)


def _verified(work: Path, archive: Path, public_key: str | Path | None) -> Bundle:
    """What was unpacked; errors name the archive, because `work` is gone when they are read."""
    try:
        if public_key is not None:
            require_signature(work, public_key)
        bundle = load_bundle(work)
        bundle.model()  # or BundleError: weights that are not those that the spec names
    except BundleError as error:
        raise type(error)(str(error).replace(str(work), str(archive))) from error
    return bundle


def check_members(names: Sequence[str], sizes: Sequence[int], where: str) -> None:
    """Raises BundleError unless these can be the files of a bundle, by names and by sizes in bytes."""
    mend = "an archive holds the files of a bundle, in no folder, as `archive pack` writes it"
    if len(names) > FILES_LIMIT:
        raise BundleError(f"{where}: has {len(names)} files, expected at most {FILES_LIMIT}; {mend}")
    odd = [name[:100] for name in names if not MEMBER_NAME.fullmatch(name)]
    if odd:
        raise BundleError(f"{where}: holds {odd[:5]}, expected names like {MODEL!r}; {mend}")
    folded = [name.casefold() for name in names]
    twice = sorted(name for name in names if folded.count(name.casefold()) > 1)
    if twice:
        raise BundleError(f"{where}: holds {twice[:5]}, which are one file on some systems; each name stands once")
    for name, size in zip(names, sizes, strict=True):
        limit = MEMBER_LIMITS.get(name, MODEL_LIMIT)
        if size > limit:
            raise BundleError(f"{where}: {name} has {size} bytes, at most {limit} are read; {mend}")
    if sum(sizes) > ARCHIVE_LIMIT:
        raise BundleError(f"{where}: has {sum(sizes)} bytes unpacked, at most {ARCHIVE_LIMIT}; {mend}")


def _members(file: BinaryIO, archive: Path) -> list[zipfile.ZipInfo]:
    """The archive's list, bounded before it is read, and looked at before anything is unpacked. Raises BundleError."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{archive}: is no regular file; name the archive itself")
    if not END.size <= status.st_size <= ARCHIVE_LIMIT:
        raise BundleError(f"{archive}: has {status.st_size} bytes, expected a zip of at most {ARCHIVE_LIMIT}")
    file.seek(-END.size, os.SEEK_END)
    magic, disk, first, here, count, size, place, comment = END.unpack(file.read(END.size))
    if magic != b"PK\x05\x06" or (disk, first, comment) != (0, 0, 0) or here != count:
        raise BundleError(
            f"{archive}: does not end like a zip in one part without a comment; copy or download it again, or pack the "
            "bundle with `archive pack`"
        )
    if count > FILES_LIMIT or size > FILES_LIMIT * 1000 or place + size + END.size != status.st_size:
        raise BundleError(
            f"{archive}: lists {count} files in {size} bytes at {place}, expected at most {FILES_LIMIT}, and the list "
            "at the end; pack the bundle with `archive pack`"
        )
    with zipfile.ZipFile(file) as opened:
        members = opened.infolist()
    names = [member.orig_filename for member in members]
    check_members(names, [member.file_size for member in members], str(archive))
    end = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or member.external_attr & 0x10:  # 0x10: a folder of MS-DOS
            raise BundleError(f"{archive}: {member.filename} is a link, folder or device, expected a regular file")
        if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(f"{archive}: {member.filename} is encrypted or packed otherwise than with Deflate")
        if member.header_offset < end:
            raise BundleError(f"{archive}: {member.filename} overlaps the file before it; nothing honest packs so")
        end = member.header_offset + LOCAL_HEADER + len(member.orig_filename) + member.compress_size
    if end > place:
        raise BundleError(f"{archive}: its files reach into the list of files; copy or download it again")
    return members


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, where: Path) -> None:
    """Write one member, of exactly the size that the list gives it: more is not taken, whatever its header says."""
    left = member.file_size
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with archive.open(member) as packed, open(folder / member.filename, "xb", opener=_opener(flags)) as file:
        while chunk := packed.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        raise BundleError(f"{where}: {member.filename} is not of the {member.file_size} bytes that the list gives it")


def _opener(flags: int) -> Callable[[str, int], int]:
    return lambda path, _: os.open(path, flags, 0o644)


def release_row(archive: Path, spec: str) -> dict[str, Any]:
    """What a store's manifest says of an archive; spec: the text of its bundle's model_spec.json. Raises OSError."""
    runtime = json.loads(spec).get("runtime", OLDEST["runtime"])
    size, digest = archive.stat().st_size, sha256_of(archive)
    return {"file": archive.name, "sha256": digest, "bytes": size, "runtime": runtime}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="archive", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    pack = verbs.add_parser("pack", help="a bundle becomes one file, which is always the same")
    pack.add_argument("bundle", type=Path, help="folder of the bundle")
    pack.add_argument("archive", type=Path, help="file to write, such as demo.zip")
    unpack = verbs.add_parser("unpack", help="such a file becomes a bundle, verified")
    unpack.add_argument("archive", type=Path, help="what `pack` wrote")
    unpack.add_argument("bundle", type=Path, help="folder to write; a bundle there gives way to a verified one only")
    unpack.add_argument("--public-key", type=Path, help="whose other half must have signed the bundle")
    args = parser.parse_args(argv)
    try:
        if args.verb == "pack":
            pack_bundle(args.bundle, args.archive)
            print(json.dumps(release_row(args.archive, read_text(args.bundle / SPEC, SPEC_LIMIT))))
        else:
            bundle = unpack_bundle(args.archive, args.bundle, args.public_key)
            print(f"{bundle.path}: {bundle.spec.name}, sha256 of {MODEL} {bundle.spec.onnx_sha256}, verified")
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {mend(error) or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
