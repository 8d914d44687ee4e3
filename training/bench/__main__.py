"""`make bench`, offline part: view transforms, data loading, training and taught steps, students in ONNX Runtime, hours
of paper recipes.

    python -m training.bench [--only views throughput beside taught students recipes scale] [--data DIR] [--device cuda]

Prints tables and writes them into docs/benchmarks.md, between the marks of their names; nothing else of the page is
touched.
`recipes` takes half an hour on a CPU and is measured only when asked for; what OUT/recipes_DEVICE.json has is kept.
`scale` too: it makes tables of nuScenes' size in a folder of OUT, 3 GB, and takes them away again; and `recordings`,
which renders 70 s of drives.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from bev_perception.evaluation.bench import table
from bev_perception.evaluation.demo import machine
from bev_perception.evaluation.pages import check_sections, replace_sections
from training.bench import beside, large_set, latency, recipes, recordings, scale, taught, throughput, views
from training.bench.large_set import write_tables
from training.command_line import errors_as_text
from training.data.source import Source
from training.experiments import distillation, family
from training.models import STUDENTS
from training.trainer.allocation import keep_freed_memory
from training.world.__main__ import main as make_synthetic

# One of a kind: camera, camera with depth and memory, camera + radar, radar, LiDAR.
TRAINED = ("bevdet", "bevdepth", "camera_radar", "radar_pillarnet", "centerpoint")
# One of each method, and DistillBEV beside students of three weights.
TAUGHT = (
    "bevdet_from_centerpoint", "bevdepth_from_centerpoint", "camera_radar_from_centerpoint",
    "bevdepth_from_bevdepth_large", "radar_pillarnet_from_pillarnet",
)  # fmt: skip


def views_section(args: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    worst, rows = views.compare(args.device)
    cells = [[r.name, f"{r.forward_ms:.1f}", f"{r.both_ms:.1f}", f"{r.both_ms / rows[0].both_ms:.1f}"] for r in rows]
    differences = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    clock = "wall time" if args.device == "cuda" else "one thread, CPU time"
    return (
        f"BEVDet's size: 6 cameras of 256 x 704, stride 16, 59 bins, 64 channels, 128 x 128 cells; {_where(args)}, "
        f"{clock}, medians, the forms taking turns, projection of the frustum included.\n\n"
        f"{table(['formulation', 'forward, ms', 'forward + backward, ms', 'times LiftSplat'], cells)}\n\n"
        f"- Largest difference of map and gradients to index_add, relative to the largest value: {differences}."
    )


def throughput_section(args: argparse.Namespace) -> str:
    source = Source(args.data or _synthetic(args.out))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    runs, rows = family.small(), []
    for name in TRAINED:
        t = throughput.measure(runs[name], source, args.workers, args.steps)
        memory = f"{t.memory_gb:.1f}" if t.memory_gb else "-"
        waiting = f"{100 * t.waiting:.0f} %"
        rows.append([name, f"{t.first:.1f}", f"{t.again:.1f}", f"{t.training:.1f}", waiting, memory])
    head = ["run (`small`)", "loading, first", "loading, again", "training", "waits for data", "GPU, GB"]
    return (
        f"Samples per second; {_where(args)}. *Loading*: one process alone, the first time (images and LiDAR files are "
        "read) and again (keyframes stay in memory). *Training*: optimiser steps of four samples with "
        f"{args.workers} loader process(es) on the same cores, from the first epoch on.\n\n{table(head, rows)}"
    )


def beside_section(args: argparse.Namespace) -> str:
    found = beside.measure()
    rows = [[w.name, f"{w.alone:.0f}", f"{w.beside:.0f}", f"{w.beside / w.alone:.1f}"] for w in found]
    return (
        "A step of six convolutions of the study's size, forward and backward, milliseconds, medians; each program has "
        f"as many threads as there are cores; {_where(args)}.\n\n"
        f"{table(['a thread that waits turns so long before it sleeps', 'alone', 'two at once', 'ratio'], rows)}"
    )


def taught_section(args: argparse.Namespace) -> str:
    source = Source(args.data or _synthetic(args.out))
    torch.set_num_threads(1)
    study, rows = distillation.study(), []
    for name in TAUGHT:
        both = taught.measure(study[name], study, source, args.out / "bench_cache", args.steps // 2)
        for who, cost in zip(("alone", "taught"), both, strict=True):
            parts = [f"{v:.1f}" for v in (cost.forward, cost.cache, cost.terms, cost.backward, cost.total)]
            ratio = f"{cost.total / both[0].total:.2f}"
            rows.append([name, who, *parts, ratio, f"{cost.kept_mb:.1f}", f"{cost.kept_mb / both[0].kept_mb:.2f}"])
            print(" ".join(rows[-1]), flush=True)
    head = ["run", "", "forward", "cache", "adapters, losses", "backward", "all", "ratio", "MB kept", "ratio of MB"]
    clock = "wall time" if args.device == "cuda" else "processor time, one thread"
    return (
        "The study's runs (`training/experiments/distillation.py`, size `near`), teachers from a filled cache; "
        f"{_where(args)}. Milliseconds and MB per sample, {clock}, medians of {args.steps // 2} steps, alone and "
        "taught taking turns; loading and the optimiser, which are the same, are not counted. *MB kept*: by autograd "
        "for the backward pass."
        f"\n\n{table(head, rows)}"
    )


def students_section(args: argparse.Namespace) -> str:
    threads = min(2, len(os.sched_getaffinity(0)))
    rows, sizes = [], {"tiny": family.tiny(), "small": family.small()}
    for name in STUDENTS:
        for size, runs in sizes.items():
            if name not in runs:
                continue
            found = latency.measure(runs[name], threads, args.repeats, log=lambda _: None)
            image, grid = runs[name].spec.image, runs[name].spec.grid
            seen = f"{image.height} x {image.width}" if runs[name].spec.cameras else "-"
            build = "-" if found.build_s is None else f"{found.build_s:.1f}"
            cells = " x ".join(str(n) for n in grid.shape)
            millions, mib = f"{found.parameters / 1e6:.2f}", f"{found.onnx_mib:.1f}"
            rows.append([name, size, seen, cells, millions, mib, build, f"{found.milliseconds:.1f}"])
            print(" ".join(rows[-1]), flush=True)
    head = [
        "student",
        "size",
        "images",
        "cells",
        "parameters, M",
        "ONNX, MiB",
        "TensorRT-RTX build, s",
        "ONNX Runtime, ms",
    ]
    return (
        f"{_where(args)}, {threads} threads, medians of {args.repeats} frames, host to host. Every graph gave what "
        "PyTorch gives (the vehicle's own tolerances); where its wheel is installed, TensorRT for RTX built an engine "
        f"of each.\n\n{table(head, rows)}"
    )


def recipes_section(args: argparse.Namespace) -> str:
    source = Source(args.data or _synthetic(args.out))
    batch = 4 if args.device == "cuda" else 2
    costs = recipes.measure_all(source, batch, args.workers, args.out / f"recipes_{args.device}.json")
    rows = []
    for name, cost in costs.items():
        gb = f"{cost.memory_gb:.1f}" if cost.memory_gb else "-"
        seconds, hours = "killed", "-"
        if cost.seconds is not None:
            seconds, hours = f"{cost.seconds:.2f}", f"{cost.seconds * cost.samples / 3600:.0f}"
        rows.append([name, seconds, gb, f"{cost.samples / 1e6:.2f}", hours])
    head = ["recipe", "seconds per sample", "GPU, GB", "samples, M", "hours here"]
    return (
        f"Paper-size recipes, batches of {batch}, teachers running at every step; {_where(args)}. *Samples*: epochs of "
        f"the recipe times nuScenes' {recipes.KEYFRAMES} training keyframes, or {recipes.BALANCED} with class balance. "
        "*Hours here* is the product: what the whole recipe would take on this machine; several GPUs share it. "
        "*Killed*: the system ended the process, mostly for lack of memory.\n\n"
        f"{table(head, rows)}"
    )


def scale_section(args: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="bench_scale.", dir=_made(args.out)) as folder:
        source = write_tables(Path(folder))
        built = scale.alone(scale.index_built, source)
        print(built, flush=True)
        opened = scale.alone(scale.index_opened, source)
        print(opened, flush=True)
        database = scale.alone(scale.database_built, source, args.scenes, args.workers)
        print(database, flush=True)
        pasted = scale.alone(scale.pasting, source, args.scenes)
        print(pasted, flush=True)
    each, nuscenes = database.cost.processor_s / database.keyframes, recipes.KEYFRAMES
    named = {
        "index of the tables, built once": built,
        "index, keyframes and their balanced order, opened by each rank": opened,
        f"objects of {database.keyframes} keyframes, {args.workers} loader process(es)": database.cost,
    }
    rows = [[n, f"{c.seconds:.1f}", f"{c.processor_s:.1f}", f"{c.memory_mb:.0f}"] for n, c in named.items()]
    return (
        "Made-up tables of v1.0-trainval's size (850 scenes, 34,000 keyframes, 2.67 million files and poses, 1.17 "
        f"million boxes); LiDAR files of {large_set.POINTS} points, which are links to {large_set.CLOUDS} and so lie "
        f"in memory; {_where(args)}. Memory is that of all processes together, PyTorch included.\n\n"
        f"{table(['', 'wall, s', 'processor, s', 'memory, MB'], rows)}\n\n"
        f"- The database takes {1e3 * each:.0f} ms of a core and {database.size_mb / database.keyframes:.2f} MB per "
        f"keyframe; the product, for nuScenes' {nuscenes} training keyframes, is {each * nuscenes / 60:.0f} minutes of "
        f"a core, {each * nuscenes / 60 / 8:.1f} with eight, where the disk gives the files as fast. Its memory was "
        f"{database.cost.early_mb:.0f} MB after a quarter of the time, {database.cost.memory_mb:.0f} MB at most.\n"
        f"- Pasting {pasted.objects:.0f} objects into a cloud of {pasted.points:.0f} points takes "
        f"{pasted.milliseconds:.1f} ms of a core (aim: at most 30 ms for 20)."
    )


def recordings_section(args: argparse.Namespace) -> str:
    short, long = recordings.make_drives(_made(args.out), max(recordings.WORKERS))
    with tempfile.TemporaryDirectory(prefix="bench_recordings.", dir=args.out) as folder:
        found = recordings.measure(short, long, Path(folder))
    one, two = found.walls_s
    rows = [
        ["messages to the network's inputs, seconds of recording in a second of a core", f"{found.realtime:.1f}"],
        [f"start of a replay of {recordings.LONG_S:g} s to its first detections, s", f"{found.first_s:.2f}"],
        [f"peak memory, drive of {recordings.SHORT_S:g} s, MB", f"{found.memory_mb[0]:.0f}"],
        [f"peak memory, drive of {recordings.LONG_S:g} s, MB", f"{found.memory_mb[1]:.0f}"],
        [f"{recordings.DRIVES} drives of {recordings.SHORT_S:g} s, one at once, s", f"{one:.1f}"],
        ["the same, two at once, s", f"{two:.1f}"],
        ["ratio", f"{one / two:.2f}"],
    ]
    return (
        "Drives of the synthetic rig, six raw cameras of 160x90 at 12 Hz and five radars, ground truth at every frame, "
        f"the shipped model in ONNX Runtime with one thread; {_where(args)}.\n\n{table(['', ''], rows)}"
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _synthetic(out: Path) -> Path:
    """A few short drives; what is made already is not made again."""
    data = out / "bench_data"
    make_synthetic(
        ["nuscenes", str(data), "--scenes", "4", "--duration", "4", "--scale", "0.22", "--lidar-hz", "10", "--masks"]
    )
    return data


def _where(args: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if args.device == "cuda" else machine()
    return f"`make bench` on {device}, torch {torch.__version__}"


# Name of the section in docs/benchmarks.md -> what measures and words it.
SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "views": views_section,
    "throughput": throughput_section,
    "beside": beside_section,
    "taught": taught_section,
    "students": students_section,
    "recipes": recipes_section,
    "scale": scale_section,
    "recordings": recordings_section,
}
DEAR = ("recipes", "scale", "recordings")  # measured only when asked for


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser: Any = argparse.ArgumentParser(prog="python -m training.bench", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=[s for s in SECTIONS if s not in DEAR])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, help="nuScenes-format data root (default: short drives, made in --out)")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--workers", type=int, default=1, help="loader processes while training")
    parser.add_argument("--steps", type=int, default=16, help="optimiser steps that are timed")
    parser.add_argument("--repeats", type=int, default=15, help="frames that ONNX Runtime is timed with")
    parser.add_argument("--scenes", type=int, default=25, help="whose objects `scale` collects")
    parser.add_argument("--docs", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as training does
    check_sections(args.docs, args.only)
    for name in args.only:
        print(f"\n{name} ...", flush=True)
        body = SECTIONS[name](args)
        print(body)
        replace_sections(args.docs, {name: body})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
