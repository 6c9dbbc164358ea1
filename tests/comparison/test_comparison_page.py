"""The page of ``loopway compare``: every number, text and difference is on it, as text, with nothing that runs."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from loopway.comparison.figures import Curve, plot_curves
from loopway.comparison.page import write_comparison_page
from loopway.comparison.rows import compare_variants
from loopway.comparison.tables import COLUMNS
from loopway.training.config.differences import config_differences
from tests.comparison.losses import variant
from tests.report.browser import chromium

NASTY = "<script>alert('x')</script>&\n\nsecond"
TOKENS = np.array([1000, 2000, 3000])
BASE = np.array([[4.0, 3.5, 3.25], [4.02, 3.52, 3.27]])
CONFIGS = {
    "vanilla": {"model": {"layout": "4"}, "training": {"seed": 0, "betas": [0.9, 0.95]}},
    "mesh": {"model": {"layout": "1+1R2+1", "num_slots": 5}, "training": {"seed": 0, "betas": [0.9, 0.95]}},
}


def some_curves(seeds: int) -> list[Curve]:
    return [Curve("vanilla", TOKENS, BASE[:seeds]), Curve("mesh", TOKENS, BASE[:seeds] + 0.125)]


def written(path: Path, seeds: int = 1, has_probes: bool = False) -> str:
    curves = some_curves(seeds)
    rows = compare_variants([variant("vanilla", "4", "base", 3.0), variant("mesh", "1+1R2+1", "mesh", 2.9)])
    write_comparison_page(
        path,
        rows,
        curves,
        plot_curves(curves, "vanilla"),
        configs=CONFIGS,
        samples={"vanilla": NASTY, "mesh": "a text"},
        samples_note="How they were made.",
        command="loopway compare compare.yaml",
        versions={"loopway": "0.1"},
        has_probes=has_probes,
    )
    return path.read_text()


def titles(html: str) -> list[str]:
    return re.findall(r"<g [^>]*><title>([^<]*)</title>", html)


def test_a_point_of_each_curve_shows_its_value(tmp_path: Path) -> None:
    found = titles(written(tmp_path / "page.html"))
    assert "vanilla: 3.2500 after 3,000 tokens" in found
    assert "mesh: 3.3750 after 3,000 tokens" in found
    assert "mesh − vanilla: +0.1250 after 1,000 tokens" in found
    assert len(found) == 2 * 3 + 3


def test_with_several_seeds_a_point_shows_their_deviation_and_differences_are_paired(tmp_path: Path) -> None:
    found = titles(written(tmp_path / "page.html", seeds=2))
    assert "vanilla: 3.260 ± 0.014 after 3,000 tokens" in found
    assert "mesh − vanilla: +0.1250 after 1,000 tokens" in found  # equal for both seeds


def test_points_with_titles_are_invisible_and_as_many_as_a_page_bears() -> None:
    long = Curve("long", np.arange(1, 5001), np.linspace(4, 3, 5000)[None])
    picture = plot_curves([long], None)
    assert len(picture.titles) == 100
    assert {"loss-0-0", "loss-0-4999"} <= picture.titles.keys()
    points = [line for line in picture.figure.axes[0].lines if line.get_gid() is not None]
    assert len(points) == 100 and {line.get_alpha() for line in points} == {0}
    assert len(picture.page_svg) < 200_000


def test_differences_are_taken_where_both_were_evaluated() -> None:
    one, other = Curve("a", TOKENS, BASE), Curve("b", TOKENS[1:], BASE[:, 1:] - 1)
    difference = one.minus(other)
    assert difference.tokens.tolist() == [2000, 3000]
    np.testing.assert_allclose(difference.losses, 1)


def test_configs_differ_in_one_row_a_key() -> None:
    assert config_differences([*CONFIGS.values()]) == {
        "model.layout": ["4", "1+1R2+1"],
        "model.num_slots": [None, 5],
    }
    assert config_differences([CONFIGS["mesh"]] * 2) == {}


def test_table_samples_and_configs_are_there_as_text(tmp_path: Path) -> None:
    html = written(tmp_path / "page.html")

    class Texts(HTMLParser):
        text, tags = "", set[str]()

        def handle_starttag(self, tag: str, attrs: list) -> None:
            self.tags.add(tag)

        def handle_data(self, data: str) -> None:
            self.text += data

    parsed = Texts()
    parsed.feed(html)
    assert "script" not in parsed.tags
    for words in (
        NASTY,
        "a text",
        "How they were made.",
        "model.num_slots",
        "One column a variant.",
        "2.9000",
        "−0.1000",
    ):
        assert words in parsed.text
    for head, _ in COLUMNS:
        assert head in parsed.text
    assert "probes/probes.html" not in html
    assert 'href="probes/probes.html"' in written(tmp_path / "page.html", has_probes=True)


def test_the_same_comparison_has_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path / "one.html", 2) == written(tmp_path / "two.html", 2)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_finds_each_point_under_the_mouse(tmp_path: Path, width: int) -> None:
    written(tmp_path / "page.html", seeds=2)
    with chromium(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html", width, height=4000, phone=width < 600, dark=True)
        hit = browser.evaluate(
            """(() => {
              const box = document.querySelector('#curves-loss-0-1 use').getBoundingClientRect();
              return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).closest('g[id]').id;
            })()"""
        )
        found = browser.measure()
    assert hit == "curves-loss-0-1"
    assert found["scrollWidth"] <= width and found["outside"] == [] and found["empty"] == 0
    assert browser.complaints == []
