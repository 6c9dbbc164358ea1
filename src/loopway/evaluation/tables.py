"""An evaluation as tables, like the paper's Table 1: models side by side, differences to the first, standard errors.

Knows results; nothing of how they came about.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from loopway.evaluation.results import Evaluation
from loopway.evaluation.suite import HELD_OUT, Measure

_NOTE = (
    "Perplexities per token (held-out, LAMBADA) or word (WikiText): lower is better. Accuracies in percent, ± standard "
    "error, acc_norm where the paper takes it. In brackets: difference to the first model."
)


@dataclass(frozen=True)
class Mean:
    """The unweighted mean of the tasks that count, in percent.

    Attributes:
        error: its standard error, from the tasks' own.
        taken: of how many tasks.
        wanted: how many there are.
    """

    value: float
    error: float
    taken: int
    wanted: int

    @property
    def is_complete(self) -> bool:
        return self.taken == self.wanted


def mean_accuracy(evaluation: Evaluation, shots: int | None) -> Mean | None:
    """Over the measures of so many shots that are in the headline; None if there are none."""
    wanted = [measure for measure in evaluation.measures if measure.in_mean and measure.shots == shots]
    results = [evaluation.results[measure] for measure in wanted if measure in evaluation.results]
    if not results:
        return None
    value = sum(result.value for result in results) / len(results)
    error = math.sqrt(sum((result.error or 0.0) ** 2 for result in results)) / len(results)
    return Mean(100 * value, 100 * error, len(results), len(wanted))


def headline(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Table 1's columns: a row a model, a column a perplexity or a mean accuracy."""
    perplexities = _in_order(evaluations, lambda measure: measure.is_perplexity)
    shots = sorted({m.shots for m in _in_order(evaluations, lambda m: m.in_mean)}, key=lambda s: s or 0)
    heads = ["model", *(f"{_short(measure)} ppl" for measure in perplexities)]
    heads += [f"mean acc{'' if count is None else f', {count}-shot'}" for count in shots]
    rows = []
    for evaluation in evaluations:
        cells = [_cell(measure, evaluation, evaluations[0]) for measure in perplexities]
        cells += [_mean_cell(evaluation, evaluations[0], count) for count in shots]
        rows.append([evaluation.model, *cells])
    return heads, rows


def details(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """A row a task, a column a model."""
    measures = _in_order(evaluations, lambda measure: True)
    heads = ["task", "metric", *(evaluation.model for evaluation in evaluations)]
    rows = [
        [
            measure.title,
            _metric(measure, evaluations),
            *(_cell(measure, evaluation, evaluations[0]) for evaluation in evaluations),
        ]
        for measure in measures
    ]
    return heads, rows


def terminal_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Both tables for a terminal."""
    tables = []
    for heads, rows in (headline(evaluations), details(evaluations)):
        if len(heads) == 1:
            continue
        table = Table()
        for number, head in enumerate(heads):
            table.add_column(head, justify="left" if number == 0 or head == "metric" else "right")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown_tables(evaluations: Sequence[Evaluation]) -> str:
    """Both tables in Markdown, with what their numbers mean and what is missing."""
    parts = []
    for heads, rows in (headline(evaluations), details(evaluations)):
        if len(heads) > 1:
            lines = [heads, [":--", *("--:" for _ in heads[1:])], *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append(_NOTE)
    missing = [f"Left out of {e.model}: {why}." for e in evaluations for why in e.missing.values()]
    parts += dict.fromkeys(missing)
    return "\n\n".join(parts) + "\n"


def _in_order(evaluations: Sequence[Evaluation], wanted) -> list[Measure]:
    """Every measure that was asked for, each once, in the order asked."""
    asked = [measure for evaluation in evaluations for measure in evaluation.measures]
    return [measure for measure in dict.fromkeys(asked) if wanted(measure)]


def _short(measure: Measure) -> str:
    return {HELD_OUT: "held-out", "lambada_openai": "LAMBADA-O", "lambada_standard": "LAMBADA-S"}.get(
        measure.task, measure.task
    )


def _metric(measure: Measure, evaluations: Sequence[Evaluation]) -> str:
    found = (e.results[measure].metric for e in evaluations if measure in e.results)
    return next(found, measure.metric or "")


def _cell(measure: Measure, evaluation: Evaluation, first: Evaluation) -> str:
    result = evaluation.results.get(measure)
    if result is None:
        return "–"
    scale = 100 if result.metric.startswith("acc") else 1
    cell = _number(scale * result.value)
    if result.error is not None and math.isfinite(result.error):
        cell += f" ± {_number(scale * result.error)}"
    if evaluation is not first and (other := first.results.get(measure)):
        cell += f" ({_number(scale * (result.value - other.value), '+')})"
    return cell


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if abs(value) < 1e5 else f"{value:{sign}.2e}"


def _mean_cell(evaluation: Evaluation, first: Evaluation, shots: int | None) -> str:
    mean, other = mean_accuracy(evaluation, shots), mean_accuracy(first, shots)
    if mean is None:
        return "–"
    if not mean.is_complete:
        return f"incomplete: {mean.value:.2f} over {mean.taken} of {mean.wanted}"
    cell = f"{mean.value:.2f} ± {mean.error:.2f}"
    if evaluation is not first and other is not None and other.is_complete:
        cell += f" ({mean.value - other.value:+.2f})"
    return cell
