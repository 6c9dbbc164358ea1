"""Whole recursive GPT-NeoX models against an independent implementation: logits, loss and a gradient, to 1e-10."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig

import loopway

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-10}


def our_name(name: str) -> str:
    """The golden files number layers over the unique ones and leave out where the stack stands."""
    if name.startswith("layers."):
        return f"gpt_neox.layers.0.{name}"
    if "_router." in name:
        return f"gpt_neox.layers.0.recurrence.{name.replace('_router.', '_routers.')}"
    return name if name == "lm_head.weight" else f"gpt_neox.{name}"


def load(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The model in float64, and what is expected of it."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    ours = ("layout", "recurrence", "num_slots", "scale_embeddings")
    text = ("layout", "recurrence", "hidden_act")
    fields = {name: value if name in text else json.loads(value) for name, value in metadata.items()}
    family_config = GPTNeoXConfig(**{name: value for name, value in fields.items() if name not in ours})
    config = loopway.recursive_config(family_config, **{name: fields[name] for name in ours})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double()
    weights = {our_name(name): w for name, w in tensors.items() if not name.startswith("expected.")}
    model.load_state_dict(weights, strict=True)
    expected = {
        name.removeprefix("expected."): w for name, w in tensors.items() if name.startswith("expected.")
    }
    return model, expected


@pytest.mark.parametrize("case", ["anchor", "mesh", "vanilla_mesh"])
def test_a_whole_model_gives_the_golden_logits_loss_and_gradient(case: str, golden: Path) -> None:
    model, expected = load(golden / f"tiny_neox_{case}.safetensors")
    ids = expected["input_ids"]
    model.eval()
    output = model(ids, labels=ids)
    assert output.loss.dtype == torch.float64
    torch.testing.assert_close(output.logits, expected["logits"], **EXACT)
    torch.testing.assert_close(output.loss, expected["loss"].squeeze(), **EXACT)
    model.train()
    output = model(ids, labels=ids, skip_logits=True)
    assert output.loss.dtype == torch.float64 and output.logits is None
    torch.testing.assert_close(output.loss, expected["loss"].squeeze(), **EXACT)
    output.loss.backward()
    grad = model.gpt_neox.embed_in.weight.grad
    torch.testing.assert_close(grad, expected["grad.embed_in.weight"], **EXACT)
