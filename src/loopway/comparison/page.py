"""The page of ``loopway compare``: table, curves, samples and how the variants' configs differ.

Knows rows, curves and configs, and what a page is; nothing of how a run is done.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from loopway.comparison.figures import TEXT_SIZE, Curve
from loopway.comparison.rows import Row
from loopway.comparison.tables import COLUMNS, explain
from loopway.report.numbers import DOWN, NOTHING, measured
from loopway.report.page import Figure, Quote, Section, Table, write_page
from loopway.report.pictures import Picture
from loopway.training.config.differences import config_differences

_PROBES = Markup(
    '<a href="probes/probes.html">The page of probes</a> shows what the loops of these models do, and what their '
    "routers read."
)


def write_comparison_page(
    path: Path,
    rows: Sequence[Row],
    curves: Sequence[Curve],
    picture: Picture,
    *,
    configs: Mapping[str, Mapping[str, Any]],
    samples: Mapping[str, str],
    samples_note: str,
    command: str,
    versions: Mapping[str, str],
    has_probes: bool,
) -> None:
    """Write the page; the same arguments give the same bytes.

    Args:
        path: of the file; its folder is there.
        rows: of the comparison's table.
        curves: of the variants, and their ``picture``.
        configs: each variant's run config as plain values.
        samples: each variant's text.
        samples_note: how they were made.
        command: what was typed.
        versions: of the software, by name.
        has_probes: whether the folder gets a page of probes.
    """
    rows = list(rows)
    names = ", ".join(row.variant for row in rows)
    sections = [
        Section(
            "Result",
            [explain(rows), *([_PROBES] if has_probes else [])],
            tables=[_result(rows)],
        ),
        Section(
            "Curves",
            figures=[Figure(picture.page_svg, picture.caption, TEXT_SIZE)],
            tables=[_losses(curves)],
        ),
        Section("Configs", [_configs_note(configs)], tables=_differences(configs)),
        Section("Samples", [samples_note], quotes=[Quote(name, text) for name, text in samples.items()]),
    ]
    write_page(
        path,
        title="Comparison at equal data, order and recipe",
        lead=f"{names}: {'one seed' if rows[0].seeds == 1 else f'{rows[0].seeds} seeds'} each.",
        command=command,
        sections=sections,
        versions=versions,
    )


def _result(rows: Sequence[Row]) -> Table:
    """The table with a column for each variant, as in the terminal."""
    (head, name), *others = COLUMNS
    cells = [[title, *map(cell, rows)] for title, cell in others]
    return Table("One column a variant.", [head, *map(name, rows)], cells)


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    rows = [
        [key, *(NOTHING if value is None else str(value) for value in values)]
        for key, values in config_differences([*configs.values()]).items()
    ]
    return [Table("Keys that differ.", ["key", *configs], rows)] if rows else []


def _configs_note(configs: Mapping[str, Mapping[str, Any]]) -> str:
    if not config_differences([*configs.values()]):
        return "The variants have one config."
    return f"Everything else is equal. A variant without a value ({NOTHING}) takes the default."


def _losses(curves: Sequence[Curve]) -> Table:
    """Every value of the left panel, for looking up."""
    at = sorted({int(tokens) for curve in curves for tokens in curve.tokens})
    columns = []
    for curve in curves:
        deviation = curve.deviation
        errors = [None] * len(curve.tokens) if deviation is None else deviation.tolist()
        values = zip(curve.tokens.tolist(), curve.mean.tolist(), errors, strict=True)
        columns.append({tokens: measured(mean, error, 4) for tokens, mean, error in values})
    rows = [[f"{tokens:,}", *(column.get(tokens, NOTHING) for column in columns)] for tokens in at]
    several = len(curves[0].losses) > 1
    caption = f"Validation loss {DOWN} by training tokens" + (
        ", ± standard deviation over seeds." if several else "."
    )
    return Table(caption, ["tokens", *(curve.variant for curve in curves)], rows, folded=True)
