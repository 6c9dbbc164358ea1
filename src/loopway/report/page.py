"""One HTML page that holds everything it shows: text, tables, drawings. No script, no network, no font of its own.

Knows nothing of what is reported. Every string is text and comes out as it is, ``<`` included; only a
``markupsafe.Markup`` is HTML, and drawings are SVG.
"""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from loopway.files import write_atomically

_SMALLEST_TEXT, _BEST_TEXT = 11, 15  # CSS pixels


@dataclass(frozen=True)
class Table:
    """Rows of text, numbers to the right.

    Attributes:
        caption: what the numbers are.
        heads: one per column.
        rows: one cell per column.
        text_columns: how many columns, from the first, name the row; the others are numbers.
        folded: shown when its caption is clicked; for tables that are looked things up in.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing as wide as the page; where that makes its text too small, it can be scrolled.

    Attributes:
        svg: an ``<svg>`` element with a ``viewBox`` and a label for screen readers; its ids are unique on the page. It
            is drawn in ``currentColor`` on ``var(--ground)``, as :attr:`loopway.report.pictures.Picture.page_svg` is,
            so that it is light or dark as the page is.
        caption: what is shown and how to read it.
        text_size: of its smallest text, in units of its ``viewBox``.
        folded: shown when its caption is clicked; what is folded takes next to no time to load.
    """

    svg: str
    caption: str
    text_size: float = 7.0
    folded: bool = False

    @property
    def markup(self) -> Markup:
        return Markup(self.svg)

    @property
    def style(self) -> str:
        """CSS that scales it: its shape, its least and its best width.

        Raises:
            ValueError: the drawing has no ``viewBox``.
        """
        found = re.search(r'<svg[^>]*\sviewBox="\S+ \S+ ([\d.]+) ([\d.]+)"', self.svg)
        if found is None:
            raise ValueError("the figure's <svg> has no viewBox; a page can't scale it")
        width, height = float(found[1]), float(found[2])
        least, best = (round(width / self.text_size * text) for text in (_SMALLEST_TEXT, _BEST_TEXT))
        return f"aspect-ratio: {width:g} / {height:g}; min-width: {least}px; max-width: {best}px"


@dataclass(frozen=True)
class Card:
    """A thing with its facts.

    Attributes:
        name: of the thing.
        facts: names and values.
        drawing: an ``<svg>`` element in ``currentColor``, with a label for screen readers.
    """

    name: str
    facts: Sequence[tuple[str, str]]
    drawing: str

    @property
    def markup(self) -> Markup:
        return Markup(self.drawing)


@dataclass(frozen=True)
class TokenText:
    """A text in tokens, each with a small table that shows while the token is pointed at or chosen with the arrow keys.

    Attributes:
        caption: what the tables show.
        tokens: the text of each; white space gets a visible mark.
        heads, rows: names of the tables' columns and rows.
        values: of each token, ``[tokens, rows, columns]``, 0 to 1, more of a cell filled for more; NaN stays empty.
    """

    caption: str
    tokens: Sequence[str]
    heads: Sequence[str]
    rows: Sequence[str]
    values: np.ndarray

    @property
    def shown(self) -> list[tuple[Markup, list[tuple[str, list[str]]]]]:
        """Each token as HTML, and the rows of its table."""
        return [
            (
                _visible(token),
                [(name, [_share(value) for value in row]) for name, row in zip(self.rows, own, strict=True)],
            )
            for token, own in zip(self.tokens, self.values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Quote:
    """A text by someone else, with its line breaks."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading and what is under it: prose, cards, figures, texts in tokens, tables, quotes.

    Attributes:
        heading: differs from all other sections'.
        prose: paragraphs; a ``Markup`` is HTML.
    """

    heading: str
    prose: Sequence[str] = ()
    cards: Sequence[Card] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[TokenText] = ()
    quotes: Sequence[Quote] = ()

    @property
    def anchor(self) -> str:
        """The heading as an id."""
        return re.sub(r"\W+", "-", self.heading.lower()).strip("-")


def write_page(
    path: Path,
    *,
    title: str,
    lead: str,
    command: str,
    sections: Sequence[Section],
    versions: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Write the page; the same arguments give the same bytes.

    Args:
        path: of the file; its folder is there.
        title: of the page.
        lead: a sentence or two on what it is about.
        command: what was typed to make it.
        versions: of the software that made it, by name.
        warnings: what a reader must know before believing the numbers.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("page.html.jinja").render(
        title=title,
        lead=lead,
        command=command,
        sections=sections,
        versions=versions or {},
        warnings=warnings,
    )
    write_atomically(path, text)


def _share(value: float) -> str:
    """Two decimals without the 0 before them, as in cells of heat maps."""
    return "" if math.isnan(value) else f"{value:.2f}".removeprefix("0")


def _visible(token: str) -> Markup:
    """A token's text as HTML, with marks for what can't be seen; a line ends after its mark."""
    if token and not token.strip(" "):
        token = "␣" * len(token)
    token = token.replace("\t", "⇥").replace("\r", "␍")
    token = "".join(
        "␀" if unicodedata.category(letter) == "Cc" and letter != "\n" else letter for letter in token
    )
    return Markup("⏎<br>").join(escape(part) for part in (token or "∅").split("\n"))
