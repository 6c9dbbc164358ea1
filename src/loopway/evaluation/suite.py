"""The measures: the paper's suite, and any other tasks of the harness.

Section 5 of the paper. Knows the names of tasks and metrics; nothing of models and of how tasks are run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loopway.checks import not_among, wrong_value
from loopway.errors import ConfigError
from loopway.options import EvaluationOptions

HELD_OUT = "held-out"
"""The name of the perplexity on the user's own token files."""


@dataclass(frozen=True)
class Measure:
    """One number of a model: a task of the harness with its number of examples, and the metric that counts."""

    task: str
    """The harness's name; :data:`HELD_OUT` is a token file's perplexity."""
    shots: int | None
    """Examples before each question; None: as the task says."""
    metric: str | None
    """The harness's name; None: the task's own first choice."""
    in_mean: bool = False
    """Whether it is one of those whose mean is the headline."""

    @property
    def is_perplexity(self) -> bool:
        return "perplexity" in (self.metric or "")

    @property
    def title(self) -> str:
        """For example `piqa, 5-shot`."""
        return self.task if self.shots is None or self.is_perplexity else f"{self.task}, {self.shots}-shot"


# Accuracy normalised by the byte length of the answer where the paper takes it, plain accuracy for the rest.
PAPER_TASKS = {
    "lambada_openai": "acc",
    "lambada_standard": "acc",
    "piqa": "acc_norm",
    "hellaswag": "acc_norm",
    "winogrande": "acc",
    "arc_easy": "acc_norm",
    "arc_challenge": "acc_norm",
    "sciq": "acc_norm",
    "mmlu_continuation": "acc",
}
PAPER_SHOTS = (0, 5)
PERPLEXITIES = (
    Measure(HELD_OUT, 0, "perplexity"),
    Measure("wikitext", 0, "word_perplexity"),
    Measure("lambada_openai", 0, "perplexity"),
    Measure("lambada_standard", 0, "perplexity"),
)
SUITES = ("paper", "perplexity", "tasks")


def suite_measures(suite: str, shots: Sequence[int] | None = None) -> list[Measure]:
    """Return the measures of a suite: `paper` is both of `perplexity` (four of them) and `tasks` (nine, 0-shot and 5-shot).

    Args:
        suite: one of :data:`SUITES`.
        shots: instead of 0 and 5.

    Raises:
        ConfigError: an unknown suite, or ``shots`` for one without tasks.
    """
    if suite not in SUITES:
        raise not_among("--suite", suite, SUITES)
    if suite == "perplexity" and shots is not None:
        raise ConfigError("--shots: perplexities are taken without examples; omit it, or take --suite paper")
    measures = list(PERPLEXITIES) if suite != "tasks" else []
    if suite != "perplexity":
        measures += [
            Measure(task, count, metric, in_mean=True)
            for count in dict.fromkeys(PAPER_SHOTS if shots is None else shots)
            for task, metric in PAPER_TASKS.items()
        ]
    return measures


def task_measures(tasks: Sequence[str], shots: Sequence[int] | None = None) -> list[Measure]:
    """Return the measures of chosen tasks, each once, with the paper's metric if it has one.

    Raises:
        ConfigError: no task is named.
    """
    if not tasks:
        raise ConfigError("--tasks: names no task; for example --tasks piqa,arc_easy")
    counts: Sequence[int | None] = [None] if shots is None else shots
    texts = {measure.task: measure for measure in PERPLEXITIES if measure.task not in PAPER_TASKS}
    measures = []
    for task in tasks:
        if task in texts:
            measures.append(texts[task])
            continue
        in_mean = task in PAPER_TASKS
        measures += [Measure(task, count, PAPER_TASKS.get(task), in_mean) for count in counts]
    return list(dict.fromkeys(measures))


def chosen_measures(options: EvaluationOptions) -> list[Measure]:
    """Return the measures that ``suite`` or ``tasks``, and ``shots``, name. Raises ConfigError for a mistake in them."""
    counts = None
    if options.shots is not None:
        parts = [part.strip() for part in options.shots.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise wrong_value("--shots", options.shots, "whole numbers with commas between, as in 0,5")
        counts = [int(part) for part in parts]
    if options.tasks is None:
        return suite_measures(options.suite or "paper", counts)
    if options.suite is not None:
        raise ConfigError("give --suite or --tasks, not both")
    return task_measures([part.strip() for part in options.tasks.split(",") if part.strip()], counts)
