"""What a calibration text says about a pretrained model's layers: what each is worth, and what its linear maps see.

Knows nothing of layouts, and of where the text comes from.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loopway.layout import Layout
from loopway.modeling.conversion import as_vanilla
from loopway.modeling.stack import running_stages
from loopway.modeling.weights import layers_of

# Of the mean input energy: how much a fitted map is held to the average where the text says little.
RIDGE = 0.01


@torch.no_grad()
def importance(model: PreTrainedModel, layers: Sequence[int], input_ids: Tensor) -> dict[int, float]:
    """For each of these layers, how much the loss rises without it, in nats per token.

    Args:
        model: a family's own.
        input_ids: ``[samples, seq]``.
    """
    vanilla = as_vanilla(model)
    stages = Layout.parse("+".join(["1"] * model.config.num_hidden_layers)).stages
    loss = _loss(vanilla, input_ids)
    rises = {}
    for layer in layers:
        with running_stages(vanilla, [stage for stage in stages if layer not in stage.layers]):
            rises[layer] = _loss(vanilla, input_ids) - loss
    return rises


@torch.no_grad()
def fit_linear_maps(model: PreTrainedModel, fold: Sequence[int], input_ids: Tensor) -> dict[str, Tensor]:
    """Of every linear map inside the folded layers, the one that comes closest to them all on a text.

        W = argmin sum_l E |W x_l − W_l x_l|² + λ |W − mean W_l|²     (RegMean, arXiv 2212.09849)

    where x_l is what layer l's map sees in the original model; a bias counts as one more column. λ is RIDGE times the
    mean of the squared inputs, summed over the layers.

    Args:
        model: a family's own.
        fold: the layers.
        input_ids: ``[samples, seq]``.

    Returns:
        Weights and biases by their names inside a layer.
    """
    grams = input_grams(model, fold, input_ids)
    fitted = {}
    for path in grams[0]:
        maps = [layers_of(model)[layer].get_submodule(path) for layer in fold]
        matrices = [_with_bias(linear).to(gram[path]) for linear, gram in zip(maps, grams, strict=True)]
        total = torch.stack([gram[path] for gram in grams]).sum(0)
        ridge = RIDGE * total.diagonal().mean()
        wanted = torch.stack([matrix @ gram[path] for matrix, gram in zip(matrices, grams, strict=True)]).sum(
            0
        )
        wanted += ridge * torch.stack(matrices).mean(0)
        total.diagonal().add_(ridge)
        fit = torch.linalg.solve(total, wanted.T).T
        for name, parameter in maps[0].named_parameters():
            value = fit[:, : maps[0].in_features] if name == "weight" else fit[:, -1]  # type: ignore[misc]
            fitted[f"{path}.{name}"] = value.to(parameter)
    return fitted


@torch.no_grad()
def input_grams(model: PreTrainedModel, layers: Sequence[int], input_ids: Tensor) -> list[dict[str, Tensor]]:
    """E x xᵀ of what every linear map inside these layers sees, over the text's tokens.

    Returns:
        For each layer, by the map's name inside it, float64 ``[in, in]``; with a bias ``[in + 1, in + 1]``, x having a
        one at its end.
    """
    grams: list[dict[str, Tensor]] = [{} for _ in layers]
    with _seeing_inputs(model, layers, grams):
        for row in input_ids:
            model.base_model(row[None].to(model.device), use_cache=False)
    return [{path: gram / input_ids.numel() for path, gram in of_layer.items()} for of_layer in grams]


@contextmanager
def _seeing_inputs(
    model: PreTrainedModel, layers: Sequence[int], grams: list[dict[str, Tensor]]
) -> Iterator[None]:
    """Within, every linear map of these layers adds what it sees to its gram."""
    handles = []
    for layer, of_layer in zip(layers, grams, strict=True):
        for path, linear in layers_of(model)[layer].named_modules():
            if isinstance(linear, nn.Linear):

                def add(
                    linear: nn.Module, args: tuple[Tensor, ...], path: str = path, to: dict = of_layer
                ) -> None:
                    seen = args[0].flatten(0, -2)
                    seen = seen.to(torch.promote_types(seen.dtype, torch.float32))
                    if linear.bias is not None:
                        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
                    # To the CPU: not every accelerator has float64.
                    gram = (seen.T @ seen).cpu().double()
                    to[path] = to[path] + gram if path in to else gram

                handles.append(linear.register_forward_pre_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_bias(linear: nn.Module) -> Tensor:
    """``[out, in]``, and the bias as one more column if there is one."""
    weight, bias = linear.get_parameter("weight"), dict(linear.named_parameters()).get("bias")
    return weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)


def _loss(model: PreTrainedModel, input_ids: Tensor) -> float:
    """Mean over the samples, in nats per token."""
    losses = []
    for row in input_ids:
        ids = row[None].to(model.device)
        losses.append(model(ids, labels=ids, skip_logits=True, use_cache=False).loss.item())
    return sum(losses) / len(losses)
