"""How well a wrong direction is estimated while driving: `python -m training.health.extrinsics BUNDLE --bag BAG`.

The frames of a recording are watched as the node does, once as they are and once for each way of turning or moving all
sensors in their extrinsics. Radars must send speeds relative to themselves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.frames import read_frames
from bev_perception.extrinsics_watch import ExtrinsicsWatch
from bev_perception.files import write_atomic
from bev_perception.parameters import SHIPPED_PARAMETERS, make_config, parse_yaml
from bev_perception.rig.perturb import perturbed
from bev_perception.structures import SensorFrame
from bev_perception.sync_config import NS
from training.command_line import errors_as_text

CHANGES: dict[str, Mapping[str, float]] = {
    "as it is": {},
    "yaw 1 degree": {"yaw": 1.0},
    "pitch 1 degree": {"pitch": 1.0},
    "roll 1 degree": {"roll": 1.0},
    "10 cm along y": {"y": 0.1},
    "10 cm along z": {"z": 0.1},
}
RELATIVE = {"radar_fields.velocity": "relative", "radar_fields.vx": "vx", "radar_fields.vy": "vy"}


def changed(frame: SensorFrame, change: Mapping[str, float]) -> SensorFrame:
    """Every sensor is elsewhere than its extrinsics say."""
    cameras = tuple(
        v and replace(v, calibration=replace(v.calibration, ego_from_cam=perturbed(v.calibration.ego_from_cam, change)))
        for v in frame.cameras
    )
    radars = tuple(
        tuple(replace(s, ego_from_radar=perturbed(s.ego_from_radar, change)) for s in sweeps) for sweeps in frame.radars
    )
    return replace(frame, cameras=cameras, radars=radars)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.health.extrinsics", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--bag", type=Path, required=True, help="recording of a drive")
    parser.add_argument("--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's parameters for it")
    parser.add_argument("--share", type=float, default=0.03, help="as extrinsics.watch_share, of CPU time")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    bundle = load_bundle(args.bundle)
    values = parse_yaml(args.params) | {"bundle": str(args.bundle)} | RELATIVE
    config, spec = make_config(values, bundle.spec), bundle.spec
    now_s = 0.0
    watches = {
        name: ExtrinsicsWatch(spec.cameras, spec.radars, args.share, time.thread_time, lambda: now_s)
        for name in CHANGES
    }
    took_s, first_s = 0.0, None
    for _, frame in read_frames(args.bag, spec, config):
        now_s = frame.stamp_ns / NS
        first_s = now_s if first_s is None else first_s
        for name, watch in watches.items():
            seen = changed(frame, CHANGES[name])
            before = time.thread_time()
            watch.add(seen)
            took_s += time.thread_time() - before
    if first_s is None:
        raise ValueError(f"{args.bag} gives no frame; are the parameters those of this vehicle?")
    seconds = now_s - first_s
    rows: list[dict[str, Any]] = [
        {"change": name, "sensor": r.name, "degrees": round(r.score, 3), "alarm": r.alarm, "text": r.text}
        for name, watch in watches.items()
        for r in watch.readings()
    ]
    for row in rows:
        print(f"{row['change']}: {row['sensor']} {row['degrees']:.2f}{' ALARM' if row['alarm'] else ''}: {row['text']}")
    share = took_s / max(seconds, 1e-9) / len(watches)
    print(f"{seconds:.0f} s; {100 * share:.1f} % of a core")
    if args.out:
        write_atomic(args.out, json.dumps({"seconds": seconds, "share": share, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
