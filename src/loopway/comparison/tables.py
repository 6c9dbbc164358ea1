"""The comparison's table, for the terminal and as Markdown. Knows nothing of how its numbers are computed."""

from collections.abc import Callable

from rich.table import Table

from loopway.comparison.rows import NOISE_FACTOR, Row
from loopway.report.markdown import markdown_table as table
from loopway.report.numbers import DOWN, NOTHING, UP, measured, plain, rounded

COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ("variant", lambda row: row.variant),
    ("layout", lambda row: row.layout),
    ("recurrence", lambda row: row.recurrence),
    ("parameters", lambda row: f"{row.parameters:,}"),
    ("non-emb.", lambda row: f"{row.non_embedding_parameters:,}"),
    ("% of vanilla", lambda row: plain(row.percent_of_vanilla, 1)),
    ("MFLOP/token", lambda row: plain(row.training_flops / 1e6, 1)),
    (f"val. loss {DOWN}", lambda row: measured(row.validation_loss, row.seed_deviation, 4)),
    (f"perplexity {DOWN}", lambda row: measured(row.perplexity, _deviation_of_perplexity(row), 2)),
    (f"Δ vanilla {DOWN}", lambda row: measured(row.difference, row.difference_error, 4, sign=True)),
    (f"gap closed {UP}", lambda row: NOTHING if row.gap_closed is None else f"{row.gap_closed:.0%}"),
    (
        f"tokens/s {UP}",
        lambda row: NOTHING if row.tokens_per_second is None else f"{rounded(row.tokens_per_second):,.0f}",
    ),
    (f"peak memory {DOWN}", lambda row: f"{row.peak_memory_bytes / 2**20:,.0f} MiB"),
]
_LEFT_ALIGNED = 3


def explain(rows: list[Row]) -> str:
    """Return the notes below the table."""
    has_one_document = any(row.difference is not None and row.document_error is None for row in rows)
    if rows[0].seeds > 1 and has_one_document:
        noise = (
            f"{rows[0].seeds} seeds: losses and perplexities ± standard deviation. Δ vanilla has no interval, and no share of a gap "
            f"is given: the validation set is a single document; raise data.validation_fraction or give data.validation."
        )
    elif rows[0].seeds > 1:
        noise = (
            f"{rows[0].seeds} seeds: losses and perplexities ± standard deviation. Δ vanilla ± its standard error, from paired "
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
        f"MFLOP/token: training, forward and backward. {UP} {DOWN}: the better direction."
    )


def terminal_table(rows: list[Row]) -> Table:
    """One column for each variant; a few of them fit a narrow terminal."""
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


def _deviation_of_perplexity(row: Row) -> float | None:
    return None if row.seed_deviation is None else row.perplexity * row.seed_deviation
