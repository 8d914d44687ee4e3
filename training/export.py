"""Checkpoint -> bundle: `python -m training.export CHECKPOINT OUT [--scores scores.json] [--notes notes.md]`.

Writes model.onnx, model_spec.json, golden.npz and MODEL_CARD.md, and refuses when PyTorch, ONNX Runtime and the spec
disagree. `scores.json` comes from `python -m training.evaluate --out`; the notes are appended to the card.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch

from bev_perception.inference.backend import open_backend
from bev_perception.model_spec import ModelSpec, load_bundle
from training.checkpoint import load_module
from training.models.camera_radar import CameraRadarStudent, ExportedStudent

OPSET = 20
# Largest difference allowed between PyTorch and ONNX Runtime (float32 on both sides, other summation order).
TOLERANCE = 2e-3


def golden_inputs(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """A deterministic, compressible sample that exercises every input: cameras in a ring, radar cells, an earlier state."""
    rng = np.random.default_rng(seed)
    n = len(spec.cameras)
    h, w = spec.image.height, spec.image.width
    ramp = np.add.outer(np.arange(h), np.arange(w))[None, :, :, None]
    images = ((ramp * (1 + np.arange(n))[:, None, None, None] // 4 + 40 * np.arange(3)) % 256).astype(np.uint8)
    img_from_ego = np.zeros((n, 4, 4), dtype=np.float32)
    for i in range(n):  # a level camera at 1.5 m, looking along yaw
        yaw = 2 * np.pi * i / n
        cam_from_ego = np.eye(4)
        cam_from_ego[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        cam_from_ego[:3, 3] = [0, 1.5, 0]
        K = np.array([[0.8 * w, 0, w / 2, 0], [0, 0.8 * w, h / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        img_from_ego[i] = K @ cam_from_ego
    radar = np.zeros((len(spec.radar.channels), *spec.grid.shape), dtype=np.float32)
    cells = rng.integers(0, min(spec.grid.shape), (200, 2))
    radar[:, cells[:, 0], cells[:, 1]] = rng.normal(size=(len(radar), 200)).astype(np.float32).round(2)
    state = np.zeros((spec.temporal.state_channels, *spec.grid.shape), dtype=np.float32)
    state[:, ::8, ::8] = 1.0
    prev_from_curr = np.eye(4, dtype=np.float32)
    prev_from_curr[0, 3] = 2.0
    return {
        "images": images,
        "img_from_ego": img_from_ego,
        "camera_valid": np.ones(n, dtype=np.float32),
        "radar_bev": radar,
        "radar_valid": np.ones(len(spec.radars), dtype=np.float32),
        "prev_bev": state,
        "prev_from_curr": prev_from_curr,
        "prev_valid": np.ones(1, dtype=np.float32),
        "prev_dt": np.full(1, spec.temporal.interval_s, dtype=np.float32),
    }


def export_bundle(student: CameraRadarStudent, out: Path, extra_files: dict[str, str] | None = None) -> Path:
    """Write a bundle for `student` (with its spec) to `out`, atomically replacing what is there.

    extra_files: file name -> text, for the model card and metrics. Raises RuntimeError when the exported graph disagrees.
    """
    student = student.eval().float()
    spec = student.spec
    inputs = golden_inputs(spec)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    exported = ExportedStudent(student).eval()
    with torch.no_grad():
        expected = exported(**tensors)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        program = torch.onnx.export(
            exported, tuple(tensors.values()), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=[t.name for t in spec.inputs()], output_names=[t.name for t in spec.outputs()],
        )  # fmt: skip
        model = program.model_proto
        # The exporter records source lines and local paths in metadata: not wanted in a file that is hashed and shipped.
        for node in model.graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
            del value.metadata_props[:]
        del model.graph.metadata_props[:]
        del model.metadata_props[:]
        onnx.checker.check_model(model)
        data = model.SerializeToString(deterministic=True)
        (work / "model.onnx").write_bytes(data)
        spec = dataclasses.replace(spec, onnx_sha256=hashlib.sha256(data).hexdigest())
        (work / "model_spec.json").write_text(spec.to_json())
        arrays = {f"in.{k}": v for k, v in inputs.items()}
        # The state is as large as the model: its effect is proven by the boxes that a golden prev_bev leads to.
        arrays |= {f"out.{t.name}": e.numpy() for t, e in zip(spec.outputs(), expected, strict=True) if t.name != "bev"}
        np.savez_compressed(work / "golden.npz", **arrays)  # type: ignore[arg-type]
        for name, text in (extra_files or {}).items():
            (work / name).write_text(text)
        bundle = load_bundle(work)
        backend = open_backend(bundle)
        found = backend.infer(inputs)
        for tensor, want in zip(spec.outputs(), expected, strict=True):
            if tensor.name in ("labels", "cells", "boxes"):
                continue  # equal scores may swap ranks; load-time self-test compares these rows with care
            difference = float(np.abs(found[tensor.name] - want.numpy()).max())
            logging.info("%s: PyTorch and ONNX Runtime differ by at most %.2e", tensor.name, difference)
            if not difference <= TOLERANCE:
                raise RuntimeError(
                    f"output {tensor.name}: PyTorch and ONNX Runtime differ by {difference:.2e}, allowed {TOLERANCE:.0e}"
                )
        backend.close()
        if out.exists():
            shutil.rmtree(out)
        os.chmod(work, 0o755)
        os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def model_card(student: CameraRadarStudent, checkpoint: Path, scores: dict[str, dict], notes: str) -> str:
    """Markdown: what the model is, its official scores (evaluate's JSON), and the notes."""
    spec, parameters = (
        student.spec,
        sum(p.numel() for n, p in student.named_parameters() if not n.startswith("semantic.")),
    )
    lines = [
        f"# {spec.name}", "",
        f"{parameters / 1e6:.2f} M parameters; {len(spec.cameras)} cameras at {spec.image.width}x{spec.image.height}, {len(spec.radars)} radars, "
        f"BEV {spec.grid.shape[0]}x{spec.grid.shape[1]} at {spec.grid.step} m. Sizes: `{dataclasses.asdict(student.config)}`.", "",
        f"Exported with `python -m training.export {checkpoint} OUT`.", "",
    ]  # fmt: skip
    if scores:
        lines += [
            "## Scores",
            "",
            "| sensors | mAP | NDS | mATE | mASE | mAOE | mAVE | mAAE |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for word, s in scores.items():
            e = s["errors"]
            row = (s["mean_ap"], s["nds"], e["ate"], e["ase"], e["aoe"], e["ave"], e["aae"])
            lines.append(f"| {word} | " + " | ".join(f"{x:.3f}" for x in row) + " |")
        first = next(iter(scores.values()))
        lines += ["", "| class | AP |", "|---|---|"] + [
            f"| {name} | {c['ap']:.3f} |" for name, c in first["classes"].items()
        ]
    return "\n".join(lines) + "\n\n" + notes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="bundle directory to write")
    parser.add_argument("--scores", type=Path, help="JSON of training.evaluate --out, for the card")
    parser.add_argument("--notes", type=Path, help="Markdown appended to the card: data, command, duration, limits")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    student = load_module(args.checkpoint).student
    scores = json.loads(args.scores.read_text()) if args.scores else {}
    card = model_card(student, args.checkpoint, scores, args.notes.read_text() if args.notes else "")
    export_bundle(student, args.out, {"MODEL_CARD.md": card})
    print(f"bundle: {args.out} ({sum(f.stat().st_size for f in args.out.iterdir()) / 2**20:.2f} MiB)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
