"""RecursiveStack: combines layout, layers and recurrence.

It is the only layer in a decoder's layer list. The decoder's forward calls it like any layer, and it runs the stages.
Knows nothing of embeddings, masks or heads.
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
from loopway.modeling.cache import CACHE_ARGUMENTS, StageCache, fit_caches
from loopway.modeling.recompute import RECOMPUTE_LEVELS, run_layers
from loopway.recurrence import build_recurrence


@dataclass
class StageRecord:
    """Record of one stage's run, made by :func:`trace_stages`.

    Attributes:
        stage: the stage that ran.
        input, output: its hidden states, ``[batch, seq, hidden]``.
        write, read: router weights over the slots after the stage, ``[batch, seq, slots]``; None without routers.
        weights: weight of h_emb and of each stage output so far in the next input, ``[batch, seq, states]``.
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
        self.config = config
        self._own_stages = (
            self.layout.stages
        )  # found here: a compiler can't trace the layout's cached property
        self._only: Sequence[Stage] | None = None
        self._stages: dict[Any, Sequence[Stage]] = {}
        self.embedding_scale: float | None = config.stack_embedding_scale
        self.recompute = "none"
        self.trace: list[StageRecord] | None = None

    def stages_of(self, loops: int | Sequence[int] | None = None) -> Sequence[Stage]:
        """Return the stages of a call with these loops; None means the config's ``loops``, or the layout's.

        Raises:
            LayoutError: as :meth:`loopway.Layout.with_loops`.
        """
        if self._only is not None and loops is None:
            return self._only
        return self.stages_with(self.config.loops if loops is None else loops)

    def stages_with(self, loops: int | Sequence[int] | None) -> Sequence[Stage]:
        """Return the stages of a call with these loops; None means the layout's."""
        if loops is None:
            return self._own_stages
        key: Any = tuple(loops) if isinstance(loops, list | tuple) else loops
        if (
            torch.compiler.is_compiling()
        ):  # it would guard the dictionary, and compile again for every new count
            return self.layout.stages_of_call(key, own_last_step=self.recurrence.shared_routers)
        if key not in self._stages:
            self._stages[key] = self.layout.stages_of_call(key, own_last_step=self.recurrence.shared_routers)
        return self._stages[key]

    def forward(
        self,
        hidden_states: Tensor,
        *,
        loops: int | Sequence[int] | None = None,
        by_layer: Mapping[int, dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Run all stages.

        Args:
            hidden_states: token embeddings, ``[batch, seq, hidden]``.
            loops: as in :meth:`stages_of`.
            by_layer: the decoder's arguments for each unique layer, if they differ between layers.
            kwargs: the decoder's arguments for all layers (mask, positions, cache, …).

        Returns:
            The last stage's output, ``[batch, seq, hidden]``.

        Raises:
            ConfigError: stages are recomputed, and the KV cache already holds tokens; or the cache was begun with
                other loops.
            LayoutError: as :meth:`stages_of`.
        """
        if self.embedding_scale is not None:
            hidden_states = hidden_states * self.embedding_scale
        by_layer = dict.fromkeys(range(len(self.layers)), kwargs) if by_layer is None else by_layer
        stages = self.stages_of(loops)
        if self._only is None or loops is not None:
            fit_caches(by_layer[0], stages, self.config, loops)
        level = self.recompute if self.training and torch.is_grad_enabled() else "none"
        if level != "none":
            _check_no_past(by_layer[0])
        state = self.recurrence.start(hidden_states)
        for position, stage in enumerate(stages):
            stage_input = hidden_states
            layers = [
                (self.layers[index], _with_stage_cache(by_layer[index], stage)) for index in stage.layers
            ]
            stage_output = run_layers(layers, stage_input, level)
            hidden_states = stage_output
            is_last = position == len(stages) - 1
            if not is_last:
                hidden_states, state = self.recurrence.advance(state, stage.step, stage_input, stage_output)
            if self.trace is not None:
                routing = {} if is_last else self.recurrence.routing(state)
                self.trace.append(StageRecord(stage, stage_input, stage_output, **routing))
        return hidden_states


def _with_stage_cache(kwargs: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """Return a layer's arguments, with the KV cache (if any) shifted to the stage's entries.

    Engines keep the cache in attention instances of their own, one per entry, by ``layer_idx``.
    """
    offset = stage.cache_offset - stage.layers.start
    handed = dict(kwargs)
    for name in CACHE_ARGUMENTS:
        if isinstance(kwargs.get(name), Cache):
            handed[name] = StageCache(kwargs[name], offset)
    if (instances := kwargs.get("attention_instances")) is not None:
        handed["attention_instances"] = {index: instances[index + offset] for index in stage.layers}
    return handed


def _check_no_past(kwargs: dict[str, Any]) -> None:
    for value in kwargs.values():
        if isinstance(value, Cache) and value.get_seq_length() > 0:
            raise ConfigError(
                "a KV cache that holds tokens can't be extended while stages are recomputed: "
                "call loopway.set_recompute(model, 'none'), or omit past_key_values"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode within the block, then restore its mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def set_recompute(model: nn.Module, level: str) -> None:
    """Choose which activations a recursive model recomputes in the backward pass during training.

    Recomputation also runs the layers' hooks again.

    Args:
        model: a recursive model, wrapped or not.
        level: ``none`` recomputes nothing; ``selective`` everything but matrix products and attention; ``layer`` every
            layer from its input; ``stage`` every stage from its input, which keeps least.

    Raises:
        ConfigError: the level is unknown.
        TypeError: the model isn't recursive.
    """
    if level not in RECOMPUTE_LEVELS:
        raise not_among("recompute", level, RECOMPUTE_LEVELS)
    find_stack(model).recompute = level


def find_stack(model: nn.Module) -> RecursiveStack:
    """Return the model's RecursiveStack; the model may be wrapped (PEFT, DDP, torch.compile).

    Raises:
        TypeError: the model isn't recursive.
    """
    for module in model.modules():
        if isinstance(module, RecursiveStack):
            return module
    raise TypeError(
        f"{type(model).__name__} is not a recursive model: make one with AutoModelForCausalLM.from_config("
        f"loopway.recursive_config(...))"
    )


def core_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the looped layers and of the recurrence.

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
    """Record every stage of every forward pass within the block, in execution order.

    Records hold the tensors themselves, with their graph if gradients are enabled: use ``torch.no_grad()`` to save
    memory. Recomputation by gradient checkpointing adds no records.

    Args:
        model: a recursive model, wrapped or not (PEFT, DDP).
        cut: for a vanilla model only: record it as the stages of this layout, which must have equal compute depth.

    Raises:
        TypeError: the model isn't recursive.
        LayoutError: the model can't be recorded as ``cut``.

    Example::

        with torch.no_grad(), loopway.trace_stages(model) as records:
            model(input_ids)
        records[1].stage.name, records[1].output.shape      # 'core[0]', [batch, seq, hidden]
    """
    stack = find_stack(model)
    before, stack.trace = stack.trace, []
    try:
        with running_stages(model, None if cut is None else blocks_of(stack.layout, cut)):
            yield stack.trace
    finally:
        stack.trace = before


@contextmanager
def running_stages(model: PreTrainedModel | nn.Module, stages: Sequence[Stage] | None) -> Iterator[None]:
    """Run these stages in every call within the block; the last one's output goes to the head. None changes nothing.

    After every other stage the recurrence takes the stage's step. A stage may run several times or not at all. A KV
    cache is valid only if every stage of the layout runs exactly once.
    """
    stack = find_stack(model)
    before = stack._only
    stack._only = before if stages is None else stages
    try:
        yield
    finally:
        stack._only = before


def blocks_of(vanilla: Layout, cut: str) -> Sequence[Stage]:
    """Return the stages of layout ``cut`` as blocks of a vanilla model.

    Raises:
        LayoutError: the model isn't vanilla, or ``cut`` has another compute depth.
    """
    layout = Layout.parse(cut)
    if len(vanilla.stages) > 1:
        raise LayoutError(
            f"layout {vanilla} already has several stages; only a vanilla model can be cut as {cut}"
        )
    if layout.compute_depth != vanilla.compute_depth:
        raise LayoutError(
            f"a vanilla model of {vanilla} layers can't be cut as {cut}, which has {layout.compute_depth} layers"
        )
    return layout.unshared_stages
