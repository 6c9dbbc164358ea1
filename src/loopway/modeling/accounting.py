"""Costs of a recursive model: parameters, FLOPs per token, cache and optimizer bytes.

All counts come from the modules of a model built on the meta device. They are valid for every family, and no weights
are allocated. Knows nothing of how long a run is.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from loopway.modeling.stack import find_stack
from loopway.recurrence import build_recurrence


@dataclass(frozen=True)
class ParameterReport:
    """Parameters and costs of a config.

    FLOPs count matrix products only, with two FLOPs per multiply-add: every linear map as often as it runs, the output
    head, the routers, and attention over ``context_length`` tokens without the causal discount (PaLM, appendix B).
    Training costs three forward passes.

    Attributes:
        layout, loops, recurrence: from the config; ``loops`` is None where a call runs the layout's.
        total: all parameters; tied embeddings count once.
        embedding: input embeddings and output head.
        non_embedding: total - embedding.
        router: parameters of the recurrence, part of non_embedding.
        compute_depth, parameter_depth: layers executed per token; unique layers.
        context_length: context over which attention FLOPs are counted, in tokens.
        forward_flops: per token, at full context: in prefill, or in a decoding step at the end of the context.
        training_flops: per token.
        kv_cache_bytes: per token of context, in 16-bit precision.
        optimizer_bytes: AdamW's two float32 moments for all parameters.
    """

    layout: str
    loops: int | list[int] | None
    recurrence: str
    total: int
    embedding: int
    non_embedding: int
    router: int
    compute_depth: int
    parameter_depth: int
    context_length: int
    forward_flops: int
    training_flops: int
    kv_cache_bytes: int
    optimizer_bytes: int

    def __str__(self) -> str:
        """Return one line per attribute."""
        numbers = {
            name: f"{value:,}" if isinstance(value, int) else str(value)
            for name, value in asdict(self).items()
            if value is not None
        }
        width = max(map(len, numbers.values()))
        return "\n".join(f"{name:<16} {value:>{width}}" for name, value in numbers.items())


def parameter_report(config: PreTrainedConfig, *, context_length: int | None = None) -> ParameterReport:
    """Count parameters, FLOPs and bytes of a recursive config without allocating weights.

    Args:
        config: from ``pythia_config`` or ``recursive_config``.
        context_length: context of attention in tokens; None means the config's ``max_position_embeddings``.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    stack = find_stack(model)
    layout = config.call_layout
    context = context_length or config.max_position_embeddings

    total = _count(model)
    embedding = _count(nn.ModuleList([model.get_input_embeddings(), model.get_output_embeddings()]))
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads

    experts = getattr(config, "num_experts_per_tok", None) or 0
    linear = sum(
        layout.uses_of_layer(index) * _multiplied_weights(layer, experts)
        for index, layer in enumerate(stack.layers)
    )
    linear += _weights_run_at_boundaries(config) + model.get_output_embeddings().weight.numel()
    attention = (
        2 * heads * head_size * context * layout.compute_depth
    )  # queries by keys, and scores by values
    forward = 2 * (linear + attention)
    return ParameterReport(
        layout=config.layout,
        loops=config.loops,
        recurrence=config.recurrence,
        total=total,
        embedding=embedding,
        non_embedding=total - embedding,
        router=_count(stack.recurrence),
        compute_depth=layout.compute_depth,
        parameter_depth=layout.parameter_depth,
        context_length=context,
        forward_flops=forward,
        training_flops=3 * forward,
        kv_cache_bytes=2 * layout.compute_depth * kv_heads * head_size * 2,
        optimizer_bytes=2 * 4 * total,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _multiplied_weights(layer: nn.Module, experts: int) -> int:
    """Count a layer's weights that one token is multiplied with: all matrices; of experts, only the active ones."""
    matrices = (weight for weight in layer.parameters() if weight.ndim > 1)
    return sum(w.numel() if w.ndim == 2 else w[0].numel() * experts for w in matrices)


def _weights_run_at_boundaries(config: Any) -> int:
    """Count the weights of the recurrence's linear maps as often as one token is multiplied with them."""
    with torch.device("cpu"):
        recurrence = build_recurrence(config.recurrence, config.recurrence_options)
        hidden = torch.zeros(1, 1, config.hidden_size)
    counted = 0

    def count(linear: nn.Linear, *_: Any) -> None:
        nonlocal counted
        counted += linear.weight.numel()

    for part in recurrence.modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(count)
    state = recurrence.start(hidden)
    for stage in config.parsed_layout.stages_of_call(config.loops)[:-1]:
        _, state = recurrence.advance(state, stage.step, hidden, hidden)
    return counted
