"""A figure with its words; how it is written: PNG, SVG, and SVG inside an HTML page; and what all of them name alike."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from loopway.files import write_atomically
from loopway.report.style import LOOK, plain


@dataclass(frozen=True)
class Picture:
    """A figure, and what is said of it.

    Attributes:
        stem: name of its files, without ending; letters, digits, ``.``, ``-`` and ``_``.
        caption: what is shown and how to read it, plain text.
        alt: what is to be seen, for those who can't.
    """

    stem: str
    figure: Figure
    caption: str
    alt: str

    @cached_property
    def svg(self) -> str:
        """The figure as an ``<svg>`` element, for a file or for an HTML page with others of another stem.

        Text is drawn as paths. Without prolog, dates and style sheet; every id begins with the stem.
        """
        stream = io.StringIO()
        with matplotlib.rc_context({**LOOK, "svg.hashsalt": self.stem}):
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self.figure.savefig(stream, format="svg", metadata=nothing)
        text = stream.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r'(\bid="|xlink:href="#|url\(#)', lambda found: f"{found[0]}{self.stem}-", text)
        # Matplotlib's style sheet would hold for the whole page.
        text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
        alt = html.escape(self.alt)
        head = f'<svg role="img" aria-label="{alt}" style="stroke-linejoin: round; stroke-linecap: butt"'
        return text.replace("<svg", head, 1)


def save_picture(picture: Picture, folder: Path) -> list[Path]:
    """Write ``<stem>.png`` (150 dots per inch) and ``<stem>.svg``, the same bytes each time; their paths."""
    png, svg = (folder / f"{picture.stem}{ending}" for ending in (".png", ".svg"))
    with matplotlib.rc_context(LOOK):
        picture.figure.savefig(png, dpi=150)
    write_atomically(svg, picture.svg)
    return [png, svg]


def name_models(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend over all panels, in as many columns as the labels leave room for."""
    longest = max(len(name) for name in labels)
    columns = max(1, min(len(labels), int(15 * figure.get_figwidth() / (longest + 7))))
    names = [plain(name) for name in labels]
    figure.legend(
        handles, names, loc="outside upper center", ncols=columns, handlelength=2.5, handleheight=1.0
    )


def sample_count(counts: Sequence[int]) -> str:
    """``20 samples``, or ``20 to 40 samples`` where models differ."""
    least, most = min(counts), max(counts)
    return f"{least} samples" if least == most else f"{least} to {most} samples"


def frequency_names(least: np.ndarray) -> list[str]:
    """Of groups of tokens by frequency: how often their rarest token occurs; – for a group without tokens."""
    return ["–" if np.isnan(count) else f"{count:,.0f}" for count in least]


def state_name(state: str) -> str:
    """The state's name as a formula."""
    if found := re.fullmatch(r"h_(\w+)", state):
        return rf"$h_\mathrm{{{found[1]}}}$"
    return f"${state}$" if re.fullmatch(r"h\(\d+\)", state) else plain(state)
