"""What is left, in single figures: mCE and mRR of RoboBEV (Xie et al., 2023), and shares of a clean score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# NDS of DETR3D (ResNet-101) on nuScenes-C, mean of the three severities: what RoboBEV divides by.
DETR3D = {
    "camera_crash": 0.2859, "frame_lost": 0.2604, "colour_quant": 0.3177, "motion_blur": 0.2661,
    "brightness": 0.4002, "low_light": 0.2786, "fog": 0.3912, "snow": 0.1913,
}  # fmt: skip


def corruption_errors(nds: Mapping[str, Sequence[float]], reference: Mapping[str, float]) -> dict[str, float]:
    """Condition -> what it takes from 1, over what it takes from the reference's; 1 is as bad.

    nds: condition -> NDS at each severity; reference: condition -> mean NDS over the severities.
    """
    return {name: (1.0 - _mean(values)) / (1.0 - reference[name]) for name, values in nds.items() if name in reference}


def resilience_rates(nds: Mapping[str, Sequence[float]], clean: float) -> dict[str, float]:
    """Condition -> mean NDS over the severities as a share of the clean one; NaN where that is 0."""
    return {name: _mean(values) / clean if clean > 0 else np.nan for name, values in nds.items()}


def mean_percent(rates: Mapping[str, float]) -> float:
    """mCE or mRR."""
    return 100.0 * _mean(list(rates.values()))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
