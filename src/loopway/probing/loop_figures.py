"""Figures of each loop's contribution: loss by the number of loops, and without one loop's write.

Knows results of probing; nothing of how they are measured.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

from loopway.probing.names import name_models, sample_count
from loopway.report.pictures import Picture
from loopway.report.style import (
    BLACK,
    WIDTH,
    grouped_bars,
    label,
    line_style,
    marker,
    new_figure,
    settle,
)
from loopway.traces.findings import LoopProbes, LossChange, ModelProbes

_DIFFERENCE = "loss − loss as trained\n(nats per token)"


def draw_loops(probes: Sequence[ModelProbes], labels: Sequence[str]) -> Picture:
    """Draw the loss with fewer and more loops, and with one loop's write withheld; one series per looped segment."""
    series = _series(probes, labels)
    drawn = [loops for _, loops in series if loops is not None]
    names = [name for name, loops in series if loops is not None]
    groups = len({change.change for loops in drawn for change in loops.without_write})
    stacked = groups > 5 or groups * len(drawn) > 16
    figure = new_figure(WIDTH, 4.8 if stacked else 2.9)
    row = figure.subplots(1 + stacked, 1 + (groups > 0 and not stacked), squeeze=False, sharey=True).ravel()
    _difference_axis(row[0], [change for loops in drawn for change in loops.by_loops + loops.without_write])
    lines = [
        _by_loops(row[0], loops, number) for number, (_, loops) in enumerate(series) if loops is not None
    ]
    label(row[0], "loops run at test time (large marker: as trained)", _DIFFERENCE)
    row[0].xaxis.set_major_locator(MaxNLocator(12, integer=True))
    if groups:
        grouped_bars(row[1], [_without(loops) for _, loops in series])
        row[1].axhline(0, color=BLACK, linewidth=0.8)
        label(row[1], "loop whose write is withheld", _DIFFERENCE if stacked else "")
        row[1].grid(visible=False, axis="x")
    name_models(figure, lines, names)
    settle(figure)
    counts = sample_count([loops.samples for loops in drawn])
    bars = " Bars: with one loop's output withheld from the recurrence." if groups else ""
    return Picture(
        "loops",
        figure,
        "What each loop contributes: validation loss less that of the model as trained, when it runs fewer loops or "
        f"more.{bars} Mean and standard error over {counts}; the axis is linear near zero, logarithmic beyond.",
        f"Loss difference by the number of loops{' and without each loop' if groups else ''} for {', '.join(names)}.",
    )


def _series(probes: Sequence[ModelProbes], labels: Sequence[str]) -> list[tuple[str, LoopProbes | None]]:
    """Return the series: each model's first looped segment (None without one), in model order, then the others."""
    first = [
        (name if len(found.loops) < 2 else f"{name}, {found.loops[0].segment}", next(iter(found.loops), None))
        for found, name in zip(probes, labels, strict=True)
    ]
    others = [
        (f"{name}, {loops.segment}", loops)
        for found, name in zip(probes, labels, strict=True)
        for loops in found.loops[1:]
    ]
    return first + others


def _by_loops(axes: Axes, loops: LoopProbes, number: int) -> ErrorbarContainer:
    changes = loops.by_loops
    drawn = axes.errorbar(
        np.array([change.loops for change in changes], dtype=float),
        [change.difference for change in changes],
        yerr=[change.error for change in changes],
        marker=marker(number),
        markersize=3.5,
        elinewidth=0.8,
        capsize=2,
        **line_style(number),
    )
    color = line_style(number)["color"]
    axes.plot(
        loops.trained_loops, 0, marker(number), markersize=8, markerfacecolor="none", color=color, zorder=3
    )
    return drawn


def _without(loops: LoopProbes | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    changes = loops.without_write if loops is not None else []
    return (
        [change.change.removeprefix("without ") for change in changes],
        np.array([change.difference for change in changes]),
        np.array([change.error for change in changes]),
    )


def _difference_axis(axes: Axes, changes: Sequence[LossChange]) -> None:
    """Scale the axis for differences from hundredths of a nat to the many nats that a model without loops loses."""
    sizes = np.abs([change.difference for change in changes if change.difference])
    axes.axhline(0, color=BLACK, linewidth=0.8)
    if not np.isfinite(sizes).any():
        return
    linear = float(np.clip(10 ** np.floor(np.log10(np.nanmedian(sizes))), 1e-3, 1))
    axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=[1, 3]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
