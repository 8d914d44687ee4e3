"""Who tests the tests: changes one line of the core at a time and runs the tests that belong to its file.

    make mutants                              # the sample below, on all cores
    make mutants ARGS="--file sync.py --all"  # every mutant of one file

A mutant is killed when a test fails, or when the tests take far longer than on the file as it is ("too slow": loops
that never end). Survivors are printed and make the command fail, but for those of `equivalent_mutants.toml`, which no
test can kill. The checkout is never touched: mutants live in copies of the tree, one for each process at work. Each
process is a fork of this one, which has imported all that is slow to import and nothing of the project.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomllib
from mutations import Mutant, find_mutants

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
# File -> the tests that belong to it.
TESTS: dict[str, tuple[str, ...]] = {
    "bev_perception/sync.py": (
        "test_sync.py",
        "test_sync_changes.py",
        "test_sync_limits.py",
        "test_frames_again.py",
    ),
    "bev_perception/measurements.py": (
        "test_sync.py",
        "test_sync_changes.py",
        "test_sync_limits.py",
        "test_frames_again.py",
        "test_stamp_guard.py",
        "test_health.py",
        "test_intake.py",
        "test_intake_calibration.py",
    ),
    "bev_perception/stamp_guard.py": ("test_stamp_guard.py", "test_sync_limits.py"),
    "bev_perception/health.py": ("test_health.py",),
    "bev_perception/modes.py": ("test_health.py",),
    "bev_perception/evaluation/compare.py": ("test_replay.py",),
    "bev_perception/temporal.py": ("test_temporal.py",),
    "bev_perception/decode.py": ("test_decode.py", "test_nms.py"),
    "bev_perception/nms.py": ("test_nms.py",),
    "bev_perception/ego_motion.py": ("test_ego_motion.py",),
    "bev_perception/geometry.py": ("test_geometry.py",),
    "bev_perception/preprocess/encodings.py": ("test_images.py", "test_raw_images.py", "test_compressed.py"),
    "bev_perception/preprocess/compressed.py": ("test_compressed.py", "test_images.py"),
    "bev_perception/preprocess/contents.py": ("test_contents.py",),
    "bev_perception/preprocess/images.py": ("test_images.py", "test_fence.py"),
    "bev_perception/preprocess/radar.py": ("test_radar.py", "test_fence.py"),
    "bev_perception/sensors/radar_messages.py": ("test_conversions.py", "test_radar_messages.py"),
    "bev_perception/sensors/radar_checks.py": ("test_radar_checks.py",),
    "bev_perception/sensors/odometry_messages.py": (
        "test_conversions.py",
        "test_odometry_messages.py",
        "test_ways_in.py",
    ),
    "bev_perception/sensors/twist.py": ("test_twist.py",),
    "bev_perception/sensors/plausible.py": ("test_plausible.py",),
    "bev_perception/preprocess/undistort.py": ("test_undistort.py",),
    "bev_perception/conversions.py": ("test_conversions.py", "test_raw_images.py", "test_compressed.py"),
    "bev_perception/sensors/camera_info.py": ("test_camera_info.py",),
    "bev_perception/sensors/serialised.py": ("test_serialised.py", "test_limits.py"),
    "bev_perception/sensors/video.py": ("test_video.py",),
    "bev_perception/messages.py": ("test_publishers.py",),
    "bev_perception/sensors/intake.py": (
        "test_intake.py",
        "test_intake_calibration.py",
        "test_limits.py",
        "test_ways_in.py",
        "test_video.py",
        "test_health.py",
    ),
    "training/data/targets.py": ("test_targets.py",),
    "training/losses/detection.py": ("test_losses.py", "test_box_iou.py"),
    "training/distill/masks.py": ("test_distill_masks.py",),
}
PER_FILE = 16
# Imported once, before the forks. A package that is missing here would let its tests be skipped.
IMPORTED = (
    "pytest", "numpy", "cv2", "torch", "torch.distributed", "torch.multiprocessing", "lightning", "onnx", "onnx.parser",
    "rosbags.typesys", "nuscenes", "rclpy.serialization", "bev_perception_msgs.msg", "sensor_msgs.msg",
    "visualization_msgs.msg", "vision_msgs.msg", "autoware_perception_msgs.msg",
)  # fmt: skip
COPIED = ("bev_perception", "training", "test")
# (whether a test failed, whether the mutant is listed) -> what that is called
OUTCOMES = {
    (True, False): "killed", (False, True): "equivalent", (False, False): "alive", (True, True): "killed though listed",
}  # fmt: skip
WRONG = ("alive", "killed though listed")
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Job:
    """The tests of one file, run on a mutant of it, or on `source` as it is."""

    path: str
    source: str
    mutant: Mutant | None = None
    timeout_s: float = 600.0


def choose(path: str, mutants: list[Mutant], count: int) -> list[Mutant]:
    """`count` of them by the hash of what they change, one of each line before a second of any: what is chosen hardly
    changes when other lines of the file do."""
    drawn = sorted(mutants, key=lambda m: hashlib.sha256(f"{path}\0{m.old}\0{m.new}".encode()).digest())
    seen: Counter[int] = Counter()
    turn = {}
    for mutant in drawn:
        turn[mutant] = seen[mutant.line]
        seen[mutant.line] += 1
    return sorted(sorted(drawn, key=turn.__getitem__)[:count], key=lambda m: m.start)


def read_equivalents() -> dict[tuple[str, str, str], str]:
    """(file, line before, line after) -> why no test can tell them apart."""
    table = tomllib.loads(EQUIVALENT.read_text())
    return {(path, row["old"], row["new"]): row["why"] for path, rows in table.items() for row in rows}


def copy_trees(folder: Path, count: int) -> list[Path]:
    """What the tests need of the checkout, `count` times."""
    trees = [folder / f"tree_{i}" for i in range(count)]
    for tree in trees:
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.ckpt"))
        shutil.copy(ROOT / "pyproject.toml", tree)
    return trees


def run_all(jobs: list[Job], trees: list[Path]) -> Iterator[tuple[Job, int, float]]:
    """-> (job, exit code, seconds) of each, as they end, one in each tree; the code is pytest's, or -SIGKILL."""
    free, waiting = trees.copy(), deque(jobs)
    running: dict[int, tuple[Job, Path, multiprocessing.process.BaseProcess, float]] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, tree = waiting.popleft(), free.pop()
                text = job.mutant.apply(job.source) if job.mutant is not None else job.source
                compile(text, job.path, "exec")  # what is no Python would count as killed
                (tree / job.path).write_text(text)
                process = FORK.Process(target=_run_tests, args=(tree, job))
                process.start()
                running[process.sentinel] = (job, tree, process, time.monotonic())
            ended = multiprocessing.connection.wait(list(running), timeout=0.5)
            for sentinel, (job, tree, process, started) in list(running.items()):
                passed = time.monotonic() - started
                if sentinel not in ended and passed < job.timeout_s:
                    continue
                _kill_group(process.pid)
                process.join()
                (tree / job.path).write_text(job.source)
                del running[sentinel]
                free.append(tree)
                yield job, process.exitcode or 0, passed
    finally:
        for _, _, process, _ in running.values():
            _kill_group(process.pid)


