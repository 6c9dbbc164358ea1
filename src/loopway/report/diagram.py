"""Draw a layout as SVG: blocks of layers, loops, and the paths of states between them.

Knows layouts and the names of recurrences; nothing of models or of the page around it. Lines have ``currentColor`` and
the recurrence the CSS variable ``--accent``: a drawing fits light and dark pages.
"""

from collections.abc import Sequence
from html import escape

from loopway.layout import Layout

_Point = tuple[float, float]

_WIDTH = 300
_CENTRE = 166  # of the blocks
_BLOCK = 124  # width of a block
_LEFT, _RIGHT = _CENTRE - _BLOCK / 2, _CENTRE + _BLOCK / 2
_RETURN = _RIGHT + 30  # where a loop goes back up
_HIGHWAY = (30, 60)  # left and right edge of the memory
_LANES = {"residual": _LEFT - 16, "anchor": _LEFT - 42, "anchor*": _LEFT - 68}
_MOST_PARTS = 12  # of a cut block that are drawn each
_SUPPLEMENTS = {"residual": "h(t)", "anchor": "h(0)", "anchor*": "h_emb"}
_MIXED = {"anchor": "a₂·h(0)", "anchor*": "a₃·h_emb"}  # what static and dynamic add to a₁·h_m(t)


def layout_diagram(
    layout: Layout, recurrence: str, *, slots: int | None = None, cut: Layout | None = None
) -> str:
    """Draw a model from its embeddings down to its head, 300 px wide and as high as needed.

    Args:
        layout: the model's layout.
        recurrence: its name; a user's own recurrence is drawn as a box with that name.
        slots: number of MeSH's slots, if known.
        cut: for a model of one segment, the layout as whose blocks it is analysed, drawn as dashed lines.

    Returns:
        An ``<svg>`` element without ids, with a title and a description for screen readers.
    """
    names = [stage.name.removesuffix("[0]") for stage in layout.stages if stage.iteration == 0]
    drawing = _Drawing()
    if cut is not None:
        _draw_cut(drawing, layout, cut)
    elif recurrence == "mesh":
        _draw_mesh(drawing, layout, names, slots)
    else:
        _draw_fixed(drawing, layout, names, recurrence)
    title = f"Layout {layout}, recurrence {recurrence}" + (f", cut as {cut}" if cut else "")
    return drawing.svg(title, _description(layout, names, recurrence, slots, cut))


