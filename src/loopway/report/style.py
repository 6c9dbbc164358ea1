"""The style of Loopway's figures: colours, line styles, hatches, axes, heat maps. Knows nothing of what is drawn."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure, SubFigure

# Okabe and Ito's palette is safe for colour-blind readers; line styles also differ in black and white.
_COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "/////", "", 5 * "\\", "...", "", "xxxx")
# Share of the colour in a bar's fill; the rest is white. Bars differ in grey.
_FILLS = (0.75, 0.2, 0.6, 0.35, 0.12, 0.35, 0.5)

BLACK = _COLORS[0]
# Numbers in heat maps keep their colours on a dark page. Pure black and white would change there.
_DARK_NUMBER, _LIGHT_NUMBER = "#010101", "#fefefe"
_LIGHTER = 0.35  # white in a colour on a dark page: enough contrast for the darkest line
WIDTH = 6.8  # inches: 1020 pixels at 150 dots per inch, and the text's width in print
# Lightness grows evenly: the same order in grey, and to the colour-blind.
COLORMAP = matplotlib.colormaps["cividis"]
LOOK: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",  # the same on machines without the font
}

_SMALLEST_CELL, _INSET = 0.2, 0.33  # inches a cell needs to hold a number; height of the number in cells


def line_style(number: int) -> dict[str, Any]:
    """Return colour and dashes of the line with this number, from 0."""
    return {"color": _COLORS[number % len(_COLORS)], "linestyle": _STYLES[number % len(_STYLES)]}


def marker(number: int) -> str:
    """Return the marker of the line with this number, from 0."""
    return _MARKERS[number % len(_MARKERS)]


def ordered_style(number: int, count: int) -> dict[str, Any]:
    """Return colour and dashes of one line of an ordered family, from dark to light."""
    return {"color": COLORMAP(0.88 * number / max(count - 1, 1)), "linestyle": _STYLES[number % len(_STYLES)]}


def bar_style(number: int) -> dict[str, Any]:
    """Return fill, outline and hatch of the bars with this number, from 0, in the colour of the same line."""
    color = _COLORS[number % len(_COLORS)]
    return {
        "facecolor": _mixed_with_white(color, 1 - _FILLS[number % len(_FILLS)]),
        "edgecolor": color,
        "hatch": _HATCHES[number % len(_HATCHES)],
        "linewidth": 0.7,
        "error_kw": {"elinewidth": 0.8, "ecolor": BLACK},
    }


def page_color(color: str) -> str:
    """Return a figure's ``#rrggbb`` as CSS for light and dark pages: black becomes the text colour, white the ground."""
    if color in ("#000000", "#ffffff"):
        return "currentColor" if color == "#000000" else "var(--ground)"
    if color in (_DARK_NUMBER, _LIGHT_NUMBER):
        return color
    for base, share in zip(_COLORS, _FILLS, strict=True):
        if color == to_hex(_mixed_with_white(base, 1 - share)):
            return f"color-mix(in srgb, {page_color(base)} {share:.0%}, var(--ground))"
    return f"light-dark({color}, {to_hex(_mixed_with_white(color, _LIGHTER))})"


def label(axes: Axes, x: str, y: str) -> None:
    """Label the axes of a plot, and remove unneeded lines."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str, width: int | None = None) -> str:
    """Escape a user's text for matplotlib, and wrap it to lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(text, width) if width else [text]).replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, without a window."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def grid_shape(count: int, most_columns: int = 4) -> tuple[int, int]:
    """Return rows and columns of a grid for ``count`` panels, with rows as even as possible."""
    rows = math.ceil(count / most_columns)
    return rows, math.ceil(count / rows)


def panels(
    figure: Figure | SubFigure, count: int, most_columns: int = 4, shared: bool = False
) -> tuple[np.ndarray, list[Axes]]:
    """Return axes ``[rows, columns]``, and the used ones row by row; the others are hidden."""
    rows, columns = grid_shape(count, most_columns)
    grid = figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    # Shared axes label only the last row, which may have gaps.
    for axes in grid.flat[count - columns : count]:
        axes.tick_params(axis="x", labelbottom=True)
    return grid, list(grid.flat[:count])


def settle(figure: Figure) -> None:
    """Compute the layout once and fix it: writing the figure later moves nothing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def in_order(lists: Sequence[Sequence[str]]) -> list[str]:
    """Merge several lists of names without duplicates; a name comes after its predecessor in the list that adds it."""
    names: list[str] = []
    for one in lists:
        place = 0
        for name in one:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return names


def grouped_bars(
    axes: Axes, series: Sequence[tuple[Sequence[str], np.ndarray, np.ndarray]]
) -> list[BarContainer]:
    """Draw bars in groups, side by side. A series leaves a gap in groups that it lacks; an empty series takes no space.

    Args:
        series: group names, heights and errors of each series; its index selects its style.
    """
    groups = in_order([names for names, _, _ in series])
    present = [number for number, (names, _, _) in enumerate(series) if names]
    width = 0.82 / len(present)
    bars = []
    for place, number in enumerate(present):
        names, heights, errors = series[number]
        middles = np.array([groups.index(name) for name in names]) + (place - (len(present) - 1) / 2) * width
        bars.append(axes.bar(middles, heights, 0.92 * width, yerr=errors, **bar_style(number)))
    crowded = len(groups) * (2 + max(map(len, groups))) > 110
    axes.set_xticks(range(len(groups)), groups, rotation=90 if crowded else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    return bars


def heat_map(
    axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], high: float = 1.0
) -> QuadMesh:
    """Draw cells from 0 to ``high``, first row on top; NaN stays empty.

    Args:
        values: ``[rows, columns]``.
    """
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=COLORMAP, vmin=0, vmax=high, edgecolors="white", linewidth=0.4
    )
    axes.set_ylim(len(rows), 0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return mesh


def write_values(axes: Axes, mesh: QuadMesh) -> None:
    """Write a settled heat map's numbers into its cells, if these are large enough to read."""
    values = np.ma.asarray(mesh.get_array())
    box = axes.get_window_extent()
    cell = min(box.width / values.shape[1], box.height / values.shape[0] * 1.4) / axes.figure.dpi
    if cell < _SMALLEST_CELL:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{value:.2f}".removeprefix("0"),
                ha="center",
                va="center_baseline",
                fontsize=min(cell * 72 * _INSET, 7.5),
                color=_readable_on(mesh.to_rgba(value)),
            )


def _readable_on(color: Any) -> str:
    """Return nearly black or nearly white, whichever contrasts more (WCAG's relative luminance)."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return _DARK_NUMBER if np.dot(parts, (0.2126, 0.7152, 0.0722)) > 0.179 else _LIGHT_NUMBER


def _mixed_with_white(color: str, white: float) -> tuple[float, float, float]:
    red, green, blue = (white + (1 - white) * part for part in to_rgb(color))
    return red, green, blue
