"""When is a sensor blind? `python -m training.health BUNDLE --data DATA --out OUT`.

Drives clean scenes by the vehicle's own step, fits what sensors and network usually give to scenes of the training
split, sets thresholds on held-out ones for at most --alarms false ones an hour, and writes them into the bundle
(health.json): the node then tells of what is unusual. The first --scenes held-out scenes are driven again in every
condition: OUT/health.json says how well each is found, how late, and which statistics do it. Scenes that were driven
are kept in OUT, and the same command goes on. A checkpoint is driven in torch; --bundle names the bundle made of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import chi2

from bev_perception.bundle import Bundle, load_bundle, write_table
from bev_perception.files import sha256_of, write_atomic
from bev_perception.inference.interface import InferenceBackend
from bev_perception.model_spec import ModelSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.usual.monitor import HealthMonitor
from bev_perception.usual.statistics import IMAGES, PARTS, RETURNS, parts_of
from bev_perception.usual.table import HEALTH, HealthTable
from training.bundling.engines import open_model
from training.changes import only_with
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.nuscenes import Keyframe
from training.data.sensor_frame import sensor_frame
from training.data.source import add_source, source_of
from training.health.collecting import Drive, NoNetwork, collect
from training.health.fitting import Tail, fit_table
from training.health.kept import read_drive, write_drive
from training.health.measuring import false_alarms, measure
from training.robustness.conditions import CONDITIONS, Cell, applicable, levels
from training.trainer.loading import open_keyframes, scenes_of

SECONDS = 2.0
OF_SENSORS = (IMAGES, RETURNS)  # parts that do not ask the network
TRIED = (
    "lens_dirt", "water_drops", "low_sun", "low_light", "fog", "motion_blur", "blockage", "interference",
    "radars_turned", "cameras_turned", "cameras_shifted",
)  # fmt: skip
RESULT, RUN = "health.json", "run.json"


def collect_all(
    engine: InferenceBackend,
    keyframes: Sequence[Keyframe],
    cells: Sequence[Cell],
    parts: Sequence[str],
    out: Path,
    seed: int,
) -> dict[Cell, list[Drive]]:
    """Every scene in every cell; from `out` where it is there."""
    found: dict[Cell, list[Drive]] = {cell: [] for cell in cells}
    scenes = [(name, list(rows)) for name, rows in groupby(keyframes, key=lambda keyframe: keyframe.scene)]
    started = time.monotonic()
    for number, (scene, rows) in enumerate(scenes):
        paths = {cell: out / "drives" / scene / f"{cell.name}.npz" for cell in cells}
        missing = [cell for cell, path in paths.items() if not path.is_file()]
        if missing:
            for cell, drive in collect(engine, rows, missing, parts, seed).items():
                write_drive(paths[cell], drive)
            left_s = (time.monotonic() - started) / (number + 1) * (len(scenes) - number - 1)
            print(f"[{number + 1}/{len(scenes)}] {scene}, {len(missing)} times; {left_s:.0f} s left", flush=True)
        for cell, path in paths.items():
            found[cell].append(read_drive(path, scene))
    return found


def ablation(
    fitted_to: Sequence[Drive],
    set_on: Sequence[Drive],
    spoilt: Mapping[Cell, Sequence[tuple[Drive, Drive]]],
    spec: ModelSpec,
    parts: Sequence[str],
    alarms_an_hour: float,
) -> list[dict[str, Any]]:
    """Which parts matter, and the seconds: each with thresholds of its own for the same number of false alarms."""
    ways: list[tuple[str, Sequence[str], float]] = [("all", parts, SECONDS)]
    if len(parts) > 2:
        ways += [(f"without {part}", [p for p in parts if p != part], SECONDS) for part in parts]
    ways += [(f"only {part}", [part], SECONDS) for part in parts if len(parts) > 1]
    ways += [(f"all, over {seconds:g} s", parts, seconds) for seconds in (0.5, 1.0, 4.0)]
    rows = []
    for name, chosen, seconds in ways:
        table, _ = fit_table(fitted_to, set_on, spec, chosen, seconds, alarms_an_hour)
        found = {cell: measure(table, spec, pairs) for cell, pairs in spoilt.items() if cell.level == 1}
        rows.append(
            {
                "way": name,
                "found": {c.condition: row["found"] for c, row in found.items()},
                "scene": {c.condition: row["scene"] for c, row in found.items()},
            }
        )
    return rows


def require_two(scenes: Sequence[object], split: str) -> None:
    """Raises ValueError for too few held-out scenes: thresholds are set on some and checked on others."""
    if len(scenes) < 2:
        raise ValueError(
            f"--split {split}: {len(scenes)} held-out scene, expected two at least, one to set thresholds on and one "
            "to check them on; give another split, or more scenes in splits.json"
        )


def made_by(model: Path, bundle: Bundle, engine: InferenceBackend) -> dict[str, str | None]:
    """Hashes of the network that statistics are of: the bundle's ONNX, and the checkpoint where that was driven."""
    driven = not model.is_dir() and engine.name != NoNetwork.name
    return {"engine": engine.name, "model": bundle.spec.onnx_sha256, "checkpoint": sha256_of(model) if driven else None}


def checked_false_alarms(
    fitted_to: Sequence[Drive],
    set_on: Sequence[Drive],
    spec: ModelSpec,
    parts: Sequence[str],
    alarms_an_hour: float,
) -> dict[str, float]:
    """Thresholds are set on one half of the held-out drives, two at least, and tried on the other, both ways."""
    count, hours = 0, 0.0
    for half in (0, 1):
        table, _ = fit_table(fitted_to, set_on[half::2], spec, parts, SECONDS, alarms_an_hour)
        more, longer = false_alarms(table, spec, set_on[1 - half :: 2])
        count, hours = count + more, hours + longer
    most = float(chi2.ppf(0.95, 2 * (count + 1))) / 2  # Poisson, one-sided 95 %
    return {"alarms": count, "hours": hours, "at_most_an_hour": most / hours}


