"""An evaluation from options to report: every measure on every model, told side by side.

    answers/  results.json  table.md  dynamics.png (with every checkpoint)

What is known is not computed again; an evaluation that was stopped goes on. Knows nothing of how a measure is taken.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from loopway.errors import ConfigError
from loopway.evaluation.answers import Answers
from loopway.evaluation.harness import HarnessModel, MissingDataError, Tasks
from loopway.evaluation.models import EvaluatedModel, open_evaluated
from loopway.evaluation.perplexity import held_out_perplexity, held_out_samples
from loopway.evaluation.results import Evaluation, TaskResult
from loopway.evaluation.suite import HELD_OUT, Measure
from loopway.evaluation.tables import markdown_tables, terminal_tables
from loopway.files import write_atomically
from loopway.training.callbacks import say


@dataclass(frozen=True)
class Settings:
    """What an evaluation depends on beside models and measures.

    Attributes:
        held_out: token files for the first perplexity; none: each run's own validation set.
        sequence_length: of their samples; None: each model's own.
        limit: only so many questions a task; None is all.
        batch_size: sequences at a time, or `auto`: the largest that fits; None: `auto` on a GPU, else 8.
        dtype: instead of the precision of the weights.
        include_path: a folder with task files of one's own.
        plugins: Python files that register what a model is made of.
    """

    held_out: Sequence[str] = ()
    sequence_length: int | None = None
    limit: int | None = None
    batch_size: int | str | None = None
    dtype: str | None = None
    include_path: Path | None = None
    plugins: Sequence[Path] = ()


def evaluate(
    models: Sequence[str],
    measures: Sequence[Measure],
    folder: Path | str,
    settings: Settings | None = None,
    *,
    console: Console | None = None,
) -> list[Evaluation]:
    """Take every measure of every model, write tables and results, and show them.

    Args:
        models: run folders, checkpoints, model folders or names on the Hub; differences are to the first.
        measures: see :mod:`loopway.evaluation.suite`.
        folder: where everything goes.

    Raises:
        LoopwayError: a model that can't be opened, an unknown task, no measure that could be taken.
    """
    settings, folder, console = settings or Settings(), Path(folder), console or Console()
    tasks = Tasks(settings.include_path)
    tasks.check_names([measure.task for measure in measures if measure.task != HELD_OUT])
    log = Console(stderr=True)
    evaluations = []
    for name in models:
        evaluated = open_evaluated(name, settings.plugins, settings.dtype)
        evaluations.append(_evaluate_one(evaluated, measures, tasks, folder, settings, log))
        _write(folder, evaluations, settings)
    if not any(evaluation.results for evaluation in evaluations):
        reasons = [reason for evaluation in evaluations for reason in evaluation.missing.values()]
        raise ConfigError(f"nothing could be measured: {reasons[0]}")
    for table in terminal_tables(evaluations):
        console.print(table)
    say(console, f"Everything is in {folder}: table.md, results.json")
    return evaluations


def _evaluate_one(
    evaluated: EvaluatedModel,
    measures: Sequence[Measure],
    tasks: Tasks,
    folder: Path,
    settings: Settings,
    log: Console,
) -> Evaluation:
    evaluation = Evaluation(evaluated.name, evaluated.key, measures)
    answers = Answers(folder / "answers" / f"{evaluated.key[:32]}.jsonl")
    batch_size = settings.batch_size or ("auto" if torch.cuda.is_available() else 8)
    model = HarnessModel(evaluated.model, evaluated.tokenizer, batch_size=batch_size, answers=answers)
    try:
        for measure in measures:
            say(log, f"{evaluated.name}: {measure.title}")
            try:
                evaluation.results[measure] = _take(measure, evaluated, model, tasks, answers, settings)
            except MissingDataError as error:
                evaluation.missing[measure] = str(error)
                say(log, f"left out: {error}")
    finally:
        answers.close()
    return evaluation


def _take(
    measure: Measure,
    evaluated: EvaluatedModel,
    model: HarnessModel,
    tasks: Tasks,
    answers: Answers,
    settings: Settings,
) -> TaskResult:
    if measure.task != HELD_OUT:
        return tasks.run(measure, model, settings.limit)
    samples = held_out_samples(evaluated, list(settings.held_out), settings.sequence_length)
    if samples is None:
        raise MissingDataError(
            "held-out perplexity: there is no validation set; give token files with --held-out"
        )
    if settings.limit is not None:
        samples.num_samples = min(samples.num_samples, settings.limit)
    batch_size = settings.batch_size if isinstance(settings.batch_size, int) else 8
    return held_out_perplexity(evaluated.model, samples, answers, batch_size)


def _write(folder: Path, evaluations: list[Evaluation], settings: Settings) -> None:
    write_atomically(folder / "table.md", markdown_tables(evaluations))
    content: dict[str, Any] = {
        "versions": _versions(),
        "settings": json.loads(json.dumps(asdict(settings), default=str)),
        "models": [
            {
                "model": evaluation.model,
                "key": evaluation.key,
                "results": [
                    asdict(measure) | asdict(result) for measure, result in evaluation.results.items()
                ],
                "missing": [
                    {"task": measure.task, "shots": measure.shots, "why": why}
                    for measure, why in evaluation.missing.items()
                ],
            }
            for evaluation in evaluations
        ],
    }
    write_atomically(folder / "results.json", json.dumps(content, indent=2) + "\n")


def _versions() -> dict[str, str]:
    packages = ("loopway", "lm_eval", "torch", "transformers", "tokenizers", "datasets")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}
