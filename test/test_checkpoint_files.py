"""A save that is killed or meets a full disk, at every point of it, loses no checkpoint."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from bev_perception import files  # noqa: E402
from training.trainer import checkpoint_files  # noqa: E402
from training.trainer.checkpoint_files import LAST, PREVIOUS, CheckpointFiles, remove_parts  # noqa: E402

CALLS = ("open", "write", "fsync", "link", "replace")  # what a save asks the system for


def state(step: int) -> dict[str, Any]:
    return {"global_step": step, "weights": torch.full((30_000,), float(step))}


def save(out: Path, step: int) -> None:
    CheckpointFiles().save_checkpoint(state(step), out / LAST)


def step_of(path: Path) -> int:
    """Of a checkpoint that is whole; any other raises."""
    found = torch.load(path, weights_only=True)
    assert bool((found["weights"] == found["global_step"]).all())
    return found["global_step"]


class Slow:
    """A file that is written in ten parts, so that there is a point within each of them."""

    def __init__(self, file: Any, at_call: Callable[[str], None]) -> None:
        self.file, self.at_call = file, at_call

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, content: Any) -> None:
        part = len(content) // 9
        for start in range(0, len(content), part):
            self.file.write(content[start : start + part])
            self.file.flush()
            self.at_call("write")

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


def watched(monkeypatch: pytest.MonkeyPatch, at_call: Callable[[str], None]) -> None:
    """at_call(name) before every call of a save to the system, and after the renaming ones."""

    def before(name: str, call: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def told(*arguments: Any) -> Any:
            at_call(name)
            done = call(*arguments)
            if after:
                at_call(f"after {name}")
            return done

        return told

    def slow_open(path: Path, mode: str) -> Slow:
        at_call("open")
        return Slow(open(path, mode), at_call)

    monkeypatch.setattr(files, "open", slow_open, raising=False)
    monkeypatch.setattr(os, "fsync", before("fsync", os.fsync, after=True))
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, before(name, getattr(os, name), after=True))


def in_child(work: Callable[[], None]) -> int:
    """Status of a process of its own that does `work`: the signal that killed it, below zero."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def points_of_a_save(out: Path) -> list[str]:
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        watched(patch, seen.append)
        save(out, 3)
    return seen


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with two checkpoints, of steps 1 and 2."""
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        save(tmp_path / "run", step)
    return tmp_path / "run"


def test_the_one_before_is_kept(out: Path) -> None:
    assert (step_of(out / PREVIOUS), step_of(out / LAST)) == (1, 2)
    assert sorted(p.name for p in out.iterdir()) == sorted([LAST, PREVIOUS])
    CheckpointFiles().save_checkpoint(state(9), out / "best.ckpt")
    assert (step_of(out / PREVIOUS), step_of(out / LAST), step_of(out / "best.ckpt")) == (1, 2, 9)


def test_kill_9_at_every_point_of_a_save(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "trial")
    points = points_of_a_save(tmp_path / "trial")
    assert len(points) >= 20 and set(CALLS) <= set(points)
    for number in range(len(points)):
        folder = tmp_path / f"killed_{number}"
        shutil.copytree(out, folder)
        left = [number]

        def strike(name: str, left: list[int] = left) -> None:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        def killed(folder: Path = folder, strike: Callable[[str], None] = strike) -> None:
            watched(pytest.MonkeyPatch(), strike)
            save(folder, 3)

        assert in_child(killed) == -signal.SIGKILL
        assert step_of(folder / LAST) in (2, 3), points[number]
        assert step_of(folder / PREVIOUS) in (1, 2), points[number]
        remove_parts(folder)
        save(folder, 4)
        assert step_of(folder / LAST) == 4 and step_of(folder / PREVIOUS) in (2, 3)
        assert len(list(folder.iterdir())) == 2, "what the kill left is gone"


def test_a_full_disk_at_every_point_of_a_save(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(out, tmp_path / "trial")
    points = points_of_a_save(tmp_path / "trial")
    for number in range(len(points)):
        folder = tmp_path / f"full_{number}"
        shutil.copytree(out, folder)
        left = [number]

        def fill(name: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            watched(patch, fill)
            try:
                save(folder, 3)
            except OSError as error:
                assert error.errno == errno.ENOSPC
        assert step_of(folder / LAST) in (2, 3), points[number]
        assert step_of(folder / PREVIOUS) in (1, 2), points[number]
        remove_parts(folder)
        assert len(list(folder.iterdir())) == 2, "no room is lost"


def test_a_file_that_can_only_grow_so_far(out: Path) -> None:
    """The system's own limit, in twenty sizes: what is cut off is never seen."""
    size = (out / LAST).stat().st_size

    def limited(bytes_: int) -> Callable[[], None]:
        def work() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
            save(out, 3)

        return work

    for part in range(20):
        assert in_child(limited(size * part // 20)) == 1
        assert (step_of(out / PREVIOUS), step_of(out / LAST)) == (1, 2)
        assert len(list(out.iterdir())) == 2


def mount_small_disk(folder: Path) -> None:
    """In a process of its own: an empty file system of 900 KiB that it alone sees. Exits with 77 where none may be."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNS
        os._exit(77)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=900k"):
        os._exit(77)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    def fill(room: int) -> None:
        """Leave about so many bytes."""
        with suppress(OSError), open(tmp_path / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        os.truncate(tmp_path / "filler", max(0, (tmp_path / "filler").stat().st_size - room))

    def work() -> None:
        mount_small_disk(tmp_path)
        for step in (1, 2):
            save(tmp_path, step)
        for part in range(20):
            fill((tmp_path / LAST).stat().st_size * part // 20)
            with pytest.raises(OSError, match="No space left"):
                save(tmp_path, 3)
            assert (step_of(tmp_path / PREVIOUS), step_of(tmp_path / LAST)) == (1, 2)
            assert len(list(tmp_path.iterdir())) == 3

    status = in_child(work)
    if status == 77:
        pytest.skip("no file system may be mounted here")
    assert status == 0


def test_where_a_file_has_one_name_only(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoint_files.os, "link", refuse)
    save(out, 3)
    assert (step_of(out / PREVIOUS), step_of(out / LAST)) == (2, 3)


def test_a_damaged_last_does_not_replace_the_whole_one_before(out: Path) -> None:
    (out / LAST).write_bytes(b"cut")
    writer = CheckpointFiles(last_is_damaged=True)
    writer.save_checkpoint(state(3), out / LAST)
    assert (step_of(out / PREVIOUS), step_of(out / LAST)) == (1, 3)
    writer.save_checkpoint(state(4), out / LAST)
    assert (step_of(out / PREVIOUS), step_of(out / LAST)) == (3, 4)
