"""Drawings of layouts: what is on them, and that they fit."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopway.layout import Layout, Segment
from loopway.report.diagram import layout_diagram

SVG = "{http://www.w3.org/2000/svg}"
RECURRENCES = [
    "base",
    "residual",
    "anchor",
    "anchor*",
    "residual+anchor+anchor*",
    "static",
    "dynamic",
    "mesh",
    "mine",
]

layouts = st.lists(st.builds(Segment, st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=6).map(
    lambda segments: Layout(tuple(segments))
)


def drawn(layout: str, recurrence: str, **options) -> ElementTree.Element:
    return ElementTree.fromstring(layout_diagram(Layout.parse(layout), recurrence, **options))


def texts(drawing: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in drawing.iter(f"{SVG}text")]


def test_every_segment_is_a_block_with_its_layers_and_its_loops() -> None:
    words = texts(drawn("4+8R2+6R3+1", "base"))
    assert words == [
        *("embeddings", "prelude", "4 layers", "core1", "8 layers", "×2", "core2", "6 layers", "×3"),
        *("coda", "1 layer", "head"),
    ]


@pytest.mark.parametrize(("layout", "cycles"), [("4+8R2+4", 2), ("4+8+8+4", 3), ("2R2", 1), ("4R2+3R3", 2)])
def test_mesh_writes_and_reads_at_every_boundary(layout: str, cycles: int) -> None:
    words = texts(drawn(layout, "mesh", slots=5))
    assert words.count("write") == words.count("read") == cycles
    assert "memory, 5 slots" in words and "slot 0" in words


@pytest.mark.parametrize(
    ("recurrence", "labels"),
    [
        ("base", set()),
        ("residual", {"h(t)"}),
        ("anchor", {"h(0)"}),
        ("anchor*", {"h_emb"}),
        ("residual+anchor", {"h(t)", "h(0)"}),
        ("static", {"a₁", "a₂·h(0)", "a₃·h_emb"}),
        ("dynamic", {"a₁", "a₂·h(0)", "a₃·h_emb"}),
        ("mine", {"mine"}),
    ],
)
def test_what_a_recurrence_adds_is_named(recurrence: str, labels: set[str]) -> None:
    words = set(texts(drawn("4+8R2+4", recurrence)))
    assert words - set(texts(drawn("4+8R2+4", "base"))) == labels


def test_a_vanilla_model_shows_the_blocks_it_is_cut_into() -> None:
    drawing = drawn("24", "base", cut=Layout.parse("4+8R2+4"))
    blocks = ["prelude", "4 layers", "core[0]", "8 layers", "core[1]", "8 layers", "coda", "4 layers"]
    assert texts(drawing) == ["embeddings", *blocks, "head"]
    assert len([line for line in drawing.iter(f"{SVG}path") if line.get("stroke-dasharray")]) == 3


def test_those_who_cannot_see_it_are_told() -> None:
    drawing = drawn("4+8R2+4", "mesh", slots=5)
    title, description = drawing[0], drawing[1]
    assert (title.tag, title.text) == (f"{SVG}title", "Layout 4+8R2+4, recurrence mesh")
    assert description.text == (
        "From the embeddings through prelude of 4 layers, core of 8 layers run 2 times, coda of 4 layers, to the "
        "head. Between blocks and between loops, the output is written to a memory of 5 slots, which starts with "
        "the embeddings, and the next input is read from it."
    )


def test_the_name_of_a_users_own_recurrence_is_text() -> None:
    assert "<a & b>" in texts(drawn("4+8R2+4", "<a & b>"))


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    """Corners of what an element draws, as far as they are written down as coordinates."""
    number = {name: float(element.get(name, 0)) for name in ("x", "y", "width", "height", "cx", "cy", "r")}
    match element.tag.removeprefix(SVG):
        case "rect":
            return [
                (number["x"], number["y"]),
                (number["x"] + number["width"], number["y"] + number["height"]),
            ]
        case "circle":
            return [
                (number["cx"] + sign * number["r"], number["cy"] + sign * number["r"]) for sign in (-1, 1)
            ]
        case "text":
            half = 0.31 * float(element.get("font-size", 0)) * len(element.text or "")
            shift = half if element.get("text-anchor") == "start" else 0
            if element.get("transform"):
                return [(number["x"], number["y"] - half), (number["x"], number["y"] + half)]
            return [(number["x"] + shift + sign * half, number["y"]) for sign in (-1, 1)]
        case "path" | "polygon":
            pairs = re.findall(r"(-?[\d.]+)[ ,](-?[\d.]+)", element.get("d") or element.get("points") or "")
            return [(float(x), float(y)) for x, y in pairs]
    return []


@given(layouts, st.sampled_from(RECURRENCES), st.sampled_from([None, 3, 40]))
def test_any_layout_fits_on_its_drawing(layout: Layout, recurrence: str, slots: int | None) -> None:
    drawing = ElementTree.fromstring(layout_diagram(layout, recurrence, slots=slots))
    _, _, width, height = map(float, drawing.get("viewBox", "").split())
    assert width == 300  # a phone's screen is 320 wide or more
    blocks = [points(box) for box in drawing.iter(f"{SVG}rect") if float(box.get("width", 0)) in (104, 124)]
    assert len(blocks) == len(layout.segments) + 2
    assert all(above[1][1] < below[0][1] for above, below in pairwise(blocks))
    for element in drawing.iter():
        for x, y in points(element):
            assert 0 <= x <= width and 0 <= y <= height, ElementTree.tostring(element)
        assert float(element.get("font-size", 12)) >= 12
        assert element.get("id") is None


@given(layouts)
def test_a_block_of_any_number_of_parts_fits_on_its_drawing(cut: Layout) -> None:
    drawing = ElementTree.fromstring(layout_diagram(Layout((Segment(cut.compute_depth),)), "base", cut=cut))
    height = float(drawing.get("height", 0))
    assert height <= 800
    assert all(0 <= y <= height for element in drawing.iter() for _, y in points(element))


def test_all_colours_are_those_of_the_page() -> None:
    for recurrence in RECURRENCES:
        svg = layout_diagram(Layout.parse("4+8R2+4"), recurrence, slots=5)
        colors = set(re.findall(r'(?:fill|stroke)(?:="|: )([^";]+)', svg))
        assert colors <= {"currentColor", "none", "var(--accent, currentColor)", "var(--ground, Canvas)"}
