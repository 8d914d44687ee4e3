"""The worlds there are, by name, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Style:
    """What a world is like.

    detailed: surfaces have grain, cracks, bricks, leaves, lettering and dirt; edges and ambient light are as they are;
    lens and sensor have more flaws. rolling_s: seconds that cameras take from the first to the last row, 0 for none.
    """

    name: str
    detailed: bool
    rolling_s: float = 0.0


TOWN = Style("town", detailed=False)
CITY = Style("city", detailed=True)
STYLES = {style.name: style for style in (TOWN, CITY)}
ABOUT = "town: plain surfaces, little crossing traffic; city: surfaces, lens and sensor in detail"


def style_named(name: str, rolling_s: float = 0.0) -> Style:
    """One of STYLES, with cameras that take `rolling_s` from their first to their last row.

    Raises ValueError for another name and for a time that no camera takes.
    """
    if name not in STYLES:
        raise ValueError(f"no world {name!r}; choose one of {sorted(STYLES)}")
    if not 0.0 <= rolling_s <= 0.1:
        raise ValueError(f"a rolling shutter of {rolling_s} s; choose 0 for none, or up to 0.1 s (0.03 is common)")
    return replace(STYLES[name], rolling_s=rolling_s)
