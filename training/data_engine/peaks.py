"""What heatmaps are unsure of, peak by peak. Maps are probabilities, each class and cell a yes or no of its own."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 0.1  # a peak below is nothing that anybody would look at; every score is over the peaks above
MOST = 200  # peaks of a frame: the strongest


def entropy(p: np.ndarray) -> np.ndarray:
    """Of a yes or no of probability p, in nats: 0 where it is sure, log 2 where it is even."""
    inside = np.clip(np.asarray(p, dtype=np.float64), 1e-7, 1.0 - 1e-7)
    return -inside * np.log(inside) - (1.0 - inside) * np.log1p(-inside)


def mutual_information(p: np.ndarray) -> np.ndarray:
    """(M, ...) probabilities by M members -> (...): H(mean p) - mean H(p), what they disagree about.

    Of an ensemble: Haussmann et al., arXiv 2004.04699. Of two members it is the Jensen-Shannon divergence, which stands
    here for the symmetric Kullback-Leibler divergence of AL-SSL (Elezi et al., CVPR 2022): that one has no upper end.
    """
    p = np.asarray(p, dtype=np.float64)
    return np.maximum(entropy(p.mean(axis=0)) - entropy(p).mean(axis=0), 0.0)


def peak_values(maps: Tensor) -> list[np.ndarray]:
    """(M, B, C, X, Y) probabilities by M members -> for each of B frames (M, K) of its K peaks, by falling height.

    A peak is a local maximum of 3x3 cells of the highest member, above FLOOR. What each member says of it is the most
    that it says in these cells: an object that moved by a cell is no disagreement.
    """
    highest = maps.amax(dim=0)
    near = torch.stack([F.max_pool2d(member, 3, 1, 1) for member in maps])
    top = F.max_pool2d(highest, 3, 1, 1)
    values = []
    for b in range(maps.shape[1]):
        is_peak = (highest[b] == top[b]) & (highest[b] >= FLOOR)
        order = highest[b][is_peak].argsort(descending=True, stable=True)[:MOST]
        values.append(near[:, b][:, is_peak][:, order].double().cpu().numpy())
    return values
