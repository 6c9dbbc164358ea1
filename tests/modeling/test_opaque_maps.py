"""Linear maps are only called: quantised ones, adapters and any precision work in every recurrence that has maps."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.modeling.tiny_models import FAMILIES, random_ids, stack_of, tiny_model


class Quantised(nn.Module):
    """A linear map whose weights are whole numbers of 8 bits, and no parameter, as libraries store them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, states: Tensor) -> Tensor:
        weight = self.get_buffer("weight").to(states.dtype) * self.get_buffer("scale").to(states.dtype)
        return nn.functional.linear(states, weight, self.bias)


def quantise(module: nn.Module) -> None:
    """Replace all linear maps below; those that are replaced keep what is left of their weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            quantised = Quantised(child)
            child.weight.data = quantised.get_buffer("weight") * quantised.get_buffer("scale")
            setattr(module, name, quantised)
        else:
            quantise(child)


@pytest.mark.parametrize("recurrence", ["mesh", "dynamic"])
def test_quantised_maps_give_what_their_weights_say(recurrence: str) -> None:
    model, ids = tiny_model(recurrence=recurrence, family="llama", dtype=torch.float32), random_ids()
    quantised = copy.deepcopy(model)
    maps = {name: part for name, part in quantised.named_modules() if isinstance(part, nn.Linear)}
    quantise(quantised.model)
    for name, part in maps.items():
        model.get_submodule(name).weight.data = part.weight.data
    assert any(isinstance(part, Quantised) for part in stack_of(quantised).recurrence.modules())
    with torch.no_grad():
        torch.testing.assert_close(quantised(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recurrence", ["mesh", "dynamic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_run_under_autocast_in_every_precision_of_the_weights(
    family: str, recurrence: str, dtype: torch.dtype
) -> None:
    model: Any = tiny_model(recurrence=recurrence, family=family, dtype=dtype)
    ids = random_ids()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    maps = [part for part in stack_of(model).recurrence.modules() if isinstance(part, nn.Linear)]
    assert maps and all(part.weight.grad is not None for part in maps)