class _Drawing:
    """SVG elements, drawn from the top down; ``y`` is where the next one begins, on the line through the blocks."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.y = 2.0

    def svg(self, title: str, description: str) -> str:
        height = round(self.y + 2)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="layout" role="img" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13" '
            f'fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round">'
            f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(self.pieces)}</svg>"
        )

    def line(self, *points: _Point, accent: bool = False, dashed: bool = False, arrow: bool = False) -> None:
        """Draw a line through points, with rounded right-angle turns and an optional arrow head."""
        style = _accent(accent) + (' stroke-dasharray="4 3"' if dashed else "")
        self.pieces.append(f'<path d="{_rounded(points)}"{style}/>')
        if arrow:
            (x, y), (from_x, from_y) = points[-1], points[-2]
            along_x, along_y = _sign(x - from_x), _sign(y - from_y)
            back_x, back_y = x - 8 * along_x, y - 8 * along_y
            corners = (
                (x, y),
                (back_x + 4 * along_y, back_y + 4 * along_x),
                (back_x - 4 * along_y, back_y - 4 * along_x),
            )
            shape = " ".join(f"{across:g},{down:g}" for across, down in corners)
            self.pieces.append(f'<polygon points="{shape}" {_filled(accent)}/>')

    def dot(self, x: float, y: float, accent: bool = False) -> None:
        """Draw a dot where a line branches off."""
        self.pieces.append(f'<circle cx="{x:g}" cy="{y:g}" r="3" {_filled(accent)}/>')

    def sum(self, x: float, y: float) -> None:
        """Draw a plus in a circle."""
        self.pieces.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="9"{_accent(True)}/>'
            f'<path d="M{x - 5:g} {y:g}h10M{x:g} {y - 5:g}v10"{_accent(True)}/>'
        )

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "middle", size: int = 13, more: str = ""
    ) -> None:
        """Draw words on the base line ``y``; ``more`` are further attributes."""
        self.pieces.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="currentColor" '
            f'stroke="none"{more}>{escape(words)}</text>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, radius: float, accent: bool = False
    ) -> None:
        """Draw a rounded box with a slightly darker (or lighter) background than the page's."""
        fill = "var(--accent, currentColor)" if accent else "currentColor"
        self.pieces.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{fill}" fill-opacity="0.08"{_accent(accent)}/>'
        )

    def end(self, name: str) -> None:
        """Draw the embeddings or the head as a pill at ``y``."""
        self.box(_CENTRE - 52, self.y, 104, 28, 14)
        self.text(_CENTRE, self.y + 18.5, name)
        self.y += 28

    def down(self, distance: float, arrow: bool = False) -> None:
        """Extend the line through the blocks."""
        self.line((_CENTRE, self.y), (_CENTRE, self.y + distance), arrow=arrow)
        self.y += distance

    def block(self, name: str, layers: int) -> None:
        """Draw a segment: its name, its number of layers, and a bar per layer."""
        height = 44 + 2 * min(layers, 24)
        self.box(_LEFT, self.y, _BLOCK, height, 8)
        middle = self.y + height / 2
        self.text(_LEFT + 14, middle - 3, name, anchor="start", more=' font-weight="600"')
        self.text(_LEFT + 14, middle + 14, _count(layers, "layer"), anchor="start", size=12)
        self._bars(self.y, height, layers)
        self.y += height

    def cut_block(self, parts: Sequence[tuple[str, int] | None], height: float) -> None:
        """Draw a block of several parts with dashed lines between them; None stands for omitted parts."""
        self.box(_LEFT, self.y, _BLOCK, height * len(parts), 8)
        for number, part in enumerate(parts):
            top = self.y + number * height
            if number:
                self.line((_LEFT, top), (_RIGHT, top), dashed=True)
            if part is None:
                self.text(_CENTRE, top + height / 2 + 2, "⋮")
                continue
            self.text(_LEFT + 14, top + height / 2 - 3, part[0], anchor="start", more=' font-weight="600"')
            self.text(_LEFT + 14, top + height / 2 + 14, _count(part[1], "layer"), anchor="start", size=12)
            self._bars(top, height, part[1])
        self.y += height * len(parts)

    def _bars(self, top: float, height: float, layers: int) -> None:
        if layers > 48:
            return  # too close to distinguish
        pitch = min((height - 14) / layers, 9)
        first = top + height / 2 - pitch * (layers - 1) / 2
        bars = "".join(f"M{_RIGHT - 34:g} {first + pitch * layer:g}h22" for layer in range(layers))
        self.pieces.append(f'<path d="{bars}" stroke-width="{min(3, pitch * 0.5):g}" stroke-opacity="0.55"/>')

    def times(self, y: float, loops: int) -> None:
        """Draw the number of loops on the return path."""
        half = 8 + 4 * len(str(loops))
        self.pieces.append(
            f'<rect x="{_RETURN - half:g}" y="{y - 11:g}" width="{2 * half}" height="22" rx="11" '
            f'fill="var(--ground, Canvas)"/>'
        )
        self.text(_RETURN, y + 4.5, f"×{loops}", more=' font-weight="600"')


def _draw_fixed(drawing: _Drawing, layout: Layout, names: Sequence[str], recurrence: str) -> None:
    """Draw a model whose state passes from block to block; supplements of a loop run down the left side."""
    labels = _MIXED if recurrence in ("static", "dynamic") else _SUPPLEMENTS
    added = [name for name in labels if labels is _MIXED or name in recurrence.split("+")]
    own_rule = recurrence if recurrence != "base" and not added else None
    drawing.end("embeddings")
    if "anchor*" in added:
        drawing.down(20)
        _tap(drawing, "anchor*", labels["anchor*"])
        embeddings = drawing.y
    last = len(layout.segments) - 1
    for number, (segment, name) in enumerate(zip(layout.segments, names, strict=True)):
        if segment.loops == 1:
            drawing.down(24, arrow=True)
            drawing.block(name, segment.layers)
            continue
        taps = {"anchor*": embeddings} if "anchor*" in added else {}
        drawing.down(20)
        if "anchor" in added:
            taps["anchor"] = drawing.y
            _tap(drawing, "anchor", labels["anchor"])
            drawing.down(16)
        entry = drawing.y
        if "residual" in added:
            drawing.down(20)
            taps["residual"] = drawing.y
            _tap(drawing, "residual", labels["residual"])
        drawing.down(20, arrow=True)
        top = drawing.y
        drawing.block(name, segment.layers)
        middle = (top + drawing.y) / 2
        if added:
            exit_ = _add(drawing, taps, on_return=number == last, mixed=labels is _MIXED)
        else:
            exit_ = _leave(drawing, own_rule, on_return=number == last)
        drawing.line(exit_, (_RETURN, exit_[1]), (_RETURN, entry), (_CENTRE + 1, entry), arrow=True)
        drawing.times(middle, segment.loops)
    drawing.down(24, arrow=True)
    drawing.end("head")


