"""Whether the files that keyframes need are there and whole, by the readers that training uses: all of them at once.

Images are not decoded: their header, their size and their end are looked at. Points are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bev_perception.evaluation.spread import end_with_parent
from bev_perception.preprocess.compressed import COMPRESSED, compression_of
from training.data.lidar import read_lidar
from training.data.masks import mask_path, read_masks
from training.data.nuscenes import Keyframes, SensorFile
from training.data.radar_pcd import read_pcd

AT_ONCE = 32  # files that a process is given
TOLD_EVERY_S = 10.0


@dataclass(frozen=True)
class Needed:
    """A file, its kind (a key of FAULTS), and the sample that needs it. size: of the image, by the tables; 0: unknown.
    image: that a mask is of."""

    path: str
    kind: str
    sample: str
    size: tuple[int, int] = (0, 0)
    image: str = ""


def needed_files(keyframes: Keyframes, lidar: bool = True) -> list[Needed]:
    """Each file once, with the first sample that needs it. lidar: whether anything reads LiDAR."""
    found: dict[str, Needed] = {}
    for keyframe in keyframes:
        sample = f"sample {keyframe.token} of {keyframe.scene}"
        sweeps = [file for files in keyframe.radars.values() for file in files]
        kinds = (
            ("image", keyframe.cameras.values()), ("radar", sweeps), ("lidar", keyframe.lidar if lidar else ()),
        )  # fmt: skip
        for kind, files in kinds:
            for file in files:
                found.setdefault(file.path, Needed(file.path, kind, sample, (file.width, file.height)))
        for needed in _masks(keyframe.cameras.items(), keyframes, sample):
            found.setdefault(needed.path, needed)
    return list(found.values())


def _masks(cameras: Iterable[tuple[str, SensorFile]], keyframes: Keyframes, sample: str) -> Iterator[Needed]:
    """Those that the virtual points of a keyframe are made of."""
    virtual = keyframes.config.virtual
    if virtual is None:
        return
    folder = keyframes.data_index.dataroot / virtual.masks
    for name, file in cameras:
        if name in virtual.cameras:
            yield Needed(str(mask_path(folder, file.path)), "masks", sample, (file.width, file.height), file.path)


def _image(file: Needed) -> str:
    data = Path(file.path).read_bytes()
    encoding = compression_of(data[:8])
    if encoding is None:
        return f"begins with {data[:8]!r}, expected one of {', '.join(COMPRESSED)}"
    form = COMPRESSED[encoding]
    header = form.header(data)
    if header is None:
        return f"has no {encoding} header in {len(data)} bytes"
    if not form.is_whole(data):
        return f"has no end marker of {encoding} in {len(data)} bytes: it is cut off"
    size = (header.width, header.height)
    if all(file.size) and size != file.size:
        return f"is {size[0]}x{size[1]}, sample_data.json says {file.size[0]}x{file.size[1]}"
    return ""


def _lidar(file: Needed) -> str:
    read_lidar(file.path)
    return ""


def _radar(file: Needed) -> str:
    return "" if len(read_pcd(file.path)) else "announces no point; expected one of NaN for a sweep without returns"


def _mask(file: Needed) -> str:
    read_masks(Path(file.path).parents[1], file.image, file.size[::-1])
    return ""


# Kind -> what is wrong with a file, "" for nothing; a ValueError of its reader says it too.
FAULTS: dict[str, Callable[[Needed], str]] = {"image": _image, "lidar": _lidar, "radar": _radar, "masks": _mask}


def fault_of(file: Needed) -> str:
    """What is wrong with a file, "" for nothing."""
    try:
        if not Path(file.path).is_file():
            return "is missing"
        if not Path(file.path).stat().st_size:
            return "is empty"
        return FAULTS[file.kind](file)
    except ValueError as error:
        return str(error).removeprefix(f"{file.path}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def bad_files(files: Sequence[Needed], workers: int) -> list[str]:
    """A line for each file that is missing or damaged, in the order of the files. workers: processes that look, 0 for
    this one alone. Prints how far they are."""
    if not workers:
        return _lines(files, map(fault_of, files))
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        return _lines(files, pool.map(fault_of, files, chunksize=AT_ONCE))


def _lines(files: Sequence[Needed], faults: Iterable[str]) -> list[str]:
    lines: list[str] = []
    started = told = time.monotonic()
    for number, (file, fault) in enumerate(zip(files, faults), 1):
        if fault:
            lines.append(f"{file.sample}: {file.path} {fault}")
        if time.monotonic() - told > TOLD_EVERY_S:
            told = time.monotonic()
            left = (told - started) * (len(files) / number - 1)
            print(f"{number / len(files):4.0%} of {len(files)} files, {len(lines)} bad, {left:.0f} s left", flush=True)
    return lines
