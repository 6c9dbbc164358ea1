"""The comparison's table, for the terminal and as Markdown. Knows nothing of how its numbers came about."""

from collections.abc import Callable

from rich.table import Table

from loopway.comparison.rows import NOISE_FACTOR, Row
from loopway.report.markdown import markdown_table as table

_BLANK = "–"

COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ("variant", lambda row: row.variant),
    ("layout", lambda row: row.layout),
    ("recurrence", lambda row: row.recurrence),
    ("parameters", lambda row: f"{row.parameters:,}"),
    ("non-emb.", lambda row: f"{row.non_embedding_parameters:,}"),
    ("% of vanilla", lambda row: _or_blank(row.percent_of_vanilla, "{:.1f}")),
    ("MFLOP/token", lambda row: f"{row.training_flops / 1e6:,.1f}"),
    ("val. loss", lambda row: f"{row.validation_loss:.4f}" + _or_blank(row.seed_deviation, " ± {:.4f}", "")),
    ("perplexity", lambda row: f"{row.perplexity:.2f}"),
    (
        "Δ vanilla",
        lambda row: _or_blank(row.difference, "{:+.4f}") + _or_blank(row.difference_error, " ± {:.4f}", ""),
    ),
    ("gap closed", lambda row: _or_blank(row.gap_closed, "{:.0%}")),
    ("tokens/s", lambda row: _or_blank(row.tokens_per_second, "{:,.0f}")),
    ("peak memory", lambda row: f"{row.peak_memory_bytes / 2**20:,.0f} MiB"),
]
_LEFT_ALIGNED = 3


def explain(rows: list[Row]) -> str:
    """Return the notes below the table."""
    has_one_document = any(row.difference is not None and row.document_error is None for row in rows)
    if rows[0].seeds > 1 and has_one_document:
        noise = (
            f"{rows[0].seeds} seeds: losses ± their standard deviation. Δ vanilla has no interval, and no share of a gap "
            f"is given: the validation set is a single document; raise data.validation_fraction or give data.validation."
        )
    elif rows[0].seeds > 1:
        noise = (
            f"{rows[0].seeds} seeds: losses ± their standard deviation. Δ vanilla ± its standard error, from paired "
            f"documents and seeds. Gap closed: share of the base–vanilla gap; blank where that gap is under "
            f"{NOISE_FACTOR:g} standard errors."
        )
    else:
        noise = (
            "One seed: how much a difference varies from run to run is unknown, so none has an interval and no share "
            "of a gap is given; seeds=[0,1,2] trains more."
        )
    return (
        f"Loss in nats per token on held-out documents. {noise} % of vanilla: non-embedding parameters. "
        f"MFLOP/token: training, forward and backward."
    )


def terminal_table(rows: list[Row]) -> Table:
    """One column a variant, so that a few of them fit a narrow terminal."""
    table = Table(title="Comparison at equal data, order and recipe", title_justify="left")
    (label, name), *others = COLUMNS
    table.add_column(label)
    for row in rows:
        table.add_column(name(row), justify="right")
    for header, cell in others:
        table.add_row(header, *map(cell, rows))
    return table


def markdown_table(rows: list[Row]) -> str:
    """The table in GitHub's Markdown, with its explanation below."""
    cells = ([cell(row) for _, cell in COLUMNS] for row in rows)
    return f"{table([header for header, _ in COLUMNS], cells, left=_LEFT_ALIGNED)}\n\n{explain(rows)}\n"


def _or_blank(value: float | None, form: str, blank: str = _BLANK) -> str:
    return blank if value is None else form.format(value)
