"""Cheap probes during training, written to probes.jsonl and TensorBoard.

Knows the Trainer's callbacks and a few held-out samples. Changes no result: it draws no random number and touches no weight,
gradient or order of samples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from loopway.modeling.stack import StageRecord, evaluating
from loopway.traces.measures import entropy
from loopway.traces.reading import evenly_spread, traced
from loopway.traces.routers import has_routers
from loopway.traces.states import balance_of, loops_of, updates_of
from loopway.training.metrics_log import MetricsLog

SAMPLES = 4
"""So few that a forward pass of them is a small part of a step."""


class ProbeLog(TrainerCallback):
    """Probes the model every so many steps.

    Args:
        every: steps from one probe to the next.
        samples: held-out ones, of which four are read.
        log: where the lines go.
        tensorboard: whose writer takes the same numbers.
        restart_timer: called after each probe, which keeps its time out of the next step's.
    """

    def __init__(
        self,
        every: int,
        samples: Dataset,
        log: MetricsLog,
        tensorboard: TensorBoardCallback,
        restart_timer: Callable[[], None],
    ) -> None:
        self.every = every
        self.log = log
        self.tensorboard = tensorboard
        self.restart_timer = restart_timer
        few = evenly_spread(samples, SAMPLES)  # type: ignore[arg-type]
        self.batch: dict[str, Tensor] = default_collate([few[index] for index in range(len(few))])

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        if state.global_step % self.every:
            return
        with evaluating(model):
            ((_, records),) = traced(model, [self.batch])
        found = cheap_measures(records)
        self.log.append({"step": state.global_step, **found})
        if (writer := self.tensorboard.tb_writer) is not None:
            for name, value in found.items():
                writer.add_scalar(f"probe/{name}", value, state.global_step)
        self.restart_timer()


def cheap_measures(records: Sequence[StageRecord]) -> dict[str, float]:
    """Means over all samples and tokens of a forward pass.

    Returns:
        ``relative_update/STAGE``; with a loop ``balance``; with routers ``write_entropy/STAGE``, ``read_entropy/STAGE``
        and ``mixing/STAGE/SOURCE``, where STAGE is the one that the routers come after.
    """
    stages = [record.stage for record in records]
    updates = torch.stack([updates_of(records, sample) for sample in range(len(records[0].input))])
    found = {
        f"relative_update/{stage.name}": value for stage, value in zip(stages, updates.mean(0), strict=True)
    }
    if loops := loops_of(stages):
        found["balance"] = torch.stack([balance_of(update, loops) for update in updates]).mean()
    if has_routers(records):
        sources = ["h_emb", *(stage.name for stage in stages)]
        for record in records[:-1]:
            assert record.write is not None and record.read is not None and record.weights is not None
            found[f"write_entropy/{record.stage.name}"] = entropy(record.write.double()).mean()
            found[f"read_entropy/{record.stage.name}"] = entropy(record.read.double()).mean()
            weights = record.weights.double().mean((0, 1))
            found |= {f"mixing/{record.stage.name}/{s}": w for s, w in zip(sources, weights, strict=False)}
    return {name: round(value.item(), 6) for name, value in found.items()}
