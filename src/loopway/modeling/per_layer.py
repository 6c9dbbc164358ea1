"""Per-layer lists of a family's config, such as kinds of attention or layers without rotary positions.

A unique layer has one entry, which is repeated as the layout repeats the layer. Fields that list layers by index, such
as dense layers among layers with experts, move with the layers. Knows nothing of the entries' meaning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from loopway.errors import FamilyError
from loopway.layout import Layout

# Two depths at which a config is built to find the lists that follow the depth. No other list has these lengths.
_DEPTHS = (7, 11)


@cache
def per_layer_fields(config_class: type) -> tuple[str, ...]:
    """Return the names of a family config's fields that hold lists with one entry per layer."""
    names: list[str] = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    configs = [config_class(num_hidden_layers=depth) for depth in _DEPTHS]

    def follows(name: str) -> bool:
        values = [getattr(config, name, None) for config in configs]
        lengths = tuple(len(value) if isinstance(value, list) else None for value in values)
        return lengths == _DEPTHS or name == "layer_types"

    return tuple(filter(follows, names))


def per_layer_lists(config: Any, config_class: type | None = None) -> dict[str, list[Any]]:
    """Return a config's per-layer lists by field name; ``config_class`` defaults to the config's own class."""
    found = {name: getattr(config, name, None) for name in per_layer_fields(config_class or type(config))}
    return {name: values for name, values in found.items() if values is not None}


def dense_layers_moved(config: Any, sources: Sequence[int]) -> dict[str, Any]:
    """Return the fields that list layers without experts, for a model whose layer ``i`` was layer ``sources[i]``.

    Empty if the config has no such fields, or they need no change.

    Args:
        config: the config of the source model, whose layers ``sources`` indexes.
        sources: for each new layer, its index in the source model.
    """
    if not hasattr(config, "mlp_only_layers"):
        return {}
    step = config.decoder_sparse_step

    def is_dense(layer: int) -> bool:
        return layer in config.mlp_only_layers or (layer + 1) % step != 0

    dense = [position for position, source in enumerate(sources) if is_dense(source)]
    if dense == list(filter(is_dense, range(len(sources)))):
        return {}
    return {"mlp_only_layers": dense, "decoder_sparse_step": 1}


def unrolled_layers(layout: Layout) -> list[int]:
    """Return the index of the unique layer for each layer of the unrolled graph."""
    return [unique for stage in layout.stages for unique in stage.layers]


def of_unique_layers(name: str, values: Sequence[Any], layout: Layout) -> list[Any]:
    """Reduce a per-layer list to the unique layers.

    Args:
        name: the field's name.
        values: one entry per unrolled layer, one per unique layer, or equal entries of any number.
        layout: the layout that defines both.

    Raises:
        FamilyError: the number of entries is wrong, or iterations of one layer have different entries.
    """
    unrolled = unrolled_layers(layout)
    if len(values) == len(unrolled):
        first_at: dict[int, int] = {}
        for position, unique in enumerate(unrolled):
            earlier = first_at.setdefault(unique, position)
            if values[earlier] != values[position]:
                raise FamilyError(
                    f"layout {layout} would fold layers {earlier} ({values[earlier]}) and {position} "
                    f"({values[position]}) into one, but they differ in {name}: choose a layout that loops over whole "
                    f"periods of {name}"
                )
        return [values[position] for position in first_at.values()]
    if len(values) == layout.parameter_depth:
        return list(values)
    if len({repr(value) for value in values}) == 1:
        return list(values[:1]) * layout.parameter_depth
    raise FamilyError(
        f"{name} has {len(values)} entries, and layout {layout} has {layout.parameter_depth} unique layers: give one "
        f"entry per unique layer"
    )


def without_followers(config_class: type, given: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Drop per-layer lists that the family derives from its depth and that don't fit the layout.

    Args:
        config_class: the family's config class.
        given: all values of the family's config, including its own depth.
        layout: the layout of the recursive config.

    Returns:
        The remaining values.
    """
    names = [name for name in per_layer_fields(config_class) if given.get(name) is not None]
    made = config_class(**{name: value for name, value in given.items() if name not in names})
    kept = dict(given)
    for name in names:
        try:
            of_unique_layers(name, given[name], layout)
        except FamilyError:
            if given[name] == getattr(made, name):
                del kept[name]
    return kept
