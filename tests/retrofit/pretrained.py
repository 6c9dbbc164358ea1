"""Tiny pretrained models of every family, in memory and in folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from loopway.data.tokenizer import train_tokenizer
from loopway.layout import Layout
from loopway.modeling.per_layer import per_layer_lists
from tests.modeling.tiny_models import FAMILIES, family_config, randomize

__all__ = ["FAMILIES", "cases", "logits_of", "plain_model", "pretrained", "save_pretrained"]


def pretrained(
    family: str = "llama", depth: int = 6, *, dtype: torch.dtype = torch.float64, seed: int = 0, **fields: Any
) -> Any:
    """A family's own model of so many layers, with random weights."""
    config = family_config(family, num_hidden_layers=depth, **fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
    randomize(model, seed)
    return model


def cases(*layouts: str) -> list[tuple[str, str]]:
    """Every family with each of these layouts of six layers, but those that would fold layers of different kinds."""

    def fits(family: str, layout: str) -> bool:
        lists = per_layer_lists(family_config(family, num_hidden_layers=6))
        stages = Layout.parse(layout).stages
        kinds: dict[int, set[Any]] = {}
        for stage in stages:
            for position, unique in enumerate(stage.layers, start=stage.cache_offset):
                kinds.setdefault(unique, set()).add(tuple(values[position] for values in lists.values()))
        return all(len(found) == 1 for found in kinds.values())

    return [(family, layout) for family in FAMILIES for layout in layouts if fits(family, layout)]


def plain_model(model: Any, layers: Sequence[int], sources: Sequence[nn.Module]) -> Any:
    """The same model with copies of ``sources[i]`` for each i of ``layers``, made without Loopway."""
    plain = AutoModelForCausalLM.from_config(
        family_config(
            model.config.model_type, **{**model.config.to_dict(), "num_hidden_layers": len(layers)}
        ),
        attn_implementation="sdpa",
        dtype=model.dtype,
    ).eval()
    state = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    for position, index in enumerate(layers):
        inside = f"{model.base_model_prefix}.layers.{position}."
        state |= {inside + name: value for name, value in sources[index].state_dict().items()}
    plain.load_state_dict(state)
    return plain


def logits_of(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


def save_pretrained(
    folder: Path, family: str = "llama", depth: int = 6, *, dtype: torch.dtype = torch.float32, **fields: Any
) -> Path:
    """A model folder with a tokenizer, 300 tokens of it."""
    tokenizer = train_tokenizer(TEXTS, 300)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 320, "max_position_embeddings": 128}
    model = pretrained(family, depth, dtype=dtype, **(ids | fields))
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WORDS = ("stone", "river", "light", "machine", "garden", "number", "winter", "engine", "voice", "mirror")
TEXTS = [f"The {a} of a {b} is no {c}." for a in WORDS for b in WORDS for c in WORDS if a != b]
