"""What the cameras' conditions look like: `python -m training.robustness.look --data DIR --out PICTURE.jpg`."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from bev_perception.files import write_atomic
from bev_perception.preprocess.encodings import decode_image, source_size
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.nuscenes import open_nuscenes
from training.data.sensor_frame import sensor_frame
from training.data.source import add_source, source_of
from training.experiments.demo import demo_spec
from training.robustness.conditions import CONDITIONS
from training.robustness.moment import Moment, track_of
from training.trainer.loading import open_keyframes

TILE = 352  # pixels wide


def sheet(data: argparse.Namespace, row: int, camera: int) -> np.ndarray:
    """(H, W, 3) uint8 BGR: a row for each condition of single images, easy to hard, with its name."""
    spec = demo_spec()
    keyframe = open_keyframes(spec, PLAIN, source_of(data), "val")[row]
    track = track_of(open_nuscenes(source_of(data), [keyframe.scene], spec, PLAIN))
    frame, rows = sensor_frame(keyframe, spec), []
    for name, condition in CONDITIONS.items():
        if condition.of != "camera" or condition.unit != "level":
            continue
        moment = Moment(spec, keyframe.scene, row, track, name)
        tiles = []
        for number, level in enumerate(condition.levels):
            view = condition.spoil(frame, level, moment).cameras[camera]
            assert view is not None
            width, height = source_size(view.frame)
            tile = cv2.resize(decode_image(view.frame, width), (TILE, round(TILE * height / width)))
            label = f"{name.replace('_', ' ')} {number + 1}"
            for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(tile, label, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, thickness, cv2.LINE_AA)
            tiles.append(tile)
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.robustness.look", description=__doc__)
    add_source(parser)
    parser.add_argument("--keyframe", type=int, default=0, help="of the split val")
    parser.add_argument("--camera", type=int, default=1, help="number of the camera")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    ok, data = cv2.imencode(".jpg", sheet(args, args.keyframe, args.camera), [cv2.IMWRITE_JPEG_QUALITY, 70])
    assert ok
    write_atomic(args.out, data.tobytes())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
