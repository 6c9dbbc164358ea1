"""Measure each loop's contribution: the loss with fewer and more loops, and with one loop's output withheld.

Knows recursive models and batches of samples; nothing of their origin.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from loopway.data.tokens.samples import IGNORED_LABEL
from loopway.inference.held_out import sample_losses
from loopway.layout import Stage
from loopway.modeling.stack import find_stack, running_stages
from loopway.recurrence.fixed import Base
from loopway.traces.findings import LoopProbes, LossChange
from loopway.traces.states import loops_of

ADDED_LOOPS = 2


def probe_loops(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> list[LoopProbes]:
    """Measure the loss under every change to a model's loops, on the same samples.

    Args:
        model: a recursive model.
        batches: ``input_ids``, ``shift_labels`` and, if documents are masked, ``position_ids``, ``[batch, seq]``.

    Returns:
        One result per looped segment; none for a vanilla model.
    """
    stages = list(find_stack(model).layout.stages)
    loops = loops_of(stages)
    if not loops:
        return []
    with running_stages(model, stages):  # also if the config names other loops
        whole = _losses(model, batches)
        return [_probe_segment(model, batches, stages, loop, whole) for loop in loops]


def _probe_segment(
    model: PreTrainedModel,
    batches: Sequence[dict[str, Tensor]],
    stages: list[Stage],
    loop: list[int],
    whole: np.ndarray,
) -> LoopProbes:
    def change(name: str, loops: int | None, losses: np.ndarray) -> LossChange:
        differences = losses - whole
        error = differences.std(ddof=1) / math.sqrt(len(whole)) if len(whole) > 1 else math.nan
        return LossChange(name, loops, float(losses.mean()), float(differences.mean()), float(error))

    before, after = stages[: loop[0]], stages[loop[-1] + 1 :]
    by_loops = []
    # If nothing follows the loop, its last iteration has no boundary, so no loop can be added.
    for count in range(len(loop) + (ADDED_LOOPS if after else 0) + 1):
        # The trained iterations first, then the last one repeated.
        iterations = [stages[loop[min(number, len(loop) - 1)]] for number in range(count)]
        if not (run := [*before, *iterations, *after]):
            continue
        losses = whole
        if count != len(loop):
            with running_stages(model, run):
                losses = _losses(model, batches)
        by_loops.append(change(f"{count} loop{'s' if count != 1 else ''}", count, losses))
    without_write = []
    if not isinstance(find_stack(model).recurrence, Base):  # with `base`, nothing else could be read
        for stage in (stages[index] for index in loop if index < len(stages) - 1):
            with _withholding(model, stage.index):
                losses = _losses(model, batches)
            without_write.append(change(f"without {stage.name}", None, losses))
    return LoopProbes(
        segment=stages[loop[0]].name.partition("[")[0],
        trained_loops=len(loop),
        samples=len(whole),
        loss=float(whole.mean()),
        by_loops=by_loops,
        without_write=without_write,
    )


@contextmanager
def _withholding(model: PreTrainedModel, boundary: int) -> Iterator[None]:
    """Give the recurrence zeros as the stage output at a boundary within the block: MeSH then writes nothing."""
    recurrence = find_stack(model).recurrence
    advance = recurrence.advance

    def without_output(state, step, stage_input, stage_output):
        output = torch.zeros_like(stage_output) if step == boundary else stage_output
        return advance(state, step, stage_input, output)

    recurrence.advance = without_output
    try:
        yield
    finally:
        del recurrence.advance


def _losses(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> np.ndarray:
    """Loss of every sample, nats per token, ``[samples]``."""
    sums = np.concatenate([sample_losses(model, batch) for batch in batches])
    targets = torch.cat([(batch["shift_labels"] != IGNORED_LABEL).sum(dim=-1) for batch in batches])
    return sums / targets.numpy()
