"""Recursive models so small that a probe takes milliseconds, and what they read."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import loopway

VOCABULARY = 61


def small_model(layout: str = "1+1R2+1", recurrence: str = "mesh", *, seed: int = 0, **fields: Any) -> Any:
    """A Pythia-like model with random weights, far enough from their start that routers tell tokens apart."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": VOCABULARY}
    config = loopway.pythia_config("14m", layout=layout, recurrence=recurrence, **(sizes | fields))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def small_batch(samples: int = 3, length: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """``input_ids`` and ``shift_labels``, both ``[samples, length]``."""
    ids = torch.randint(0, VOCABULARY, (samples, length + 1), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids[:, :-1], "shift_labels": ids[:, 1:]}
