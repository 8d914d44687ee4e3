"""One resampling from the received image to the network's, whatever augmentation does to it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.model_spec import ImageSpec
from bev_perception.preprocess.images import in_color_order, mean_over_samples, pixels_from_source


@dataclass(frozen=True)
class Source:
    """image: (h, w, 3) uint8 BGR as the vehicle decodes it for the spec, perhaps a JPEG's reduced copy. samples: a
    pixel of the network's image is the mean of samples x samples bilinear ones of it."""

    image: np.ndarray
    samples: int


def resample(source: Source, spec: ImageSpec, aug_from_img: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 in the spec's colour order: the network's image after (3, 3) `aug_from_img` in its pixels; black
    where the source ends.

    Copy and samples are the vehicle's at every zoom, so that an augmented image is about as sharp beside the scene as
    the one that the vehicle makes. To warp the vehicle's image instead blurs it a second time, the more the larger it
    is drawn, and leaves black what it had cut away.
    """
    height, width = source.image.shape[:2]
    f, shift = source.samples, 0.5 * source.samples - 0.5
    sample_from_aug = np.array([[f, 0, shift], [0, f, shift], [0, 0, 1]])
    sample_from_source = sample_from_aug @ aug_from_img @ pixels_from_source(width, height, spec)
    size = (f * spec.width, f * spec.height)
    sampled = cv2.warpAffine(source.image, sample_from_source[:2], size, flags=cv2.INTER_LINEAR)
    return in_color_order(mean_over_samples(sampled, f), spec)
