"""Run a family's own code around its base model: its causal LM's constructor, and the path from states to logits.

The family's code thus applies its scale, cap or head bias, and the auxiliary loss of experts. Knows no individual
family.
"""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from loopway.errors import FamilyError
from loopway.modeling.families import Family


def construct(
    model: PreTrainedModel, config: PreTrainedConfig, family: Family, base: type[PreTrainedModel]
) -> None:
    """Run the constructor of the family's causal LM on ``model``, with ``base`` as the class of its base model.

    Raises:
        FamilyError: the constructor builds its base model or its head in an unsupported way.
    """
    own: Any = inspect.unwrap(family.causal_lm_class.__init__)
    names = {**own.__globals__, family.model_class.__name__: base}
    FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)(model, config)
    if type(model.base_model) is not base or not isinstance(getattr(model, "lm_head", None), nn.Linear):
        raise FamilyError(
            f"family {family.model_type!r} doesn't fit: {family.causal_lm_class.__name__} isn't a "
            f"{family.model_class.__name__} with a linear head called lm_head"
        )


class _Answered:
    """Stand-in for a causal LM whose base model returns given outputs."""

    def __init__(self, model: Any, outputs: Any, head: Callable[[Tensor], Tensor] | None) -> None:
        self._model = model
        setattr(self, model.base_model_prefix, lambda *_, **__: outputs)
        if head is not None:
            self.lm_head = head

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def after_base(
    model: Any, outputs: Any, *, head: Callable[[Tensor], Tensor] | None = None, **given: Any
) -> Any:
    """Run the family's forward on given outputs of its base model; return the family's output, with logits.

    Args:
        model: a recursive causal LM.
        outputs: outputs of its base model.
        head: replaces the model's own head.
        given: further arguments of the forward.
    """
    forward: Any = model.config.family.causal_lm_class.forward
    return forward(_Answered(model, outputs, head), **given, return_dict=True)


def logits_of(model: Any, hidden: Tensor, head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return the logits ``[…, vocab]`` of hidden states ``[…, hidden]``, computed by the family's forward."""
    rows = hidden.unsqueeze(0) if hidden.ndim == 2 else hidden
    logits = after_base(model, MoeModelOutputWithPast(last_hidden_state=rows), head=head).logits  # type: ignore[arg-type]
    return logits.squeeze(0) if hidden.ndim == 2 else logits


def unchanged(tensor: Tensor) -> Tensor:
    """Return the argument: a head that leaves only the family's code around it."""
    return tensor


def changes_logits(model: Any) -> bool:
    """Return whether the family changes logits after its head's linear map."""
    probe = torch.zeros(1, 1, 8, device="cpu")
    found = logits_of(model, probe, unchanged)
    return found.shape != probe.shape or (found is not probe and found._base is not probe)
