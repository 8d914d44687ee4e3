"""A bundle of an older version -> one that this version accepts: `ros2 run bev_perception upgrade_bundle OLD NEW`.

    python -m bev_perception.upgrade_bundle OLD NEW [--bag BAG [--params YAML] [--at SECONDS]]

The network stays what it is, byte by byte; its file is given the facts of the spec, the bundle a golden frame, and
weights that the ONNX keeps in other files of the bundle are noted with their hashes. What OLD says of itself is taken
as true, as far as its golden sample proves it: look at model_spec.json before. The golden frame is of a drawn scene;
with --bag it is of a recording of the vehicle, which proves more. A signature is of the old files and is left out: sign
NEW again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import shutil
import sys
from pathlib import Path

from bev_perception.bundle import (
    GOLDEN_FRAME,
    MODEL,
    MODEL_LIMIT,
    SIGNATURE,
    SPEC,
    Bundle,
    external_files,
    load_bundle,
    open_bundle,
    with_facts,
)
from bev_perception.files import read_bytes, replace_folder, work_folder, write_atomic
from bev_perception.frame_proof import prove_frame, record_golden_frame
from bev_perception.golden_pattern import pattern_frames
from bev_perception.inference.backend import open_backend
from bev_perception.inference.proof import self_test
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import SHIPPED_PARAMETERS, make_config, parse_yaml
from bev_perception.stated_scores import SCORES, read_scores
from bev_perception.structures import SensorFrame
from bev_perception.uncertainty import UNCERTAINTY, read_uncertainty
from bev_perception.usual.table import HEALTH, read_health

Frames = tuple[SensorFrame, SensorFrame]


def upgrade_bundle(old: str | Path, new: str | Path, frames: Frames | None = None) -> Bundle:
    """Write the bundle `new`, proved; `old` is only read.

    frames: of the golden frame, see `record_golden_frame`; None for those of `pattern_frames`. Raises BundleError,
    ValueError for frames that do not fit, FileExistsError where `new` is there already, OSError where it cannot be
    written.
    """
    before, new = open_bundle(old), Path(new)
    stated = read_scores(before)  # of the same network, which gets another hash
    worth, usual = read_uncertainty(before), read_health(before)
    if new.exists():
        raise FileExistsError(f"{new} is there already; name a folder that is not")
    with work_folder(new) as work:
        shutil.copytree(before.path, work, dirs_exist_ok=True)
        (work / SIGNATURE).unlink(missing_ok=True)  # it is of the old files
        spec = dataclasses.replace(before.spec, weights_sha256=external_files(before))
        model = with_facts(read_bytes(before.onnx_path, MODEL_LIMIT), spec)
        spec = dataclasses.replace(spec, onnx_sha256=hashlib.sha256(model).hexdigest())
        write_atomic(work / MODEL, model)
        write_atomic(work / SPEC, spec.to_json())
        if stated is not None:
            write_atomic(work / SCORES, dataclasses.replace(stated, onnx_sha256=spec.onnx_sha256).to_json())
        if worth is not None:
            write_atomic(work / UNCERTAINTY, dataclasses.replace(worth, onnx_sha256=spec.onnx_sha256).to_json())
        if usual is not None:
            write_atomic(work / HEALTH, dataclasses.replace(usual, onnx_sha256=spec.onnx_sha256).to_json())
        backend = open_backend(open_bundle(work))
        try:
            self_test(backend, open_bundle(work))
            write_atomic(work / GOLDEN_FRAME, record_golden_frame(backend, frames or pattern_frames(spec)))
            prove_frame(backend, load_bundle(work))
        finally:
            backend.close()
        replace_folder(work, new)
    return load_bundle(new)


def frames_of_bag(bag: str | Path, spec: ModelSpec, params: str | Path, at_s: float) -> Frames:
    """The first two frames with all sensors that are about spec.temporal.interval_s apart, at_s seconds into a bag.

    Raises ValueError where there are none; BagError, ParameterError.
    """
    from bev_perception.evaluation.frames import read_frames  # needs rosbags, an upgrade without a bag does not

    config = make_config(parse_yaml(params) | {"bundle": "upgraded"}, spec)
    interval_ns = spec.temporal.interval_s * 1e9
    whole: list[SensorFrame] = []
    start_ns: int | None = None
    for _, frame in read_frames(bag, spec, config):
        start_ns = frame.stamp_ns if start_ns is None else start_ns
        if frame.missing or frame.stamp_ns - start_ns < at_s * 1e9:
            continue
        for earlier in whole:
            apart = abs(frame.stamp_ns - earlier.stamp_ns - interval_ns)
            if apart <= interval_ns / 4 and earlier.epoch == frame.epoch and earlier.ego.epoch == frame.ego.epoch:
                return earlier, frame
        whole.append(frame)
    raise ValueError(
        f"{bag}: no two frames with all sensors about {spec.temporal.interval_s:g} s apart after {at_s:g} s; "
        f"{len(whole)} frames have all sensors"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="upgrade_bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="bundle of any version")
    parser.add_argument("new", type=Path, help="folder to write, which is not there yet")
    parser.add_argument("--bag", type=Path, help="recording that the golden frame is taken from")
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's parameters for that bag")
    parser.add_argument("--at", type=float, default=2.0, help="seconds into the recording (%(default)s)")
    args = parser.parse_args(argv)
    try:
        spec = open_bundle(args.old).spec
        frames = frames_of_bag(args.bag, spec, args.params, args.at) if args.bag else None
        bundle = upgrade_bundle(args.old, args.new, frames)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{bundle.path}: {bundle.spec.name}, sha256 of {MODEL} {bundle.spec.onnx_sha256}, proved")
    return 0


if __name__ == "__main__":
    sys.exit(main())
