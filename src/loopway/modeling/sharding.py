"""FSDP2 for recursive models: which weights workers gather together, and how often for the loops.

Knows nothing of training.
"""

from typing import Any

from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from loopway.modeling.stack import find_stack


def shard_model(model: PreTrainedModel, *, gather_core_once: bool = False, **options: Any) -> None:
    """Spread a recursive model's weights over the workers, in place, with torch's ``fully_shard``.

    Every layer is gathered each time it runs, so a shared layer once a loop, forward and backward. With
    ``gather_core_once`` the layers that loop, and the routers, are gathered together and stay while the stack runs: once
    forward, once backward, whatever the number of loops. It takes the memory of the whole core. Gradients are summed over
    the loops first and over the workers once, either way.

    Args:
        model: a recursive model, before its optimizer is made.
        gather_core_once: the layers that loop as one unit.
        options: of ``fully_shard``: ``mesh``, ``mp_policy``, ``offload_policy``, ``reshard_after_forward``.

    Raises:
        TypeError: the model isn't recursive.
    """
    stack = find_stack(model)
    for index, layer in enumerate(stack.layers):
        if not (gather_core_once and stack.layout.uses_of_layer(index) > 1):
            fully_shard(layer, **options)
    if gather_core_once:
        fully_shard(stack, **options)  # what of it has no unit of its own yet
    fully_shard(model, **options)
