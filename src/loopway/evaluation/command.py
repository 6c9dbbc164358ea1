"""What `loopway evaluate` does with its options.

Knows how options become measures and settings; nothing of how these are taken.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopway.checks import wrong_value
from loopway.errors import ConfigError
from loopway.evaluation.suite import Measure, suite_measures, task_measures


def evaluate_command(
    models: Sequence[str],
    out: Path,
    *,
    suite: str | None,
    tasks: str | None,
    shots: str | None,
    every_checkpoint: bool,
    **settings: Any,
) -> None:
    """Evaluate models; `settings` are those of :class:`loopway.evaluation.evaluate.Settings`.

    Raises:
        LoopwayError: a mistake in the options, a model that can't be opened, nothing that could be measured.
    """
    measures = _measures(suite, tasks, shots)
    size = settings["batch_size"]
    if size != "auto":
        if not size.isdecimal() or int(size) < 1:
            raise wrong_value("--batch-size", size, "a whole number from 1, or auto")
        settings["batch_size"] = int(size)
    # The harness takes seconds to import: not before the options are known to be right.
    from loopway.evaluation.dynamics import evaluate_checkpoints
    from loopway.evaluation.evaluate import Settings, evaluate

    run = evaluate_checkpoints if every_checkpoint else evaluate
    run(models, measures, out, Settings(**settings))


def _measures(suite: str | None, tasks: str | None, shots: str | None) -> list[Measure]:
    counts = None
    if shots is not None:
        parts = [part.strip() for part in shots.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise wrong_value("--shots", shots, "whole numbers with commas between, as in 0,5")
        counts = [int(part) for part in parts]
    if tasks is None:
        return suite_measures(suite or "paper", counts)
    if suite is not None:
        raise ConfigError("give --suite or --tasks, not both")
    return task_measures([part.strip() for part in tasks.split(",") if part.strip()], counts)
