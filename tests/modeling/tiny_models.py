"""Tiny models of every family, small enough that a test takes milliseconds and random enough to tell things apart."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

import loopway
from loopway.modeling.stack import RecursiveStack, find_stack


def _no_grouped_products(self: PreTrainedModel) -> bool:
    raise ValueError("experts' grouped products aren't made of float64")


# By default transformers then computes experts one after the other, in every precision.
PreTrainedModel._grouped_mm_can_dispatch = _no_grouped_products  # type: ignore[method-assign]

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
FAMILY_CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "gpt_neox": (GPTNeoXConfig, SIZES),
    "llama": (LlamaConfig, GROUPED),
    "qwen3": (Qwen3Config, {**GROUPED, "head_dim": 8}),
    "mistral": (MistralConfig, {**GROUPED, "sliding_window": None}),
    "mistral_sliding": (MistralConfig, {**GROUPED, "sliding_window": 5}),
    "olmo2": (Olmo2Config, GROUPED),
    "qwen2": (Qwen2Config, GROUPED),
    "phi3": (Phi3Config, GROUPED),
    "granite": (
        GraniteConfig,
        {
            **GROUPED,
            "attention_multiplier": 1.0,
            "embedding_multiplier": 4.0,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
        },
    ),
    "smollm3": (SmolLM3Config, {**GROUPED, "no_rope_layer_interval": 2, "tie_word_embeddings": False}),
    "olmo3": (Olmo3Config, {**GROUPED, "sliding_window": 5}),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 5,
            "query_pre_attn_scalar": 8,
            "final_logit_softcapping": 9.0,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {
            **GROUPED,
            "head_dim": 8,
            "moe_intermediate_size": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
}
FAMILIES = list(FAMILY_CONFIGS)
# These keep a promise in all its varieties, the others in one: most of it doesn't differ by family.
FIRST = FAMILIES[:6]
# Whose layers are of two kinds in turn.
MIXED = ("olmo3", "gemma3_text")


def family_config(family: str = "gpt_neox", **fields: Any) -> PreTrainedConfig:
    """The family's own tiny config."""
    cls, sizes = FAMILY_CONFIGS[family]
    values = {**sizes, **fields}
    if family in MIXED and "num_hidden_layers" in fields:
        values = {**layer_kinds(fields["num_hidden_layers"]), **values}
    return cls(**values)


def layer_kinds(depth: int) -> dict[str, Any]:
    return {"layer_types": [("sliding_attention", "full_attention")[index % 2] for index in range(depth)]}


def tiny_config(
    layout: str = "1+2R3+1", recurrence: str = "mesh", family: str = "gpt_neox", **options: Any
) -> PreTrainedConfig:
    """A tiny recursive config; ``options`` are ours or the family's fields."""
    kinds = layer_kinds(loopway.Layout.parse(layout).parameter_depth) if family in MIXED else {}
    options = {**kinds, **options}
    return loopway.recursive_config(family_config(family), layout=layout, recurrence=recurrence, **options)


def tiny_model(
    layout: str = "1+2R3+1",
    recurrence: str = "mesh",
    family: str = "gpt_neox",
    *,
    dtype: torch.dtype = torch.float64,
    attn_implementation: str = "sdpa",
    **options: Any,
) -> Any:
    """A tiny recursive model in eval mode with random parameters, biases and norms included.

    Attention is PyTorch's own: transformers' eager attention casts its softmax to float32, also in float64.

    Typed ``Any``: classes are made from the family's at run time, and a type checker can't know their attributes.
    """
    config = tiny_config(layout, recurrence, family, **options)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=attn_implementation, dtype=dtype
    ).eval()
    randomize(model)
    return model


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that a wrong cache entry, mask or router moves the logits visibly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            is_norm = parameter.ndim == 1 and (parameter == 1).all()
            parameter.copy_(1 + 0.2 * noise if is_norm else 0.3 * noise)


def random_ids(batch: int = 2, length: int = 12, seed: int = 0) -> Tensor:
    """Token ids without padding, beginning or end of text."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)


def stack_of(model: nn.Module) -> RecursiveStack:
    return find_stack(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter's gradient."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
