"""Checkpoint -> bundle: `python -m training.export CHECKPOINT OUT [--golden-data DIR] [--scores JSON] [--notes MD]`.

Writes model.onnx, model_spec.json, golden.npz, golden_frame.npz and MODEL_CARD.md, with --scores also scores.json, with
--safetensors the weights for torch, and refuses when PyTorch, ONNX Runtime and the spec disagree, when a parameter is
not in the graph, when TensorRT's parser refuses or when the bundle is above --limit-mib.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from bev_perception.bundle import (
    GOLDEN,
    GOLDEN_FRAME,
    MODEL,
    SPEC,
    Bundle,
    load_bundle,
    open_bundle,
    replace_bundle,
    require_replaceable,
    with_facts,
)
from bev_perception.files import naming, read_text, work_folder
from bev_perception.frame_proof import record_golden_frame
from bev_perception.golden_pattern import pattern_frames
from bev_perception.inference.backend import open_backend
from bev_perception.inference.interface import InferenceBackend
from bev_perception.inference.proof import TOLERANCES, compare_outputs
from bev_perception.model_spec import ModelSpec
from bev_perception.stated_scores import SCORES, scores_json
from bev_perception.structures import SensorFrame
from training.bundling.card_metadata import Origin
from training.bundling.export_checks import ask_tensorrt, check_parameters
from training.bundling.golden import recorded_frames, recorded_inputs
from training.bundling.model_card import model_card
from training.bundling.mounts import accepted_mounts
from training.bundling.pattern import pattern_inputs
from training.bundling.weights import WEIGHTS, weights_file
from training.command_line import errors_as_text
from training.data.config import EVERY_RETURN
from training.data.source import add_source, source_of
from training.models import STUDENTS
from training.models.detector import Detector
from training.models.exported import ExportedDetector, with_health
from training.quiet import quiet
from training.trainer.checkpoint import load_network

OPSET = 20
SCORES_LIMIT = 2**24  # bytes of what `training.evaluate --out` writes
GOLDEN_SHARE = 1 / 32  # of a bundle's limit, at most, is the golden sample


def export_bundle(
    student: Detector,
    out: Path,
    extra_files: dict[str, str | bytes] | None = None,
    inputs: dict[str, np.ndarray] | None = None,
    limit_mib: float | None = None,
    frames: tuple[SensorFrame, SensorFrame] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle for `student` (with its spec) to `out`, replacing what is there once everything is proven.

    extra_files: file name -> content, for the model card and the weights of torch.
    inputs: of the golden sample (default: `pattern_inputs`).
    limit_mib: how large the bundle may be; None for any size. One that goes into a repository wants a limit.
    frames: of the golden frame (default: `pattern_frames`). scores: Scores.to_dict(), which the bundle then states.
    Raises BundleError when ONNX Runtime disagrees with PyTorch, ValueError when `out` is there and is no bundle, when a
    parameter is not in the graph or a file is too large, BuildError when TensorRT's parser refuses.
    """
    require_replaceable(out)
    student.eval()
    inputs = inputs or pattern_inputs(student.spec)
    tensors = {t.name: torch.from_numpy(inputs[t.name]) for t in student.spec.inputs()}
    exported = ExportedDetector(student).eval()
    with torch.no_grad():
        results = exported(*tensors.values())
    expected = {t.name: r.numpy() for t, r in zip(student.spec.outputs(), results, strict=True)}
    with work_folder(out) as work:
        onnx_bytes = with_facts(_to_onnx(exported, tensors), student.spec)
        spec = dataclasses.replace(student.spec, onnx_sha256=hashlib.sha256(onnx_bytes).hexdigest())
        (work / MODEL).write_bytes(onnx_bytes)
        (work / SPEC).write_text(spec.to_json())
        # The state is as large as the model: its effect is proven by the boxes that a golden prev_bev leads to.
        arrays = {f"in.{name}": array for name, array in inputs.items()}
        arrays |= {f"out.{name}": array for name, array in expected.items() if name != "bev"}
        np.savez_compressed(work / GOLDEN, **arrays)  # type: ignore[arg-type]
        for name, content in (extra_files or {}).items():
            (work / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if scores:
            (work / SCORES).write_text(scores_json(scores, spec.onnx_sha256))
        print(ask_tensorrt(onnx_bytes))
        backend = open_backend(open_bundle(work))
        try:
            _check_outputs(backend, open_bundle(work), expected)
            golden_frame = record_golden_frame(backend, frames or pattern_frames(spec))
        finally:
            backend.close()
        (work / GOLDEN_FRAME).write_bytes(golden_frame)
        load_bundle(work)
        if limit_mib is not None:
            _check_sizes(work, limit_mib)
        replace_bundle(work, out)
    return out


@quiet()
def _to_onnx(exported: ExportedDetector, tensors: dict[str, Tensor]) -> bytes:
    spec: ModelSpec = exported.detector.spec
    program = torch.onnx.export(
        exported,
        tuple(tensors.values()),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=[t.name for t in spec.inputs()],
        output_names=[t.name for t in spec.outputs()],
    )
    assert program is not None and program.exported_program is not None  # only without dynamo
    check_parameters(program.exported_program, exported.detector)
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
    return model.SerializeToString(deterministic=True)


def _check_sizes(folder: Path, limit_mib: float) -> None:
    golden, total = (folder / GOLDEN).stat().st_size, sum(f.stat().st_size for f in folder.iterdir())
    if golden > limit_mib * GOLDEN_SHARE * 2**20:
        raise ValueError(
            f"{GOLDEN} has {golden / 2**10:.0f} KiB, allowed {limit_mib * GOLDEN_SHARE * 2**10:.0f}; take another "
            "keyframe, round coarser (training/bundling/golden.py), leave out --golden-data or raise --limit-mib"
        )
    if total > limit_mib * 2**20:
        raise ValueError(
            f"the bundle has {total / 2**20:.2f} MiB, allowed {limit_mib:g}; make the student smaller, or leave out "
            "--limit-mib where the bundle does not go into a repository"
        )


def _check_outputs(backend: InferenceBackend, bundle: Bundle, expected: dict[str, np.ndarray]) -> None:
    """ONNX Runtime on the files just written against PyTorch, the state included."""
    inputs, golden = bundle.golden()
    found = {name: backend.fetch(value) for name, value in backend.infer(inputs).items()}
    figures = compare_outputs(
        found,
        golden | {n: a for n, a in expected.items() if n == "bev"},
        bundle.spec,
        TOLERANCES["fp32"],
        "ONNX Runtime against PyTorch",
    )
    print("ONNX Runtime against PyTorch: " + ", ".join(f"{name} {value:.2g}" for name, value in figures.items()))
    print(f"golden sample: best score {golden['scores'][0]:.2f}, {int((golden['scores'] > 0.1).sum())} above 0.1")


def with_thresholds(spec: ModelSpec, classes: dict[str, Any]) -> ModelSpec:
    """Each class's score of the best F1 (Scores.to_dict()) as its threshold; the spec's own where nothing was found."""
    best = {name: classes[name]["best_score"] for name in spec.classes}
    chosen = {name: spec.score_threshold[name] if b is None else round(b, 3) for name, b in best.items()}
    return dataclasses.replace(spec, score_threshold=chosen)


def _read_scores(path: Path) -> dict[str, Any]:
    """Sensors -> Scores.to_dict(), as `training.evaluate --out` writes them. Raises ValueError, OSError."""
    with naming(path):
        scores = json.loads(read_text(path, SCORES_LIMIT))
        rows = list(scores.values()) if isinstance(scores, dict) else []
        if not rows or not all(isinstance(row, dict) and {"classes", "mean_ap", "nds"} <= set(row) for row in rows):
            raise ValueError("is no result of `training.evaluate --out`; name the file that it wrote")
    return dict(scores)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="bundle directory to write")
    parser.add_argument("--scores", type=Path, help="JSON of training.evaluate --out: card, thresholds, scores.json")
    parser.add_argument("--notes", type=Path, help="Markdown appended to the card: data, command, duration, limits")
    add_source(
        parser,
        False,
        "golden-data",
        "nuScenes-format data root: golden files are of its val, mounts of train",
    )
    parser.add_argument(
        "--licence", default=Origin.licence, help="of the weights, such as apache-2.0: card (%(default)s)"
    )
    parser.add_argument("--datasets", nargs="+", default=[], help="that it learnt from and was scored on: card")
    parser.add_argument("--health", action="store_true", help="with outputs by which the health of sensors is judged")
    parser.add_argument("--safetensors", action="store_true", help="also the weights, for torch")
    parser.add_argument("--limit-mib", type=float, help="refuse a larger bundle, such as 16 in a repository")
    args = parser.parse_args(argv)
    require_replaceable(args.out)
    network = load_network(args.checkpoint)
    if network.run.model not in STUDENTS:
        parser.error(f"{args.checkpoint} is a {network.run.model}; vehicles run students: {sorted(STUDENTS)}")
    if network.run.data.returns != EVERY_RETURN:
        raise ValueError(
            f"{args.checkpoint} learnt from some radar returns only ({network.run.data.returns}), vehicles give all of "
            "them: train with data.returns as it is by default"
        )
    student = network.detector
    if args.data:
        mounts = accepted_mounts(student.spec, source_of(args))
        student.spec = dataclasses.replace(student.spec, mounts=mounts)
    scores = _read_scores(args.scores) if args.scores else {}
    whole = next(iter(scores.values()), None)
    if whole is not None:
        student.spec = with_thresholds(student.spec, whole["classes"])
    if args.health:
        with torch.no_grad():
            student.eval()
            student.spec = with_health(student)
    origin = Origin(args.licence, tuple(args.datasets))
    card = model_card(student, scores, args.notes.read_text() if args.notes else "", origin)
    files: dict[str, str | bytes] = {"MODEL_CARD.md": card}
    if args.safetensors:
        files[WEIGHTS] = weights_file(student, network.run)
    inputs = recorded_inputs(student, source_of(args)) if args.data else None
    frames = recorded_frames(student.spec, source_of(args)) if args.data else None
    export_bundle(student, args.out, files, inputs, args.limit_mib, frames, whole)
    print(f"bundle: {args.out} ({sum(f.stat().st_size for f in args.out.iterdir()) / 2**20:.2f} MiB)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
