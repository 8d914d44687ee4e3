"""SSD's photometric distortion, with which BEVFormer trains."""

from __future__ import annotations

import cv2
import numpy as np

BRIGHTNESS = 32.0  # of 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE_DEG = 18.0


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> the same with brightness, contrast, saturation, hue and the order of channels changed,
    each with probability one half; contrast before or after the colours, at random.

    Liu et al., SSD, ECCV 2016; values and order are those of BEVFormer's PhotoMetricDistortionMultiViewImage. Like
    there, nothing is clipped between the steps.
    """

    def chance() -> bool:
        return bool(rng.random() < 0.5)

    pixels = image.astype(np.float32)
    contrast = rng.uniform(*CONTRAST) if chance() else 1.0
    contrast_first = chance()
    if chance():
        pixels += rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    if contrast_first:
        pixels = pixels * contrast
    hsv = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV))  # floats: hue in degrees
    if chance():
        hsv[..., 1] = hsv[..., 1] * rng.uniform(*SATURATION)
    if chance():
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-HUE_DEG, HUE_DEG)) % 360.0
    pixels = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), dtype=np.float32)
    if not contrast_first:
        pixels = pixels * contrast
    if chance():
        pixels = pixels[..., rng.permutation(3)]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
