"""Matplotlib figures with captions: as PNG, as SVG, and as SVG for light and dark pages.

Knows nothing of what is drawn.
"""

import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from loopway.files import write_atomically
from loopway.report.style import LOOK, page_color


@dataclass(frozen=True)
class Picture:
    """A figure with its texts.

    Attributes:
        stem: name of its files, without suffix; letters, digits, ``.``, ``-`` and ``_``.
        caption: what is shown and how to read it, plain text.
        alt: description for screen readers.
        titles: tooltips of parts of the figure, by the part's ``gid``.
    """

    stem: str
    figure: Figure
    caption: str
    alt: str
    titles: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def svg(self) -> str:
        """Return the figure as an ``<svg>`` element for a file, in black on white.

        Text is drawn as paths. There are no prolog, dates or style sheet; every id begins with the stem.
        """
        stream = io.StringIO()
        with matplotlib.rc_context({**LOOK, "svg.hashsalt": self.stem}):
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self.figure.savefig(stream, format="svg", metadata=nothing)
        text = stream.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r'(\bid="|xlink:href="#|url\(#)', lambda found: f"{found[0]}{self.stem}-", text)
        # Matplotlib's style sheet would apply to the whole page.
        text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
        alt = html.escape(self.alt)
        head = f'<svg role="img" aria-label="{alt}" style="stroke-linejoin: round; stroke-linecap: butt"'
        return text.replace("<svg", head, 1)

    @cached_property
    def page_svg(self) -> str:
        """Return the same element for a page: in the page's colours and with tooltips.

        Cells of heat maps and the numbers in them keep their colours.
        """
        text = re.sub(r'(?<= style=")[^"]*', lambda style: _page_style(style[0]), self.svg)
        text = re.sub(r'(?<= fill=")#\w{6}', lambda color: page_color(color[0]), text)
        for part, title in self.titles.items():
            start = f'<g id="{self.stem}-{part}">'
            text = text.replace(start, f"{start}<title>{html.escape(title)}</title>", 1)
        # Matplotlib omits the fill of black shapes and text.
        return text.replace("<svg", '<svg fill="currentColor"', 1)


def save_picture(picture: Picture, folder: Path) -> list[Path]:
    """Write ``<stem>.png`` (150 dots per inch) and ``<stem>.svg``, reproducibly; return their paths."""
    png, svg = (folder / f"{picture.stem}{ending}" for ending in (".png", ".svg"))
    with matplotlib.rc_context(LOOK):
        picture.figure.savefig(png, dpi=150)
    write_atomically(svg, picture.svg)
    return [png, svg]


def _page_style(style: str) -> str:
    is_cell = "stroke: #ffffff" in style  # only heat maps have white lines
    colors = r"(?<=stroke: )#\w{6}" if is_cell else r"(?<!\()#\w{6}"
    return re.sub(colors, lambda color: page_color(color[0]), style)
