"""The report in a real browser: at three widths, in both colour schemes, printed, enlarged and played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
import report_example
from browser import STICKS_OUT, Browser

from bev_perception.evaluation.report_page.page import write_report

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no Chromium is installed; CONTRIBUTING.md says how: apt-get install chromium"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder / "report.html", report_example.example(folder))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.started() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1440])
def test_nothing_sticks_out_or_is_hidden(chromium: Browser, page: Path, width: int, scheme: str) -> None:
    chromium.open(page, width, scheme)
    assert chromium.run("innerWidth") == width
    assert chromium.run(STICKS_OUT) == []
    assert chromium.complaints == [] and chromium.requests == [page.resolve().as_uri()]
    assert chromium.run("document.querySelectorAll('section').length") == 16


def test_what_sticks_out_would_be_seen(chromium: Browser, page: Path) -> None:
    chromium.open(page, 375)
    chromium.run("document.querySelector('table').style.width = '600px', console.error('no'), null")
    assert chromium.run(STICKS_OUT)[0] == "the page is 624 wide" or len(chromium.run(STICKS_OUT)) > 1
    assert chromium.complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(chromium: Browser, page: Path, scheme: str) -> None:
    """WCAG 2.1: a contrast of at least 4.5 for text."""
    chromium.open(page, 1440, scheme)
    worst = chromium.run(
        """(() => {
          const light = (color) => {
            const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
              .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (e) => {
            for (; e; e = e.parentElement) {
              const color = getComputedStyle(e).backgroundColor;
              if (color !== "rgba(0, 0, 0, 0)") return color;
            }
          };
          let worst = [99, ""];
          for (const e of document.querySelectorAll("h1, h2, p, td, th, a, li, dd, dt, small, b, span, text, button")) {
            if (!e.textContent.trim() || e.closest("dialog")) continue;
            const style = getComputedStyle(e);
            const color = e.tagName === "text" ? style.fill : style.color;
            const [a, b] = [light(color), light(ground(e))].sort((x, y) => y - x);
            const contrast = (a + 0.05) / (b + 0.05);
            if (contrast < worst[0]) worst = [contrast, e.tagName + " " + e.textContent.slice(0, 40)];
          }
          return worst;
        })()"""
    )
    assert worst[0] >= 4.5, worst


def test_pictures_are_enlarged_and_played(chromium: Browser, page: Path) -> None:
    chromium.open(page, 375)
    chromium.run("document.querySelector('figure .zoom').click()")
    assert chromium.run("document.querySelector('dialog').open")
    assert chromium.run("document.querySelector('dialog img').getBoundingClientRect().width") == 1200
    assert chromium.run("document.querySelector('dialog').scrollWidth") == 1200, "it can be moved about"
    chromium.press("Escape")
    assert not chromium.run("document.querySelector('dialog').open")
    shown = "[...document.querySelectorAll('.player img')].findIndex((image) => !image.hidden)"
    assert chromium.run(shown) == 0 and chromium.run("document.querySelector('.play').textContent") == "Play"
    chromium.run(
        "(() => { const s = document.querySelector('input'); s.value = 2; s.dispatchEvent(new Event('input')); })()"
    )
    assert chromium.run(shown) == 2
    assert chromium.run("document.querySelector('.said').textContent") == "2 hit, 0 false alarms, 1 missed"
    chromium.run("document.querySelector('.play').click()")
    assert chromium.run("document.querySelector('.play').textContent") == "Pause"
    assert chromium.complaints == []


def test_it_can_be_printed(chromium: Browser, page: Path) -> None:
    chromium.open(page, 718, "dark", "print")  # A4 within its margins
    assert chromium.run(STICKS_OUT) == []
    assert chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert chromium.pdf().startswith(b"%PDF")
