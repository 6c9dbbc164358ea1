"""PEFT's adapters on layers that are chosen by index: those layers have them, or it is an error.

All layers lie inside ``layers.0``, and PEFT goes by the first number of a name unless it is given a pattern. Knows names;
imports no PEFT.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from loopway.errors import ConfigError

#: PEFT's ``layers_pattern`` for the unique layers.
LAYERS_PATTERN = "layers.0.layers"


class AdaptedLayersMixin:
    """Checks the adapters of a model when PEFT has put them in."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "peft_config":  # the last that PEFT does; the configs by the adapters' names
            check_adapted_layers(self, value)  # type: ignore[arg-type]
        super().__setattr__(name, value)


def check_adapted_layers(model: nn.Module, configs: Mapping[str, Any]) -> None:
    """Raise unless each adapter is on the layers that its config chooses.

    Raises:
        ConfigError: it is on others; what to add to the config.
    """
    for adapter, config in configs.items():
        chosen = getattr(config, "layers_to_transform", None)
        if chosen is None or chosen == []:
            continue
        inside = re.compile(rf"(?:^|\.)layers\.0\.layers\.(\d+)\..*\.{re.escape(adapter)}(?:\.|$)")
        adapted = {int(match[1]) for name, _ in model.named_parameters() if (match := inside.search(name))}
        if not adapted <= {*([chosen] if isinstance(chosen, int) else chosen)}:
            raise ConfigError(
                f"layers_to_transform={chosen}: PEFT adapted layers {sorted(adapted)}, since all layers lie inside "
                f"layers.0; add layers_pattern={LAYERS_PATTERN!r}"
            )