def _tap(drawing: _Drawing, lane: str, label: str) -> None:
    drawing.dot(_CENTRE, drawing.y, accent=True)
    drawing.text(_LANES[lane] + 6, drawing.y - 5, label, anchor="start", size=12, more=_ACCENT_TEXT)


def _add(drawing: _Drawing, taps: dict[str, float], on_return: bool, mixed: bool) -> _Point:
    """Draw the sum after a block, and the lanes that lead to it; return the point where the loop branches off.

    The next block reads the sum. After the last stage nothing is added: there the sum is on the return path.
    """
    out = drawing.y
    if on_return:
        drawing.down(18)
        drawing.dot(_CENTRE, drawing.y)
        at = (_RETURN, drawing.y)
        drawing.line((_CENTRE, drawing.y), (_RETURN - 9, drawing.y))
        drawing.down(28)
        bus, entrance = drawing.y, [(_RETURN, drawing.y), (_RETURN, at[1] + 9)]
        leaves = (_RETURN, at[1] - 9)
    else:
        drawing.down(15)
        drawing.y += 9
        at = (_CENTRE, drawing.y)
        bus, entrance = drawing.y, [(_CENTRE - 9, drawing.y)]
        drawing.y += 9
        drawing.down(14)
        drawing.dot(_CENTRE, drawing.y)
        leaves = (_CENTRE, drawing.y)
    drawing.sum(*at)
    if mixed:
        drawing.text(_CENTRE + 6, out + 13, "a₁", anchor="start", size=12, more=_ACCENT_TEXT)
    outermost = min(taps, key=lambda name: _LANES[name])
    for name, tap in taps.items():
        lane = _LANES[name]
        way = [(_CENTRE, tap), (lane, tap), (lane, bus)]
        if name == outermost:
            drawing.line(*way, *entrance, accent=True, arrow=True)
        else:
            drawing.line(*way, accent=True)
            drawing.dot(lane, bus, accent=True)
    return leaves


def _leave(drawing: _Drawing, own_rule: str | None, on_return: bool) -> _Point:
    """Draw and return the point where the loop branches off; a user's own rule is drawn there with its name."""
    if own_rule is not None:
        shown = own_rule if len(own_rule) <= 16 else f"{own_rule[:15]}…"
        half = max(30, 4 * len(shown))
        drawing.down(14)
        drawing.box(_CENTRE - half, drawing.y, 2 * half, 24, 6, accent=True)
        drawing.text(_CENTRE, drawing.y + 16, shown, size=12, more=_ACCENT_TEXT)
        drawing.y += 24
    drawing.down(16)
    drawing.dot(_CENTRE, drawing.y)
    return (_CENTRE, drawing.y)


def _draw_mesh(drawing: _Drawing, layout: Layout, names: Sequence[str], slots: int | None) -> None:
    """Draw a model whose blocks write their outputs to a memory and read their inputs from it."""
    edge = _HIGHWAY[1]
    drawing.end("embeddings")
    drawing.down(22)
    top = drawing.y - 16
    drawing.dot(_CENTRE, drawing.y, accent=True)
    drawing.line((_CENTRE, drawing.y), (edge, drawing.y), accent=True, arrow=True)
    drawing.text(edge + 12, drawing.y - 5, "slot 0", anchor="start", size=12, more=_ACCENT_TEXT)
    last = len(layout.segments) - 1
    for number, (segment, name) in enumerate(zip(layout.segments, names, strict=True)):
        looped = segment.loops > 1
        if number:
            drawing.y += 26
        elif looped:
            drawing.down(26)
        if number or looped:
            _read(drawing, joins=number == 0)
            bottom = drawing.y + 14
        drawing.down(22, arrow=True)
        start = drawing.y
        drawing.block(name, segment.layers)
        if looped:
            ends = (
                (_RIGHT, drawing.y - 12),
                (_RETURN, drawing.y - 12),
                (_RETURN, start + 12),
                (_RIGHT, start + 12),
            )
            drawing.line(*ends, dashed=True, arrow=True)
            drawing.times((start + drawing.y) / 2, segment.loops)
        if number < last or looped:
            drawing.down(18)
            _write(drawing, leaves=number == last)
            bottom = drawing.y + 14
    drawing.down(24, arrow=True)
    drawing.end("head")
    _draw_highway(drawing, top, bottom, slots)


