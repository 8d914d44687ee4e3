"""What a GPU makes of the camera + radar + memory student, in one table: `python -m training.bench.gpu`.

CRN at paper size with fresh weights, one frame at a time with its state fed back: eagerly, as a CUDA graph and by
AOTInductor, in FP32 and FP16; our state buffers and owner thread; and, where TensorRT is, its engine. Answers are
compared with those of the eager FP32 network after four frames. Each row runs in a process of its own, so that one
that fails, or takes the time that is left, spoils no other; it says why it has no numbers. On a GPU times are between
two CUDA events; TensorRT's and the buffers' are the host's. PyTorch, NumPy, OpenCV and SciPy suffice.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bev_perception.evaluation.process import Child, StageError, ends_with_its_children
from bev_perception.files import write_atomic
from training.bench.gpu_network import SIZES
from training.bench.gpu_rows import REFERENCE, ROWS, Options, Row, measured
from training.command_line import errors_as_text

HEAD = ("", "median, ms", "p95, ms", "memory, MB", "scores", "boxes", "state", "")
SHORTEST_S = 5.0  # a row that has less left is not begun


def cells(row: Row) -> list[str]:
    numbers = [(row.median_ms, ".2f"), (row.p95_ms, ".2f"), (row.memory_mb, ".0f")]
    numbers += [(value, ".1e") for value in (row.scores, row.boxes, row.state)]
    return [row.name, *("-" if value is None else f"{value:{form}}" for value, form in numbers), row.note]


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 2), "---"), *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def in_own_process(name: str, options: Options, limit_s: float) -> Row:
    """`measured` in another process, which is ended with all that it began after limit_s seconds."""
    answer = options.work / "row.json"
    answer.unlink(missing_ok=True)
    arguments = ["training.bench.gpu", "--row", name, "--work", str(options.work), "--size", options.size]
    arguments += ["--device", str(options.device), "--steps", str(options.steps)]
    arguments += ["--warm-up", str(options.warm_up), "--buffer-steps", str(options.buffer_steps)]
    with Child("row's process", arguments, options.work / "row.log", os.environ) as child:
        try:
            child.wait(limit_s)
        except StageError as error:
            return Row(name, note=str(error)[:300])
    return Row(**json.loads(answer.read_text()))


def facts(options: Options) -> dict[str, Any]:
    """What the numbers are of."""
    on_gpu = options.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(options.device) if on_gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
        "size": options.size,
        "steps": options.steps,
        "warm_up": options.warm_up,
        "buffer_steps": options.buffer_steps,
    }


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no CUDA device here; --device cpu tries what runs without one")
    return device


@errors_as_text
@ends_with_its_children
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (%(default)s)")
    parser.add_argument("--size", choices=sorted(SIZES), default="paper", help="of the student (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="that are timed (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=20, help="steps before (%(default)s)")
    parser.add_argument("--buffer-steps", type=int, default=100_000, help="of the state buffers (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", default=list(ROWS), help="by name")
    parser.add_argument("--limit-s", type=float, default=300.0, help="for all rows together (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/gpu.json"), help="the table's numbers (%(default)s)")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)  # one row, for the process of its own
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.steps < 1 or args.buffer_steps < 1 or args.warm_up < 0:
        raise ValueError("--steps and --buffer-steps must be 1 or more, --warm-up 0 or more")
    device = _device(args.device)
    if args.row:
        options = Options(args.size, device, args.steps, args.warm_up, args.buffer_steps, args.work)
        write_atomic(args.work / "row.json", json.dumps(asdict(measured(args.row, options))))
        return 0
    began = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench_gpu.", ignore_cleanup_errors=True) as work:
        options = Options(args.size, device, args.steps, args.warm_up, args.buffer_steps, Path(work))
        for name in dict.fromkeys([REFERENCE, *args.only]):
            left = args.limit_s - (time.monotonic() - began)
            found = Row(name, note="not begun: no time was left of --limit-s")
            rows.append(found if left < SHORTEST_S else in_own_process(name, options, left))
            print(" ".join(cells(rows[-1])), f"[{time.monotonic() - began:.0f} s]", flush=True)
            write_atomic(args.out, json.dumps(facts(options) | {"rows": [asdict(row) for row in rows]}, indent=1))
    said = ", ".join(f"{name} {value}" for name, value in facts(options).items())
    print(f"\n{said}\n\n{table(rows)}\n\n{args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
