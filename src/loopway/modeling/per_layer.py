"""Lists of a family's config that have one entry a layer (kinds of attention, layers without rotary positions).

A layer that runs several times has one entry: such lists are those of the unique layers, repeated as the layout repeats
them. What a config says by index, which layers are dense among layers with experts, moves with the layers. Knows nothing
of what the entries mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from loopway.errors import FamilyError
from loopway.layout import Layout

# Two depths at which a family's config is made to see which of its lists follow; no list of another kind is as long.
_DEPTHS = (7, 11)


@cache
def per_layer_fields(config_class: type) -> tuple[str, ...]:
    """The fields of a family's config whose lists have one entry a layer."""
    names: list[str] = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    configs = [config_class(num_hidden_layers=depth) for depth in _DEPTHS]

    def follows(name: str) -> bool:
        values = [getattr(config, name, None) for config in configs]
        lengths = tuple(len(value) if isinstance(value, list) else None for value in values)
        return lengths == _DEPTHS or name == "layer_types"

    return tuple(filter(follows, names))


def per_layer_lists(config: Any, config_class: type | None = None) -> dict[str, list[Any]]:
    """The lists of a config that have one entry a layer, by their names; the class is its family's, if it isn't its own."""
    found = {name: getattr(config, name, None) for name in per_layer_fields(config_class or type(config))}
    return {name: values for name, values in found.items() if values is not None}


def dense_layers_moved(config: Any, sources: Sequence[int]) -> dict[str, Any]:
    """Fields that say by index which layers have no experts, for a model whose layer ``i`` was layer ``sources[i]``.

    Empty where the config has no such fields, or they say the same of the moved layers.

    Args:
        config: of the layers that ``sources`` counts.
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
    """The unique layer that each layer of the unrolled graph is."""
    return [unique for stage in layout.stages for unique in stage.layers]


def of_unique_layers(name: str, values: Sequence[Any], layout: Layout) -> list[Any]:
    """A per-layer list for the unique layers alone.

    Args:
        name: of the field.
        values: one entry for each unrolled layer, for each unique layer, or all alike.

    Raises:
        FamilyError: another number of entries, or two iterations of a layer that have different ones.
    """
    unrolled = unrolled_layers(layout)
    if len(values) == len(unrolled):
        first_at: dict[int, int] = {}
        for position, unique in enumerate(unrolled):
            earlier = first_at.setdefault(unique, position)
            if values[earlier] != values[position]:
                raise FamilyError(
                    f"layout {layout} would fold layers {earlier} ({values[earlier]}) and {position} "
                    f"({values[position]}) into one, which differ in {name}: choose a layout that loops over whole periods "
                    f"of {name}"
                )
        return [values[position] for position in first_at.values()]
    if len(values) == layout.parameter_depth:
        return list(values)
    if len({repr(value) for value in values}) == 1:
        return list(values[:1]) * layout.parameter_depth
    raise FamilyError(
        f"{name} has {len(values)} entries, and layout {layout} has {layout.parameter_depth} unique layers: give one "
        f"entry for each of them"
    )


def without_followers(config_class: type, given: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """A family config's values without the lists that it makes itself from its depth, where they don't fit the layout.

    Args:
        given: all values of the family's config, its own depth among them.
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
