"""Size of each network at paper size beside the published figure: `python -m training.model_table [--out FILE.md]`.

Networks of images and radars run on the meta device, where tensors have shapes but no numbers. LiDAR networks look for
the cells that points fall into, so they run on the CPU, with POINTS points (half a minute each).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.experiments import bevformer, family
from training.models.detector import Detector, Memory, Prediction
from training.models.exported import MEMORY_INPUTS, parameters_exported
from training.run import Run, build_detector

POINTS = 30_000  # of a LiDAR frame: one sweep of nuScenes' sensor
# Parameters (M) and GMACs as published, with the source.
PUBLISHED = {
    "bevdepth": "76.5 M (BEVDepth4D-R50, HENet++), 77.6 M (CRN's repository)",
    "bevformer_static": "68.7 M, 1303.5 G (BEVFormer-S, BEVFormer)",
    "crn": "61.4 M (CRN-R50, CRN's repository)",
    "crn_r18": "37.2 M (CRN-R18, CRN's repository)",
    "fbbev": "67.8 M (FB-OCC-R50, an occupancy head)",
}


def paper_runs() -> dict[str, Run]:
    """Every paper-size run, and the variants that have a published size."""
    runs = family.paper()
    crn = runs["crn"]
    image = dataclasses.replace(crn.config.image, backbone="resnet18")
    runs["crn_r18"] = dataclasses.replace(crn, config=dataclasses.replace(crn.config, image=image))
    runs["bevformer_static"] = bevformer.r101_static()
    return runs


def measure(run: Run) -> tuple[Detector, Prediction, float]:
    """The network, what it predicts for one frame, and its GMACs: of convolutions and matrix products."""
    detector = build_detector(run)
    detector.eval()
    for parameter in detector.parameters():  # of whose views torch's counter wants a gradient, which no_grad leaves out
        parameter.requires_grad_(False)
    if run.data.lidar is not None:
        # The processor's own attention is a kernel of which the counter knows nothing.
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            found = detector(_cloud(run), None)
        return detector, found, counter.get_total_flops() / 2e9
    detector.to("meta")
    inputs = {t.name: torch.zeros(1, *t.shape, dtype=getattr(torch, t.dtype), device="meta") for t in run.spec.inputs()}
    memory = Memory(*(inputs.pop(name) for name in MEMORY_INPUTS)) if "prev_bev" in inputs else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        prediction = detector(inputs, memory)
    return detector, prediction, counter.get_total_flops() / 2e9


def _cloud(run: Run) -> dict[str, Tensor]:
    """Points all over the range, (POINTS, 6), and as many virtual ones, (POINTS, 16), of one sample."""
    grid = run.spec.grid
    inputs: dict[str, Tensor] = {}
    low, high = (torch.tensor([x, y, z]) for x, y, z in ((grid.x_min, grid.y_min, -1.0), (grid.x_max, grid.y_max, 2.0)))
    for name, columns in (("lidar", 6), ("virtual", 16)):
        points = torch.rand(POINTS, columns, generator=torch.Generator().manual_seed(0))
        points[:, 0], points[:, 1:4] = 0, low + points[:, 1:4] * (high - low)
        inputs |= {name: points, f"{name}_counts": torch.tensor([POINTS])}
    return inputs


def row(name: str, run: Run) -> str:
    """One line of the table."""
    try:
        detector, prediction, macs = measure(run)
    except ImportError as error:  # the optional spconv
        return f"| {name} | - | - | - | - | not built here: {str(error).split(',')[0]} | {PUBLISHED.get(name, '-')} |"
    image = f"{run.spec.image.height} x {run.spec.image.width}" if run.spec.cameras else "-"
    maps = ", ".join(f"{n} {_shape(t)}" for n, t in prediction.features.items())
    state = f"{run.spec.temporal.state_channels}" if run.spec.temporal.state_channels else "-"
    cells = [
        name, image, f"{parameters_exported(detector) / 1e6:.1f}", f"{macs:.0f}", state, maps,
        PUBLISHED.get(name, "-"),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape[1:])


def table(runs: dict[str, Run]) -> str:
    """Markdown."""
    head = "| run | image | parameters (M) | GMACs | state | BEV maps (channels x X x Y) | published |"
    return "\n".join([head, "|---" * 7 + "|", *(row(name, run) for name, run in runs.items())]) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.model_table", description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write the table to, besides printing it")
    parser.add_argument("--only", nargs="+", help="names of runs")
    args = parser.parse_args(argv)
    runs = paper_runs()
    unknown = sorted(set(args.only or ()) - set(runs))
    if unknown:
        raise SystemExit(f"--only: no runs {unknown}; there are {sorted(runs)}")
    text = table({name: run for name, run in runs.items() if not args.only or name in args.only})
    print(text)
    if args.out:
        args.out.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
