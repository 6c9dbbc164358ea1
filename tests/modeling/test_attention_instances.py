"""An engine's attention instances, one per cache entry and passed by `layer_idx`, each get the keys of one stage.

SGLang's Transformers backend passes them so (python/sglang/srt/models/transformers.py): its forward hands the model
`attention_instances`, a mapping with `num_hidden_layers` entries, and its attention function looks up
`attention_instances[module.layer_idx]`. SGLang itself doesn't run here; this file plays its part.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.modeling.tiny_models import FAMILIES, random_ids, tiny_model

PROMPT = 7


class Instance:
    """Attention with the KV cache of one entry, as an engine's: it gets the new tokens alone."""

    def __init__(self, sliding_window: int | None) -> None:
        self.sliding_window = sliding_window
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        self.keys = key if self.keys is None else torch.cat([self.keys, key], dim=-2)
        self.values = value if self.values is None else torch.cat([self.values, value], dim=-2)
        length, new = self.keys.shape[-2], query.shape[-2]
        behind = torch.arange(length - new, length)[:, None] - torch.arange(length)
        seen = (behind >= 0) & (behind < (self.sliding_window or length))
        groups = query.shape[1] // self.keys.shape[1]
        keys, values = (part.repeat_interleave(groups, dim=1) for part in (self.keys, self.values))
        scores = (query @ keys.mT * scaling).masked_fill(~seen, float("-inf"))
        return (scores.softmax(-1) @ values).transpose(1, 2)


def engine_attention(
    module: Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The contract's attention function: the instance comes from the mapping, the rest from the layer."""
    instance: Instance = kwargs["attention_instances"][module.layer_idx]
    assert kwargs["forward_batch"] == "a batch"  # an engine's own arguments arrive, too
    return instance.attend(query, key, value, kwargs["scaling"]), None


ALL_ATTENTION_FUNCTIONS.register("engine", engine_attention)


def instances_of(config: Any) -> dict[int, Instance]:
    """One instance per layer of the unrolled graph, as an engine makes them from the config."""
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    windows = [
        getattr(config, "sliding_window", None) if kind == "sliding_attention" else None for kind in kinds
    ]
    return dict(enumerate(map(Instance, windows)))


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_and_decoding_with_an_engines_instances_give_the_models_logits(family: str) -> None:
    model = tiny_model("1+2R3+1", "mesh", family)
    ids = random_ids(1, PROMPT + 5)
    with torch.no_grad():
        expected = model(ids).logits
        model.set_attn_implementation("engine")
        passed = {"attention_instances": instances_of(model.config), "forward_batch": "a batch"}
        chunks = [slice(0, PROMPT), *(slice(n, n + 1) for n in range(PROMPT, ids.shape[1]))]
        hidden = [
            model.base_model(
                ids[:, chunk],
                position_ids=torch.arange(ids.shape[1])[None, chunk],
                use_cache=False,
                **passed,
            ).last_hidden_state
            for chunk in chunks
        ]
        logits = model.head_logits(torch.cat(hidden, dim=1))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
