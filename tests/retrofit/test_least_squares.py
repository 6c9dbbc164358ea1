"""The fitted layer is the best that linear maps can do, and does what the folded layers did better than their average."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pretrained import FAMILIES, pretrained
from torch import Tensor, nn

from loopway.layout import Layout
from loopway.modeling.weights import layers_of
from loopway.retrofit.filling import fill_layers
from loopway.retrofit.least_squares import RIDGE, Call, calls_of, fit_layer
from tests.modeling.tiny_models import random_ids

FOLD = (1, 3)


def mean_of(layers: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {
        name: torch.stack([layer.state_dict()[name] for layer in layers]).mean(0)
        for name in layers[0].state_dict()
    }


def layer_with(layer: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    shared = copy.deepcopy(layer)
    shared.load_state_dict(weights)
    return shared


def through(layer: nn.Module, path: str, call: Call) -> tuple[Tensor, Tensor]:
    """What the map at ``path`` sees and gives, ``[tokens, in]`` and ``[tokens, out]``."""
    seen: list[Tensor] = []
    handle = layer.get_submodule(path).register_forward_hook(
        lambda module, args, output: seen.extend([args[0].flatten(0, 1), output.flatten(0, 1)])
    )
    with torch.no_grad():
        layer(*call[0], **call[1])
    handle.remove()
    return seen[0], seen[1]


def fitted(family: str) -> tuple[Any, list[nn.Module], list[list[Call]], dict[str, Tensor]]:
    model = pretrained(family, depth=6)
    layers = [layers_of(model)[layer] for layer in FOLD]
    calls = calls_of(model, FOLD, random_ids(8, 24))
    of_fold = [calls[layer] for layer in FOLD]
    return model, layers, of_fold, fit_layer(layers, of_fold, mean_of(layers))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_map_in_its_turn_comes_closer_than_the_average(family: str) -> None:
    """With the maps before it fitted, and so what it sees as the fit saw it."""
    _, layers, calls, weights = fitted(family)
    mean = mean_of(layers)
    maps = [path for path, module in layers[0].named_modules() if isinstance(module, nn.Linear)]
    current = dict(mean)

    def error(path: str) -> float:
        shared = layer_with(layers[0], current)
        differences = [
            through(shared, path, call)[1] - through(layer, path, call)[1]
            for layer, of_layer in zip(layers, calls, strict=True)
            for call in of_layer
        ]
        return float(torch.stack([difference.square().sum() for difference in differences]).sum())

    for path in maps:
        before = error(path)
        current |= {name: value for name, value in weights.items() if name.startswith(f"{path}.")}
        assert error(path) < before, path
    assert all(torch.equal(current[name], value) for name, value in weights.items())  # norms: the mean


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fitted_layer_does_what_the_folded_ones_did_better_than_their_average(family: str) -> None:
    _, layers, calls, weights = fitted(family)

    def error(values: dict[str, Tensor]) -> float:
        shared, total = layer_with(layers[0], values), 0.0
        for layer, of_layer in zip(layers, calls, strict=True):
            for args, kwargs in of_layer:
                with torch.no_grad():
                    total += float((shared(*args, **kwargs) - layer(*args, **kwargs)).square().sum())
        return total

    assert error(weights) < 0.95 * error(mean_of(layers))


@pytest.mark.parametrize(("family", "path"), [("gpt_neox", "mlp.dense_4h_to_h"), ("llama", "mlp.down_proj")])
def test_no_other_map_does_better_than_the_fitted_one(family: str, path: str) -> None:
    """The gradient of what is minimised, ridge included, is zero at the map that is fitted last."""
    _, layers, calls, weights = fitted(family)
    mean, shared = mean_of(layers), layer_with(layers[0], weights)
    names = [name for name in weights if name.startswith(f"{path}.")]
    values = [weights[name].clone().requires_grad_() for name in names]
    loss, energy = torch.zeros((), dtype=torch.float64), 0.0
    for layer, of_layer in zip(layers, calls, strict=True):
        for call in of_layer:
            seen, _ = through(shared, path, call)
            _, wanted = through(layer, path, call)
            loss = loss + (nn.functional.linear(seen, *values) - wanted).square().sum()
            energy += float(seen.square().sum()) + (len(seen) if len(names) == 2 else 0)
    columns = values[0].shape[1] + len(names) - 1
    ridge = RIDGE * energy / columns
    loss = loss + ridge * sum(
        (value - mean[name]).square().sum() for value, name in zip(values, names, strict=True)
    )
    gradients = torch.autograd.grad(loss, values)
    assert all(gradient.abs().max() < 1e-9 * energy for gradient in gradients)


def test_a_map_is_left_at_the_average_where_the_text_says_nothing() -> None:
    """Directions that no input has: the ridge alone decides."""
    model = pretrained("llama", depth=6)
    layers = [layers_of(model)[layer] for layer in FOLD]
    calls = calls_of(model, FOLD, random_ids(1, 3))
    of_fold = [calls[layer] for layer in FOLD]
    weights, path = fit_layer(layers, of_fold, mean_of(layers)), "mlp.down_proj"
    shared = layer_with(layers[0], weights)
    seen = torch.cat([through(shared, path, call)[0] for of_layer in of_fold for call in of_layer])
    unseen = torch.linalg.svd(seen).Vh[len(seen) :].T
    difference = (weights[f"{path}.weight"] - mean_of(layers)[f"{path}.weight"]) @ unseen
    assert unseen.shape[1] > 20 and difference.abs().max() < 1e-9


def test_filling_fits_every_fold_from_what_the_original_layers_saw() -> None:
    model, _, _, weights = fitted("qwen3")
    filled = fill_layers(model, Layout.parse("1+2R2+1"), "least-squares", random_ids(8, 24))
    assert [layer.sources for layer in filled] == [(0,), (1, 3), (2, 4), (5,)]
    assert all(torch.equal(value, weights[name]) for name, value in filled[1].weights.items())
