"""Initial values of what the families don't know: depth-scaled output projections and the recurrence's parameters.

Called from ``_init_weights`` after the family's own initialisation has run over every module inside.
"""

import math
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from loopway.modeling.stack import RecursiveStack
from loopway.recurrence import Recurrence
from loopway.recurrence.randomness import own_stream


def residual_weights(layer: nn.Module, paths: Sequence[str]) -> list[nn.Parameter]:
    """A layer's weights at these paths, each of a linear map or itself a weight; not every layer has them all."""
    weights = dict(layer.named_parameters())
    found = (weights.get(f"{path}.weight", weights.get(path)) for path in paths)
    return [weight for weight in found if weight is not None]


def initialize(module: nn.Module, config: PreTrainedConfig) -> None:
    """Initialise ``module`` if it is a stack or a recurrence; values that were loaded are kept."""
    if isinstance(module, RecursiveStack) and config.depth_scaled_init:
        # std / sqrt(2N), N the layers of the unrolled graph (paper, section 4)
        std = config.initializer_range / math.sqrt(2 * config.parsed_layout.compute_depth)
        for layer in module.layers:
            for weight in residual_weights(layer, config.family.residual_outputs):
                init.normal_(weight, std=std)
    elif isinstance(module, Recurrence):
        # Its own stream: with any recurrence, layers that are initialised later start with the same values.
        parameters = dict(module.named_parameters())
        loaded = [name for name, value in parameters.items() if getattr(value, "_is_hf_initialized", False)]
        has_buffers = any(True for _ in module.buffers())  # which a rule may fill in the same place
        if len(loaded) < len(parameters) or has_buffers:
            values = {name: parameters[name].detach().clone() for name in loaded}
            with own_stream():
                module.reset_parameters()
            for name, value in values.items():
                module.get_parameter(name).data.copy_(value)
