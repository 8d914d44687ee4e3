"""Where a data set lies, and the arguments of commands that say so."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A data set in nuScenes' format: its root, and the folder below it that holds the tables."""

    root: Path
    version: str = "v1.0-trainval"


def add_source(
    parser: argparse.ArgumentParser, required: bool = True, name: str = "data", use: str = "nuScenes-format data root"
) -> None:
    """--data (or of another name) and --version; `source_of` reads them."""
    parser.add_argument(f"--{name}", dest="data", type=Path, required=required, help=use)
    parser.add_argument("--version", default=Source.version, help="folder of its tables")


def source_of(args: argparse.Namespace) -> Source:
    return Source(args.data, args.version)
