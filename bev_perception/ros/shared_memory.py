"""What keeps Fast DDS from sending through shared memory: looked for by launch and node, and said with the way out.

    python -m bev_perception.ros.shared_memory        # says what is wrong here; exit status 1 when something is

Fast DDS goes over to UDP, with at most a line in its own log, where it cannot have its segment in /dev/shm; then most
raw images are lost. No ROS.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path("/dev/shm")
MIB = 2**20
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # of Fast DDS 2 and 3
DEFAULT_SEGMENT_BYTES = MIB // 2  # of Fast DDS
LEAST_PROCESSES = 3  # launch, the node and one driver; each process has a segment of its own
# Segments are called by a random number, ports by a number that the domain gives; each has a lock file beside it.
OWN = re.compile(r"(?:fastrtps|fastdds)_(?:[0-9a-f]{16}|port(?P<port>\d+))")
# How it is locked says how to ask: a shared lock does not keep out another shared one, and asking for an exclusive one
# would stand, for that moment, in the way of a process that takes its own.
LOCKS = {"_el": fcntl.LOCK_SH, "_sl": fcntl.LOCK_EX}
FIRST_PORT, PORTS_OF_DOMAIN = 7400, 250  # DDS-RTPS 2.2, 9.6.1.1


@dataclass(frozen=True)
class Problem:
    """Something below the node is wrong; the detail says what was found, what was expected and how to mend it."""

    reason: str
    detail: str


@dataclass(frozen=True)
class SharedFile:
    """A segment or port of Fast DDS. port: its number, None for a segment. usable: its process and this one may write
    to each other. left_over: no process holds its lock any more."""

    name: str
    size: int
    owner: int
    port: int | None
    usable: bool
    left_over: bool


@dataclass(frozen=True)
class SharedMemory:
    """/dev/shm at one moment; sizes in bytes."""

    total: int
    free: int
    writable: bool
    files: tuple[SharedFile, ...] = ()


def segment_bytes(profile: Path | None) -> int:
    """Size of the segment that each process needs with this profile; 0 without shared memory.

    Raises OSError or ElementTree.ParseError where Fast DDS could not read the profile either.
    """
    if profile is None:
        return DEFAULT_SEGMENT_BYTES
    root = ElementTree.parse(profile).getroot()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    transports = {t.findtext("transport_id", "").strip(): t for t in root.iter("transport_descriptor")}
    participants = list(root.iter("rtps"))
    used = [(name.text or "").strip() for p in participants for name in p.iterfind("userTransports/transport_id")]
    sizes = [
        int(transports[name].findtext("segment_size", str(DEFAULT_SEGMENT_BYTES)))
        for name in used
        if name in transports and transports[name].findtext("type", "").strip() == "SHM"
    ]
    builtin = any(p.findtext("useBuiltinTransports", "true").strip() != "false" for p in participants)
    return max([*sizes, DEFAULT_SEGMENT_BYTES if builtin or not participants else 0])


def read_shared_memory(folder: Path = FOLDER) -> SharedMemory:
    """Raises OSError where the folder is missing."""
    status = os.statvfs(folder)
    return SharedMemory(
        total=status.f_blocks * status.f_frsize,
        free=status.f_bavail * status.f_frsize,
        writable=os.access(folder, os.W_OK | os.X_OK),
        files=tuple(_files(folder)),
    )


def _files(folder: Path) -> Iterable[SharedFile]:
    for path in sorted(folder.iterdir()):
        found = OWN.fullmatch(path.name)
        if not found:
            continue
        try:
            status = path.stat()
            yield SharedFile(
                name=path.name,
                size=status.st_blocks * 512,
                owner=status.st_uid,
                port=int(found["port"]) if found["port"] else None,
                # Root may write to whatever others have, but they may not write to what is root's.
                usable=status.st_uid == os.getuid() or bool(status.st_mode & stat.S_IWOTH),
                left_over=not any(_held(path.with_name(path.name + end), how) for end, how in LOCKS.items()),
            )
        except FileNotFoundError:  # its process has just ended
            continue


def _held(lock: Path, how: int) -> bool:
    """Whether a process holds this lock file; one that may not be opened counts as held. Waits for nobody."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def memory_problems(memory: SharedMemory, segment: int, domain: int, user: int) -> tuple[Problem, ...]:
    """What stands in the way of segments of `segment` bytes in a domain, for a process of `user`."""
    found = []
    if not memory.writable:
        mend = "mount it writable for this user (mode 1777), or give the container --ipc=host"
        found.append(Problem("shm_not_writable", f"{FOLDER} is not writable for user {user}; {mend}"))
    needed = LEAST_PROCESSES * segment
    enlarge = "docker: --shm-size=1g or --ipc=host; otherwise: mount -o remount,size=1g /dev/shm"
    # Ports that are left over are taken over by the next process; segments only take room, each as much as a driver's.
    left_over = [file for file in memory.files if file.left_over and file.port is None]
    lost = sum(file.size for file in left_over)
    if memory.total < needed:
        each = f"launch, node and every driver need a segment of {_mib(segment)} each"
        has = f"{FOLDER} has {_mib(memory.total)} in all; {each}"
        found.append(Problem("shm_too_small", f"{has}; {enlarge}"))
    elif memory.free < segment:
        has = f"{FOLDER} has {_mib(memory.free)} of {_mib(memory.total)} free, less than one segment of {_mib(segment)}"
        clean = f"{_mib(lost)} are left over from processes that are gone: `fastdds shm clean`"
        found.append(Problem("shm_full", f"{has}; {clean}; {enlarge}"))
    elif lost >= segment:
        names = f"{len(left_over)} segments in {FOLDER} ({left_over[0].name} and so on, {_mib(lost)})"
        found.append(
            Problem("shm_left_over", f"{names} are left over from processes that are gone; `fastdds shm clean`")
        )
    ports = range(FIRST_PORT + PORTS_OF_DOMAIN * domain, FIRST_PORT + PORTS_OF_DOMAIN * (domain + 1))
    others = [file for file in memory.files if file.port in ports and not file.usable]
    if others:
        who = ", ".join(sorted({f"{file.name} of user {file.owner}" for file in others})[:3])
        has = f"processes of another user than {user} are in ROS domain {domain} ({FOLDER} has {who})"
        mend = "run drivers and node as one user, or in domains of their own"
        found.append(Problem("shm_of_another_user", f"{has}: they find each other and nothing arrives; {mend}"))
    return tuple(found)


