"""What is left of a score when sensors fail: `python -m training.robustness BUNDLE_OR_CHECKPOINT --data DIR --out OUT`.

Drives every scene of a split once for every condition and severity, by the vehicle's own step: the eight camera
corruptions of RoboBEV, their counterparts for radars, errors of calibration, clocks and odometry, and sensors that are
lost. OUT/robustness.json and .md have the scores; scenes that are done are kept, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.spread import RAY_HERE, spread
from bev_perception.files import sha256_of, write_atomic
from bev_perception.model_spec import ModelSpec
from bev_perception.uncertainty import UNCERTAINTY
from training.changes import only_with
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.source import add_source, source_of
from training.robustness.conditions import LOST, cells
from training.robustness.rates import DETR3D
from training.robustness.scene import Job, drive, is_done
from training.robustness.summary import reference_of, summarise, tables
from training.trainer.checkpoint import load_network
from training.trainer.loading import open_keyframes, scenes_of

RUN, RESULT, TABLE = "run.json", "robustness.json", "robustness.md"


def spec_of(model: Path) -> tuple[ModelSpec, str]:
    """Of a bundle or a checkpoint: its facts and the hash that names it."""
    if model.is_dir():
        spec = load_bundle(model).spec
        return spec, spec.onnx_sha256
    return load_network(model).spec, sha256_of(model)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.robustness", description=__doc__)
    parser.add_argument("model", type=Path, help="bundle, or checkpoint of training.train")
    add_source(parser)
    parser.add_argument("--split", default="val")
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--only", nargs="+", default=[], metavar="CONDITION", help=f"names of the table, `{LOST}` too")
    parser.add_argument(
        "--reference", type=Path, metavar="JSON", help="another model's robustness.json, for CE and mCE"
    )
    parser.add_argument("--nuscenes-reference", action="store_true", help="CE and mCE beside DETR3D, as RoboBEV prints")
    parser.add_argument("--backend", default="onnxruntime", help="engine of a bundle")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="scenes at once")
    parser.add_argument("--ray", default="", metavar="ADDRESS", help=f"a Ray cluster, or {RAY_HERE}")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: which sensors fail, noise, weather")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    spec, digest = spec_of(args.model)
    source, rows = source_of(args), cells(spec, tuple(args.only))
    reference = reference_of(args.reference) if args.reference else DETR3D if args.nuscenes_reference else {}
    keyframes = open_keyframes(spec, PLAIN, source, args.split, args.scenes)
    scenes = scenes_of(PLAIN, source, args.split)[: args.scenes]
    data = keyframes.data_index.digest
    table = args.model / UNCERTAINTY
    facts = {"model": digest, "data": data, "split": args.split, "seed": args.seed, "engine": args.backend}
    only_with(args.out / RUN, facts | ({"uncertainty": sha256_of(table)} if table.is_file() else {}))
    jobs = []
    for scene in scenes:
        folder = args.out / "scenes" / scene
        missing = [cell for cell in rows if not is_done(folder, cell)]
        if any(cell.loss for cell in missing):  # times of reaction are of all losses together
            missing += [cell for cell in rows if cell.loss and cell not in missing]
        if missing:
            jobs.append(Job(args.model, args.backend, source, scene, tuple(missing), args.seed, folder))
    print(f"{len(scenes)} scenes, {len(rows)} cells; {len(scenes) - len(jobs)} scenes are done", file=sys.stderr)
    failed: dict[str, Exception] = {}
    for done in spread(drive, jobs, max(1, args.workers), args.ray):
        scene = jobs[done.index].scene
        if done.error is not None:  # one scene is no reason to leave the others
            failed[scene] = done.error
        print(f"[{done.count}/{len(jobs)}] {scene}; about {done.left_s:.0f} s left", file=sys.stderr, flush=True)
    if failed:
        scene, error = next(iter(failed.items()))
        raise ValueError(
            f"{len(failed)} of {len(jobs)} scenes failed, such as {scene} ({type(error).__name__}: {error}); "
            "the others are kept, and the same command goes on"
        ) from error
    folders = [args.out / "scenes" / scene for scene in scenes]
    result = summarise(folders, rows, reference)
    write_atomic(args.out / RESULT, json.dumps(result, indent=1))
    text = tables(result)
    write_atomic(args.out / TABLE, text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
