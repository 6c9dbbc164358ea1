"""Initial values that families don't set: depth-scaled output projections and the recurrence's parameters.

Called from ``_init_weights`` after the family's own initialisation of all inner modules.
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
    """Return a layer's weights at these paths; each path names a linear map or a weight. Missing ones are skipped."""
    weights = dict(layer.named_parameters())
    found = (weights.get(f"{path}.weight", weights.get(path)) for path in paths)
    return [weight for weight in found if weight is not None]


def initialize(module: nn.Module, config: PreTrainedConfig) -> None:
    """Initialise ``module`` if it is a stack or a recurrence; keep loaded values."""
    if isinstance(module, RecursiveStack) and config.depth_scaled_init:
        # std / sqrt(2N), N the layers of the unrolled graph (paper, section 4)
        std = config.initializer_range / math.sqrt(2 * config.parsed_layout.compute_depth)
        for layer in module.layers:
            for weight in residual_weights(layer, config.family.residual_outputs):
                init.normal_(weight, std=std)
    elif isinstance(module, Recurrence):
        # A separate random stream: later layers start with the same values, whatever the recurrence.
        parameters = dict(module.named_parameters())
        loaded = [name for name, value in parameters.items() if getattr(value, "_is_hf_initialized", False)]
        has_buffers = any(True for _ in module.buffers())  # reset_parameters may fill them too
        if len(loaded) < len(parameters) or has_buffers:
            values = {name: parameters[name].detach().clone() for name in loaded}
            with own_stream():
                module.reset_parameters()
            for name, value in values.items():
                module.get_parameter(name).data.copy_(value)
