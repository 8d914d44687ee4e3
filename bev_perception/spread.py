"""How far a network says that its boxes may be off: from the channels of its head to metres and radians.

Errors of the head's channels become those of a box to the first order: of a size they are size times that of its
logarithm, of the heading atan2(s, c) they are (c ds - s dc) / (s^2 + c^2). Channels are taken as independent.
"""

from __future__ import annotations

import numpy as np

from bev_perception.model_spec import BOX_CHANNELS, SPREAD_CHANNELS

# Of a box: along and across the line of sight and height (m), heading (rad), velocity along and across (m/s), length,
# width and height (m); and the logit of its class.
METRIC_CHANNELS = (
    "along", "across", "z", "yaw", "speed_along", "speed_across", "length", "width", "height", "logit",
)  # fmt: skip
SIZES = {"length": "log_l", "width": "log_w", "height": "log_h"}
LEAST_HEADING = 1e-3  # of (sine, cosine) as regressed, which are hardly ever that short
SURE = 1e-6  # how near to 0 and 1 a score may come before its logit is taken


def metric_variances(log_std: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """(M, P, SPREAD_CHANNELS) logarithms of P parts' standard deviations, (M, BOX_CHANNELS) as regressed at the same
    candidates -> (M, P, METRIC_CHANNELS) float64 variances."""
    regressed = {name: channels[:, i, None].astype(np.float64) for i, name in enumerate(BOX_CHANNELS)}
    variance = dict(zip(SPREAD_CHANNELS, np.moveaxis(np.exp(2.0 * log_std.astype(np.float64)), -1, 0), strict=True))
    sin, cos = regressed["sin_yaw"], regressed["cos_yaw"]
    square = np.maximum(sin**2 + cos**2, LEAST_HEADING**2)
    found = variance | {
        "yaw": (cos**2 * variance["sin_yaw"] + sin**2 * variance["cos_yaw"]) / square**2,
        **{size: np.exp(2.0 * regressed[name]) * variance[name] for size, name in SIZES.items()},
    }
    return np.stack([found[name] for name in METRIC_CHANNELS], axis=-1)


def log_odds(scores: np.ndarray) -> np.ndarray:
    """(M,) float64 logits of scores, finite also for 0 and 1."""
    inside = np.clip(scores.astype(np.float64), SURE, 1.0 - SURE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def softened(scores: np.ndarray, logit_std: np.ndarray) -> np.ndarray:
    """(M,) means of the sigmoid of a logit with these deviations about that of the scores, by MacKay's approximation
    (The evidence framework applied to classification networks, Neural Computation 1992): never farther from 1/2."""
    return 1.0 / (1.0 + np.exp(-log_odds(scores) / np.sqrt(1.0 + np.pi / 8.0 * logit_std**2)))
