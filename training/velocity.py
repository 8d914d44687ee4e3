"""How well a network regresses velocity, by direction: `python -m training.velocity CHECKPOINT --data DIR`.

mAVE is an average over what was detected, and most objects stand; it does not tell a network that calls crossing
traffic standing from one that does not. Here velocities are read at the true cells of all objects, found or not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bev_perception.files import write_atomic
from bev_perception.model_spec import BOX_CHANNELS
from training.command_line import errors_as_text
from training.data.nuscenes import Keyframe
from training.data.source import add_source, source_of
from training.data.split_objects import require_objects
from training.losses.detection import at_cells
from training.models.detector import task_index
from training.processes import own_device, own_threads
from training.trainer.checkpoint import load_network
from training.trainer.loading import Batches, evaluation_loader, open_keyframes
from training.trainer.network import Network

FAST, STANDING = 2.0, 0.1  # m/s
# Borders of the groups whose means `--out` keeps, m/s; -FAST to FAST is left out: there most stand.
GROUPS = ((-np.inf, -10.0), (-10.0, -5.0), (-5.0, -FAST), (FAST, 5.0), (5.0, 10.0), (10.0, np.inf))
VELOCITY = slice(BOX_CHANNELS.index("vx"), BOX_CHANNELS.index("vy") + 1)


def velocities(network: Network, keyframes: Sequence[Keyframe], batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted velocities of all objects with a known one, (N, 2) each, m/s in the ego frame's axes.

    A network that answers with queries says 0 where none of them lies in an object's cell (query_maps).
    """
    tasks = torch.tensor(task_index(network.detector.tasks, network.spec.classes), device=network.device)
    true, predicted = [], []
    rows = range(len(keyframes))
    for batch in evaluation_loader(keyframes, rows, network.spec, network.data, batches):
        batch = {name: tensor.to(network.device) for name, tensor in batch.items()}
        with torch.inference_mode():
            regression = network.predict(batch).regression
        of_task = torch.stack([at_cells(maps, batch["cells"]) for maps in regression.unbind(1)])  # (T, B, M, 10)
        task = tasks[batch["labels"]][None, ..., None].expand(1, *of_task.shape[1:])
        found = of_task.gather(0, task)[0]
        known = batch["mask"][..., VELOCITY].amin(dim=-1) > 0
        true.append(batch["boxes"][known][:, VELOCITY].cpu())
        predicted.append(found[known][:, VELOCITY].cpu())
    return torch.cat(true).numpy(), torch.cat(predicted).numpy()


def velocity_table(true: np.ndarray, predicted: np.ndarray) -> str:
    """Markdown: means along and across the ego vehicle's axis of what moves that way, mean speed of what stands."""
    lines = ["| true velocity | objects | true mean | predicted mean |", "|---|---|---|---|"]
    for axis, name in enumerate(("vx", "vy")):
        for sign in (1, -1):
            there = sign * true[:, axis] > FAST
            means = [f"{v[there, axis].mean():.2f}" if there.any() else "" for v in (true, predicted)]
            relation = f"> {FAST:g}" if sign > 0 else f"< -{FAST:g}"
            lines.append(f"| {name} {relation} m/s | {there.sum()} | {means[0]} | {means[1]} |")
    stands = np.linalg.norm(true, axis=1) < STANDING
    speed = f"{np.linalg.norm(predicted[stands], axis=1).mean():.2f} (mean speed)" if stands.any() else ""
    lines.append(f"| standing | {stands.sum()} | 0 | {speed} |")
    return "\n".join(lines)


def velocity_csv(true: np.ndarray, predicted: np.ndarray) -> str:
    """axis,low,high,objects,true_mean,predicted_mean in m/s, a row for each axis and group that has objects.

    A border is empty where a group has no end. The last row has mean speeds of what stands, its axis is `speed`.
    """
    lines = ["axis,low,high,objects,true_mean,predicted_mean"]
    for axis, name in enumerate(("vx", "vy")):
        for low, high in GROUPS:
            there = (true[:, axis] >= low) & (true[:, axis] < high)
            if there.any():
                borders = [f"{border:g}" if np.isfinite(border) else "" for border in (low, high)]
                means = [f"{v[there, axis].mean():.2f}" for v in (true, predicted)]
                lines.append(",".join([name, *borders, str(there.sum()), *means]))
    stands = np.linalg.norm(true, axis=1) < STANDING
    if stands.any():
        speeds = [f"{np.linalg.norm(v[stands], axis=1).mean():.2f}" for v in (true, predicted)]
        lines.append(",".join(["speed", "", f"{STANDING:g}", str(stands.sum()), *speeds]))
    return "\n".join(lines) + "\n"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.velocity", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    add_source(parser)
    parser.add_argument("--split", default="val", help="val, train, or holdout")
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--out", type=Path, help="write means of finer groups as CSV, for the plot in docs/results.md")
    args = parser.parse_args(argv)
    torch.set_num_threads(own_threads())
    network = load_network(args.checkpoint, own_device())
    keyframes = open_keyframes(network.spec, network.data, source_of(args), args.split, args.scenes)
    require_objects(keyframes, args.split)
    true, predicted = velocities(network, keyframes, Batches(args.batch_size, args.workers))
    print(velocity_table(true, predicted))
    if args.out:
        write_atomic(args.out, velocity_csv(true, predicted))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
