"""Which object of a keyframe is which of the one before, where the labels have no ids."""

from __future__ import annotations

import numpy as np

LINK_M = 2.0  # as far as nuScenes' tracking benchmark matches


def link(places: np.ndarray, names: tuple[str, ...], before: np.ndarray, names_before: tuple[str, ...]) -> list[int]:
    """For each of N objects the one of M of the same class that it was, or -1: nearest pairs first, at most LINK_M.

    places (N, 2): where the objects were then, by their own velocities; before (M, 2): where the others were. Greedy
    association after moving by the velocity: CenterPoint (Yin et al., CVPR 2021), section 4.2.
    """
    found = [-1] * len(places)
    if not len(places) or not len(before):
        return found
    apart = np.linalg.norm(places[:, None] - before[None], axis=2)
    apart[np.array(names)[:, None] != np.array(names_before)[None]] = np.inf
    for flat in np.argsort(apart, axis=None, kind="stable"):
        i, k = np.unravel_index(flat, apart.shape)
        if apart[i, k] > LINK_M:
            break
        if found[i] < 0 and int(k) not in found:
            found[i] = int(k)
    return found
