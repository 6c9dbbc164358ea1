"""RecursiveStack: where layout, layers and recurrence meet.

It stands in a decoder's layer list as its only layer. The decoder's own forward calls it like any layer; inside,
it runs the stages. Knows nothing of embeddings, masks or heads.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from loopway.layout import Stage
from loopway.modeling.cache import StageCache
from loopway.recurrence import build_recurrence

_CACHE_ARGUMENTS = ("past_key_values", "layer_past")


@dataclass
class StageRecord:
    """What one stage did, as :func:`trace_stages` sees it.

    Attributes:
        stage: which stage.
        input, output: ``[batch, seq, hidden]``.
        write, read: router weights over the slots after the stage, ``[batch, seq, slots]``; None without routers.
        weights: how much of h_emb and of each stage output so far the next input is, ``[batch, seq, states]``.
    """

    stage: Stage
    input: Tensor
    output: Tensor
    write: Tensor | None = None
    read: Tensor | None = None
    weights: Tensor | None = None


class RecursiveStack(nn.Module):
    """Runs the stages of a layout over unique layers, with a recurrence at every boundary."""

    def __init__(self, config: PreTrainedConfig, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers
        self.recurrence = build_recurrence(config.recurrence, config.recurrence_options)
        self.stages = config.parsed_layout.stages
        self.embedding_scale = math.sqrt(config.hidden_size) if config.scale_embeddings else None
        self.trace: list[StageRecord] | None = None

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Run all stages.

        Args:
            hidden_states: token embeddings, ``[batch, seq, hidden]``.
            kwargs: what the decoder gives its layers (mask, positions, cache, …), passed on to every layer.

        Returns:
            The last stage's output, ``[batch, seq, hidden]``.
        """
        if self.embedding_scale is not None:
            hidden_states = hidden_states * self.embedding_scale
        state = self.recurrence.start(hidden_states)
        for stage in self.stages:
            stage_input = hidden_states
            stage_kwargs = _with_stage_cache(kwargs, stage)
            for layer in stage.layers:
                hidden_states = self.layers[layer](hidden_states, **stage_kwargs)
            stage_output = hidden_states
            is_last = stage.index == len(self.stages) - 1
            if not is_last:
                hidden_states, state = self.recurrence.advance(state, stage.index, stage_input, stage_output)
            if self.trace is not None:
                routing = {} if is_last else self.recurrence.routing(state)
                self.trace.append(StageRecord(stage, stage_input, stage_output, **routing))
        return hidden_states


def _with_stage_cache(kwargs: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """The layers' arguments with the KV cache, if there is one, shifted to the stage's entries."""
    offset = stage.cache_offset - stage.layers.start
    return {
        name: StageCache(value, offset) if name in _CACHE_ARGUMENTS and isinstance(value, Cache) else value
        for name, value in kwargs.items()
    }


def find_stack(model: nn.Module) -> RecursiveStack:
    """The model's RecursiveStack, also inside a wrapper (PEFT, DDP, torch.compile).

    Raises:
        TypeError: if the model isn't recursive.
    """
    for module in model.modules():
        if isinstance(module, RecursiveStack):
            return module
    raise TypeError(
        f"{type(model).__name__} is not a recursive model: make one with AutoModelForCausalLM.from_config("
        f"loopway.recursive_config(...))"
    )


@contextmanager
def trace_stages(model: PreTrainedModel | nn.Module) -> Iterator[list[StageRecord]]:
    """Record every stage of every forward pass within the block, in the order in which they ran.

    Tensors are kept as they are, with their graph if gradients are on: use ``torch.no_grad()`` to only look.

    Example::

        with torch.no_grad(), loopway.trace_stages(model) as records:
            model(input_ids)
        records[1].stage.name, records[1].output.shape      # 'core[0]', [batch, seq, hidden]
    """
    stack = find_stack(model)
    before, stack.trace = stack.trace, []
    try:
        yield stack.trace
    finally:
        stack.trace = before
