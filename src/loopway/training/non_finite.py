"""The first place of a non-finite number: the module of a forward pass, or the weight of a backward pass.

Knows nothing of training.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def first_bad_module(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Return the first module whose output isn't finite when `forward` repeats the forward pass.

    Inner modules come before outer ones. A shared layer is named once, after the place of its weights.
    """
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and any(not tensor.isfinite().all() for tensor in _tensors(output)):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


@torch.no_grad()
def first_bad_gradient(model: nn.Module) -> str | None:
    """Return the weight with a non-finite gradient that is nearest to the loss."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return name
    return None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
