"""Figures of the states: the work of each block, similarity, spectra, and one number for each of these.

Knows results of probing; nothing of how they were found.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D

from loopway.probing.names import name_models, sample_count, state_name
from loopway.report.pictures import Picture
from loopway.report.style import (
    WIDTH,
    bar_style,
    grid_shape,
    grouped_bars,
    heat_map,
    in_order,
    label,
    line_style,
    marker,
    new_figure,
    ordered_style,
    panels,
    plain,
    settle,
    write_values,
)
from loopway.traces.findings import ModelProbes, Spread, StateProbes

_SPECTRUM = "singular value / largest"
_FLOOR = 1e-8  # of a spectrum's axis: below the rounding of float32


def last_loop_state(states: StateProbes) -> int:
    """Return the index of h(K): the state after the last loop; without a loop, the last block's input."""
    looped = [number for number, is_looped in enumerate(states.looped) if is_looped]
    return looped[-1] + 1 if looped else max(len(states.stages) - 1, 1)


def draw_relative_updates(probes: Sequence[ModelProbes], labels: Sequence[str]) -> Picture:
    """Draw how much each block changes its input: bars, models side by side (the paper's Figure 3)."""
    series = [(p.states.stages, p.states.relative_update.mean, p.states.relative_update.std) for p in probes]
    figure = new_figure(WIDTH, 2.9)
    axes = figure.subplots()
    bars = grouped_bars(axes, series)
    label(axes, "block", "relative update\n2·‖f(h) − h‖ / (‖f(h)‖ + ‖h‖)")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)
    name_models(figure, bars, labels)
    settle(figure)
    return Picture(
        "relative-updates",
        figure,
        "How much each block changes its input: 2·‖f(h) − h‖ / (‖f(h)‖ + ‖h‖), from 0 (nothing) to 2. Mean and "
        f"standard deviation over {_samples(probes)}. Work is skewed where the first loop's bar towers over the others.",
        f"Bars of the relative update of each block, {probes[0].states.stages[0]} to {probes[0].states.stages[-1]}, for "
        f"{', '.join(labels)}.",
    )


def draw_similarity(probes: Sequence[ModelProbes], labels: Sequence[str]) -> Picture:
    """Draw the CKA between all states of each model: heat maps side by side (the paper's Figure 4)."""
    most = max(len(found.states.states) for found in probes)
    most_columns = 3 if 6 < most <= 8 else 4
    rows, columns = grid_shape(len(probes), most_columns)
    side = min((WIDTH - 1.3) / columns, 3.6)
    figure = new_figure(WIDTH, rows * (side + 0.6))
    grid, used = panels(figure, len(probes), most_columns)
    meshes = []
    for number, (axes, found) in enumerate(zip(used, probes, strict=True)):
        names = [state_name(state) for state in found.states.states]
        meshes.append(heat_map(axes, found.states.cka.mean, names, names))
        axes.tick_params(labelsize=min(7, 60 * side / len(names)))
        axes.tick_params(axis="x", rotation=90)
        if number % columns and found.states.states == probes[number - 1].states.states:
            axes.set_yticklabels([])
        axes.set_aspect("equal")
        axes.set_title(plain(labels[number], int(side / 0.07)))
    bar = figure.colorbar(meshes[0], ax=grid, label="similarity (CKA)", fraction=0.04, aspect=12 * rows + 6)
    bar.outline.set_visible(False)
    settle(figure)
    for axes, mesh in zip(used, meshes, strict=True):
        write_values(axes, mesh)
    return Picture(
        "similarity",
        figure,
        "How alike the states are: CKA with an RBF kernel, from 0 to 1 (the same up to rotation and scale). Mean over "
        f"{_samples(probes)}. The loop stagnates where neighbouring loop states are near 1.",
        f"Heat maps of the similarity of all pairs of states, from {probes[0].states.states[0]} to "
        f"{probes[0].states.states[-1]}, one each for {', '.join(labels)}.",
    )


