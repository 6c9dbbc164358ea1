"""A stack of stages without a transformer: block i is h + tanh(h @ matrices[i]), as in the golden vectors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopway import Layout, Recurrence, RecurrenceOptions
from loopway.recurrence import build_recurrence


class Stages(NamedTuple):
    inputs: list[Tensor]
    outputs: list[Tensor]
    state: Any


def run_stages(
    recurrence: Any, layout: Layout, embeddings: Tensor, matrices: Tensor | Sequence[Tensor]
) -> Stages:
    """Run the stages of ``layout``; segment i is block i."""
    state = recurrence.start(embeddings)
    inputs, outputs, hidden = [], [], embeddings
    for stage in layout.stages:
        inputs.append(hidden)
        hidden = hidden + torch.tanh(hidden @ matrices[stage.segment])
        outputs.append(hidden)
        if stage.index < layout.num_boundaries:
            hidden, state = recurrence.advance(state, stage.index, inputs[-1], outputs[-1])
    return Stages(inputs, outputs, state)


def build(name: str, layout: Layout | str, hidden_size: int, **options: Any) -> Recurrence:
    """A recurrence in float64."""
    parsed = Layout.parse(layout) if isinstance(layout, str) else layout
    return build_recurrence(name, RecurrenceOptions(parsed, hidden_size, **options)).double()


def random_blocks(layout: Layout, hidden_size: int, generator: torch.Generator) -> Tensor:
    shape = (len(layout.segments), hidden_size, hidden_size)
    return torch.randn(shape, generator=generator, dtype=torch.float64) / hidden_size**0.5


def randomize(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Every parameter from N(0, 1): far from the near-uniform routing of a fresh model."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
