"""The page: what it must not hold, and what a real browser makes of it."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
from markupsafe import Markup

from loopway.layout import Layout
from loopway.report.diagram import layout_diagram
from loopway.report.page import Card, Figure, Section, Table, write_page
from tests.report.browser import Browser, chromium
from tests.report.colors import contrast, page_modes

NASTY = "<script>alert('x')</script>&\"{{ 7 * 7 }}"
LONG = "a_name_without_any_place_to_break_it_" * 6
PLOT = '<svg role="img" aria-label="a line" viewBox="0 0 490 200"><path d="M0 0L490 200" stroke="currentColor"/></svg>'


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, *names: str) -> list[tuple[str, str]]:
        """Tag and value of these attributes."""
        return [(tag, value) for tag, found in self.elements for name in names if (value := found.get(name))]


def some_page(path: Path, words: str = NASTY, drawings: int = 2) -> Parsed:
    """A page with everything on it, ``words`` everywhere."""
    drawing = layout_diagram(Layout.parse("4+8R2+4"), words)
    row = [words, *(f"{number:.3f} ± 0.001" for number in range(12))]
    write_page(
        path,
        title=words,
        lead=words,
        command=f"loopway  probe {words} --samples 20",
        versions={words: words},
        warnings=[words],
        sections=[
            Section(
                "First, of all",
                [words, Markup('<a href="https://arxiv.org/abs/2510.07739">the paper</a>')],
                [Card(words, [(words, words)], drawing) for _ in range(drawings)],
            ),
            Section(
                words,
                figures=[Figure(PLOT, words)] * drawings + [Figure(PLOT, words, folded=True)],
                tables=[Table(words, row, [row], folded=folded) for folded in (False, True)],
            ),
        ],
    )
    return Parsed(path.read_text())


def test_text_comes_out_as_text_wherever_it_stands(tmp_path: Path) -> None:
    parsed = some_page(tmp_path / "page.html")
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert parsed.text.count(NASTY) == 1 + 13 + 2 * 3 + 2 + 2 + 2 * 3 + 1
    assert f"loopway  probe {NASTY} --samples 20" in parsed.text


def test_it_refers_to_nothing_outside_but_the_paper(tmp_path: Path) -> None:
    parsed = some_page(tmp_path / "page.html")
    for tag, target in parsed.values("href", "src", "srcset", "xlink:href", "data", "action", "poster"):
        assert target.startswith(("#", "data:")) or (tag, target[:18]) == ("a", "https://arxiv.org/"), target
    style = (tmp_path / "page.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert style.strip() and not re.search(r"@import|url\(|@font-face", style)
    policies = [found["content"] for tag, found in parsed.elements if found.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not [name for _, found in parsed.elements for name in found if name.startswith("on")]


def test_the_contents_lead_to_every_section(tmp_path: Path) -> None:
    parsed = some_page(tmp_path / "page.html", "some words")
    ids = [value for _, value in parsed.values("id")]
    links = [value for _, value in parsed.values("href") if value.startswith("#")]
    assert links == ["#first-of-all", "#some-words"] == [f"#{name}" for name in ids]


def test_the_same_page_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        some_page(tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_numbers_stand_to_the_right_and_rows_are_named(tmp_path: Path) -> None:
    table = Table("losses", ["model", "change", "loss"], [["mesh", "2 loops", "4.000"]], text_columns=2)
    write_page(
        tmp_path / "page.html", title="t", lead="l", command="c", sections=[Section("s", tables=[table])]
    )
    cells = [
        (tag, found.get("scope"), found.get("class"))
        for tag, found in Parsed((tmp_path / "page.html").read_text()).elements
        if tag in ("th", "td")
    ]
    heads = [("th", "col", None), ("th", "col", None), ("th", "col", "number")]
    assert cells == [*heads, ("th", "row", None), ("th", "row", None), ("td", None, "number")]


def test_a_drawing_that_cannot_be_scaled_is_refused() -> None:
    with pytest.raises(ValueError, match="no viewBox"):
        _ = Figure('<svg width="10"/>', "a figure").style


def test_text_contrasts_with_its_ground_in_light_and_dark() -> None:
    modes = page_modes()
    assert len(modes) == 3  # light, dark, print
    for number, colors in enumerate(modes):
        for text, ground in (*product(("ink", "quiet", "accent"), ("ground", "raised")), ("ink", "warning")):
            assert contrast(colors[text], colors[ground]) >= 4.5, f"{text} on {ground}: {number}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [1280, 700, 390, 320])
def test_no_word_no_table_and_no_drawing_makes_the_page_scroll_sideways(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    some_page(tmp_path / "page.html", LONG, drawings=1 if width == 700 else 3)
    browser.open(tmp_path / "page.html", width, phone=width < 600)
    browser.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
    found = browser.measure()
    assert len(found["plotScales"]) == (2 if width == 700 else 4)
    assert found["width"] == width
    assert found["scrollWidth"] <= width
    assert found["outside"] == []
    assert found["smallest"] >= (11 if width > 320 else 9)
    assert min(found["plotScales"]) * 7 >= 11
    assert found["empty"] == 0
    assert browser.complaints == []


def test_what_is_typed_there_can_be_copied_as_it_is(browser: Browser, tmp_path: Path) -> None:
    some_page(tmp_path / "page.html", "held-out words")
    browser.open(tmp_path / "page.html", 390)
    copied = "getSelection().selectAllChildren(document.querySelector('code')), getSelection().toString()"
    assert browser.evaluate(copied) == "loopway  probe held-out words --samples 20"


def test_figures_are_dark_in_the_dark(browser: Browser, tmp_path: Path) -> None:
    some_page(tmp_path / "page.html", "words")
    script = """[getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('.plot')).backgroundColor,
      getComputedStyle(document.querySelector('.plot path')).stroke,
      getComputedStyle(document.body).color]"""
    looks = {}
    for dark in (False, True):
        browser.open(tmp_path / "page.html", 1280, dark=dark)
        looks[dark] = browser.evaluate(script)
        _, plot, line, ink = looks[dark]
        assert plot == "rgba(0, 0, 0, 0)" and line == ink
    assert looks[False][0] != looks[True][0] and looks[False][2] != looks[True][2]


def test_a_page_runs_no_script_even_one_that_got_in(browser: Browser, tmp_path: Path) -> None:
    some_page(tmp_path / "page.html", "words")
    html = (
        (tmp_path / "page.html")
        .read_text()
        .replace("</main>", "<script>document.title = 'ran'</script></main>")
    )
    (tmp_path / "page.html").write_text(html)
    browser.open(tmp_path / "page.html", 1280)
    assert browser.evaluate("document.title") == "words"
    assert "Content Security Policy" in "".join(browser.complaints)