def _kill_group(pid: int) -> None:
    """The process and what it started; a process that has ended may have left some."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _run_tests(tree: Path, job: Job) -> None:
    """In the fork: pytest over the copy; exits with its code."""
    os.setsid()
    os.chdir(tree)
    with open(f"{tree}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])
    import pytest

    tests = [f"test/{name}" for name in TESTS[job.path]]
    code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tree}.tmp", *tests]))
    if code == 0:
        module = sys.modules.get(job.path.removesuffix(".py").replace("/", "."))
        assert module is not None and module.__file__ == str(tree / job.path), f"the tests do not import {job.path}"
    sys.exit(code)


def prepare() -> None:
    """The environment of all forks. No byte code: two mutants of one second and size would be taken for one another."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    os.nice(10)
    for name in IMPORTED:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", nargs="+", default=[""], help="only files whose path holds one of these")
    parser.add_argument("--per-file", type=int, default=PER_FILE, help=f"mutants of each file ({PER_FILE})")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (all cores)")
    args = parser.parse_args()
    started = time.monotonic()
    paths = [path for path in TESTS if any(part in path for part in args.file)]
    sources = {path: (ROOT / path).read_text() for path in paths}
    every = {path: find_mutants(source) for path, source in sources.items()}
    chosen = {path: every[path] if args.all else choose(path, every[path], args.per_file) for path in paths}
    equivalents = read_equivalents()
    prepare()
    with tempfile.TemporaryDirectory(prefix="mutants_") as name:
        trees = copy_trees(Path(name), args.jobs)
        base: dict[str, float] = {}
        for job, code, seconds in run_all([Job(path, sources[path]) for path in paths], trees):
            base[job.path] = seconds
            if code != 0:
                logs = "\n".join(path.read_text()[-3000:] for path in Path(name).glob("*.log"))
                sys.exit(f"{logs}\nthe tests of {job.path} do not pass on the file as it is (exit code {code})")
        jobs = [Job(path, sources[path], m, 20 + 5 * base[path]) for path in paths for m in chosen[path]]
        print(f"{len(jobs)} of {sum(map(len, every.values()))} mutants in {len(paths)} files", flush=True)
        results = []
        for job, code, _ in run_all(jobs, trees):
            listed = (job.path, job.mutant.old, job.mutant.new) in equivalents
            results.append((job, "too slow" if code == -signal.SIGKILL else OUTCOMES[code != 0, listed]))
            if len(results) % 25 == 0:
                print(f"{len(results)} done after {time.monotonic() - started:.0f} s", flush=True)
    print(table(results), f"{time.monotonic() - started:.0f} s", sep="\n")
    wrong = [(job.path, job.mutant, result) for job, result in results if result in WRONG]
    for path, mutant, result in sorted(wrong, key=lambda row: (row[0], row[1].start)):
        print(f"\n{result}: {path}:{mutant.line}\n  - {mutant.old}\n  + {mutant.new}")
    return int(bool(wrong))


def table(results: list[tuple[Job, str]]) -> str:
    """One row for each file, and their sum."""
    paths = list(dict.fromkeys(path for path in TESTS if any(job.path == path for job, _ in results)))
    width = max(map(len, paths))
    lines = [f"{'file':{width}}  mutants  killed  (too slow)  equivalent  alive"]
    for name in [*paths, "all"]:
        of = Counter(result for job, result in results if name in (job.path, "all"))
        killed = of["killed"] + of["killed though listed"] + of["too slow"]
        rest = f"{of['too slow']:10}  {of['equivalent']:10}  {of['alive']:5}"
        lines.append(f"{name:{width}}  {of.total():7}  {killed:6}  {rest}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
