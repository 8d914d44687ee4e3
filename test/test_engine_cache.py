"""The engine cache: what is reused, what is refused and why, two builders at once, and death while writing."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bev_perception import places
from bev_perception.inference import engine_cache
from bev_perception.inference.engine_cache import (
    EngineCacheError,
    EngineKey,
    NotNow,
    Proof,
    engine_places,
    open_cached,
    read_engine,
    write_engine,
)

ROOT = Path(__file__).parents[1]
KEY = EngineKey(
    model="demo", onnx_sha256="ab" * 32, builder="tensorrt", version="10.3.0", cuda="12.6", driver="540.4.0",
    gpu="NVIDIA Orin", architecture="sm87", precision="fp16", shapes="images uint8 6x128x352x3", plugins="",
    options="workspace 2048 MiB, level 3",
)  # fmt: skip
ENGINE = bytes(range(256)) * 40
PROOF = Proof({"scores": 1e-6}, "fp16 45, fp32 60", 123)


class Builder:
    """Counts, and gives a new engine each time; `prove` accepts what `good` says."""

    def __init__(self, good=lambda engine: True):
        self.built = 0
        self.good = good
        self.lines: list[str] = []

    def build(self) -> bytes:
        self.built += 1
        return ENGINE + bytes([self.built])

    def prove(self, engine: bytes):
        if not self.good(engine):
            raise ValueError("`boxes` differs from the golden sample by 3")
        return ("opened", engine), PROOF

    def open(self, cache: Path, key: EngineKey = KEY, force: bool = False, more: tuple[Path, ...] = ()):
        opened, path = open_cached([cache, *more], key, self.build, self.prove, force=force, log=self.lines.append)
        assert opened[0] == "opened"
        return opened[1], path


def test_places(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    temporary = Path(tempfile.gettempdir()) / f"bev_perception-{os.getuid()}" / "engines"
    assert engine_places() == [tmp_path / "bev_perception" / "engines", temporary]
    assert engine_places("/wanted")[0] == Path("/wanted")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert engine_places()[0] == Path("/home/someone/.cache/bev_perception/engines")


def test_every_part_of_the_key_changes_the_readable_name():
    names = {KEY.file_name}
    for field in dataclasses.fields(KEY):
        value = getattr(KEY, field.name)
        other = value + 1 if isinstance(value, int) else f"{value[:-1]}x"
        names.add(dataclasses.replace(KEY, **{field.name: other}).file_name)
    assert len(names) == 1 + len(dataclasses.fields(KEY))
    assert KEY.file_name.startswith("demo_fp16_NVIDIA-Orin_sm87_tensorrt_10.3.0_")
    assert "/" not in dataclasses.replace(KEY, model="../../etc/x").file_name


def test_built_once_then_reused(tmp_path):
    builder = Builder()
    engine, path = builder.open(tmp_path / "new" / "place")
    assert (engine, path.read_bytes(), builder.built) == (ENGINE + b"\1", ENGINE + b"\1", 1)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["key"] == dataclasses.asdict(KEY)
    assert sidecar["size"] == len(engine) and sidecar["proof"] == dataclasses.asdict(PROOF)
    assert builder.open(tmp_path / "new" / "place") == (engine, path)
    assert builder.built == 1 and "using the cached engine" in builder.lines[-1]
    builder.open(tmp_path / "new" / "place", dataclasses.replace(KEY, precision="fp32"))
    assert builder.built == 2
    assert builder.open(tmp_path / "new" / "place", force=True)[0] == ENGINE + b"\3"


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)


def other_gpu(path):
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["key"]["gpu"] = "NVIDIA H200"
    path.with_suffix(".json").write_text(json.dumps(sidecar))


DAMAGES = {
    "altered": (flip_a_bit, "bytes were altered"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "has 10234 bytes, 10241 were written"),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes"),
    "no sidecar": (lambda path: path.with_suffix(".json").unlink(), "sidecar is missing"),
    "sidecar cut": (lambda path: path.with_suffix(".json").write_text('{"key": {'), "sidecar is not readable"),
    "sidecar nested": (lambda path: path.with_suffix(".json").write_text("[" * 100_000), "sidecar is not readable"),
    "sidecar list": (lambda path: path.with_suffix(".json").write_text("[]"), "sidecar is not readable"),
    "other gpu": (other_gpu, "made for gpu 'NVIDIA H200', needed is 'NVIDIA Orin'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_mended(tmp_path, damage):
    builder = Builder()
    _, path = builder.open(tmp_path)
    spoil, reason = DAMAGES[damage]
    spoil(path)
    with pytest.raises(EngineCacheError, match=reason):
        read_engine(path, KEY)
    engine, _ = builder.open(tmp_path)
    assert engine == ENGINE + b"\2" == read_engine(path, KEY)
    assert any("building again" in line and reason in line for line in builder.lines)


def test_an_engine_of_another_key_copied_to_the_name_is_refused(tmp_path):
    other = dataclasses.replace(KEY, version="8.6.1")
    builder = Builder()
    _, source = builder.open(tmp_path, other)
    for suffix in (".engine", ".json"):
        shutil.copy(source.with_suffix(suffix), (tmp_path / KEY.file_name).with_suffix(suffix))
    with pytest.raises(EngineCacheError, match=r"made for version '8\.6\.1', needed is '10\.3\.0'"):
        read_engine(tmp_path / KEY.file_name, KEY)


def test_a_cached_engine_that_fails_the_golden_sample_is_rebuilt(tmp_path):
    Builder().open(tmp_path)
    strict = Builder(good=lambda engine: engine.endswith(b"\2"))
    strict.built = 1
    assert strict.open(tmp_path)[0] == ENGINE + b"\2"
    assert any("`boxes` differs from the golden sample" in line for line in strict.lines)


def test_a_new_engine_that_fails_is_not_written_and_the_last_good_one_stays(tmp_path):
    failing = Builder(good=lambda engine: False)
    with pytest.raises(ValueError, match="golden sample"):
        failing.open(tmp_path)
    assert not list(tmp_path.glob("*.engine"))
    _, path = Builder().open(tmp_path)
    with pytest.raises(ValueError, match="golden sample"):
        failing.open(tmp_path, force=True)
    assert read_engine(path, KEY) == ENGINE + b"\1"


def test_a_cache_that_cannot_be_written_gives_way_to_the_next(tmp_path):
    (tmp_path / "file").write_text("")
    builder = Builder()
    engine, path = builder.open(tmp_path / "file" / "engines", more=(tmp_path / "next",))
    assert path.parent == tmp_path / "next" and read_engine(path, KEY) == engine
    assert any(
        f"cannot write {tmp_path}/file/engines" in line and f"using {tmp_path}/next" in line for line in builder.lines
    )
    assert (
        builder.open(tmp_path / "file" / "engines", more=(tmp_path / "next",)) == (engine, path) and builder.built == 1
    )


def test_without_any_place_the_engine_is_used_and_the_variable_named(tmp_path):
    (tmp_path / "file").write_text("")
    builder = Builder()
    assert builder.open(tmp_path / "file" / "engines") == (ENGINE + b"\1", None)
    assert any("cannot write" in line and "set XDG_CACHE_HOME" in line for line in builder.lines)


def test_an_engine_in_a_place_that_cannot_be_written_is_used(tmp_path, monkeypatch):
    """A read-only system that was delivered with its engine."""
    _, path = Builder().open(tmp_path / "delivered")
    make = places._make

    def refuse(place):
        if place == tmp_path / "delivered":
            raise OSError(errno.EROFS, "Read-only file system")
        make(place)

    monkeypatch.setattr(places, "_make", refuse)
    builder = Builder()
    assert builder.open(tmp_path / "delivered", more=(tmp_path / "other",)) == (ENGINE + b"\1", path)
    assert builder.built == 0
    assert builder.open(tmp_path / "delivered") == (ENGINE + b"\1", path) and builder.built == 0


def test_a_disk_that_is_full_costs_the_file_not_the_engine(tmp_path):
    builder = Builder()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # room for the probe, not for the engine
    try:
        assert builder.open(tmp_path) == (ENGINE + b"\1", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert any("used but not kept" in line and "set XDG_CACHE_HOME" in line for line in builder.lines)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"], "nothing half written is left"


@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_disk_that_fills_up_in_the_middle_leaves_the_engine_before(tmp_path, monkeypatch, write):
    """At the nth time that something has to reach the disk: sidecar, engine, and the sidecar's end."""
    _, path = Builder().open(tmp_path)
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    builder = Builder()
    builder.built = 1
    monkeypatch.setattr(os, "fsync", full)
    engine, kept = builder.open(tmp_path, force=True)
    monkeypatch.undo()
    assert engine == ENGINE + b"\2", "it is used, kept or not"
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".engine", ".json", ".lock"], "no part is left"
    if write < 3:
        assert kept is None and read_engine(path, KEY) == ENGINE + b"\1"
        assert any("used but not kept" in line and str(tmp_path) in line for line in builder.lines)
    if write == 4:
        assert len(calls) == 3 and read_engine(kept, KEY) == engine


