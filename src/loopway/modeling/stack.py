"""RecursiveStack: where layout, layers and recurrence meet.

It stands in a decoder's layer list as its only layer. The decoder's own forward calls it like any layer; inside,
it runs the stages. Knows nothing of embeddings, masks or heads.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from loopway.checks import not_among
from loopway.errors import ConfigError, LayoutError
from loopway.layout import Layout, Stage
from loopway.modeling.cache import StageCache
from loopway.modeling.recompute import RECOMPUTE_LEVELS, run_layers
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
        self.layout: Layout = config.parsed_layout
        self.stages: Sequence[Stage] = self.layout.stages
        self.embedding_scale: float | None = config.stack_embedding_scale
        self.recompute = "none"
        self.trace: list[StageRecord] | None = None

    def forward(
        self, hidden_states: Tensor, *, by_layer: Mapping[int, dict[str, Any]] | None = None, **kwargs: Any
    ) -> Tensor:
        """Run all stages.

        Args:
            hidden_states: token embeddings, ``[batch, seq, hidden]``.
            by_layer: what the decoder gives each unique layer, where that isn't the same for all.
            kwargs: what the decoder gives its layers (mask, positions, cache, …), passed on to every layer.

        Returns:
            The last stage's output, ``[batch, seq, hidden]``.
        """
        if self.embedding_scale is not None:
            hidden_states = hidden_states * self.embedding_scale
        by_layer = dict.fromkeys(range(len(self.layers)), kwargs) if by_layer is None else by_layer
        level = self.recompute if self.training and torch.is_grad_enabled() else "none"
        if level != "none":
            _check_no_past(by_layer[0])
        state = self.recurrence.start(hidden_states)
        for position, stage in enumerate(self.stages):
            stage_input = hidden_states
            layers = [
                (self.layers[index], _with_stage_cache(by_layer[index], stage)) for index in stage.layers
            ]
            stage_output = run_layers(layers, stage_input, level)
            hidden_states = stage_output
            is_last = position == len(self.stages) - 1
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


def _check_no_past(kwargs: dict[str, Any]) -> None:
    for value in kwargs.values():
        if isinstance(value, Cache) and value.get_seq_length() > 0:
            raise ConfigError(
                "a KV cache that holds tokens can't be continued where stages are recomputed: "
                "loopway.set_recompute(model, 'none'), or give no past_key_values"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, without dropout; afterwards the model is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def set_recompute(model: nn.Module, level: str) -> None:
    """Choose what a recursive model keeps of its stages for the backward pass while it trains.

    What is computed once more runs the layers' hooks once more, too.

    Args:
        model: a recursive model, also inside a wrapper.
        level: ``none``: nothing is computed once more. ``selective``: all but matrix products and attention is.
            ``layer``: every layer is, ``stage``: every stage is, so that only stage inputs and outputs are kept.

    Raises:
        ConfigError: another level.
        TypeError: the model isn't recursive.
    """
    if level not in RECOMPUTE_LEVELS:
        raise not_among("recompute", level, RECOMPUTE_LEVELS)
    find_stack(model).recompute = level


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


def core_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What recursion is made of: the parameters of layers that run several times, and of the recurrence.

    Raises:
        TypeError: the model isn't recursive.
    """
    stack = find_stack(model)
    looped = [layer for index, layer in enumerate(stack.layers) if stack.layout.uses_of_layer(index) > 1]
    return [parameter for part in (*looped, stack.recurrence) for parameter in part.parameters()]


@contextmanager
def trace_stages(
    model: PreTrainedModel | nn.Module, *, cut: str | None = None
) -> Iterator[list[StageRecord]]:
    """Record every stage of every forward pass within the block, in the order in which they ran.

    Tensors are kept as they are, with their graph if gradients are on: use ``torch.no_grad()`` to only look. Layers
    that gradient checkpointing runs once more are not recorded once more.

    Args:
        model: a recursive model, also inside a wrapper (PEFT, DDP).
        cut: of a vanilla model, the layout of equal compute depth as whose blocks it is recorded.

    Raises:
        TypeError: the model isn't recursive.
        LayoutError: the model can't be cut so.

    Example::

        with torch.no_grad(), loopway.trace_stages(model) as records:
            model(input_ids)
        records[1].stage.name, records[1].output.shape      # 'core[0]', [batch, seq, hidden]
    """
    stack = find_stack(model)
    stages = stack.stages if cut is None else blocks_of(stack.layout, cut)
    before, stack.trace = stack.trace, []
    try:
        with running_stages(model, stages):
            yield stack.trace
    finally:
        stack.trace = before


@contextmanager
def running_stages(model: PreTrainedModel | nn.Module, stages: Sequence[Stage]) -> Iterator[None]:
    """Within, the model runs these stages instead of its layout's; the last one's output goes to the head.

    After each of the others the recurrence acts as at the boundary of the stage's index. A stage may run several
    times or not at all; a KV cache fits only stages that are all of the layout's, each once.
    """
    stack = find_stack(model)
    before, stack.stages = stack.stages, stages
    try:
        yield
    finally:
        stack.stages = before


def blocks_of(vanilla: Layout, cut: str) -> Sequence[Stage]:
    """The stages of layout ``cut`` as blocks of a vanilla model. Raises LayoutError where it can't be cut so."""
    layout = Layout.parse(cut)
    if len(vanilla.stages) > 1:
        raise LayoutError(f"a model of layout {vanilla} has stages of its own; only a vanilla one can be cut")
    if layout.compute_depth != vanilla.compute_depth:
        raise LayoutError(
            f"a vanilla model of {vanilla} layers can't be cut as {cut}, which has {layout.compute_depth}"
        )
    return layout.unshared_stages