def find_problems(environment: Mapping[str, str], folder: Path = FOLDER) -> tuple[Problem, ...]:
    """Everything that keeps a process with this environment from shared memory; nothing with another middleware."""
    if environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") not in (
        "rmw_fastrtps_cpp",
        "rmw_fastrtps_dynamic_cpp",
    ):
        return ()
    given = [environment[name] for name in PROFILE_VARIABLES if environment.get(name)]
    profile = Path(given[0]) if given else None
    try:
        segment = segment_bytes(profile)
    except (OSError, ElementTree.ParseError, ValueError) as error:
        mend = f"set {PROFILE_VARIABLES[0]} to a profile that can be read, or unset it"
        return (Problem("dds_profile", f"{profile} cannot be read ({error}); Fast DDS takes its defaults; {mend}"),)
    if segment == 0:
        return ()
    try:
        memory = read_shared_memory(folder)
    except OSError as error:
        return (Problem("shm_not_writable", f"{folder} cannot be read ({error}); mount a tmpfs there"),)
    domain = environment.get("ROS_DOMAIN_ID") or "0"
    return memory_problems(memory, segment, int(domain) if domain.isdigit() else 0, os.getuid())


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size < 10 * MIB else f"{size / MIB:.0f} MiB"


def main() -> int:
    problems = find_problems(os.environ)
    for problem in problems:
        print(f"{problem.reason}: {problem.detail}")
    if not problems:
        print("nothing keeps Fast DDS from shared memory")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
