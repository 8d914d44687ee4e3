"""The latency of each layer over its widths, measured on the engine that is to run, kept in a JSON file.

HALP's table (Shen et al., NeurIPS 2022) with both sides of a layer, as MDP has it (CVPR 2025): T(input channels, output
channels). Engines compute channels in blocks, so that latency over widths is a staircase; the table says how wide its
steps are, and holds the ends of steps alone.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.files import write_atomic
from training.pruning.engines import engine_version, layer_ms
from training.pruning.pieces import Piece, Shape, graph_of

STEPS = (16, 8, 4)  # that are looked for, the widest first
FINEST = STEPS[-1]
WITHIN = 0.25  # of a step's saving at most may come before its end
INPUT_STEP = 8  # input channels are measured at multiples of it
POINTS = 4  # widths on each side at most


@dataclass(frozen=True)
class Curve:
    """ms[i][j] at inputs[i] and outputs[j] channels, both rising; step: of the staircase over outputs, 1 where these
    cannot be cut."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    step: int

    def at(self, inputs: float, outputs: float) -> float:
        """Linear between the measured widths, in both directions; that of the nearest beyond them."""
        over_outputs = [np.interp(outputs, self.outputs, row) for row in self.ms]
        return float(np.interp(inputs, self.inputs, over_outputs))


@dataclass(frozen=True)
class Table:
    """Key of a layer (`key_of`) -> its curve; network_ms: of the whole network; where: engine, version, threads,
    machine."""

    where: Mapping[str, Any]
    curves: Mapping[str, Curve]
    network_ms: float

    def predict(self, pieces: Iterable[Piece], dropped: Mapping[str, int]) -> float:
        """ms of all pieces together when groups lose so many channels."""
        return sum(self.curves[key_of(piece)].at(*piece.widths(dropped)) for piece in pieces)


def key_of(piece: Piece) -> str:
    """What of a piece decides its latency; of a side that cannot be cut the one width."""
    sides = [f"{'up to ' if cut else ''}{n}" for n, cut in _sides(piece)]
    return f"{piece.shape}, {sides[0]} to {sides[1]} channels"


def _sides(piece: Piece) -> tuple[tuple[int, bool], tuple[int, bool]]:
    return (piece.inputs, bool(piece.reads)), (piece.outputs, bool(piece.makes))


def measure_table(
    pieces: Sequence[Piece], network: str, network_ms: Callable[[], float], engine: str, threads: int, file: Path
) -> Table:
    """The table of these pieces; what `file` holds is not measured again, and it is written after each layer.

    network, network_ms: a name that no other network has, and what measures it as a whole. Raises ImportError where the
    engine is not installed, ValueError for a file of another engine, version, number of threads or machine where
    something is missing in it, and for one that is no such file.
    """
    where = {"engine": engine, "threads": threads, "machine": machine()}
    curves, networks = _read(file, where) if file.is_file() else ({}, {})
    wanted = {key_of(piece): piece for piece in pieces}
    lacking = [key for key in wanted if key not in curves]
    if lacking or network not in networks:
        where["version"] = engine_version(engine)
        _check_same(file, where)
    for number, key in enumerate(lacking):
        piece = wanted[key]
        curves[key] = measure_curve(piece, partial(_measured, engine, threads, piece.shape))
        write_atomic(file, _to_json(where, curves, networks))
        print(f"latency {number + 1} of {len(lacking)}: {key}, steps of {curves[key].step}", flush=True)
    if network not in networks:
        networks[network] = network_ms()
        write_atomic(file, _to_json(where, curves, networks))
    return Table(_content(file)["where"], {key: curves[key] for key in wanted}, networks[network])


def measure_network(file: Path, network: str, network_ms: Callable[[], float]) -> float:
    """ms of a whole network, measured once for the table in `file`, which `measure_table` wrote: the same table gives
    the same cut."""
    content = _content(file)
    if network not in content["networks"]:
        content["networks"][network] = network_ms()
        write_atomic(file, json.dumps(content, indent=1) + "\n")
    return float(content["networks"][network])


def _measured(engine: str, threads: int, shape: Shape, inputs: int, outputs: int) -> float:
    return layer_ms(engine, *graph_of(shape, inputs, outputs), threads)


