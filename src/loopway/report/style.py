"""How Loopway's figures look: colours, line styles, axes. Knows nothing of what is drawn."""

from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by the colour-blind; line styles tell them apart in black and white.
_COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", "-.", ":")

BLACK = _COLORS[0]


def line_style(number: int) -> dict[str, str]:
    """Colour and dashes of the line with this number, from 0."""
    return {"color": _COLORS[number % len(_COLORS)], "linestyle": _STYLES[number % len(_STYLES)]}


def label(axes: Axes, x: str, y: str) -> None:
    """Name the axes of a plot, and take away what isn't needed."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