def _read(drawing: _Drawing, joins: bool) -> None:
    edge = _HIGHWAY[1]
    drawing.line(
        (edge, drawing.y),
        (_CENTRE, drawing.y),
        *([] if joins else [(_CENTRE, drawing.y + 10)]),
        accent=True,
        arrow=joins,
    )
    drawing.text(edge + 12, drawing.y - 5, "read", anchor="start", size=12, more=_ACCENT_TEXT)


def _write(drawing: _Drawing, leaves: bool) -> None:
    edge = _HIGHWAY[1]
    if leaves:
        drawing.dot(_CENTRE, drawing.y, accent=True)
    drawing.line((_CENTRE, drawing.y), (edge, drawing.y), accent=True, arrow=True)
    drawing.text(edge + 12, drawing.y - 5, "write", anchor="start", size=12, more=_ACCENT_TEXT)


def _draw_highway(drawing: _Drawing, top: float, bottom: float, slots: int | None) -> None:
    left, right = _HIGHWAY
    drawing.box(left, top, right - left, bottom - top, 8, accent=True)
    if slots is not None and slots <= 10:
        pitch = (right - left) / slots
        lanes = "".join(f"M{left + pitch * lane:g} {top:g}V{bottom:g}" for lane in range(1, slots))
        drawing.pieces.append(f'<path d="{lanes}"{_accent(True)} stroke-opacity="0.35" stroke-width="1"/>')
    words = "memory" if slots is None else f"memory, {_count(slots, 'slot')}"
    middle = (top + bottom) / 2
    drawing.text(20, middle, words, size=12, more=f' transform="rotate(-90 20 {middle:g})"{_ACCENT_TEXT}')


def _draw_cut(drawing: _Drawing, layout: Layout, cut: Layout) -> None:
    parts: list[tuple[str, int] | None] = [(stage.name, len(stage.layers)) for stage in cut.stages]
    if len(parts) > _MOST_PARTS:
        parts = [*parts[: _MOST_PARTS // 2], None, *parts[-(_MOST_PARTS // 2) :]]
    drawing.end("embeddings")
    drawing.down(24, arrow=True)
    drawing.cut_block(parts, 46)
    drawing.down(24, arrow=True)
    drawing.end("head")


def _description(
    layout: Layout, names: Sequence[str], recurrence: str, slots: int | None, cut: Layout | None
) -> str:
    blocks = [
        f"{name} of {_count(segment.layers, 'layer')}" + (f" run {segment.loops} times" * (segment.loops > 1))
        for name, segment in zip(names, layout.segments, strict=True)
    ]
    path = f"From the embeddings through {', '.join(blocks)}, to the head."
    if cut is not None:
        return f"{path} Dashed lines cut it into {', '.join(stage.name for stage in cut.stages)}."
    if recurrence == "mesh":
        memory = "a memory" if slots is None else f"a memory of {_count(slots, 'slot')}"
        return (
            f"{path} Between blocks and between loops, the output is written to {memory}, which starts with "
            f"the embeddings, and the next input is read from it."
        )
    if recurrence == "base" or not layout.is_looped:
        return f"{path} Each block reads the output of the one before."
    return f"{path} After each loop the rule {recurrence} makes the next state."


_ACCENT_TEXT = ' style="fill: var(--accent, currentColor)"'


def _accent(accent: bool) -> str:
    return ' style="stroke: var(--accent, currentColor)"' if accent else ""


def _filled(accent: bool) -> str:
    colour = "var(--accent, currentColor)" if accent else "currentColor"
    return f'style="fill: {colour}" stroke="none"'


def _rounded(points: Sequence[_Point]) -> str:
    """Return the path through points with rounded corners."""
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        radius = min(6, *(max(abs(x - px), abs(y - py)) / 2 for px, py in (before, after)))
        near = (x - radius * _sign(x - before[0]), y - radius * _sign(y - before[1]))
        far = (x + radius * _sign(after[0] - x), y + radius * _sign(after[1] - y))
        path += f"L{near[0]:g} {near[1]:g}Q{x:g} {y:g} {far[0]:g} {far[1]:g}"
    return f"{path}L{points[-1][0]:g} {points[-1][1]:g}"


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + "s" * (number != 1)
