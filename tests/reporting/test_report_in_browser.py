"""The page in a real browser: nothing is asked for, nothing goes wrong, everything fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rimrl.reporting.report import save_report
from tests.browser import Browser, browser
from tests.reporting.pages import comparison, make_runs
from tests.reporting.test_inspection import write as write_inspection
from tests.reporting.test_report import SECTIONS, hostile_runs

OVERFLOW = "document.documentElement.scrollWidth - innerWidth"
# Text that leaves the window, but for what scrolls in a box of its own.
OUTSIDE = """[...document.querySelectorAll('body *')].filter(e =>
    !e.closest('.wide, pre, svg svg, details:not([open])') && e.getBoundingClientRect().width > 0 &&
    (e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)
).map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 40))"""
OPEN_ALL = "document.querySelectorAll('details').forEach(element => element.open = true)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    names = ("rim", "lstm", "gru", "riglstm (core.num_active=3)", "feedforward", "brims")
    many = make_runs(
        folder / "many", names, seeds=5, updates=60, units=12, splits=("train", *(f"split_{k}" for k in range(5)))
    )
    (many[0] / "inspection" / "train").mkdir(parents=True)
    write_inspection(many[0] / "inspection" / "train", units=12)
    paths = {"many": many, "one": make_runs(folder / "one", ("rim",), 1), "hostile": hostile_runs(folder / "hostile")}
    for name, runs in paths.items():
        save_report(comparison(runs), folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in paths}


@pytest.mark.parametrize("name", ["many", "one", "hostile"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_a_page_opens_quietly_and_fits(tab: Browser, pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    tab.open(pages[name], width, dark)
    for _ in range(2):
        assert tab.evaluate(OVERFLOW) == 0
        assert tab.evaluate(OUTSIDE) == []
        tab.evaluate(OPEN_ALL)
    outside = [address for address in tab.requests if not address.startswith("data:")]
    assert outside == [pages[name].resolve().as_uri()]
    assert tab.errors == []
    sections = tab.evaluate("[...document.querySelectorAll('section')].filter(e => e.offsetHeight > 40).map(e => e.id)")
    assert sections == list(SECTIONS)
    assert tab.evaluate("document.documentElement.dataset.harmed ?? window.harmed ?? null") is None
    assert tab.evaluate("document.compatMode") == "CSS1Compat"
    pictures = tab.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert all(pictures)


def test_nothing_is_cut_off_on_paper(tab: Browser, pages: dict[str, Path]) -> None:
    for name in ("many", "one"):
        tab.open(pages[name], width=720, printed=True)
        assert tab.evaluate(OVERFLOW) == 0
        assert tab.evaluate("document.querySelector('nav').offsetHeight") == 0


def test_the_page_follows_the_readers_colours(tab: Browser, pages: dict[str, Path]) -> None:
    brightness = []
    for dark in (False, True):
        tab.open(pages["many"], dark=dark)
        colours = tab.evaluate("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])")
        brightness.append([sum(int(part) for part in colour[4:-1].split(",")) / 765 for colour in colours])
    (light_paper, light_ink), (dark_paper, dark_ink) = brightness
    assert light_paper > 0.9
    assert light_ink < 0.2
    assert dark_paper < 0.2
    assert dark_ink > 0.8


def test_bars_are_as_long_as_the_scores(tab: Browser, pages: dict[str, Path]) -> None:
    """What the browser draws, in pixels, is what the labels beside it say."""
    for width in (1280, 390):
        tab.open(pages["many"], width)
        drawn = tab.evaluate(
            """[...document.querySelectorAll('#scores svg.bars')].flatMap(svg =>
                [...svg.querySelectorAll('rect.bar')].map((bar, k) => [
                    bar.getBoundingClientRect().width / svg.getBoundingClientRect().width,
                    svg.querySelectorAll('text.figures')[k].textContent]))"""
        )
        assert len(drawn) == 36
        for share, text in drawn:
            assert share == pytest.approx(float(text.split()[0]), abs=0.006)