def test_where_the_first_place_is_full_the_next_keeps_the_engine(tmp_path, monkeypatch):
    write, full = engine_cache.write_engine, tmp_path / "full"

    def refuse(path, *rest):
        if path.parent == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *rest)

    monkeypatch.setattr(engine_cache, "write_engine", refuse)
    builder = Builder()
    engine, path = builder.open(full, more=(tmp_path / "next",))
    assert path.parent == tmp_path / "next" and read_engine(path, KEY) == engine
    assert any(
        f"cannot write {full} (No space left on device); using {tmp_path}/next" in line for line in builder.lines
    )
    assert builder.open(full, more=(tmp_path / "next",)) == (engine, path) and builder.built == 1


def test_an_engine_that_cannot_be_opened_now_is_not_built_again(tmp_path):
    builder = Builder()
    _, path = builder.open(tmp_path)

    def no_room(engine):
        raise NotNow("the GPU is full")

    with pytest.raises(NotNow, match="the GPU is full"):
        open_cached([tmp_path], KEY, builder.build, no_room, log=builder.lines.append)
    assert builder.built == 1 and read_engine(path, KEY)
    assert builder.lines[-1] == f"the cached engine {path} is not opened, and stays: the GPU is full"


def test_every_line_says_which_file_or_place(tmp_path):
    builder = Builder()
    builder.open(tmp_path)
    builder.open(tmp_path)
    flip_a_bit(tmp_path / KEY.file_name)
    builder.open(tmp_path)
    builder.open(tmp_path, force=True)
    assert len(builder.lines) == 7
    assert all(str(tmp_path) in line for line in builder.lines), builder.lines


