"""Build recursive configs from a family's config or from plain values, with field names validated.

All configs are built here, except those that transformers loads. Building a config registers its classes with the
Auto classes. Knows nothing of presets or files.
"""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from loopway.errors import FamilyError, LoopwayError
from loopway.layout import Layout
from loopway.modeling.configuration import RecursiveConfigMixin, config_class
from loopway.modeling.families import Family, family_named
from loopway.modeling.per_layer import of_unique_layers, without_followers
from loopway.modeling.registration import register_models

# Arguments that transformers' configs accept beside their fields: run-time options, and older names of rotary settings.
_ALSO_UNDERSTOOD = (
    "attn_implementation",
    "name_or_path",
    "num_labels",
    "partial_rotary_factor",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "torch_dtype",
)


def recursive_config(
    family_config: PreTrainedConfig, *, layout: str, recurrence: str = "base", **options: Any
) -> PreTrainedConfig:
    """Return a recursive config made from any supported family's config.

    Args:
        family_config: for example ``LlamaConfig(...)``; its ``num_hidden_layers`` is ignored.
        layout: the segments, for example ``6+9R2+6``.
        recurrence: ``base``, ``residual``, ``anchor``, ``anchor*``, sums, ``static``, ``dynamic``, ``mesh``, or a
            registered one.
        options: ``num_slots``, ``transition_router_input``, ``scale_embeddings``, ``depth_scaled_init`` and any
            field of the family's config.

    Raises:
        FamilyError: the family isn't supported, or a field is unknown or doesn't suit the layout.
        LayoutError: the layout is invalid, or doesn't suit the recurrence.
        RecurrenceError: the recurrence is unknown, or its options are invalid.
    """
    parsed = Layout.parse(layout)
    given = family_config.to_dict()
    model_type = given.pop("model_type").removeprefix("recursive_")
    family = family_named(model_type)
    for not_of_it in ("architectures", "transformers_version"):
        given.pop(not_of_it, None)
    if isinstance(family_config, RecursiveConfigMixin):
        for name, values in family_config.per_layer_lists.items():
            given[name] = of_unique_layers(name, values, family_config.call_layout)
        given["num_hidden_layers"] = family_config.num_unique_layers
        given.pop("loops")  # of its own layout
    given = without_followers(family.config_class, given, parsed)
    given.pop("num_hidden_layers", None)
    check_field_names(family, options)
    return build_config(family, {**given, **options, "layout": layout, "recurrence": recurrence})


def check_field_names(family: Family, names: Iterable[str]) -> None:
    """Validate that all names are fields of the family's recursive config; transformers accepts misspelt ones.

    Raises:
        FamilyError: a name is unknown; the message names the nearest field.
    """
    known = [field.name for field in fields(config_class(family))] + list(_ALSO_UNDERSTOOD)
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {nearest[0]!r}?" if nearest else "see the family's config class for its fields"
            )
            raise FamilyError(f"{family.model_type} config has no field {name!r}: {hint}")


def build_config(family: Family, values: dict[str, Any]) -> PreTrainedConfig:
    """Return the family's recursive config made from plain fields.

    transformers wraps errors of a config's validation; they are unwrapped, since users need the cause.

    Raises:
        LoopwayError: the values are invalid.
    """
    if values["layout"] is not None:  # before the type check: our messages are clearer
        Layout.parse(values["layout"]).with_loops(values.get("loops"))
    register_models(family)
    try:
        return config_class(family)(**values)
    except LoopwayError:
        raise
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise FamilyError(f"{family.model_type} config: {error.__cause__ or error}") from error
