"""A bundle in 8 bits that detects as well: `python -m training.quantize BUNDLE --data DIR --out BUNDLE [--gate 0.2]`.

Convolutions become 8 bits wide, calibrated on keyframes of the training split that the vehicle's own step gives to the
network. Where mAP or NDS on the validation split then lose more than --gate points, the layers are ranked by the error
that each alone makes, and the worst 1, 2, 4, ... stay in 32 bits until both are within the gate. Scored with the engine
of --backend, the one that is to run. Where the gate cannot be met the exit status is 1, and nothing is written. A
checkpoint is exported first, as `training.export` does by itself.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bev_perception.bundle import Bundle, load_bundle, replace_bundle, require_replaceable
from bev_perception.files import work_folder, write_atomic
from bev_perception.inference.backend import BACKENDS, open_backend
from bev_perception.stated_scores import SCORES, scores_json
from training import export
from training.bundling.calibration import calibration_rows, network_inputs
from training.bundling.card_metadata import join_card, model_index, split_card
from training.bundling.gate import HEAD, Passed, pass_gate, scores_on
from training.bundling.int8 import WEIGHT_BITS, Arrays, Quantizer
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.nuscenes import Keyframe
from training.data.source import Source, add_source, source_of
from training.data.split_objects import require_objects
from training.trainer.loading import open_keyframes

RANKED_EVERY = 8  # of the calibration's frames, so many are looked at when layers are ranked
CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class Settings:
    """gate: points of mAP and of NDS that may be lost; frames: keyframes to calibrate on; backend: that scores;
    weight_bits: 7 for processors without 8-bit dot products."""

    gate: float = 0.2
    frames: int = 32
    backend: str = "onnxruntime"
    weight_bits: int = 8

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not -100 <= self.gate <= 100:
            raise ValueError(f"a gate of {self.gate:g} points, expected a number within [-100, 100]")
        if self.frames < 1:
            raise ValueError(f"{self.frames} frames to calibrate on, expected one at least")


def quantize(source: Bundle, data: Source, out: Path, settings: Settings) -> Passed:
    """Write the bundle in 8 bits, which replaces `out` once it met the gate.

    Raises ValueError where it cannot, where `source` is in 8 bits already or the data set lacks a split, and what an
    engine raises that does not take it.
    """
    if source.spec.precision != "fp32":
        raise ValueError(f"{source.path} is {source.spec.precision} already; quantise the bundle that it was made of")
    require_replaceable(out)
    training = open_keyframes(source.spec, PLAIN, data, "train", image_targets=())
    validation = open_keyframes(source.spec, PLAIN, data, "val")
    require_objects(validation, "val")
    rows = calibration_rows([keyframe.scene for keyframe in training], settings.frames)
    seen = f"{sum(map(len, rows))} keyframes, the first of {', '.join(training[of[0]].scene for of in rows)}"
    print(f"calibration: {seen}\n{len(validation)} keyframes are scored, with {settings.backend}\n", flush=True)
    with work_folder(out) as work:
        ranked_on: list[Arrays] = []
        inputs = _calibration(source, training, rows, ranked_on)
        quantizer = Quantizer(source.model(), inputs, work, settings.weight_bits)
        score = scores_on(validation, settings.backend)
        passed = pass_gate(source, quantizer, ranked_on, score, settings.gate, settings.backend, work)
        written = passed.bundle.path
        if scores := passed.steps[-1].scores:
            write_atomic(written / SCORES, scores_json(scores, passed.bundle.spec.onnx_sha256))
        write_atomic(written / CARD, _card(source, passed, settings, seen, len(validation)))
        replace_bundle(written, out)
    return passed


def _calibration(
    source: Bundle, keyframes: Sequence[Keyframe], rows: Sequence[Sequence[int]], ranked_on: list[Arrays]
) -> Iterator[Arrays]:
    """Inputs of the network; the last of every RANKED_EVERY, or of fewer, goes into `ranked_on` as well."""
    engine = open_backend(source)
    last = sum(map(len, rows)) - 1
    try:
        for i, inputs in enumerate(network_inputs(engine, keyframes, rows)):
            if i % RANKED_EVERY == RANKED_EVERY - 1 or (i == last and not ranked_on):
                ranked_on.append(inputs)
            yield inputs
    finally:
        engine.close()


def _card(source: Bundle, passed: Passed, settings: Settings, seen: str, scored: int) -> str:
    """That of the bundle before, and what this command did and measured."""
    before = source.path / CARD
    metadata, text = split_card(before.read_text()) if before.is_file() else ({}, f"# {source.spec.name}")
    if metadata:  # what hubs list is what this bundle reaches
        reached = passed.steps[-1]
        scores = {"all": {"mean_ap": reached.mean_ap, "nds": reached.nds}}
        metadata["model-index"] = model_index(source.spec.name, scores, tuple(metadata.get("datasets", ())))
    kept = ", ".join(f"`{name}` ({error:.3f})" for name, error in passed.in_float) or "none"
    lines = [
        text.rstrip(),
        "## In 8 bits",
        f"Made from the bundle above (sha256 of its ONNX `{source.spec.onnx_sha256}`) by `training.quantize`, "
        f"calibrated on {seen}, weights of {settings.weight_bits} bits. Scored on {scored} keyframes of the validation "
        f"split with {settings.backend}; the gate "
        f"was {settings.gate:g} points of mAP and of NDS. What stands above was measured in 32 bits.",
        "\n".join([HEAD, *(step.row(passed.steps[0]) for step in passed.steps)]),
        f"Convolutions in 32 bits, with the error that each alone makes in 8: {kept}.",
    ]
    body = "\n\n".join(lines) + "\n"
    return join_card(metadata, body) if metadata else body


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.quantize", description=__doc__)
    parser.add_argument("model", type=Path, help="bundle, or checkpoint of training.train")
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True, help="bundle directory to write")
    parser.add_argument("--gate", type=float, default=Settings.gate, help="points that may be lost (%(default)s)")
    parser.add_argument("--frames", type=int, default=Settings.frames, help="to calibrate on (%(default)s)")
    parser.add_argument("--backend", choices=sorted(BACKENDS), default=Settings.backend, help="which is to run")
    parser.add_argument(
        "--weight-bits",
        type=int,
        choices=WEIGHT_BITS,
        default=Settings.weight_bits,
        help="7 where the vehicle's processor has no 8-bit dot products, no `vnni` in /proc/cpuinfo (%(default)s)",
    )
    args = parser.parse_args(argv)
    settings = Settings(args.gate, args.frames, args.backend, args.weight_bits)
    data = source_of(args)
    require_replaceable(args.out)
    if args.model.is_dir():
        quantize(load_bundle(args.model), data, args.out, settings)
    else:
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder, "exported")
            classes = ["--classes", str(args.classes)] if args.classes else []
            where = ["--golden-data", str(args.data), "--version", args.version, *classes]
            if status := export.main([str(args.model), str(exported), *where]):
                return status
            quantize(load_bundle(exported), data, args.out, settings)
    print(f"bundle: {args.out} ({sum(f.stat().st_size for f in args.out.iterdir()) / 2**20:.2f} MiB)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