def start(tmp_path: Path, script: str) -> subprocess.Popen:
    """A process of its own with KEY, ENGINE, Builder and the cache functions; `cache` is tmp_path."""
    header = (
        "import os, sys, time\nfrom pathlib import Path\nimport test_engine_cache as t\n"
        "from bev_perception.inference import engine_cache\ncache = Path(sys.argv[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'test'}"}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", header + script, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_build_once(tmp_path):
    script = (
        "def build():\n"
        "    print('building'); sys.stdin = None\n"
        "    with open(cache / 'builds', 'a') as file: file.write('x')\n"
        "    while not (cache / 'go').exists(): time.sleep(0.01)\n"
        "    return t.ENGINE\n"
        "engine_cache.open_cached([cache], t.KEY, build, lambda e: (e, t.PROOF))\n"
    )
    first = start(tmp_path, script)
    assert first.stdout.readline().startswith(f"building {KEY.file_name}: there is none in {tmp_path}")
    assert first.stdout.readline() == "building\n"
    second = start(tmp_path, script)
    assert second.stdout.readline().startswith(f"waiting: another process is building {tmp_path}/{KEY.file_name}")
    (tmp_path / "go").touch()
    output, _ = second.communicate(timeout=20)
    first.communicate(timeout=20)
    assert first.returncode == second.returncode == 0
    assert "using the cached engine" in output
    assert (tmp_path / "builds").read_text() == "x"


def killed(tmp_path: Path, script: str) -> None:
    """Run `script` until it prints `now`, then kill -9."""
    process = start(tmp_path, script)
    while (line := process.stdout.readline()) != "now\n":
        assert line, "the process ended by itself"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


STOP_AT = {
    "before the engine has its name": "os.replace",
    "between bytes and disk": "os.fsync",
}


@pytest.mark.parametrize("point", STOP_AT)
def test_killed_while_writing_leaves_the_last_good_engine(tmp_path, point):
    path = tmp_path / KEY.file_name
    write_engine(path, KEY, ENGINE, PROOF)
    killed(
        tmp_path,
        f"{STOP_AT[point]} = lambda *_: (print('now'), time.sleep(60))\n"
        "engine_cache.open_cached([cache], t.KEY, lambda: b'new' * 10000, lambda e: (e, t.PROOF), force=True)\n",
    )
    assert read_engine(path, KEY) == ENGINE
    assert list(tmp_path.glob(".*.part"))  # it did die in the middle
    builder = Builder()
    assert builder.open(tmp_path)[0] == ENGINE and builder.built == 0  # and it holds no lock any more
    builder.open(tmp_path, force=True)
    assert not list(tmp_path.glob(".*.part"))


def test_killed_between_engine_and_sidecar_is_refused_and_mended(tmp_path):
    path = tmp_path / KEY.file_name
    write_engine(path, KEY, ENGINE, PROOF)
    killed(
        tmp_path,
        "replace = os.replace\n"
        "os.replace = lambda *a: (replace(*a), print('now'), time.sleep(60))\n"
        "engine_cache.open_cached([cache], t.KEY, lambda: b'new' * 10000, lambda e: (e, t.PROOF), force=True)\n",
    )
    with pytest.raises(EngineCacheError, match="30000 bytes, 10240 were written"):
        read_engine(path, KEY)
    builder = Builder()
    assert builder.open(tmp_path)[0] == ENGINE + b"\1"