def cost_ms(engine: InferenceBackend, table: HealthTable, keyframes: Sequence[Keyframe]) -> dict[str, float]:
    """Milliseconds that the monitor takes in a step, over some frames of a scene."""
    pipeline = BevPipeline(engine.spec, engine, monitor=HealthMonitor(table, engine.spec))
    took = []
    for keyframe in keyframes:
        pipeline.step(sensor_frame(keyframe, engine.spec))
        took.append(pipeline.timings_ms["health"])
    return {"p50": float(np.median(took)), "p95": float(np.quantile(took, 0.95)), "frames": len(took)}


def report(result: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = ["| condition | level | AUROC | found, % | delay, frames | delay, s | scene, % | said first |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for row in result["conditions"]:
        numbers = [_number(row["auroc"], 3), _percent(row["found"]), _number(row["delay_frames"], 0)]
        numbers += [_number(row["delay_s"], 1), _percent(row["scene"])]
        lines.append(f"| {row['condition']} | {row['level']} | {' | '.join(numbers)} | {row['said']} |")
    checked = result["false_alarms"]
    lines += ["", f"{checked['alarms']} false alarms in {60 * checked['hours']:.1f} min that no threshold was set on."]
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.health", description=__doc__)
    parser.add_argument("model", type=Path, help="bundle, or checkpoint of training.train")
    add_source(parser)
    parser.add_argument("--fit", type=int, default=40, help="scenes of the training split that are fitted to")
    parser.add_argument("--split", default="val", help="held-out scenes: all of them set the thresholds")
    parser.add_argument("--scenes", type=int, default=5, help="of them are spoilt; 0: only fit")
    parser.add_argument("--conditions", nargs="+", help="names of training.robustness, not of lost sensors")
    parser.add_argument("--alarms", type=float, default=1.0, help="false ones an hour, of all sensors together")
    parser.add_argument("--bundle", type=Path, help="of a checkpoint: the bundle to write into")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        help=f"only these; without others than {' '.join(OF_SENSORS)} no network runs",
    )
    parser.add_argument("--backend", default="onnxruntime", help="engine of a bundle")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--out", type=Path, required=True, help="folder of what was collected and measured")
    args = parser.parse_args(argv)
    if not args.model.is_dir() and args.bundle is None:
        parser.error("--bundle names the bundle that was made of this checkpoint")
    bundle = load_bundle(args.bundle or args.model)
    cv2.setNumThreads(1)
    source, spec = source_of(args), bundle.spec
    require_two(scenes_of(PLAIN, source, args.split), args.split)
    parts = _chosen(args.parts, spec)
    engine = NoNetwork(spec) if set(parts) <= set(OF_SENSORS) else open_model(args.model, args.backend, bundle)

    def collected(split: str, scenes: int | None, cells: Sequence[Cell]) -> dict[Cell, list[Drive]]:
        keyframes = open_keyframes(spec, PLAIN, source, split, scenes)
        return collect_all(engine, keyframes, cells, parts, args.out, args.seed)

    try:
        data = open_keyframes(spec, PLAIN, source, args.split, 1).data_index.digest
        facts = made_by(args.model, bundle, engine) | {"data": data, "seed": args.seed}
        only_with(args.out / RUN, facts | {"parts": parts})
        clean = Cell()
        fitted_to = collected("train", args.fit, [clean])[clean]
        set_on = collected(args.split, None, [clean])[clean]
        table, tails = fit_table(fitted_to, set_on, spec, parts, SECONDS, args.alarms)
        write_table(bundle, HEALTH, table.to_json())
        print(f"written: {bundle.path / HEALTH}", flush=True)
        if args.scenes:
            names = args.conditions or [name for name in TRIED if name in applicable(spec)]
            spoilt = collected(args.split, args.scenes, levels(spec, names))
            pairs = {c: list(zip(set_on, drives)) for c, drives in spoilt.items()}
            timed = open_keyframes(spec, PLAIN, source, args.split, 1)
            result = {
                "made_by": facts, "frames": table.frames,
                "alarms_an_hour": args.alarms, "seconds": SECONDS, "tails": _plain(tails),
                "false_alarms": checked_false_alarms(fitted_to, set_on, spec, parts, args.alarms),
                "cost_ms": cost_ms(engine, table, timed),
                "conditions": [
                    {"condition": c.condition, "level": CONDITIONS[c.condition].levels[c.level],
                     "unit": CONDITIONS[c.condition].unit, "severity": c.level + 1} | measure(table, spec, rows)
                    for c, rows in pairs.items()
                ],
                "ablation": ablation(fitted_to, set_on, pairs, spec, parts, args.alarms),
            }  # fmt: skip
            write_atomic(args.out / RESULT, json.dumps(result, indent=1))
            print(f"\n{report(result)}")
    finally:
        engine.close()
    return 0


def _chosen(names: Sequence[str] | None, spec: ModelSpec) -> tuple[str, ...]:
    """Raises ValueError for a part that the model does not have."""
    there = parts_of(spec)
    lacking = sorted(set(names or ()) - set(there))
    if lacking:
        raise ValueError(
            f"{spec.name} lacks {', '.join(lacking)}; it has {', '.join(there)} (features: export --health)"
        )
    return tuple(part for part in there if names is None or part in names)


def _plain(tails: Mapping[str, Tail]) -> dict[str, Any]:
    return {name: {"threshold": t.threshold, "range": t.range, "sensor_hours": t.hours} for name, t in tails.items()}


if __name__ == "__main__":
    raise SystemExit(main())
