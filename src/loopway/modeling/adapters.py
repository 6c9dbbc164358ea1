"""Check that PEFT put adapters on the layers chosen by index.

All layers lie inside ``layers.0``, and without ``layers_pattern`` PEFT takes the first number in a module's name as the
layer index. Knows names; doesn't import PEFT.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from loopway.errors import ConfigError

#: PEFT's ``layers_pattern`` for the unique layers.
LAYERS_PATTERN = "layers.0.layers"


class AdaptedLayersMixin:
    """Checks a model's adapters after PEFT has added them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "peft_config":  # PEFT's last step; a dict from adapter name to config
            check_adapted_layers(self, value)  # type: ignore[arg-type]
        super().__setattr__(name, value)


def check_adapted_layers(model: nn.Module, configs: Mapping[str, Any]) -> None:
    """Validate that each adapter is on the layers that its config chooses.

    Raises:
        ConfigError: it is on other layers; the message says what to add to the config.
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
