"""Loss curves of a comparison. Knows metrics, not models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from loopway.report.numbers import measured
from loopway.report.pictures import Picture
from loopway.report.style import BLACK, label, line_style, new_figure, settle

TEXT_SIZE = 10.0
"""Size of the figure's smallest text, in points."""
_TOKENS = "training tokens (millions)"
_MOST_TITLES = 100  # points of a curve that show their values


@dataclass(frozen=True)
class Curve:
    """One variant's validation loss while it trained.

    Attributes:
        tokens: ``[evaluations]``.
        losses: of every seed, ``[seeds, evaluations]``.
    """

    variant: str
    tokens: np.ndarray
    losses: np.ndarray

    def minus(self, other: "Curve") -> "Curve":
        """Return the difference to another variant's where both were evaluated, seed by seed."""
        shared = np.isin(self.tokens, other.tokens)
        difference = self.losses[:, shared] - other.losses[:, np.isin(other.tokens, self.tokens)]
        return Curve(self.variant, self.tokens[shared], difference)

    @property
    def mean(self) -> np.ndarray:
        return self.losses.mean(0)

    @property
    def deviation(self) -> np.ndarray | None:
        """Standard deviation over seeds; None with one seed."""
        return self.losses.std(0, ddof=1) if len(self.losses) > 1 else None


def plot_curves(curves: Sequence[Curve], reference: str | None, *, original: float | None = None) -> Picture:
    """Draw validation loss over tokens, and beside it the difference to the reference variant.

    Args:
        curves: one per variant, evaluated at the same steps.
        reference: the variant that differences are taken to; None draws the left panel alone.
        original: the loss of the model that the variants were retrofitted from, a line to reach.

    Returns:
        The figure. Every point has a title with its value.
    """
    base = next((curve for curve in curves if curve.variant == reference), None)
    figure = new_figure(10 if base else 5.6, 3.8)
    axes = figure.subplots(1, 2 if base else 1, squeeze=False)[0]
    titles: dict[str, str] = {}
    for number, curve in enumerate(curves):
        titles |= _draw(axes[0], curve, number, f"loss-{number}")
        if base is not None and curve is not base:
            titles |= _draw(axes[1], curve.minus(base), number, f"difference-{number}", f" − {base.variant}")
    if original is not None:
        axes[0].axhline(original, color=BLACK, linewidth=0.8, linestyle=":", label="the original")
    label(axes[0], _TOKENS, "validation loss (nats per token)")
    axes[0].legend(frameon=False)
    if base is not None:
        axes[1].axhline(0, color=BLACK, linewidth=0.8)
        label(axes[1], _TOKENS, f"difference to {reference} (nats per token)")
    settle(figure)
    names = ", ".join(curve.variant for curve in curves)
    seeds = len(curves[0].losses)
    return Picture(
        "curves",
        figure,
        f"Validation loss while training{f', and its difference to {reference}' if base else ''}."
        + (f" Mean and standard deviation (shaded) over {seeds} seeds." if seeds > 1 else "")
        + " A point shows its value under the mouse.",
        f"Curves of the validation loss of {names} over training tokens.",
        titles,
    )


def _draw(axes: Axes, curve: Curve, number: int, name: str, of_difference: str = "") -> dict[str, str]:
    """Draw a curve with its deviation, and invisible points that carry titles; return these by the points' ids."""
    style, millions, deviation = line_style(number), curve.tokens / 1e6, curve.deviation
    axes.plot(millions, curve.mean, label=curve.variant, **style)
    if deviation is not None:
        low, high = curve.mean - deviation, curve.mean + deviation
        axes.fill_between(millions, low, high, color=style["color"], alpha=0.15, linewidth=0)
    titles = {}
    count = len(curve.tokens)
    for index in np.linspace(0, count - 1, min(count, _MOST_TITLES)).round().astype(int):
        point, error = f"{name}-{index}", None if deviation is None else float(deviation[index])
        axes.plot(
            millions[index], curve.mean[index], "o", color=style["color"], markersize=9, alpha=0, gid=point
        )
        value = measured(float(curve.mean[index]), error, 4, sign=bool(of_difference))
        titles[point] = f"{curve.variant}{of_difference}: {value} after {curve.tokens[index]:,} tokens"
    return titles
