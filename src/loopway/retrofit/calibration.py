"""The importance of each layer of a pretrained model on a text.

Knows nothing of layouts, and of where the text comes from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loopway.layout import Layout
from loopway.modeling.as_vanilla import as_vanilla
from loopway.modeling.stack import running_stages


@torch.no_grad()
def importance(model: PreTrainedModel, layers: Sequence[int], input_ids: Tensor) -> dict[int, float]:
    """Return by how much the loss rises without each of these layers, in nats per token.

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


def _loss(model: PreTrainedModel, input_ids: Tensor) -> float:
    """Mean over the samples, in nats per token."""
    losses = []
    for row in input_ids:
        ids = row[None].to(model.device)
        losses.append(model(ids, labels=ids, skip_logits=True, use_cache=False).loss.item())
    return sum(losses) / len(losses)
