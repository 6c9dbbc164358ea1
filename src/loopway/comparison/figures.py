"""Loss curves of a comparison. Knows metrics, not models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopway.report.style import BLACK, label, line_style, new_figure

_TOKENS = "training tokens (millions)"


@dataclass(frozen=True)
class Curve:
    """One variant's validation loss while it trained, mean over its seeds.

    Attributes:
        tokens, loss: ``[evaluations]``.
    """

    variant: str
    tokens: np.ndarray
    loss: np.ndarray


def plot_curves(
    curves: list[Curve], reference: str | None, path: Path, *, original: float | None = None
) -> None:
    """Validation loss over tokens, and beside it the difference to the reference variant.

    Args:
        curves: one per variant, evaluated at the same steps.
        reference: the variant that differences are taken to; None draws the left panel alone.
        path: where the PNG goes.
        original: the loss of the model that the variants were retrofitted from, a line to reach.
    """
    base = next((curve for curve in curves if curve.variant == reference), None)
    figure = new_figure(10 if base else 5.6, 3.8)
    axes = figure.subplots(1, 2 if base else 1, squeeze=False)[0]
    for number, curve in enumerate(curves):
        style = line_style(number)
        axes[0].plot(curve.tokens / 1e6, curve.loss, label=curve.variant, **style)
        if base is not None and curve is not base:
            shared = np.isin(curve.tokens, base.tokens)
            difference = curve.loss[shared] - base.loss[np.isin(base.tokens, curve.tokens)]
            axes[1].plot(curve.tokens[shared] / 1e6, difference, label=curve.variant, **style)
    if original is not None:
        axes[0].axhline(original, color=BLACK, linewidth=0.8, linestyle=":", label="the original")
    label(axes[0], _TOKENS, "validation loss (nats per token)")
    axes[0].legend(frameon=False)
    if base is not None:
        axes[1].axhline(0, color=BLACK, linewidth=0.8)
        label(axes[1], _TOKENS, f"difference to {reference} (nats per token)")
    figure.savefig(path)