def measure_curve(piece: Piece, ms: Callable[[int, int], float]) -> Curve:
    """The curve of a piece; ms: (input, output channels) -> its latency."""
    (inputs, reads), (outputs, makes) = _sides(piece)
    if piece.shape.kind == "sampling":  # both sides are one
        widths = axis(inputs, INPUT_STEP)
        return Curve(tuple(widths), (outputs,), tuple((ms(n, n),) for n in widths), 1)
    step = 1
    if makes:
        finest = range(outputs, max(0, outputs - 2 * STEPS[0]), -FINEST)
        step = staircase({n: ms(inputs, n) for n in finest}, outputs)
    ins = axis(inputs, INPUT_STEP) if reads else [inputs]
    outs = axis(outputs, step) if makes else [outputs]
    return Curve(tuple(ins), tuple(outs), tuple(tuple(ms(i, o) for o in outs) for i in ins), step)


def axis(widest: int, step: int) -> list[int]:
    """At most POINTS widths, rising: one step or less, multiples of the step over the range, and the widest."""
    ends = [*range(step, widest, step), widest]
    chosen = np.unique(np.linspace(0, len(ends) - 1, POINTS).round().astype(int))
    return [ends[i] for i in chosen]


def staircase(ms: Mapping[int, float], widest: int) -> int:
    """The widest of STEPS within which hardly anything is saved: less than WITHIN of what whole steps save, on average
    over all widths inside of steps. FINEST where there is none.

    ms: latency at widths of which the widest and all multiples of the steps below it are some.
    """
    for step in STEPS[:-1]:
        inside = early = whole = 0.0
        for width in ms:
            above, below = min(widest, -(-width // step) * step), width // step * step
            if width in (above, below) or above not in ms or below not in ms:
                continue
            inside += 1
            early += ms[above] - ms[width]
            whole += ms[above] - ms[below]
        if inside and whole > 0 and early < WITHIN * whole:
            return step
    return FINEST


def machine() -> str:
    """Name of the processor, and how many the process sees."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = f"{len(named)} x {named[0]}" if named else ""
    return model or f"{platform.machine()} {platform.processor()}".strip()


def _read(file: Path, where: Mapping[str, Any]) -> tuple[dict[str, Curve], dict[str, float]]:
    """Curves and networks of a file. Raises ValueError when it is of another engine or number of threads, or
    damaged."""
    content = _content(file)
    for name in ("engine", "threads"):
        if content["where"].get(name) != where[name]:
            raise ValueError(
                f"{file} was measured with {name} {content['where'].get(name)}, wanted is {where[name]}: "
                "take another --latency file"
            )
    try:
        curves = {
            key: Curve(tuple(c["inputs"]), tuple(c["outputs"]), tuple(map(tuple, c["ms"])), int(c["step"]))
            for key, c in content["curves"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: no table of latencies ({error}); delete it, it is measured again") from error
    return curves, dict(content["networks"])


def _check_same(file: Path, where: Mapping[str, Any]) -> None:
    """Raises ValueError where a file that is to grow is of another machine or version of the engine."""
    if file.is_file():
        before = _content(file)["where"]
        if changed := [name for name in where if before.get(name) != where[name]]:
            raise ValueError(
                f"{file} lacks something of this network and cannot grow: its {changed[0]} is "
                f"{before.get(changed[0])!r}, here it is {where[changed[0]]!r}; measure it there, or take another "
                "--latency file"
            )


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: no table of latencies ({error}); delete it, it is measured again") from error
    parts = ("where", "curves", "networks")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in parts):
        raise ValueError(f"{file}: no table of latencies; delete it, it is measured again")
    return content


def _to_json(where: Mapping[str, Any], curves: Mapping[str, Curve], networks: Mapping[str, float]) -> str:
    plain = {
        key: {"inputs": c.inputs, "outputs": c.outputs, "step": c.step, "ms": [[round(t, 4) for t in r] for r in c.ms]}
        for key, c in curves.items()
    }
    return json.dumps({"where": where, "networks": networks, "curves": plain}, indent=1) + "\n"
