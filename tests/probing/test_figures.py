"""Figures show what was found: every number in its place, nothing over anything else, the same bytes each time."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from made_up import made_up_probes
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from loopway.probing.figures import draw_figures
from loopway.probing.router_figures import draw_routers
from loopway.probing.state_figures import draw_glance, draw_relative_updates
from loopway.report.labels import model_labels
from loopway.report.pictures import Picture, save_picture
from loopway.report.style import line_style
from loopway.traces.findings import ModelProbes, Spread

MODELS = {
    "one model of two loops": [made_up_probes()],
    "one model of eight loops": [made_up_probes(loops=8)],
    "six models": [
        made_up_probes(name, loops=2 + number % 2, seed=number, routers=number == 5)
        for number, name in enumerate(
            ["vanilla", "base", "residual", "anchor", "residual+anchor", "pythia-160m-mesh"]
        )
    ],
}


@pytest.fixture(scope="module", params=MODELS)
def drawn(request: pytest.FixtureRequest) -> tuple[list[ModelProbes], dict[str, Picture]]:
    return MODELS[request.param], draw_figures(MODELS[request.param])


def heat_maps(figure: Figure) -> list[tuple[Axes, np.ma.MaskedArray]]:
    """Without colour bars, which are heat maps of another kind."""
    return [
        (axes, np.ma.asarray(mesh.get_array()))
        for axes in figure.axes
        for mesh in axes.collections
        if isinstance(mesh, QuadMesh) and axes.get_label() != "<colorbar>"
    ]


def bars(axes: Axes) -> list[BarContainer]:
    return [container for container in axes.containers if isinstance(container, BarContainer)]


def curves(axes: Axes) -> list[Line2D]:
    """Without marks, the line at zero, and the ends of error bars."""
    return [line for line in axes.lines if line.get_linestyle() != "None" and np.size(line.get_xdata()) > 2]


def heights(container: BarContainer) -> list[float]:
    return [patch.get_height() for patch in container.patches]


def test_there_is_a_figure_for_all_that_was_found_and_for_nothing_else(drawn: tuple) -> None:
    probes, pictures = drawn
    with_routers = [model.name.split("/")[-1] for model in probes if model.routers]
    expected = {"relative-updates", "similarity", "spectra", "glance", "loops"} | {
        f"{kind}-{name}" for kind in ("routers", "positions", "frequencies") for name in with_routers
    }
    assert set(pictures) == expected
    assert all(picture.stem == stem and picture.caption and picture.alt for stem, picture in pictures.items())
    without = [replace(model, loops=[], routers=None) for model in probes[:1]]
    assert set(draw_figures(without)) == {"relative-updates", "similarity", "spectra", "glance"}


def test_bars_are_the_relative_updates_and_their_deviations_over_the_blocks_names(drawn: tuple) -> None:
    probes, pictures = drawn
    (axes,) = pictures["relative-updates"].figure.axes
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    for container, model in zip(bars(axes), probes, strict=True):
        assert heights(container) == list(model.states.relative_update.mean)
        middles = [round(patch.get_x() + patch.get_width() / 2) for patch in container.patches]
        assert [names[middle] for middle in middles] == model.states.stages
        assert container.errorbar is not None
        (errors,) = container.errorbar.lines[2]
        lengths = [segment[1, 1] - segment[0, 1] for segment in errors.get_segments()]
        assert lengths == pytest.approx(list(2 * model.states.relative_update.std))


def test_similarity_is_drawn_cell_by_cell_on_one_scale_with_the_first_state_on_top(drawn: tuple) -> None:
    probes, pictures = drawn
    maps = heat_maps(pictures["similarity"].figure)
    for (axes, values), model in zip(maps, probes, strict=True):
        np.testing.assert_array_equal(values, model.states.cka.mean)
        assert axes.collections[0].get_clim() == (0, 1)
        assert axes.get_ylim() == (len(model.states.states), 0)
        assert axes.get_xlim() == (0, len(model.states.states))


def test_numbers_in_cells_are_those_of_the_cells(drawn: tuple) -> None:
    _, pictures = drawn
    axes, values = heat_maps(pictures["similarity"].figure)[0]
    assert len(axes.texts) == values.size
    for text in axes.texts:
        column, row = (int(place) for place in text.get_position())
        assert float(text.get_text()) == pytest.approx(values[row, column], abs=0.005)


def test_spectra_are_each_models_states_and_all_models_at_the_last_loop_state(drawn: tuple) -> None:
    probes, pictures = drawn
    shown = [axes for axes in pictures["spectra"].figure.axes if axes.lines]
    for axes, model in zip(shown, probes, strict=False):
        assert axes.get_yscale() == "log"
        np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], model.states.spectrum.mean)
    assert len(shown) == len(probes) + (len(probes) > 1)
    if len(probes) > 1:
        last = [model.states.spectrum.mean[model.states.states.index("h_out") - 1] for model in probes]
        np.testing.assert_array_equal([line.get_ydata() for line in shown[-1].lines], last)


def test_glance_shows_each_number_and_says_where_there_is_no_loop() -> None:
    looped, straight = made_up_probes("looped"), made_up_probes("straight", seed=1)
    straight = replace(straight, states=replace(straight.states, balance=None, stagnation=None))
    balance, stagnation, rank = draw_glance([looped, straight], ["looped", "straight"]).figure.axes
    for axes, spread in ((balance, looped.states.balance), (stagnation, looped.states.stagnation)):
        (container,) = bars(axes)
        assert spread is not None
        assert container.patches[0].get_width() == spread.mean
        assert "no loop" in [text.get_text() for text in axes.texts]
    assert [container.patches[0].get_width() for container in bars(rank)] == [
        model.states.effective_rank.mean[-2] for model in (looped, straight)
    ]
    none = Spread(np.array(np.nan), np.array(np.nan))  # a loop, but no number
    unknown = replace(looped, states=replace(looped.states, stagnation=none))
    stagnation = draw_glance([unknown], ["unknown"]).figure.axes[1]
    assert [text.get_text() for text in stagnation.texts] == ["–"]


def test_routers_weights_mixing_and_entropies_are_drawn_with_unused_slots_marked(drawn: tuple) -> None:
    probes, pictures = drawn
    model = probes[-1]
    figure = pictures[f"routers-{model.name.split('/')[-1]}"].figure
    routers = model.routers
    expected = [spread.mean for spread in (routers.write, routers.read, routers.flow, routers.mixing)]
    maps = heat_maps(figure)
    for (axes, values), mean in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(values.filled(np.nan), mean)
        assert axes.get_ylim() == (len(routers.boundaries), 0)
    for axes, _ in maps[:3]:
        (mark,) = [text for text in axes.texts if text.get_text() == "unused"]
        assert int(mark.get_position()[0]) == routers.unused_slots[0]
    share = 100 / np.log(routers.write.mean.shape[1])
    write, read = bars(figure.axes[4])
    for container, entropy in ((write, routers.write_entropy), (read, routers.read_entropy)):
        widths = [patch.get_width() for patch in container.patches]
        assert widths == pytest.approx(list(share * entropy.mean))


@pytest.mark.parametrize("kind", ["positions", "frequencies"])
def test_mixing_of_groups_is_drawn_for_each_boundary(drawn: tuple, kind: str) -> None:
    probes, pictures = drawn
    model = probes[-1]
    routers = model.routers
    mixing = routers.mixing_by_position if kind == "positions" else routers.mixing_by_frequency
    maps = heat_maps(pictures[f"{kind}-{model.name.split('/')[-1]}"].figure)
    for boundary, (axes, values) in enumerate(maps):
        np.testing.assert_array_equal(values.filled(np.nan), mixing[:, boundary].T)
        assert axes.get_ylim() == (len(routers.sources), 0)
        assert axes.get_title() == routers.boundaries[boundary]
    assert len(maps) == len(routers.boundaries)


def test_groups_of_tokens_are_named_by_whole_numbers_and_one_without_tokens_by_none() -> None:
    model = made_up_probes()
    assert model.routers is not None
    *_, picture = draw_routers(model, model.routers, "mesh", "mesh")
    (axes, values), *_ = heat_maps(picture.figure)
    assert [text.get_text() for text in axes.get_xticklabels()][:3] == ["1,900", "–", "300"]
    assert np.ma.getmaskarray(values)[:, 1].all()


def test_what_was_not_found_stays_empty_and_breaks_nothing() -> None:
    model = made_up_probes()
    cka = model.states.cka.mean.copy()
    cka[0, 1] = np.nan
    spectrum = model.states.spectrum.mean.copy()
    spectrum[0, 10:] = 0
    spectrum[1] = np.nan
    states = replace(
        model.states,
        cka=Spread(cka, model.states.cka.std),
        spectrum=Spread(spectrum, np.full_like(spectrum, 0.5)),  # more than the mean: below zero
    )
    lone = [replace(change, error=np.nan) for change in model.loops[0].by_loops]
    model = replace(model, states=states, routers=None, loops=[replace(model.loops[0], by_loops=lone)])
    pictures = draw_figures([model])
    (axes, values), *_ = heat_maps(pictures["similarity"].figure)
    np.testing.assert_array_equal(np.ma.getmaskarray(values), np.isnan(cka))
    assert len(axes.texts) == values.size - 1
    spectra = pictures["spectra"].figure.axes[0]
    assert np.isnan(np.asarray(spectra.lines[0].get_ydata())[10:]).all()
    low, high = spectra.get_ylim()
    assert 0 < low < np.min(spectrum[2:]) and 1 < high < 2
    for picture in pictures.values():
        assert "nan" not in picture.svg.lower()


def test_loops_are_drawn_as_differences_with_the_trained_number_marked(drawn: tuple) -> None:
    probes, pictures = drawn
    by_loops, without = pictures["loops"].figure.axes
    lines, marks = curves(by_loops), [line for line in by_loops.lines if np.size(line.get_xdata()) == 1]
    for line, mark, model in zip(lines, marks, probes, strict=True):
        (loops,) = model.loops
        assert np.asarray(line.get_xdata()).tolist() == [change.loops for change in loops.by_loops]
        assert np.asarray(line.get_ydata()).tolist() == [change.difference for change in loops.by_loops]
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (loops.trained_loops, 0)
    expected = [model.loops[0].without_write for model in probes if model.loops[0].without_write]
    for container, changes in zip(bars(without), expected, strict=True):
        assert heights(container) == [change.difference for change in changes]


def test_a_model_looks_the_same_in_every_figure_whatever_the_others_have() -> None:
    vanilla, base, mesh = (made_up_probes(name, seed=n) for n, name in enumerate(("vanilla", "base", "mesh")))
    vanilla, mesh = replace(vanilla, loops=[], routers=None), replace(mesh, routers=None)
    second = replace(base.loops[0], segment="second", without_write=[])
    base = replace(base, routers=None, loops=[replace(base.loops[0], without_write=[]), second])
    pictures = draw_figures([vanilla, base, mesh])
    loops = pictures["loops"].figure
    colors = [line_style(number)["color"] for number in range(4)]
    assert [line.get_color() for line in curves(loops.axes[0])] == colors[1:]
    assert [text.get_text() for text in loops.legends[0].texts] == ["base, core", "mesh", "base, second"]
    (withheld,) = bars(loops.axes[1])
    updates = bars(pictures["relative-updates"].figure.axes[0])
    for container in (withheld, updates[2]):
        assert to_hex(container.patches[0].get_edgecolor()).upper() == colors[2]


def test_models_of_different_layouts_share_the_blocks_that_they_have_in_common() -> None:
    short, long = made_up_probes("short", loops=1), made_up_probes("long", loops=3)
    (axes,) = draw_relative_updates([short, long], ["short", "long"]).figure.axes
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    assert names == ["prelude", "core[0]", "core[1]", "core[2]", "coda"]


def test_every_axis_of_numbers_has_a_name(drawn: tuple) -> None:
    _, pictures = drawn
    for stem, picture in pictures.items():
        kinds = "relative-updates", "loops", "glance"
        if stem in kinds:
            assert all(axes.get_xlabel() for axes in picture.figure.axes)
            assert picture.figure.axes[0].get_ylabel() or stem == "glance"
        for axes in picture.figure.axes:
            if axes.get_label() == "<colorbar>":
                assert axes.get_ylabel()
    shown = [axes for axes in pictures["spectra"].figure.axes if axes.lines]
    assert shown[0].get_ylabel() and shown[-1].get_xlabel()


def visible_texts(figure: Figure) -> Iterator[Text]:
    """What is written in a figure: the labels of ticks that are out of sight are not."""
    ticks = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not axes.axison or not low <= tick.get_loc() <= high:
                    ticks |= {tick.label1, tick.label2}
            if not axes.axison:
                ticks |= {axis.label}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text().strip() and text.get_visible() and text not in ticks:
            yield text


def test_no_word_lies_over_another_or_leaves_the_figure(drawn: tuple) -> None:
    _, pictures = drawn
    for stem, picture in pictures.items():
        boxes = {text: text.get_window_extent() for text in visible_texts(picture.figure)}
        outer = picture.figure.bbox
        for text, box in boxes.items():
            assert outer.x0 <= box.x0 and box.x1 <= outer.x1, (stem, text)
            assert outer.y0 <= box.y0 and box.y1 <= outer.y1, (stem, text)
        for (one, box), (other, other_box) in combinations(boxes.items(), 2):
            if "unused" not in (one.get_text(), other.get_text()):  # it lies over cells on purpose
                across = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
                down = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
                assert across < -1.5 or down < 1, (stem, one, other)
        for figure in (picture.figure, *picture.figure.subfigs):
            for legend, axes in product(figure.legends, picture.figure.axes):
                assert not axes.axison or not legend.get_window_extent().overlaps(axes.get_window_extent()), (
                    stem
                )


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        pictures = draw_figures([made_up_probes(loops=1)])
        paths = [path for picture in pictures.values() for path in save_picture(picture, folder)]
        assert {path.suffix for path in paths} == {".png", ".svg"}
        written.append({path.name: path.read_bytes() for path in paths})
        assert written[-1]["loops.svg"].decode() == pictures["loops"].svg
    assert written[0] == written[1]


def test_svgs_stand_together_on_one_page() -> None:
    pictures = draw_figures([made_up_probes(loops=1)])
    elements = [picture.svg for picture in pictures.values()]
    page = "".join(elements)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert not [name for name, count in Counter(ids).items() if count > 1]
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(ids)
    assert "<style" not in page and "<metadata" not in page and "<?xml" not in page
    for element, picture in zip(elements, pictures.values(), strict=True):
        assert element.startswith("<svg ")
        assert ElementTree.fromstring(element).get("aria-label") == picture.alt


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_picture(draw_figures([made_up_probes(loops=1, routers=False)])["glance"], tmp_path)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["runs/base", "runs/mesh/"], ["base", "mesh"]),
        (["a/base", "b/base", "b/mesh"], ["a/base", "b/base", "mesh"]),
        (["x/a/final", "y/a/final", "y/b/final"], ["x/a/final", "y/a/final", "b/final"]),
        (["mesh", "runs/mesh"], ["mesh", "runs/mesh"]),
        (["runs/mesh", "runs/mesh"], ["mesh", "mesh (2)"]),
        (["/"], ["/"]),
    ],
)
def test_a_label_is_the_shortest_tail_that_tells_models_apart(names: list[str], labels: list[str]) -> None:
    assert model_labels(names) == labels


def test_labels_that_files_may_not_hold_give_files_of_their_own() -> None:
    pictures = draw_figures([made_up_probes(name, loops=1) for name in ("a+b", "a b $x$ _", "a*b")])
    assert {stem for stem in pictures if stem.startswith("routers")} == {
        "routers-a-b",
        "routers-a-b-x-_",
        "routers-a-b-3",
    }
    legend = pictures["relative-updates"].figure.legends[0]
    assert [text.get_text() for text in legend.texts] == ["a+b", r"a b \$x\$ _", "a*b"]  # not as a formula
