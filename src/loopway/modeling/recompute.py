"""Gradient checkpointing by stage: which activations are kept for the backward pass, and which are recomputed.

Gradients are equal at every level, bit for bit on a CPU. Under autocast, ``selective`` sums the gradients of shared
weights in the weights' precision, other levels in autocast's. Knows nothing of recurrences: the state that they keep
at each boundary is kept at every level.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from loopway.modeling.cache import StageCache

#: Kept at each level: everything; matrix products and attention (recomputing norms, activation functions and rotary
#: embeddings costs little); each layer's input; each stage's input.
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
    """Run the layers of a stage in order, keeping for the backward pass what the level says.

    Args:
        layers: the layers with their arguments. With any level but ``none`` they get no KV cache: a recomputed layer
            would append its entries twice.
        hidden_states: ``[batch, seq, hidden]``.
        level: one of :data:`RECOMPUTE_LEVELS`.

    Returns:
        The last layer's output, ``[batch, seq, hidden]``.
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
    """Run a layer without autocast's cache of cast weights.

    The cache casts a weight once for all loops, and recomputation would then run casts that the forward skipped.
    """
    device = hidden_states.device.type
    if device == "meta":  # it has no autocast
        return call(hidden_states)
    with torch.autocast(device, enabled=torch.is_autocast_enabled(device), cache_enabled=False):
        return call(hidden_states)


def _selective() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
