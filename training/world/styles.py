"""The worlds there are, by name, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Style:
    """What a world is like.

    detailed: surfaces have grain, cracks, bricks, leaves, lettering and dirt; edges and ambient light are as they are;
    lens and sensor have more flaws. busy: vehicles turn and cross, people walk in company, bodies are of many kinds;
    streets have hedges and benches. rolling_s: seconds that cameras take from the first to the last row, 0 for none.
    """

    name: str
    detailed: bool
    busy: bool
    rolling_s: float = 0.0


TOWN = Style("town", detailed=False, busy=False)
CITY = Style("city", detailed=True, busy=True)
STYLES = {style.name: style for style in (TOWN, CITY)}
ABOUT = (
    "town: plain surfaces, little traffic that crosses; city: surfaces, lens and sensor in detail, traffic that turns "
    "and crosses, bodies and people of many kinds"
)


def style_named(name: str, rolling_s: float = 0.0) -> Style:
    """One of STYLES, with cameras that take `rolling_s` from their first to their last row.

    Raises ValueError for another name and for a time that no camera takes.
    """
    if name not in STYLES:
        raise ValueError(f"no world {name!r}; choose one of {sorted(STYLES)}")
    if not 0.0 <= rolling_s <= 0.1:
        raise ValueError(f"a rolling shutter of {rolling_s} s; choose 0 for none, or up to 0.1 s (0.03 is common)")
    return replace(STYLES[name], rolling_s=rolling_s)
