"""Arrays of an .npz file, with nothing allocated before it is known to be wanted and within bounds."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from bev_perception.files import read_bytes

MEMBER_LIMIT = 1000
HEADER_LIMIT = 10_000  # characters of an array's header


def read_arrays(path: str | Path, file_limit: int, array_limit: int) -> dict[str, np.ndarray]:
    """Name -> array. file_limit: bytes of the file; array_limit: bytes of all its arrays together, unpacked.

    Raises ValueError for what is no such file, is larger, or holds Python objects; OSError where it cannot be read.
    """
    data = read_bytes(path, file_limit)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            total = sum(member.file_size for member in members)
            if len(members) > MEMBER_LIMIT or len(set(names)) < len(names):
                raise ValueError(f"{len(members)} arrays, some of one name or too many")
            if total > array_limit:
                raise ValueError(f"its arrays have {total} bytes unpacked, at most {array_limit} are read")
            return {m.filename.removesuffix(".npy"): _array(archive, m) for m in members}
    # What zipfile raises for damaged files: its own errors, and those of the decoders, structs and names below it.
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OverflowError) as error:
        raise ValueError(f"is no intact file of arrays ({error})") from error
    except (KeyError, IndexError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"is no intact file of arrays ({type(error).__name__}: {error})") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        body = file.read(member.file_size + 1)  # the size in the archive's list is a promise of the file, not a fact
    if len(body) != member.file_size:
        raise ValueError(f"`{member.filename}` has another size than the file says")
    stream = io.BytesIO(body)
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"`{member.filename}` has the format {version}, known are {sorted(readers)}")
    shape, fortran, dtype = readers[version](stream, max_header_size=HEADER_LIMIT)  # type: ignore
    if dtype.hasobject or dtype.kind not in "biufU":
        raise ValueError(f"`{member.filename}` holds {dtype}, expected numbers or texts")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f"`{member.filename}` has the shape {shape}")
    count = math.prod(shape)
    if count * dtype.itemsize != len(body) - stream.tell():
        raise ValueError(f"`{member.filename}`: {dtype} {list(shape)} does not fit {len(body) - stream.tell()} bytes")
    array = np.frombuffer(body, dtype, count, stream.tell()) if count and dtype.itemsize else np.zeros(shape, dtype)
    return np.array(array.reshape(shape, order="F" if fortran else "C"))
