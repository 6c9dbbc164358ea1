"""The page of ``loopway probe``: results of one or several models, in text, figures, tables and diagrams.

Knows results, their figures and tables, and pages; nothing of how results are measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from loopway.layout import Layout
from loopway.probing.page_tables import (
    glance_table,
    loop_tables,
    router_tables,
    similarity_tables,
    spectrum_tables,
    state_tables,
)
from loopway.report.diagram import layout_diagram
from loopway.report.labels import model_labels
from loopway.report.page import Card, Figure, Section, Table, TokenText, write_page
from loopway.report.pictures import Picture
from loopway.traces.findings import ModelProbes, RouterProbes

_LEAD = "Does recursion work? Whether the loops of a model share the work, keep changing the state, and keep it rich."
_TITLE = "What the loops do"

# Trusted HTML: formulas and the link to the paper.
_GLANCE = (
    Markup(
        "A recursive model runs one block of layers several times. When each loop reads only what the last one wrote, "
        "three things tend to go wrong (<a href='https://arxiv.org/abs/2510.07739'>MeSH: Memory-as-State-Highways for "
        "Recursive Transformers</a>): the first loop does nearly all of the work, later loops repeat the same state, "
        "and the state shrinks to few dimensions. Each has a probe below, and a number here."
    ),
    "Higher balance, lower stagnation and a higher effective rank are the healthier signs. They describe states, not "
    "quality. What a loop is worth is how much the loss rises with one fewer, or with the last one’s write withheld; "
    "with MeSH the second counts, since what is read after fewer loops was never meant for the coda.",
)
_MODELS = (
    "Each drawing goes from the embeddings down to the head, with a bar for every layer. Connections that "
    "the recurrence adds are blue.",
)
_CUT = (
    "For comparison, a vanilla model is cut into the blocks of a recursive layout (dashed lines). Its blocks share no "
    "layers, and its “loops” are just the blocks in the loops’ places.",
)
_SKEW = (
    Markup(
        "How much does each block change what it reads? The relative update of a block <i>f</i> with input <i>h</i> is "
        "2·‖<i>f</i>(<i>h</i>) − <i>h</i>‖ / (‖<i>f</i>(<i>h</i>)‖ + ‖<i>h</i>‖) with Frobenius norms: 0 for no "
        "change, 2 at most. In the paper, naive recursion’s first update towers over the later ones; with MeSH they "
        "are more alike."
    ),
    Markup(
        "Balance summarises this in one number: (exp(<i>H</i>(<i>p</i>)) − 1) / (<i>K</i> − 1), where <i>p</i> is the share "
        "of each of the <i>K</i> loops in the sum of their updates, and <i>H</i> its entropy. 1: all loops change the "
        "state equally. 0: one loop makes all of the change. It doesn’t say whether a change is useful: loops that undo "
        "each other are also balanced."
    ),
)
_STAGNATION = (
    "How alike are two states? CKA with an RBF kernel compares which tokens lie near which, whatever the rotation and "
    "the scale: 1 for the same arrangement, near 0 for unrelated ones. In the paper, naive recursion’s states are "
    "nearly the same, with MeSH less so.",
    "Stagnation is the mean CKA between consecutive states of the loop; near 1, the loop sits at a fixed point. A low "
    "value isn’t good in itself: it says that the state moves, not where to. CKA rises for short samples; compare "
    "models on samples of one length.",
)
_COLLAPSE = (
    "How many dimensions does a state use? Its singular values, divided by the largest, fall fast where a few "
    "directions hold nearly everything. In the paper they fall faster after naive recursion; with MeSH they are "
    "flatter.",
    "Effective rank (Roy and Vetterli, 2007) summarises this in one number: exp of the entropy of the singular values divided "
    "by their sum. It is at most the smaller of tokens and hidden size, so it grows with the length of the samples, "
    "and a few huge dimensions, which language models often have, lower it.",
)
_ROUTERS = (
    Markup(
        "After each block, MeSH’s routers write its output to the slots of a memory and read the next input from them, "
        "with weights of their own for every token. What comes of both is the mixing weight "
        "<i>a</i>(<i>t</i>, <i>s</i>): the sum over slots of what boundary <i>t</i> reads of a slot times what source "
        "<i>s</i> has written to it. It says how much of each earlier output is in the next input."
    ),
    "A row with one large weight passes a single state on, as naive recursion does with the last; weights on several "
    "sources are what the memory is for. Weights are means over tokens: an even mean can hide tokens that each choose "
    "differently, which the entropies and the tables by position and frequency tell apart. How much is read of a state "
    "isn’t how much it matters, since states differ in size.",
)
_TOKENS = (
    "What each boundary reads for one token of {label}: its mixing weights a(t, s), boundaries down, sources across. Point "
    "at a token, or choose one with Tab and the arrow keys. The first {count} tokens of the first sample; ⏎ is a line "
    "break, ␣ a token of nothing but a space, and a character in several tokens has its parts numbered."
)
_LOOPS = (
    "What is each loop worth? The validation loss is measured with fewer loops, with what follows the loop reading what "
    "it would read after so many; with more, the last one repeated; and with one loop’s output withheld from the "
    "recurrence. Losses are in nats per token.",
    "A loop that can go without raising the loss does nothing for it. Models aren’t trained for these changes: a loss "
    "that rises also shows that what follows had learned to expect that loop, and one more loop than trained rarely "
    "helps.",
)


def write_probe_page(
    path: Path,
    probes: Sequence[ModelProbes],
    pictures: Mapping[str, Picture],
    command: str,
    versions: Mapping[str, str],
) -> None:
    """Write the page; equal results give equal bytes.

    Args:
        path: the file; its folder must exist.
        probes: results of one or more models, in display order.
        pictures: their figures by file stem, from :func:`loopway.probing.figures.draw_figures`.
        command: the command that made the page.
        versions: versions of the software, by name.
    """
    labels = model_labels([found.name for found in probes])
    write_page(
        path,
        title=_TITLE,
        lead=f"{_LEAD} {_models(labels)}.",
        command=command,
        sections=_sections(probes, labels, pictures),
        versions=versions,
        warnings=_differences(probes),
    )


def _sections(
    probes: Sequence[ModelProbes], labels: Sequence[str], pictures: Mapping[str, Picture]
) -> list[Section]:
    def figures(stem: str, folded: bool = False) -> list[Figure]:
        """Return the figures whose file stem begins with ``stem``."""
        found = [picture for name, picture in pictures.items() if name.startswith(stem)]
        return [Figure(picture.page_svg, picture.caption, folded=folded) for picture in found]

    skew = state_tables(
        "Relative update of each block",
        probes,
        labels,
        lambda states: states.stages,
        lambda states: states.relative_update,
    )
    ranks = state_tables(
        "Effective rank of each state",
        probes,
        labels,
        lambda states: states.states,
        lambda states: states.effective_rank,
    )
    cards = [_card(found, label) for found, label in zip(probes, labels, strict=True)]
    sections = [
        Section("At a glance", _GLANCE, (), figures("glance"), [glance_table(probes, labels)]),
        Section("Models", _MODELS + (_CUT if any(found.cut for found in probes) else ()), cards),
        Section("Skew", _SKEW, (), figures("relative-updates"), skew),
        Section("Stagnation", _STAGNATION, (), figures("similarity"), similarity_tables(probes, labels)),
        Section("Collapse", _COLLAPSE, (), figures("spectra"), [*ranks, *spectrum_tables(probes, labels)]),
    ]
    tables: list[Table] = []
    unused, texts = [], []
    for found, label in zip(probes, labels, strict=True):
        if found.routers is not None:
            tables += router_tables(found, found.routers, label)
            unused.append(_unused(found.routers.unused_slots, label))
            texts.append(_token_text(found.tokens, found.routers, label))
    if tables:
        several = len(unused) > 1
        shown = [*figures("routers-"), *figures("positions-", several), *figures("frequencies-", several)]
        sections.append(Section("Routers", (*_ROUTERS, *unused), (), shown, tables, texts))
    if any(found.loops for found in probes):
        sections.append(Section("Loops", _LOOPS, (), figures("loops"), loop_tables(probes, labels)))
    return sections


def _card(found: ModelProbes, label: str) -> Card:
    slots = None if found.routers is None else found.routers.write.mean.shape[1]
    drawing = layout_diagram(
        Layout.parse(found.layout),
        found.recurrence,
        slots=slots,
        cut=None if found.cut is None else Layout.parse(found.cut),
    )
    facts = [
        ("name", found.name),
        ("family", found.family),
        ("layout", found.layout + (f", cut as {found.cut}" if found.cut else "")),
        ("recurrence", found.recurrence),
        ("parameters", f"{found.parameters:,}"),
        ("samples", f"{found.samples:,} × {found.sequence_length:,} tokens"),
        ("key", found.key[:12]),
    ]
    return Card(label, facts, drawing)


def _token_text(tokens: Sequence[str], routers: RouterProbes, label: str) -> TokenText:
    caption = _TOKENS.format(label=label, count=len(tokens))
    return TokenText(caption, tokens, routers.sources, routers.boundaries, routers.mixing_by_token)


def _unused(slots: Sequence[int], label: str) -> str:
    if not slots:
        return f"{label} uses all of its slots."
    return (
        f"Slots that {label} doesn’t use, through which less than 1% of what is read comes at every boundary: "
        f"{', '.join(map(str, slots))}."
    )


def _models(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return labels[0]
    return f"{', '.join(labels[:-1])} and {labels[-1]}, side by side"


def _differences(probes: Sequence[ModelProbes]) -> list[str]:
    """Return reasons why numbers of these models can't be compared."""
    warnings = []
    if len({found.text for found in probes}) > 1:
        warnings.append(
            "The models didn’t read the same tokens, because their texts or tokenizers differ. Differences between "
            "their numbers also come from the text."
        )
    if len({(found.samples, found.sequence_length) for found in probes}) > 1:
        warnings.append(
            "The models read samples of different number or length (see their cards). Effective rank and CKA depend "
            "on the length."
        )
    return warnings
