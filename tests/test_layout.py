"""Layouts: the notation, the stages that follow from it, and one clear line for everything that is no layout."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopway
from loopway.errors import LayoutError
from loopway.layout import Layout, Segment

segments = st.builds(Segment, layers=st.integers(1, 12), loops=st.integers(1, 8))
layouts = st.lists(segments, min_size=1, max_size=6).map(lambda parts: Layout(tuple(parts)))


@given(layouts)
def test_the_notation_round_trips(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


@given(st.text(alphabet="0123456789R+ -r.", max_size=12))
def test_any_text_is_either_a_layout_or_one_clear_line(text: str) -> None:
    try:
        layout = Layout.parse(text)
    except LayoutError as error:
        assert "\n" not in str(error)
    else:
        assert Layout.parse(str(layout)) == layout


@given(layouts)
def test_stages_run_every_segment_in_order_and_cover_the_compute_depth(layout: Layout) -> None:
    unrolled = [layer for stage in layout.stages for layer in stage.layers]
    first, expected = 0, []
    for segment in layout.segments:
        expected += list(range(first, first + segment.layers)) * segment.loops
        first += segment.layers
    assert unrolled == expected
    assert len(unrolled) == layout.compute_depth
    assert sorted(set(unrolled)) == list(range(layout.parameter_depth))
    assert layout.num_boundaries == len(layout.stages) - 1
    assert [layout.uses_of_layer(layer) for layer in range(first)] == [
        unrolled.count(n) for n in range(first)
    ]
    assert layout.is_looped == (layout.compute_depth > layout.parameter_depth)


@given(layouts)
def test_every_stage_has_cache_entries_of_its_own(layout: Layout) -> None:
    entries = [stage.cache_offset + n for stage in layout.stages for n in range(len(stage.layers))]
    assert entries == list(range(layout.compute_depth))


@given(layouts)
def test_stage_names_are_distinct_and_positions_count_up(layout: Layout) -> None:
    assert len({stage.name for stage in layout.stages}) == len(layout.stages)
    assert [stage.index for stage in layout.stages] == list(range(len(layout.stages)))


def test_the_stages_of_the_papers_layout() -> None:
    layout = Layout.parse("4+8R2+4")
    assert (layout.compute_depth, layout.parameter_depth, layout.num_boundaries) == (24, 16, 3)
    assert [(s.name, s.segment, s.iteration, s.layers, s.cache_offset) for s in layout.stages] == [
        ("prelude", 0, 0, range(0, 4), 0),
        ("core[0]", 1, 0, range(4, 12), 4),
        ("core[1]", 1, 1, range(4, 12), 12),
        ("coda", 2, 0, range(12, 16), 20),
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("24", ["block"]),
        ("4+8", ["prelude", "coda"]),
        ("4+8+8+4", ["prelude", "block1", "block2", "coda"]),
        ("3R2", ["core[0]", "core[1]"]),
        ("2R2+1", ["core[0]", "core[1]", "coda"]),
        ("1+2R2+3R2+1", ["prelude", "core1[0]", "core1[1]", "core2[0]", "core2[1]", "coda"]),
        ("1+2R2+1+2R2+1", ["prelude", "core1[0]", "core1[1]", "block", "core2[0]", "core2[1]", "coda"]),
    ],
)
def test_stages_are_named_for_what_they_are(text: str, names: list[str]) -> None:
    assert [stage.name for stage in Layout.parse(text).stages] == names


@pytest.mark.parametrize(("text", "meaning"), [("4R1", "4"), (" 4 + 8R2+4 ", "4+8R2+4"), ("4R1+2", "4+2")])
def test_equal_layouts_are_written_alike(text: str, meaning: str) -> None:
    assert str(Layout.parse(text)) == meaning


NONSENSE = [
    "4+R2", "0", "2+-1R2", "3R0", "banana", "", " ", None, "4++2", "1e5", "+4", "4+", "4r2", "4R", "R2", "04",
    "4R02", "4R2R2", "4.0", "4-2", "4*2", "1 2", "4 R2", "٣", "4,2", 24, 4.0, True, [4], b"4", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: repr(text)[:12])
def test_nonsense_gets_one_line_that_shows_the_right_form(text: object) -> None:
    with pytest.raises(LayoutError) as caught:
        Layout.parse(text)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert repr(text) in message
    assert "4+8R2+4" in message and "LAYERSRLOOPS" in message


def test_the_segment_that_is_wrong_is_named() -> None:
    with pytest.raises(LayoutError, match=r"segment 'R2' is invalid"):
        Layout.parse("4+R2")


@pytest.mark.parametrize("text", ["100000R2", "999999999R999999999"])
def test_a_layout_too_deep_for_any_machine_is_a_typing_mistake(text: str) -> None:
    with pytest.raises(LayoutError, match="the limit is 100000"):
        Layout.parse(text)


NEED_A_LOOP = ["residual", "anchor", "anchor*", "residual+anchor", "static", "dynamic"]


@pytest.mark.parametrize("recurrence", NEED_A_LOOP)
@pytest.mark.parametrize("layout", ["6", "2+2+2"])
def test_a_recurrence_that_needs_a_loop_says_so(recurrence: str, layout: str) -> None:
    with pytest.raises(LayoutError) as caught:
        loopway.pythia_config("14m", layout=layout, recurrence=recurrence)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(recurrence) in message and f"layout {layout} " in message and "4+8R2+4" in message


def test_mesh_needs_a_boundary_and_says_so() -> None:
    with pytest.raises(
        LayoutError, match=r"'mesh' needs two stages or more and layout 6 has one.*4\+8\+8\+4"
    ):
        loopway.pythia_config("14m", layout="6", recurrence="mesh")


@pytest.mark.parametrize("layout", ["6", "2+2", "3R2", "2+2R2+2"])
def test_base_is_legal_for_every_layout(layout: str) -> None:
    assert loopway.pythia_config("14m", layout=layout, recurrence="base").layout == layout


@pytest.mark.parametrize("layout", ["3R2", "2+2", "1+1R2", "4+8+8+4"])
def test_mesh_is_legal_wherever_there_is_a_boundary(layout: str) -> None:
    assert loopway.pythia_config("14m", layout=layout, recurrence="mesh").layout == layout


@pytest.mark.parametrize("layout", ["", 0, 24, "banana", [4]])
def test_a_config_refuses_what_is_no_layout(layout: object) -> None:
    with pytest.raises(LayoutError, match=r"4\+8R2\+4"):
        loopway.pythia_config("14m", layout=layout)  # type: ignore[arg-type]
