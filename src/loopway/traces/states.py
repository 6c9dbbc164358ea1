"""The paper's three probes of a model's states, sample by sample: skew, stagnation, collapse (section 6).

Knows stage records; nothing of how a model is run.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor

from loopway.layout import Stage
from loopway.modeling.stack import StageRecord
from loopway.traces.findings import StateProbes
from loopway.traces.measures import (
    balance,
    centred_kernel,
    effective_rank,
    gram,
    relative_update,
    similarity,
    singular_values,
)
from loopway.traces.spread import RunningSpread

SPECTRUM = 50
"""Number of largest singular values that are kept, as in the paper's figure."""


def names_of_states(stages: Sequence[Stage]) -> list[str]:
    """Return the names of the states: h_emb, h(t) after every boundary t, and the last stage's output."""
    return ["h_emb", *(f"h({boundary})" for boundary in range(len(stages) - 1)), "h_out"]


def loops_of(stages: Sequence[Stage]) -> list[list[int]]:
    """Return the stage indices of each looped segment."""
    segments: dict[int, list[int]] = {}
    for index, stage in enumerate(stages):
        segments.setdefault(stage.segment, []).append(index)
    return [indices for indices in segments.values() if len(indices) > 1]


def updates_of(records: Sequence[StageRecord], sample: int) -> Tensor:
    """Relative update of every stage, ``[stages]``."""
    return torch.stack([relative_update(record.input[sample], record.output[sample]) for record in records])


def balance_of(updates: Tensor, loops: list[list[int]]) -> Tensor:
    """Mean balance of the looped segments, ``[]``."""
    return torch.stack([balance(updates[loop]) for loop in loops]).mean()


def _measure(state: Tensor) -> tuple[Tensor, Tensor]:
    """Return a state's centred kernel and its singular values."""
    inner = gram(state)
    return centred_kernel(inner), singular_values(state, inner)


class StateProbe:
    """Accumulates the three probes over samples."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.loops = loops_of(stages)
        self._found = {
            name: RunningSpread() for name in ("update", "cka", "spectrum", "rank", "balance", "stagnation")
        }

    def add(self, records: Sequence[StageRecord]) -> None:
        """Add the records of one forward pass of any number of samples."""
        whole = [*(record.input for record in records), records[-1].output]
        samples = range(len(whole[0]))
        # On a CPU, one thread per state is faster than all threads on one state. On a GPU, torch.linalg's first calls
        # must not be concurrent (pytorch#90613).
        threads = torch.get_num_threads()
        workers = threads if whole[0].device.type == "cpu" else 1
        try:
            with ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1)) as pool:
                measured = list(pool.map(_measure, [state[sample] for sample in samples for state in whole]))
        finally:
            torch.set_num_threads(threads)  # else threads started later would also have one
        for sample in samples:
            of_sample = measured[sample * len(whole) : (sample + 1) * len(whole)]
            kernels, values = zip(*of_sample, strict=True)
            self._add_sample(updates_of(records, sample), similarity(kernels), torch.stack(values))

    def _add_sample(self, updates: Tensor, cka: Tensor, values: Tensor) -> None:
        found = {
            "update": updates,
            "cka": cka,
            "spectrum": values[:, :SPECTRUM] / values[:, :1],
            "rank": effective_rank(values),
        }
        if self.loops:
            found["balance"] = balance_of(updates, self.loops)
            # Stage n reads state n; the last loop's result is the state after it.
            pairs = [pair for loop in self.loops for pair in pairwise([*loop, loop[-1] + 1])]
            found["stagnation"] = torch.stack([cka[pair] for pair in pairs]).mean()
        for name, value in found.items():
            self._found[name].add(value)

    def result(self) -> StateProbes:
        """Return the probes over all samples."""
        found = {name: values.spread() for name, values in self._found.items()}
        looped = {index for loop in self.loops for index in loop}
        return StateProbes(
            stages=[stage.name for stage in self.stages],
            looped=[index in looped for index in range(len(self.stages))],
            states=names_of_states(self.stages),
            relative_update=found["update"],
            cka=found["cka"],
            spectrum=found["spectrum"],
            balance=found["balance"] if self.loops else None,
            stagnation=found["stagnation"] if self.loops else None,
            effective_rank=found["rank"],
        )
