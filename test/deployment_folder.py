"""Bundles, a vehicle's folder with one in service, and a log that remembers: what tests of deployments begin with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tiny_bundle

from bev_perception.bundle import Bundle
from bev_perception.deployment.folder import VehicleFolder
from bev_perception.deployment.procedure import nowhere
from bev_perception.deployment.record import Record


class Said:
    """A log (bev_perception.deployment.start.Log)."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.wrong: list[str] = []

    def info(self, message: str) -> None:
        self.told.append(message)

    def error(self, message: str) -> None:
        self.wrong.append(message)


def named_bundle(path: Path, name: str, **changes: Any) -> Bundle:
    """A tiny bundle of another name, and so of another hash."""
    return tiny_bundle.write_bundle(path, spec=dataclasses.replace(tiny_bundle.SPEC, name=name, **changes))


def folder_with(path: Path, serving: Bundle) -> VehicleFolder:
    """Open, with a copy of that bundle in service."""
    folder = VehicleFolder(path)
    folder.open()
    folder.write(Record(serving=folder.stored(folder.take(serving.path, nowhere), "then")))
    return folder
