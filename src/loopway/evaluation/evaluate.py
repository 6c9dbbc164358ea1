"""An evaluation from options to report: every measure on every model, side by side.

    answers/  results.json  table.md  dynamics.png (with every checkpoint)

Known answers are not computed again, and a stopped evaluation resumes. Knows nothing of how a measure is taken.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from loopway.console import say, screen
from loopway.data.tokens_note import NoTokensError
from loopway.errors import ConfigError
from loopway.evaluation.answers import Answers
from loopway.evaluation.harness import HarnessModel, LeftOutError, Tasks
from loopway.evaluation.perplexity import held_out_perplexity
from loopway.evaluation.results import Evaluation, TaskResult
from loopway.evaluation.suite import HELD_OUT, Measure
from loopway.evaluation.tables import markdown_tables, terminal_tables
from loopway.evaluation.variants import recipe_of
from loopway.files import locked, write_atomically, write_json
from loopway.inference.held_out import held_out_samples
from loopway.inference.identity import versions
from loopway.inference.trained_model import TrainedModel, look_at_models, open_trained
from loopway.options import EvaluationOptions

_HELD_OUT_TOKENS = 8192


def evaluate(
    models: Sequence[str],
    measures: Sequence[Measure],
    folder: Path | str,
    settings: EvaluationOptions | None = None,
    *,
    console: Console | None = None,
) -> list[Evaluation]:
    """Take every measure of every model; write and print tables and results.

    Args:
        models: run folders, checkpoints, model folders or names on the Hub; differences are to the first.
        measures: see :mod:`loopway.evaluation.suite`.
        folder: where everything goes.

    A model that is named twice (`runs/vanilla runs/*`) counts once.

    Raises:
        LoopwayError: a model that can't be opened, an unknown task, no measure that could be taken, another process that
            evaluates into the folder.
    """
    settings, folder, console = settings or EvaluationOptions(), Path(folder), console or screen()
    tasks = Tasks([m.task for m in measures if m.task != HELD_OUT], settings.include_path)
    measures = tasks.expand(measures)
    log = screen(stderr=True)
    evaluations, unique = [], {}
    for name in models:
        unique.setdefault(os.path.normpath(name), name)
    look_at_models(unique.values(), settings.plugin)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"another process evaluates into {folder}"):
        for name in unique.values():
            evaluated = open_trained(name, settings.plugin, settings.dtype, settings.loops)
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
    evaluated: TrainedModel,
    measures: Sequence[Measure],
    tasks: Tasks,
    folder: Path,
    settings: EvaluationOptions,
    log: Console,
) -> Evaluation:
    run = evaluated.final_of
    recipe = None if run is None else recipe_of(run)
    evaluation = Evaluation(evaluated.name, evaluated.key, measures, recipe=recipe)
    answers = Answers(folder / "answers" / f"{evaluated.key[:32]}.jsonl")
    batch_size: int | str = settings.batch_size if settings.batch_size == "auto" else int(settings.batch_size)
    if batch_size == "auto" and evaluated.model.device.type == "cpu":
        batch_size = 8  # a CPU doesn't report full memory
    model = HarnessModel(evaluated.model, evaluated.tokenizer, batch_size=batch_size, answers=answers)
    try:
        for measure in measures:
            say(log, f"{evaluated.name}: {measure.title}")
            try:
                evaluation.results[measure] = _take(measure, evaluated, model, tasks, answers, settings)
            except LeftOutError as error:
                evaluation.missing[measure] = str(error)
                say(log, f"skipped: {error}")
    finally:
        answers.close()
    return evaluation


def _take(
    measure: Measure,
    evaluated: TrainedModel,
    model: HarnessModel,
    tasks: Tasks,
    answers: Answers,
    settings: EvaluationOptions,
) -> TaskResult:
    if measure.task != HELD_OUT:
        return tasks.run(measure, model, settings.limit)
    try:
        samples = held_out_samples(evaluated, list(settings.held_out), settings.sequence_length)
    except NoTokensError as error:
        raise LeftOutError(f"held-out perplexity: {error}, or give token files with --held-out") from error
    if settings.limit is not None:
        samples.num_samples = min(samples.num_samples, settings.limit)
    rows = max(1, _HELD_OUT_TOKENS // samples.sequence_length)
    batch_size = rows if settings.batch_size == "auto" else int(settings.batch_size)
    return held_out_perplexity(evaluated.model, samples, answers, batch_size)


def _write(folder: Path, evaluations: list[Evaluation], settings: EvaluationOptions) -> None:
    write_atomically(folder / "table.md", markdown_tables(evaluations))
    content: dict[str, Any] = {
        "versions": versions(),
        "settings": settings.model_dump(),
        "models": [
            {
                "model": evaluation.model,
                "key": evaluation.key,
                "results": [
                    asdict(measure) | result.summary() for measure, result in evaluation.results.items()
                ],
                "missing": [
                    {"task": measure.task, "shots": measure.shots, "why": why}
                    for measure, why in evaluation.missing.items()
                ],
            }
            for evaluation in evaluations
        ],
    }
    write_json(folder / "results.json", content)
