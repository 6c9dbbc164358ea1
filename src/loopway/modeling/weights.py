"""Split a model into the weights of its layers and those outside, and build a model from such weights.

Works for a family's own model and for a recursive one, whose unique layers lie inside its stack. A layer's weights have
the same names in both. Knows nothing of how layers are rearranged.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from loopway.errors import ConfigError
from loopway.modeling.stack import RecursiveStack, find_stack

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # others are quantised


class Weights(NamedTuple):
    """All weights of a model except its recurrence's.

    Attributes:
        outside: weights of embeddings, final norm and head, by full name.
        layers: weights of every layer, by name inside the layer.
    """

    outside: dict[str, Tensor]
    layers: list[dict[str, Tensor]]


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a family's own model, or the unique layers of a recursive one."""
    layers = model.base_model.layers
    return find_stack(model).layers if isinstance(layers[0], RecursiveStack) else layers  # type: ignore[return-value,index]


def weights_of(model: PreTrainedModel) -> Weights:
    """Return the model's weights: its own tensors, not copies."""
    inside = f"{model.base_model_prefix}.layers."
    outside = {name: value for name, value in model.state_dict().items() if not name.startswith(inside)}
    return Weights(outside, [layer.state_dict() for layer in layers_of(model)])


def model_with(
    cls: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: Weights,
    recurrence: Mapping[str, Tensor] | None = None,
    *,
    like: PreTrainedModel,
) -> PreTrainedModel:
    """Return a model with copies of these weights, in eval mode. Every weight must find its place.

    Args:
        cls: the causal LM's class, a family's own or a recursive one.
        config: a config of that class.
        weights: the weights of its layers and those outside.
        recurrence: the recurrence's parameters, for a recursive model.
        like: the model that precision, device, attention backend and generation config are taken from.

    Raises:
        ConfigError: weights are missing, unexpected or of another shape than in the config.
    """
    stack = f"{cls.base_model_prefix}.layers."
    inside = stack if recurrence is None else f"{stack}0.layers."
    state = {name: value.clone() for name, value in weights.outside.items()}
    for index, layer in enumerate(weights.layers):
        state |= {f"{inside}{index}.{name}": value.clone() for name, value in layer.items()}
    for name, value in (recurrence or {}).items():
        state[f"{stack}0.recurrence.{name}"] = value.to(like.dtype, copy=True)
    loaded: Any = cls.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=like.dtype,
        device_map=like.device,
        attn_implementation=like.config._attn_implementation,
        generation_config=like.generation_config,
        output_loading_info=True,
    )
    model, info = loaded
    check_loading(info)
    # Without this attribute, the model is saved under the weight names that its family publishes.
    vars(model).pop("_weight_conversions", None)
    return model


@torch.no_grad()
def first_bad_weight(model: nn.Module) -> str | None:
    """Return the name of the first non-finite weight, or None. For a sharded model, each worker checks its own part."""
    for name, parameter in model.named_parameters():
        part = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if part.dtype in _FLOATS and not part.isfinite().all():
            return name
    return None


def check_loading(info: Mapping[str, Sequence]) -> None:
    """Validate the loading info of ``from_pretrained``; transformers itself initialises missing weights at random.

    Raises:
        ConfigError: weights are missing, unexpected or of another shape.
    """
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        found = sorted(
            key if isinstance(key, str) else "{} is {}, expected {}".format(key[0], *map(list, key[1:]))
            for key in info.get(problem, ())
        )
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ConfigError(
                f"weights don't fit the config ({problem.replace('_', ' ')}: {found[0]}{more}); give a "
                f"complete, unmodified checkpoint"
            )
