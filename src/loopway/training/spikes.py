"""Detects outlier steps by their loss or gradient norm.

A callback of the Trainer, whose state checkpoints store. Knows nothing of how a step is skipped.
"""

import statistics
from collections import deque
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

REMEMBERED = 128
"""Steps that the next one is held against; it isn't judged before there are half as many."""


class Spikes(TrainerCallback, ExportableState):
    """Judges each step by the mean and standard deviation of loss and gradient norm of the latest steps.

    Spikes count among the latest steps: a loss that stays high soon counts as normal.

    Args:
        deviations: a spike lies more than so many standard deviations above the mean; None: no step is a spike.
    """

    def __init__(self, deviations: float | None) -> None:
        self.deviations = deviations
        self._recent: deque[list[float]] = deque(maxlen=REMEMBERED)

    def judge(self, *values: float) -> bool:
        """Return whether one of a step's values is a spike; remember them."""
        if self.deviations is None:
            return False
        recent, is_spike = [*zip(*self._recent, strict=True)], False
        if len(self._recent) >= REMEMBERED // 2:
            is_spike = any(
                value > statistics.fmean(before) + self.deviations * statistics.stdev(before)
                for value, before in zip(values, recent, strict=True)
            )
        self._recent.append([*values])
        return is_spike

    def state(self) -> dict[str, Any]:
        return {"args": {"deviations": self.deviations}, "attributes": {"recent": [*self._recent]}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Restore the values that a checkpoint remembers."""
        callbacks: Any = state.stateful_callbacks
        if (saved := callbacks.get(type(self).__name__)) is not None:
            self._recent.extend(saved["attributes"]["recent"])
