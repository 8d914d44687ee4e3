"""Published weights -> a checkpoint of this package:

    python -m training.convert CHECKPOINT --as centerpoint_pillar --out runs/centerpoint_published

docs/checkpoints.md says where published files come from and what they score. `--out`/last.ckpt is what
training.evaluate, --teacher, --init and training.export take.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.command_line import errors_as_text
from training.convert.conversion import FAMILIES, convert_file


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.convert", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="the published .pth file")
    parser.add_argument("--as", dest="name", required=True, choices=sorted(FAMILIES), help="the network that it is of")
    parser.add_argument("--out", type=Path, required=True, help="folder to write last.ckpt and conversion.json into")
    parser.add_argument(
        "--published-grid", action="store_true",
        help="cells around the LiDAR, as published, instead of around the rear axle, as a teacher's must be here",
    )  # fmt: skip
    args = parser.parse_args(argv)
    written, report = convert_file(args.checkpoint, args.name, args.out, args.published_grid)
    print("\n".join(report.lines()))
    print(f"published: {FAMILIES[args.name].published}")
    print(f"checkpoint: {written}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
