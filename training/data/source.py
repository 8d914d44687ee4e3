"""Where a data set lies and what it calls its objects, and the arguments of commands that say so."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from training.data.class_names import ClassNames, read_class_names


@dataclass(frozen=True)
class Source:
    """A data set in nuScenes' format: its root, the folder below it that holds the tables, and its own class names."""

    root: Path
    version: str = "v1.0-trainval"
    classes: ClassNames = ()


def add_source(
    parser: argparse.ArgumentParser, required: bool = True, name: str = "data", use: str = "nuScenes-format data root"
) -> None:
    """--data (or of another name), --version and --classes; `source_of` reads them."""
    parser.add_argument(f"--{name}", dest="data", type=Path, required=required, help=use)
    parser.add_argument("--version", default=Source.version, help="folder of its tables")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="YAML for category names of its own: lines `name: class` or ignore"
    )


def source_of(args: argparse.Namespace) -> Source:
    """Raises ValueError for a file of --classes that says what cannot be."""
    return Source(args.data, args.version, read_class_names(args.classes) if args.classes else ())
