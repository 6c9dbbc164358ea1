"""What an evaluation finds. Knows nothing of how it is found and shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loopway.evaluation.suite import Measure


@dataclass(frozen=True)
class TaskResult:
    """A task's outcome.

    Attributes:
        value: of the measure's metric; accuracies between 0 and 1.
        error: its standard error; None where there is none, as of a single question.
        metrics: every metric of the task, by the harness's name.
        version: of the task's definition; of held-out text, a hash of the samples.
        samples: questions that were asked.
    """

    value: float
    error: float | None
    metrics: dict[str, float]
    version: str
    samples: int
    metric: str


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one model; a measure without a result could not be taken, and `missing` says why."""

    model: str
    key: str
    measures: Sequence[Measure]
    """In the order in which they were asked for."""
    results: dict[Measure, TaskResult] = field(default_factory=dict)
    missing: dict[Measure, str] = field(default_factory=dict)
