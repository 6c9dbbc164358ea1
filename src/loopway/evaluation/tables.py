"""An evaluation as tables, like the paper's Table 1: models side by side, differences to the first, standard errors.

Knows results; nothing of how they are measured.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich import box
from rich.table import Table

from loopway.evaluation.results import Evaluation
from loopway.evaluation.suite import HELD_OUT, Measure
from loopway.evaluation.variants import SEEDS_NOTE, seeds_table
from loopway.report.labels import model_labels
from loopway.report.markdown import markdown_table
from loopway.report.numbers import DOWN, NOTHING, UP, measured, plain

_NOTE = (
    "Loss in nats per token. Perplexities per token (held-out, LAMBADA) or word (WikiText). Accuracies in percent, ± "
    "standard error, acc_norm where the paper takes it. In brackets: difference to the first model, where both had the "
    f"same text. {UP} {DOWN}: the better direction."
)
# By a part of the metric's name; of others the direction isn't known here.
_BETTER = {"perplexity": DOWN, "loss": DOWN, "bits_per_byte": DOWN, "acc": UP, "exact_match": UP, "f1": UP}

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
    """Return the mean over the headline's measures of so many shots; None without any."""
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
    columns = [(head, cell) for measure in perplexities for head, cell in _perplexity_columns(measure)]
    columns += [(_mean_title(count), partial(_mean_cell, shots=count)) for count in shots]
    rows = [[each.model, *(cell(each, evaluations[0]) for _, cell in columns)] for each in evaluations]
    return ["model", *(head for head, _ in columns)], rows


def details(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """A row a task, a column a model."""
    heads = ["task", "metric", *(evaluation.model for evaluation in evaluations)]
    rows = []
    for measure in _in_order(evaluations, lambda measure: True):
        kinds = [(_head(measure, evaluations), _cell)]
        if measure.task == HELD_OUT:
            kinds.insert(0, (f"loss {DOWN}", _loss_cell))
        for head, cell in kinds:
            cells = (cell(measure, evaluation, evaluations[0]) for evaluation in evaluations)
            rows.append([measure.title, head, *cells])
    return heads, rows


def terminal_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Return tables for a terminal, with a column for each of at most three models: the headline, then the tasks.

    In a narrow terminal, differences go to a second line.
    """
    heads, rows = headline(evaluations)
    tasks = _in_order(evaluations, lambda measure: not measure.is_perplexity)
    titles = [*heads[1:], *(f"{measure.title} {_head(measure, evaluations)}" for measure in tasks)]
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
    heads, rows = seeds_table(evaluations)
    if rows:
        table = Table(*heads, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown_tables(evaluations: Sequence[Evaluation]) -> str:
    """Return both tables in Markdown, with notes on their numbers and on missing measures."""
    tables = (headline(evaluations), details(evaluations))
    parts = [*(markdown_table(heads, rows) for heads, rows in tables if len(heads) > 1), _NOTE]
    heads, rows = seeds_table(evaluations)
    if rows:
        parts += [markdown_table(heads, rows), SEEDS_NOTE]
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
    return f"mean acc {UP}" if shots is None else f"mean acc, {shots}-shot {UP}"


def _perplexity_columns(measure: Measure) -> list[tuple[str, Callable[[Evaluation, Evaluation], str]]]:
    """Heads and cells of a perplexity; held-out text has its loss before it."""
    columns = [(f"{_short(measure)} ppl {DOWN}", partial(_cell, measure))]
    if measure.task == HELD_OUT:
        columns.insert(0, (f"{_short(measure)} loss {DOWN}", partial(_loss_cell, measure)))
    return columns


def _short(measure: Measure) -> str:
    return {HELD_OUT: "held-out", "lambada_openai": "LAMBADA-O", "lambada_standard": "LAMBADA-S"}.get(
        measure.task, measure.task
    )


def _metric(measure: Measure, evaluations: Sequence[Evaluation]) -> str:
    found = (e.results[measure].metric for e in evaluations if measure in e.results)
    return next(found, measure.metric or "")


def _head(measure: Measure, evaluations: Sequence[Evaluation]) -> str:
    """The metric with its better direction, where that is known."""
    metric = _metric(measure, evaluations)
    return next((f"{metric} {mark}" for word, mark in _BETTER.items() if word in metric), metric)


def _cell(measure: Measure, evaluation: Evaluation, first: Evaluation) -> str:
    result = evaluation.results.get(measure)
    if result is None:
        return NOTHING
    scale, places = (100, 1) if result.metric.startswith("acc") else (1, 2)
    error = None if result.error is None else scale * result.error
    other = first.results.get(measure)
    if evaluation is first or other is None or other.version != result.version:  # the last is of another text
        return measured(scale * result.value, error, places)
    return _beside_first(scale * result.value, error, scale * other.value, places)


def _loss_cell(measure: Measure, evaluation: Evaluation, first: Evaluation) -> str:
    """Loss of held-out text, whose perplexity is the measure's result."""
    result, other = evaluation.results.get(measure), first.results.get(measure)
    if result is None or "loss" not in result.metrics:
        return NOTHING
    loss = result.metrics["loss"]
    error = None if result.error is None else result.error / result.value
    if evaluation is first or other is None or other.version != result.version:
        return measured(loss, error, 4)
    return _beside_first(loss, error, other.metrics["loss"], 4)


def _beside_first(value: float, error: float | None, first: float, places: int) -> str:
    """The number, and in brackets its difference to the first model's, whose error is less than the number's own."""
    difference = plain(round(value - first, places), places, sign=True)
    return f"{measured(value, error, places)} ({difference})"


def _mean_cell(evaluation: Evaluation, first: Evaluation, shots: int | None) -> str:
    mean, other = mean_accuracy(evaluation, shots), mean_accuracy(first, shots)
    if mean is None:
        return NOTHING
    if not mean.is_complete:
        return f"incomplete: {plain(mean.value, 1)} over {mean.taken} of {mean.wanted}"
    if evaluation is first or other is None or not other.is_complete:
        return measured(mean.value, mean.error, 1)
    return _beside_first(mean.value, mean.error, other.value, 1)
