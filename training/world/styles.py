"""The worlds there are, by name: what differs between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """`detailed`: surfaces with grain, cracks, bricks, leaves, lettering and dirt; edges and ambient light as they are;
    a lens and a sensor with more flaws. `rolling_s`: seconds from the first to the last row of an image."""

    name: str
    detailed: bool
    rolling_s: float = 0.0


STYLES = {"town": Style("town", False), "city": Style("city", True)}
