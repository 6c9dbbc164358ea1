"""FSDP2 for recursive models: which weights workers gather together, and how often per loop.

Knows nothing of training.
"""

from typing import Any

from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from loopway.modeling.stack import find_stack


def shard_model(model: PreTrainedModel, *, gather_core_once: bool = False, **options: Any) -> None:
    """Shard a recursive model's weights over the workers, in place, with torch's ``fully_shard``.

    By default, workers gather a layer each time it runs: a shared layer once per loop, forward and backward. With
    ``gather_core_once``, they gather all looped layers and the routers together, once forward and once backward,
    whatever the number of loops. This needs the memory of the whole core. In both cases gradients are summed over the
    loops first, then once over the workers.

    Args:
        model: a recursive model, before its optimizer is created.
        gather_core_once: shard the looped layers as one unit.
        options: options of ``fully_shard``: ``mesh``, ``mp_policy``, ``offload_policy``, ``reshard_after_forward``.

    Raises:
        TypeError: the model isn't recursive.
    """
    stack = find_stack(model)
    for index, layer in enumerate(stack.layers):
        if not (gather_core_once and stack.layout.uses_of_layer(index) > 1):
            fully_shard(layer, **options)
    if gather_core_once:
        fully_shard(stack, **options)  # the parts that are in no unit yet
    fully_shard(model, **options)
