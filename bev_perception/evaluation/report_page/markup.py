"""Pieces of HTML that all sections are made of. What comes in as `str` cells is HTML; `text` makes it of anything."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable

from bev_perception.evaluation.worst_frames import Scene

DASH = "\N{EN DASH}"


def text(value: object) -> str:
    return html.escape(str(value))


def words(name: str) -> str:
    """A name of ours, such as traffic_cone, for people."""
    return text(name.replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    return DASH if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}\N{NO-BREAK SPACE}%" if whole else DASH


def section(title: str, body: str) -> str:
    """With an anchor of its title; nothing where there is no body."""
    return f'<section id="{anchor(title)}"><h2>{text(title)}</h2>{body}</section>' if body else ""


def anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def table(
    head: Iterable[str], rows: Iterable[Iterable[str]], foot: Iterable[str] = (), caption: str = "", kind: str = "plain"
) -> str:
    """The first column is a heading; what the table is is said by its caption. kind: `runs` for long names, which have
    a line of their own on a phone."""

    def line(cells: Iterable[str], tag: str, scope: str) -> str:
        first, *others = cells
        rest = "".join(f"<{tag}>{cell}</{tag.split()[0]}>" for cell in others)
        return f'<tr><th scope="{scope}">{first}</th>{rest}</tr>'

    body = "".join(line(row, "td", "row") for row in rows)
    total = f"<tfoot>{line(foot, 'td', 'row')}</tfoot>" if foot else ""
    named = f"<caption>{text(caption)}</caption>" if caption else ""
    top = line(head, 'th scope="col"', "col")
    return f'<table class="{kind}">{named}<thead>{top}</thead><tbody>{body}</tbody>{total}</table>'


def bar(value: float, said: str = "") -> str:
    """A number with a bar of its share of 1."""
    share = 0.0 if math.isnan(value) else 100 * min(max(value, 0.0), 1.0)
    return f'<span class="bar" aria-hidden="true"><i style="width:{share:.1f}%"></i></span>{said or number(value)}'


def rgb(bgr: tuple[int, int, int]) -> str:
    return f"rgb({bgr[2]},{bgr[1]},{bgr[0]})"


def swatch(bgr: tuple[int, int, int]) -> str:
    return f'<i class="swatch" style="background:{rgb(bgr)}"></i>'


def legend(entries: Iterable[tuple[str, tuple[int, int, int]]]) -> str:
    return '<p class="legend">' + "".join(f"<span>{swatch(color)}{text(n)}</span>" for n, color in entries) + "</p>"


def picture(scene: Scene, alt: str, attributes: str = "") -> str:
    """The image itself, within the page."""
    data = base64.b64encode(scene.jpeg).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text(alt)}"{attributes}>'


def figure(scene: Scene, caption: str, alt: str) -> str:
    """A picture that a click, or the Enter key, shows in its own size."""
    return (
        f'<figure><button type="button" class="zoom" aria-label="Enlarge: {text(caption)}">'
        f"{picture(scene, alt)}</button>"
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def wrong_text(wrong: tuple[int, int, int] | None) -> str:
    """(hits, false alarms, misses) as words."""
    if wrong is None:
        return "no ground truth"
    hits, false, missed = wrong
    return f"{hits} hit, {false} false alarms, {missed} missed"
