"""Figures of MeSH's routers: weights, mixing and entropies; mixing by position and by frequency.

Knows results of probing; nothing of how they are measured.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from loopway.probing.names import frequency_names, sample_count, state_name
from loopway.report.pictures import Picture
from loopway.report.style import (
    WIDTH,
    bar_style,
    grid_shape,
    heat_map,
    label,
    new_figure,
    panels,
    plain,
    settle,
    write_values,
)
from loopway.traces.findings import ModelProbes, RouterProbes


def draw_routers(found: ModelProbes, routers: RouterProbes, name: str, stem: str) -> list[Picture]:
    """Draw three figures of one model's routers: weights and mixing; mixing by position; mixing by frequency."""
    counts = sample_count([found.samples])
    return [
        _draw_weights(routers, name, stem, counts),
        _draw_groups(
            routers.mixing_by_position,
            routers,
            _position_names(routers.positions),
            "position in the sequence",
            f"positions-{stem}",
            f"How much of each source {name} reads at each boundary, by the token's position in the sequence. Mean over "
            f"{counts}.",
            name,
        ),
        _draw_groups(
            routers.mixing_by_frequency,
            routers,
            frequency_names(routers.frequencies),
            "least count of the group's tokens in the text: frequent to rare",
            f"frequencies-{stem}",
            f"How much of each source {name} reads at each boundary, by how often the token occurs in the text; each "
            f"column is about the same share of it. Mean over {counts}.",
            name,
        ),
    ]


def _draw_weights(routers: RouterProbes, name: str, stem: str, counts: str) -> Picture:
    boundaries, slots = routers.write.mean.shape
    figure = new_figure(WIDTH, 1.9 + 0.42 * boundaries)
    top, bottom = figure.subfigures(2, 1, squeeze=False)[:, 0]
    weights = top.subplots(1, 3, sharey=True)
    mixing, entropy = bottom.subplots(1, 2, width_ratios=(1.7, 1))
    high = _largest(routers.write.mean, routers.read.mean, routers.flow.mean, routers.mixing.mean)
    slot_names = [str(slot) for slot in range(slots)]
    meshes = []
    for axes, title, spread in zip(
        weights,
        ("write weights", "read weights", "read through the slot"),
        (routers.write, routers.read, routers.flow),
        strict=True,
    ):
        meshes.append(heat_map(axes, spread.mean, routers.boundaries, slot_names, high))
        axes.set_xlabel("slot")
        axes.set_title(title)
    sources = [state_name(source) for source in routers.sources]
    meshes.append(heat_map(mixing, routers.mixing.mean, routers.boundaries, sources, high))
    mixing.set_xlabel("source")
    mixing.set_title("mixing $a(t, s)$: how much is read of what")
    if len(sources) > 5:
        mixing.tick_params(axis="x", rotation=90)
    _entropies(entropy, routers)
    figure.suptitle(plain(name, 80), fontsize=9, fontweight="bold")
    top.colorbar(meshes[0], ax=list(weights), label="weight", aspect=12).outline.set_visible(False)
    settle(figure)
    for axes, mesh in zip((*weights, mixing), meshes, strict=True):
        write_values(axes, mesh)
    for axes in weights:
        _mark_unused(axes, routers.unused_slots, boundaries)
    unused = ", ".join(map(str, routers.unused_slots))
    note = f" Hatched: slots through which less than 1% of what is read comes ({unused})." if unused else ""
    return Picture(
        f"routers-{stem}",
        figure,
        f"What the routers of {name} do at each boundary: how much of a block's output they write to each slot, how much "
        "they read of each, what share of what is read comes through it, and the mixing weights that follow, a(t, s): "
        "how much of each block's output is read at which boundary. Entropy of a token's weights as a share of the "
        f"largest, ln {slots} nats: 100% spreads evenly, 0% picks one slot. Means over {counts}.{note}",
        f"Heat maps of write weights, read weights, reading through slots and mixing weights of {name}, and bars of "
        "the routers' entropies.",
    )


def _entropies(axes: Axes, routers: RouterProbes) -> None:
    boundaries, slots = routers.write.mean.shape
    most = math.log(slots) if slots > 1 else 1.0
    for number, (title, spread) in enumerate(
        (("write", routers.write_entropy), ("read", routers.read_entropy)), start=1
    ):
        places = np.arange(boundaries) + 0.5 + (number - 1.5) * 0.38
        share, error = 100 * spread.mean / most, 100 * spread.std / most
        axes.barh(places, share, 0.34, xerr=error, label=title, **bar_style(number))
    label(axes, f"entropy (% of ln {slots})", "")
    axes.set_ylim(boundaries, 0)
    axes.set_yticks([])
    axes.set_xlim(0, 105)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, borderaxespad=0.2)


def _mark_unused(axes: Axes, slots: Sequence[int], boundaries: int) -> None:
    for slot in slots:
        axes.axvspan(
            slot, slot + 1, facecolor=(1, 1, 1, 0.88), edgecolor="0.4", hatch="/////", linewidth=0, zorder=4
        )
        axes.text(
            slot + 0.5,
            boundaries / 2,
            "unused",
            rotation=90,
            zorder=5,
            ha="center",
            va="center",
            fontsize=6.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def _draw_groups(
    mixing: np.ndarray,
    routers: RouterProbes,
    groups: Sequence[str],
    x: str,
    stem: str,
    caption: str,
    name: str,
) -> Picture:
    """Draw a heat map for each boundary: sources down, groups across.

    Args:
        mixing: ``[groups, boundaries, sources]``.
    """
    boundaries, sources = mixing.shape[1:]
    figure = new_figure(WIDTH, grid_shape(boundaries, 5)[0] * (0.75 + 0.17 * sources) + 0.5)
    grid, used = panels(figure, boundaries, 5, shared=True)
    meshes: list[QuadMesh] = []
    for boundary, axes in enumerate(used):
        names = [state_name(source) for source in routers.sources]
        meshes.append(heat_map(axes, mixing[:, boundary].T, names, groups, _largest(mixing)))
        axes.tick_params(axis="x", rotation=90, labelsize=6)
        axes.set_title(routers.boundaries[boundary])
    figure.supxlabel(x, fontsize=8)
    figure.supylabel("source", fontsize=8)
    figure.suptitle(plain(name, 80), fontsize=9, fontweight="bold")
    bar = figure.colorbar(
        meshes[0], ax=grid, label="mixing weight $a(t, s)$", fraction=0.04, aspect=15 * len(grid)
    )
    bar.outline.set_visible(False)
    settle(figure)
    return Picture(
        stem,
        figure,
        caption,
        f"Heat maps of the mixing weights of {name} by {x}, one for each boundary: {', '.join(routers.boundaries)}.",
    )


def _position_names(firsts: np.ndarray) -> list[str]:
    """``0``, ``1``, ``2–3``, …; the last group has no end."""
    return [
        str(first) if after == first + 1 else f"{first}–{after - 1}"
        for first, after in itertools.pairwise(firsts)
    ] + [f"≥ {firsts[-1]}"]


def _largest(*values: np.ndarray) -> float:
    """Return the upper end of a common colour scale: the largest value, rounded up to tenths."""
    largest = max(np.max(value, where=np.isfinite(value), initial=0) for value in values)
    return max(math.ceil(largest * 10 - 1e-6), 1) / 10
