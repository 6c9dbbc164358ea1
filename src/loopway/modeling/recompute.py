"""Memory for time: what of a stage is kept for the backward pass, and what is computed once more.

Gradient checkpointing that knows stages. Gradients are the same at every level, bit for bit on a CPU; under autocast
``selective`` adds up those of shared weights in the weights' own precision, the others in autocast's. Knows nothing of
recurrences: what they keep, one state a boundary, is kept at every level.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from loopway.modeling.cache import StageCache

#: What is kept: everything; matrix products and attention (norms, activation functions and rotary embeddings are
#: computed once more, which costs little); each layer's input; each stage's input.
RECOMPUTE_LEVELS = ("none", "selective", "layer", "stage")

_aten = torch.ops.aten
_KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def run_layers(
    layers: Sequence[tuple[nn.Module, dict[str, Any]]], hidden_states: Tensor, level: str
) -> Tensor:
    """The layers one after the other, keeping for the backward pass what the level says.

    Args:
        layers: those of one stage, each with what it is given. With another level than ``none`` they get no KV cache: what
            runs once more would be appended once more.
        hidden_states: ``[batch, seq, hidden]``.
    """
    if level != "none":
        layers = [(layer, _without_cache(kwargs)) for layer, kwargs in layers]
    calls = [partial(layer, **kwargs) for layer, kwargs in layers]
    if level == "stage":
        return _checkpointed(partial(_one_after_the_other, calls), hidden_states)
    if level != "none":
        if level == "selective":
            calls = [
                partial(_checkpointed, partial(_casting_anew, call), context_fn=_selective) for call in calls
            ]
        else:
            calls = [partial(_checkpointed, call) for call in calls]
    return _one_after_the_other(calls, hidden_states)


def _without_cache(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, StageCache) else value for name, value in kwargs.items()}


def _one_after_the_other(calls: Sequence[Callable[[Tensor], Tensor]], hidden_states: Tensor) -> Tensor:
    for call in calls:
        hidden_states = call(hidden_states)
    return hidden_states


def _checkpointed(call: Callable[[Tensor], Tensor], hidden_states: Tensor, **options: Any) -> Tensor:
    return checkpoint(call, hidden_states, use_reentrant=False, **options)  # type: ignore[return-value]


def _casting_anew(call: Callable[[Tensor], Tensor], hidden_states: Tensor) -> Tensor:
    """Under autocast, which casts a weight once for all loops: then the backward pass would meet casts that were not there."""
    device = hidden_states.device.type
    if device == "meta":  # which has no autocast
        return call(hidden_states)
    with torch.autocast(device, enabled=torch.is_autocast_enabled(device), cache_enabled=False):
        return call(hidden_states)


def _selective() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
