"""Finished runs whose losses are made by hand."""

from pathlib import Path

import numpy as np

from loopway.comparison.rows import VariantRuns
from loopway.training.summary import RunSummary

SAMPLES, TARGETS, SAMPLES_PER_DOCUMENT = 200, 64, 4


def variant(
    name: str, layout: str, recurrence: str, losses: np.ndarray | float, parameters: int = 1000
) -> VariantRuns:
    """``losses`` per target: one number, the same with two seeds, or ``[seeds, samples]``."""
    per_target = np.broadcast_to(losses, (2, SAMPLES)) if np.ndim(losses) == 0 else np.asarray(losses)
    summary = RunSummary(
        folder=Path("."),
        layout=layout,
        recurrence=recurrence,
        parameters=2 * parameters,
        non_embedding_parameters=parameters,
        steps=1,
        tokens=1,
        epochs=1.0,
        train_loss=None,
        validation_loss=None,
        validation_perplexity=None,
        tokens_per_second=100.0,
        peak_memory_bytes=2**20,
        wall_seconds=1.0,
        device="cpu",
        versions={},
    )
    return VariantRuns(
        name,
        [summary] * len(per_target),
        per_target * TARGETS,
        np.full(SAMPLES, TARGETS),
        np.arange(SAMPLES) // SAMPLES_PER_DOCUMENT,
        3_000_000,
    )
