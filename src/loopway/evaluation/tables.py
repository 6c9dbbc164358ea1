"""An evaluation as tables, like the paper's Table 1: models side by side, differences to the first, standard errors.

Knows results; nothing of how they came about.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from loopway.evaluation.results import Evaluation
from loopway.evaluation.suite import HELD_OUT, Measure
from loopway.report.labels import model_labels
from loopway.report.markdown import markdown_table

_NOTE = (
    "Perplexities per token (held-out, LAMBADA) or word (WikiText): lower is better. Accuracies in percent, ± standard "
    "error, acc_norm where the paper takes it. In brackets: difference to the first model, where both had the same text."
)

_MODELS_ABREAST = 3


@dataclass(frozen=True)
class Mean:
    """The unweighted mean of the tasks that count, in percent.

    Attributes:
        error: its standard error, from the tasks' own; None if one has none.
        taken: of how many tasks.
        wanted: how many there are.
    """

    value: float
    error: float | None
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
    errors = [result.error for result in results if result.error is not None]
    error = 100 * math.hypot(*errors) / len(results) if len(errors) == len(results) else None
    return Mean(100 * value, error, len(results), len(wanted))


def headline(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Table 1's columns: a row a model, a column a perplexity or a mean accuracy."""
    perplexities = _in_order(evaluations, lambda measure: measure.is_perplexity)
    shots = _shots_with_mean(evaluations)
    heads = ["model", *(f"{_short(measure)} ppl" for measure in perplexities), *map(_mean_title, shots)]
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
    """For a terminal, with a column a model, at most three in a table: the headline, and below it the tasks.

    Where it is narrow, differences go to a second line.
    """
    heads, rows = headline(evaluations)
    tasks = _in_order(evaluations, lambda measure: not measure.is_perplexity)
    titles = [*heads[1:], *(f"{measure.title} {_metric(measure, evaluations)}" for measure in tasks)]
    columns = [
        [*row[1:], *(_cell(measure, evaluation, evaluations[0]) for measure in tasks)]
        for row, evaluation in zip(rows, evaluations, strict=True)
    ]
    names, tables = model_labels([evaluation.model for evaluation in evaluations]), []
    for start in range(0, len(evaluations), _MODELS_ABREAST):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column(overflow="fold")
        shown = columns[start : start + _MODELS_ABREAST]
        for name, column in zip(names[start:], shown, strict=False):
            width = max(len(cell.partition(" (")[0]) for cell in column)
            table.add_column(name, justify="right", min_width=width, overflow="fold")
        for number, line in enumerate(zip(titles, *shown, strict=True), 1):
            table.add_row(*line, end_section=number == len(heads) - 1)
        tables.append(table)
    return tables


def markdown_tables(evaluations: Sequence[Evaluation]) -> str:
    """Both tables in Markdown, with what their numbers mean and what is missing."""
    tables = (headline(evaluations), details(evaluations))
    parts = [*(markdown_table(heads, rows) for heads, rows in tables if len(heads) > 1), _NOTE]
    missing = [f"Left out of {e.model}: {why}." for e in evaluations for why in e.missing.values()]
    parts += dict.fromkeys(missing)
    return "\n\n".join(parts) + "\n"


def _in_order(evaluations: Sequence[Evaluation], wanted) -> list[Measure]:
    """Every measure that was asked for, each once, in the order asked."""
    asked = [measure for evaluation in evaluations for measure in evaluation.measures]
    return [measure for measure in dict.fromkeys(asked) if wanted(measure)]


def _shots_with_mean(evaluations: Sequence[Evaluation]) -> list[int | None]:
    """Numbers of shots with more than one task to average."""
    counts = Counter(measure.shots for measure in _in_order(evaluations, lambda measure: measure.in_mean))
    return sorted((shots for shots, tasks in counts.items() if tasks > 1), key=lambda shots: shots or 0)


def _mean_title(shots: int | None) -> str:
    return "mean acc" if shots is None else f"mean acc, {shots}-shot"


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
    if result.error is not None:
        cell += f" ± {_number(scale * result.error)}"
    other = first.results.get(measure)
    if evaluation is not first and other and other.version == result.version:  # else of another text
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
    cell = f"{mean.value:.2f}" + ("" if mean.error is None else f" ± {mean.error:.2f}")
    if evaluation is not first and other is not None and other.is_complete:
        cell += f" ({mean.value - other.value:+.2f})"
    return cell
