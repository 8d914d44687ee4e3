"""What was measured -> the file that holds it, to the last bit wherever the format can."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.preprocess.compressed import COMPRESSED
from bev_perception.preprocess.encodings import decode_image, source_size
from bev_perception.preprocess.undistort import is_distorted, undistort
from bev_perception.structures import CameraCalibration, CameraFrame, RadarScan
from training.recorded.drive import Taken
from training.recorded.radar import radar_file

# --images: how pictures are written that did not come as files. PNG keeps every bit, JPEG does not.
IMAGES = {"png": (".png", []), "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])}
WHOLE_BITS = 16
AS_RECORDED = {"jpeg": ".jpg", "png": ".png"}


@dataclass(frozen=True)
class Content:
    """A file: its bytes, suffix, size (width, height; (0, 0) of what is no image), and in `changed` why it is not what
    was recorded, "" where it is."""

    data: bytes
    suffix: str
    size: tuple[int, int] = (0, 0)
    changed: str = ""


def content_of(taken: Taken, images: str) -> Content:
    """images: a key of IMAGES. Raises ImageError (a ValueError) for an image that cannot be decoded, and ValueError for
    one that is not of its calibration's size."""
    measured = taken.measurement
    if isinstance(measured, CameraFrame):
        assert isinstance(taken.calibration, CameraCalibration)
        return _image(measured, taken.calibration, images)
    if isinstance(measured, RadarScan):
        assert isinstance(taken.calibration, np.ndarray)
        return Content(radar_file(measured, taken.fields, taken.calibration, taken.ego), ".pcd")
    return Content(np.ascontiguousarray(measured.points, dtype="<f4").tobytes(), ".pcd.bin")


def _image(frame: CameraFrame, calibration: CameraCalibration, images: str) -> Content:
    """The tables know no lens: a distorted image becomes that of the pinhole camera with the same K, as the vehicle
    makes it. Of more than eight bits the vehicle uses the upper eight, and a mosaic in colours."""
    size = (calibration.width, calibration.height)
    if source_size(frame) != size:
        found = "x".join(map(str, source_size(frame)))
        raise ValueError(f"image {found}, camera_info {size[0]}x{size[1]}; they must belong together")
    bent = is_distorted(calibration)
    whole = frame.encoding == "jpeg" or frame.bits == WHOLE_BITS  # of fewer bits no file says that it has them
    if frame.encoding in COMPRESSED and not frame.mosaic and not bent and whole:
        return Content(frame.data.tobytes(), AS_RECORDED[frame.encoding], size)
    image = decode_image(frame, calibration.width)
    changed = []
    if bent:
        pinhole = np.eye(4)
        pinhole[:3, :3] = calibration.K
        image = undistort(image, calibration, pinhole, size, samples=1)
        changed.append(f"the lens ({calibration.distortion_model}) is taken out, which resamples")
    if frame.data.dtype == np.uint16:
        changed.append("of 16 bits the upper eight are kept, as on the vehicle")
    if frame.mosaic or frame.encoding not in (*COMPRESSED, "bgr8", "rgb8"):
        changed.append(f"{frame.mosaic or frame.encoding} becomes colours, as on the vehicle")
    suffix, options = IMAGES[images]
    if images == "jpeg":
        changed.append("JPEG loses; --images png does not")
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape} as {images}")
    return Content(data.tobytes(), suffix, size, "; ".join(changed))
