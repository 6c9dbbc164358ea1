"""A figure on a page follows the page's light and dark; in its files it is black on white."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_hex

from loopway.report.pictures import Picture
from loopway.report.style import (
    COLORMAP,
    bar_style,
    heat_map,
    line_style,
    new_figure,
    page_color,
    write_values,
)
from tests.report.colors import contrast, page_colors

NASTY = '<script>&"'


@pytest.fixture(scope="module")
def picture() -> Picture:
    """A line with a titled point, bars of every style, and a heat map with numbers."""
    figure = new_figure(6, 3)
    lines, bars, cells = figure.subplots(1, 3)
    lines.plot([0, 1], [0, 1], **line_style(1))
    lines.plot([1], [1], "o", color="black", gid="point-0")
    for number in range(7):
        bars.bar(number, 1, yerr=0.1, **bar_style(number))
    mesh = heat_map(cells, np.array([[0.1, 0.9]]), ["a"], ["b", "c"])
    write_values(cells, mesh)
    return Picture("some", figure, "a caption", f"alt {NASTY}", {"point-0": NASTY})


def test_on_a_page_black_is_the_ink_and_white_the_ground(picture: Picture) -> None:
    assert not re.search(r"#000000|#ffffff", picture.page_svg)
    assert picture.page_svg.startswith('<svg fill="currentColor"')
    assert {"currentColor", "var(--ground)"} <= set(
        re.findall(r": (currentColor|var\(--ground\))", picture.page_svg)
    )


def test_a_file_is_in_black_on_white(picture: Picture) -> None:
    assert "#000000" in picture.svg and "#ffffff" in picture.svg
    assert not re.search(r"currentColor|var\(|light-dark|<title", picture.svg)


def test_cells_of_a_heat_map_and_their_numbers_keep_their_colours(picture: Picture) -> None:
    cells = [to_hex(COLORMAP(value)) for value in (0.1, 0.9)]
    for color in (*cells, "#010101", "#fefefe"):
        assert f"fill: {color}" in picture.svg
        assert f"fill: {color}" in picture.page_svg
    assert contrast("#fefefe", cells[0]) > 4.5 and contrast("#010101", cells[1]) > 4.5


def test_every_line_contrasts_with_a_dark_page() -> None:
    ground = page_colors(dark=True)["ground"]
    lines = [line_style(number)["color"].lower() for number in range(1, 7)]
    for color in [*lines, *(to_hex(COLORMAP(0.88 * number / 9)) for number in range(10))]:
        found = re.fullmatch(r"light-dark\((#\w+), (#\w+)\)", page_color(color))
        assert found and found[1] == color
        assert contrast(found[2], ground) >= 3, color


def test_a_fill_is_mixed_with_the_ground_of_its_page() -> None:
    assert (
        page_color(to_hex(bar_style(0)["facecolor"])) == "color-mix(in srgb, currentColor 75%, var(--ground))"
    )
    for number in range(1, 7):
        fill = page_color(to_hex(bar_style(number)["facecolor"]))
        assert fill.startswith("color-mix(in srgb, light-dark(#") and fill.endswith("%, var(--ground))")


def test_a_title_stands_in_its_part_as_text(picture: Picture) -> None:
    assert '<g id="some-point-0"><title>&lt;script&gt;&amp;&quot;</title>' in picture.page_svg
