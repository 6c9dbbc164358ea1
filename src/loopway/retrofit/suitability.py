"""Check whether a checkpoint fits a layout, and find layouts that fit it.

Reads configs only, before any weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from loopway.errors import ConfigError, FamilyError, LayoutError
from loopway.layout import Layout
from loopway.modeling.families import family_named
from loopway.modeling.per_layer import of_unique_layers, per_layer_lists


def check_fits(config: PreTrainedConfig, layout: Layout) -> None:
    """Check that a model of this config can be arranged in the layout.

    Raises:
        FamilyError: another family, a model that is recursive already, a fold of layers of different kinds.
        LayoutError: the layout computes another number of layers than the model has; the message names some that fit.
        ConfigError: quantised weights.
    """
    if config.model_type.startswith("recursive_"):
        raise FamilyError(
            f"the model is recursive already, of layout {getattr(config, 'layout', None)}: give a family's own "
            f"checkpoint; loopway export turns a recursive model into one"
        )
    family_named(config.model_type)
    if quantization := getattr(config, "quantization_config", None):
        # A dictionary where the config was read, an object where the model was loaded.
        values = quantization if isinstance(quantization, dict) else vars(quantization)
        method = values.get("quant_method")
        raise ConfigError(
            f"the model's weights are quantised ({getattr(method, 'value', method)}) and can't be shared or averaged: "
            f"give the checkpoint in float32, bfloat16 or float16"
        )
    depth: int = config.num_hidden_layers  # type: ignore[attr-defined]
    lists = per_layer_lists(config)
    if layout.compute_depth != depth:
        raise LayoutError(
            f"layout {layout} computes {layout.compute_depth} layers and the model has {depth}; these would fit: "
            f"{', '.join(fitting_layouts(depth, lists))}"
        )
    for name, values in lists.items():
        of_unique_layers(name, values, layout)


def fitting_layouts(depth: int, lists: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return some layouts that compute so many layers: two and three loops over at most three fifths of them, and no loop.

    Args:
        lists: per-layer lists by name; layers that loop together have equal entries.
    """
    found = []
    for loops in (2, 3):
        for core in range(max(1, 3 * depth // 5 // loops), 0, -1):
            rest = depth - core * loops
            layout = f"{rest // 2}+{core}R{loops}+{rest - rest // 2}"
            if rest >= 2 and _folds_equal_layers(Layout.parse(layout), lists):
                found.append(layout)
                break
    return [*found, str(depth)]


def _folds_equal_layers(layout: Layout, lists: Mapping[str, Sequence[Any]]) -> bool:
    try:
        for name, values in lists.items():
            of_unique_layers(name, values, layout)
    except FamilyError:
        return False
    return True
