"""Sharing: one layer, one tensor, every iteration; and gradients that add up over them."""

import copy
from collections import Counter

import pytest
import torch
from tiny_models import FAMILIES, gradients, random_ids, stack_of, tiny_model
from torch import nn


@pytest.mark.parametrize("family", FAMILIES)
def test_an_iteration_runs_the_very_same_modules_and_tensors(family: str) -> None:
    model = tiny_model("1+2R3+1", "mesh", family)
    stack = stack_of(model)
    seen: list[tuple[int, int]] = []
    for layer in stack.layers:
        layer.register_forward_hook(
            lambda module, args, output: seen.append((id(module), next(module.parameters()).data_ptr()))
        )
    model(random_ids())
    prelude, first, second, coda = (
        (id(layer), next(layer.parameters()).data_ptr()) for layer in stack.layers
    )
    assert seen == [prelude, first, second, first, second, first, second, coda]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_parameter_exists_twice(family: str) -> None:
    model = tiny_model("1+2R3+1", "mesh", family)
    assert len(stack_of(model).layers) == model.config.num_unique_layers == 4
    pointers = Counter(parameter.data_ptr() for parameter in model.parameters())
    assert set(pointers.values()) == {1}
    names = [name for name in model.state_dict() if ".layers.0.layers." in name]
    assert {int(name.split(".layers.0.layers.")[1].split(".")[0]) for name in names} == {0, 1, 2, 3}


class Unshared(nn.Module):
    """Stands for a layer and runs a copy of it at every call."""

    def __init__(self, layer: nn.Module, uses: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(layer) for _ in range(uses))
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.copies[self.calls - 1](*args, **kwargs)


@pytest.mark.parametrize("recurrence", ["mesh", "anchor", "base", "dynamic"])
def test_the_gradient_is_the_sum_over_the_iterations(recurrence: str) -> None:
    ids = random_ids()
    shared, unshared = (tiny_model("1+2R3+1", recurrence, "llama") for _ in range(2))
    stack = stack_of(unshared)
    for index in range(4):
        stack.layers[index] = Unshared(stack.layers[index], uses=3 if index in (1, 2) else 1)
    for model in (shared, unshared):
        model(ids).logits.logsumexp(-1).sum().backward()
    torch.testing.assert_close(shared.lm_head.weight.grad, unshared.lm_head.weight.grad, rtol=0.0, atol=1e-10)
    expected: dict[str, torch.Tensor] = {}
    for name, grad in gradients(unshared).items():
        head, copied, rest = name.partition(".copies.")
        name = f"{head}.{rest.split('.', 1)[1]}" if copied else name
        expected[name] = expected.get(name, torch.zeros(())) + grad
    actual = gradients(shared)
    assert actual.keys() == expected.keys() == dict(shared.named_parameters()).keys()
    for name, grad in actual.items():
        torch.testing.assert_close(grad, expected[name], rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("recurrence", ["mesh", "anchor", "residual+anchor*", "static", "dynamic", "base"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family: str, recurrence: str) -> None:
    model = tiny_model("1+2R3+1", recurrence, family).train()
    ids = random_ids(2, 16)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
