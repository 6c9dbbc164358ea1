"""Loss per sample under any causal language model, computed without holding all logits.

Knows models and batches; nothing of where samples come from.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import unwrap_model

from loopway.modeling.causal_lm import RecursiveCausalLMMixin
from loopway.modeling.loss import IGNORE_INDEX, sample_losses_from_hidden


@torch.no_grad()
def losses_of_samples(model: Any, inputs: dict[str, Any], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats and the number of targets of every sample, each ``[batch]``.

    Args:
        model: a recursive model, wrapped or not, or any causal language model of transformers.
        inputs: the model's keyword arguments, without labels.
        targets: already shifted, ``[batch, seq]``; -100 is ignored.
    """
    inputs = {**inputs, "use_cache": False}
    if isinstance(unwrap_model(model), RecursiveCausalLMMixin):
        sums = model(**inputs, shift_labels=targets, loss_per_sample=True).loss
    else:
        sums = sample_losses_from_hidden(*_states_and_head(model, inputs), targets)
    return sums, (targets != IGNORE_INDEX).sum(dim=-1)


def _states_and_head(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the last hidden state, and a function from it to the model's logits, including scale, cap and bias.

    If a model can't be split like this, return its logits and the identity.
    """
    if model.base_model is not model:
        outputs = model.base_model(**inputs, return_dict=True)
        hidden = getattr(outputs, "last_hidden_state", None)
        if hidden is not None and _own_logits(model, outputs, hidden[0, :1])[1]:
            return hidden, lambda rows: _own_logits(model, outputs, rows)[0]
    return model(**inputs).logits, lambda logits: logits


def _own_logits(model: Any, outputs: Any, rows: Tensor) -> tuple[Tensor, bool]:
    """Return the logits ``[rows, vocab]`` that the model's forward makes from states ``[rows, hidden]``.

    The second result says whether the forward called the base model; otherwise the logits are invalid.
    This calls the model itself, not a stand-in as in family_head: it may be compiled, or call a part of its base model.
    """
    base, asked = model.base_model, False
    own = base.__dict__.get("forward")  # accelerate's hooks set one

    def answer(*_: Any, **__: Any) -> Any:
        nonlocal asked
        asked = True
        return type(outputs)(**{**outputs, "last_hidden_state": rows.unsqueeze(0)})

    base.forward = answer
    try:
        ids = torch.zeros((1, len(rows)), dtype=torch.long, device=rows.device)
        return model(input_ids=ids, use_cache=False, return_dict=True).logits.squeeze(0), asked
    finally:
        del base.forward
        if own is not None:
            base.forward = own