def draw_spectra(probes: Sequence[ModelProbes], labels: Sequence[str]) -> Picture:
    """Draw the singular values of the states: one panel per model, and all models at h(K) (the paper's Figure 5)."""
    states = in_order([found.states.states for found in probes])
    heights = [grid_shape(len(probes))[0] * 1.9 + 0.8, 2.0][: len(probes)]
    figure = new_figure(WIDTH, sum(heights))
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    grid, used = panels(parts[0], len(probes), shared=True)
    used[0].set_yscale("log")
    used[0].set_ylim(_lowest([found.states.spectrum for found in probes]) / 1.3, 1.3)
    handles = {}
    for axes, found, name in zip(used, probes, labels, strict=True):
        spectrum = found.states.spectrum
        for state, mean, std in zip(found.states.states, spectrum.mean, spectrum.std, strict=True):
            number = states.index(state)
            handles[state] = _spectrum(axes, mean, std, ordered_style(number, len(states)), number)
        label(axes, "", "")
        axes.set_title(plain(name, 90 // grid.shape[1]))
    columns = math.ceil(len(states) / math.ceil(len(states) / 6))
    parts[0].legend(
        *_row_by_row([handles[state] for state in states], [state_name(state) for state in states], columns),
        loc="outside upper center",
        ncols=columns,
        handlelength=3.5,
    )
    for axes in grid[:, 0]:
        axes.set_ylabel(_SPECTRUM)
    for axes in used[-grid.shape[1] :]:
        axes.set_xlabel("index")
    if len(probes) > 1:
        _compare_spectra(parts[1], probes, labels, used[0].get_ylim())
    settle(figure)
    return Picture(
        "spectra",
        figure,
        "The first singular values of each state (sequence × width), divided by the largest, on a log axis. Mean and "
        f"standard deviation (shaded) over {_samples(probes)}. A steep fall means that the state has collapsed to few "
        "dimensions.",
        f"Curves of the normalised singular values of the states {', '.join(states)} for {', '.join(labels)}.",
    )


def draw_glance(probes: Sequence[ModelProbes], labels: Sequence[str]) -> Picture:
    """Draw one number for each of the three probes: bars, one row per model."""
    shown: list[tuple[str, list[tuple[float, float] | None], bool]] = [
        (
            "balance of the loops' work\n(0: one loop does all, 1: even)",
            [_number(p.states.balance) for p in probes],
            True,
        ),
        ("stagnation\n(1: the loop changes nothing)", [_number(p.states.stagnation) for p in probes], True),
        (
            "effective rank of $h(K)$\n(dimensions)",
            [_number(p.states.effective_rank, last_loop_state(p.states)) for p in probes],
            False,
        ),
    ]
    figure = new_figure(WIDTH, 0.75 + 0.3 * len(probes))
    row = figure.subplots(1, 3, sharey=True)
    for axes, (title, values, is_share) in zip(row, shown, strict=True):
        for number, value in enumerate(values):
            if value is None or not np.isfinite(value[0]):
                nothing = "no loop" if value is None else "–"
                axes.text(
                    0.02, number, nothing, transform=axes.get_yaxis_transform(), va="center", fontsize=7
                )
                continue
            mean, std = value
            axes.barh(number, mean, 0.66, xerr=std, **bar_style(number))
            end = mean + (std if np.isfinite(std) else 0)
            text = f"{mean:.2f}" if is_share else f"{mean:.1f}"
            axes.annotate(text, (end, number), (3, 0), textcoords="offset points", va="center", fontsize=7)
        label(axes, title, "")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.2)
        axes.set_xlim(left=0)
        if is_share:
            axes.set_xlim(0, 1.25)
            axes.set_xticks(np.linspace(0, 1, 5), ["0", "¼", "½", "¾", "1"])
    row[0].set_yticks(range(len(probes)), [plain(name, 24) for name in labels])
    row[0].set_ylim(len(probes) - 0.45, -0.55)
    settle(figure)
    return Picture(
        "glance",
        figure,
        "Each probe in one number: how evenly the loops share the work, how alike neighbouring loop states are, and "
        f"how many dimensions the state after the last loop fills. Mean and standard deviation over {_samples(probes)}.",
        f"Bars of balance, stagnation and effective rank for {', '.join(labels)}.",
    )


def _compare_spectra(
    figure: SubFigure, probes: Sequence[ModelProbes], labels: Sequence[str], limits: tuple[float, float]
) -> None:
    """Draw one panel with every model's spectrum at h(K)."""
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.set_ylim(limits)
    lines = []
    for number, found in enumerate(probes):
        state, spectrum = last_loop_state(found.states), found.states.spectrum
        lines.append(_spectrum(axes, spectrum.mean[state], spectrum.std[state], line_style(number), number))
    label(axes, "index of the singular value", _SPECTRUM)
    axes.set_title("all models at $h(K)$, the state after the last loop")
    names = [plain(name, 28) for name in labels]
    figure.legend(lines, names, loc="outside right center", handlelength=3.5)


def _samples(probes: Sequence[ModelProbes]) -> str:
    return sample_count([found.samples for found in probes])


def _spectrum(axes: Axes, mean: np.ndarray, std: np.ndarray, style: dict[str, Any], number: int) -> Line2D:
    """Draw a line with its deviation, without values that a log axis can't show."""
    shown = np.where(mean > 0, mean, np.nan)
    index = np.arange(1, len(mean) + 1)
    (line,) = axes.plot(index, shown, marker=marker(number), markersize=3, markevery=(number % 6, 7), **style)
    low = np.maximum(shown - std, _FLOOR)
    axes.fill_between(index, low, shown + std, color=style["color"], alpha=0.2, linewidth=0)
    return line


def _row_by_row(handles: list[Line2D], names: list[str], columns: int) -> tuple[list[Line2D], list[str]]:
    """Reorder entries for a legend, which fills column by column, to read row by row."""
    order = [number for first in range(columns) for number in range(first, len(names), columns)]
    return [handles[number] for number in order], [names[number] for number in order]


def _lowest(spectra: Sequence[Spread]) -> float:
    """Return the smallest mean that a log axis can show."""
    shown = np.concatenate([spectrum.mean.ravel() for spectrum in spectra])
    return max(np.min(shown, where=shown > 0, initial=1.0), _FLOOR)


def _number(spread: Spread | None, index: int | tuple[()] = ()) -> tuple[float, float] | None:
    return None if spread is None else (float(spread.mean[index]), float(spread.std[index]))
