"""Results of an evaluation. Knows nothing of how they are measured and shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loopway.evaluation.suite import Measure


@dataclass(frozen=True)
class TaskResult:
    """A task's outcome.

    Attributes:
        value: of the measure's metric; accuracies between 0 and 1.
        error: its standard error; None if undefined, as for a single question.
        metrics: every metric of the task, by the harness's name.
        version: of the task's definition; of held-out text, a hash of the samples.
        samples: questions that were asked.
        losses: of held-out text, of every sample.
    """

    value: float
    error: float | None
    metrics: dict[str, float]
    version: str
    samples: int
    metric: str
    losses: "SampleLosses | None" = field(default=None, compare=False, repr=False)

    def summary(self) -> dict[str, Any]:
        """Return everything but the losses of samples, as plain values."""
        return {name: value for name, value in vars(self).items() if name != "losses"}


@dataclass(frozen=True)
class SampleLosses:
    """Losses on held-out text, sample by sample.

    Attributes:
        sums: summed loss of every sample, ``[samples]``, in nats.
        targets: number of its targets, ``[samples]``.
        documents: the document in which it begins, ``[samples]``.
    """

    sums: np.ndarray
    targets: np.ndarray
    documents: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """A run as one seed of a variant.

    Attributes:
        variant: its name.
        content: the run's config without its seed: equal for seeds of one variant.
    """

    variant: str
    seed: int
    content: str


@dataclass(frozen=True)
class Evaluation:
    """The results of one model; `missing` names the reason for each measure without a result."""

    model: str
    key: str
    measures: Sequence[Measure]
    """In the order in which they were asked for."""
    results: dict[Measure, TaskResult] = field(default_factory=dict)
    missing: dict[Measure, str] = field(default_factory=dict)
    recipe: Recipe | None = None
    """Variant and seed of the run whose final model this is; None for any other model."""
