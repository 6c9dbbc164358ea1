"""Write a self-contained HTML page: text, tables, drawings. No scripts, no network, no embedded fonts.

Knows nothing of what is reported. Every string is text and is escaped; only a ``markupsafe.Markup`` is HTML, and
drawings are SVG.
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
    """A table with right-aligned numbers.

    Attributes:
        caption: what the numbers are.
        heads: one per column.
        rows: one cell per column.
        text_columns: number of leading columns that name the row; the others are numbers.
        folded: hidden until its caption is clicked; for reference tables.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing as wide as the page; it scrolls if its text would become too small.

    Attributes:
        svg: an ``<svg>`` element with a ``viewBox`` and a label for screen readers; its ids are unique on the page. It
            uses ``currentColor`` on ``var(--ground)``, like :attr:`loopway.report.pictures.Picture.page_svg`, and so
            follows the page's light or dark colours.
        caption: what is shown and how to read it.
        text_size: size of its smallest text, in units of its ``viewBox``.
        folded: hidden until its caption is clicked; a folded figure loads fast.
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
        """CSS for its aspect ratio, its minimum width and its maximum width.

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
    """A card: a name with facts.

    Attributes:
        name: the card's title.
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
    """A text in tokens, each with a small table shown while the token is hovered or selected with the arrow keys.

    Attributes:
        caption: what the tables show.
        tokens: text of each token; white space gets a visible mark.
        heads, rows: names of the tables' columns and rows.
        values: each token's table, ``[tokens, rows, columns]``, 0 to 1; a cell is filled in proportion, empty for NaN.
    """

    caption: str
    tokens: Sequence[str]
    heads: Sequence[str]
    rows: Sequence[str]
    values: np.ndarray

    @property
    def shown(self) -> list[tuple[Markup, list[tuple[str, list[str]]]]]:
        """Return each token as HTML, with the rows of its table."""
        return [
            (
                _visible(token),
                [(name, [_share(value) for value in row]) for name, row in zip(self.rows, own, strict=True)],
            )
            for token, own in zip(self.tokens, self.values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Quote:
    """A quoted text with its line breaks."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading with its content: prose, cards, figures, texts in tokens, tables, quotes.

    Attributes:
        heading: unique on the page.
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
        """Return the heading as an id."""
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
    """Write the page; equal arguments give equal bytes.

    Args:
        path: the file; its folder must exist.
        title: the page's title.
        lead: an introduction of a sentence or two.
        command: the command that made the page.
        versions: versions of the software that made it, by name.
        warnings: limits of the numbers that a reader must know.
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
    """Format a share with two decimals and no leading 0, as in cells of heat maps."""
    return "" if math.isnan(value) else f"{value:.2f}".removeprefix("0")


def _visible(token: str) -> Markup:
    """Return a token's text as HTML, with marks for invisible characters; a line breaks after its mark."""
    if token and not token.strip(" "):
        token = "␣" * len(token)
    token = token.replace("\t", "⇥").replace("\r", "␍")
    token = "".join(
        "␀" if unicodedata.category(letter) == "Cc" and letter != "\n" else letter for letter in token
    )
    return Markup("⏎<br>").join(escape(part) for part in (token or "∅").split("\n"))
