"""A least-squares fit of one layer's linear maps to those of several layers, on a text.

    W = argmin sum_l E |W x̃_l − y_l|² + λ |W − mean W_l|²

for one linear map after the other: y_l is the output of layer l's map in the original model, x̃_l the input of the shared
layer's map when it runs on layer l's input. Earlier maps are already fitted, norms are averaged. With
x̃_l = x_l this is RegMean (arXiv 2212.09849). A bias counts as one more column. Knows nothing of layouts.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loopway.modeling.weights import layers_of

# λ as a share of the mean squared input: how much a map is held to the average where the text says little.
RIDGE = 1.0

#: What a layer was called with, for one sample.
Call = tuple[tuple[Any, ...], dict[str, Any]]


@torch.no_grad()
def calls_of(model: PreTrainedModel, layers: Sequence[int], input_ids: Tensor) -> dict[int, list[Call]]:
    """Record the arguments of each of these layers, for each sample of ``input_ids``, ``[samples, seq]``."""
    calls: dict[int, list[Call]] = {layer: [] for layer in layers}
    handles = [
        layers_of(model)[layer].register_forward_pre_hook(
            lambda module, args, kwargs, layer=layer: calls[layer].append((args, kwargs)), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        for row in input_ids:
            model.base_model(row[None].to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


@torch.no_grad()
def fit_layer(
    layers: Sequence[nn.Module], calls: Sequence[Sequence[Call]], start: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of a shared layer whose linear maps are fitted to those of several layers.

    Args:
        layers: of the original model.
        calls: for each layer, what it is called with.
        start: weights of the shared layer before the fit: the layers' averages.

    Returns:
        As ``start``, with fitted linear maps.
    """
    shared = copy.deepcopy(layers[0])
    shared.load_state_dict(start)
    for path, linear in shared.named_modules():
        if isinstance(linear, nn.Linear):
            inputs, outputs = _moments(shared, layers, calls, path)
            before = _with_bias(linear).to(inputs)
            ridge = RIDGE * inputs.diagonal().mean()
            inputs.diagonal().add_(ridge)
            fit = torch.linalg.solve(inputs, (outputs + ridge * before).T).T
            linear.weight.copy_(fit[:, : linear.in_features])
            if linear.bias is not None:
                linear.bias.copy_(fit[:, -1])
    return shared.state_dict()


def _moments(
    shared: nn.Module, layers: Sequence[nn.Module], calls: Sequence[Sequence[Call]], path: str
) -> tuple[Tensor, Tensor]:
    """sum_l sum x̃ x̃ᵀ ``[in, in]`` and sum_l sum y x̃ᵀ ``[out, in]`` of the map at ``path``, float64, on the CPU."""
    inputs, outputs = 0, 0
    for layer, of_layer in zip(layers, calls, strict=True):
        for args, kwargs in of_layer:
            seen, _ = _through(shared, path, args, kwargs)
            _, given = _through(layer, path, args, kwargs)
            if shared.get_submodule(path).bias is not None:
                seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
            inputs = inputs + (seen.T @ seen).cpu().double()  # not every accelerator has float64
            outputs = outputs + (given.T @ seen).cpu().double()
    assert isinstance(inputs, Tensor) and isinstance(outputs, Tensor)
    return inputs, outputs


def _through(
    layer: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return input and output of the linear map at ``path`` when the layer runs, ``[tokens, …]``, in float32 or better."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        caught.extend((inputs[0], output))

    handle = layer.get_submodule(path).register_forward_hook(catch)
    try:
        layer(*args, **kwargs)
    finally:
        handle.remove()
    seen, given = (value.flatten(0, -2) for value in caught)
    precise = torch.promote_types(seen.dtype, torch.float32)
    return seen.to(precise), given.to(precise)


def _with_bias(linear: nn.Linear) -> Tensor:
    """``[out, in]``, and the bias as one more column if there is one."""
    weight, bias = linear.weight, linear.bias
    return weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)
