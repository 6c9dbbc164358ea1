"""Loss curves of a comparison. Knows metrics, not models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind; line styles tell them apart in black and white.
_COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """One variant's validation loss while it trained, mean over its seeds.

    Attributes:
        tokens, loss: ``[evaluations]``.
    """

    variant: str
    tokens: np.ndarray
    loss: np.ndarray


def plot_curves(curves: list[Curve], reference: str | None, path: Path) -> None:
    """Validation loss over tokens, and beside it the difference to the reference variant.

    Args:
        curves: one per variant, evaluated at the same steps.
        reference: the variant that differences are taken to; None draws the left panel alone.
        path: where the PNG goes.
    """
    base = next((curve for curve in curves if curve.variant == reference), None)
    figure = Figure(figsize=(10 if base else 5.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if base else 1, squeeze=False)[0]
    for number, curve in enumerate(curves):
        style = {"color": _COLORS[number % len(_COLORS)], "linestyle": _STYLES[number % len(_STYLES)]}
        axes[0].plot(curve.tokens / 1e6, curve.loss, label=curve.variant, **style)
        if base is not None and curve is not base:
            shared = np.isin(curve.tokens, base.tokens)
            difference = curve.loss[shared] - base.loss[np.isin(base.tokens, curve.tokens)]
            axes[1].plot(curve.tokens[shared] / 1e6, difference, label=curve.variant, **style)
    _label(axes[0], "validation loss (nats per token)")
    axes[0].legend(frameon=False)
    if base is not None:
        axes[1].axhline(0, color=_COLORS[0], linewidth=0.8)
        _label(axes[1], f"difference to {reference} (nats per token)")
    figure.savefig(path, dpi=150)


def _label(axes: Axes, what: str) -> None:
    axes.set_xlabel("training tokens (millions)")
    axes.set_ylabel(what)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
