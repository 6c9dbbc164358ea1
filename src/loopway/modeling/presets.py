"""Pythia's sizes, the models that the paper trains. Facts from EleutherAI's released configs."""

from typing import Any

from transformers import PreTrainedConfig

from loopway.errors import ConfigError
from loopway.modeling.building import build_config, check_field_names
from loopway.modeling.families import FAMILIES

#: Layers, hidden size, heads, vocabulary and peak learning rate of Pythia's recipe, as in the paper for the sizes that it trains.
PYTHIA_SIZES: dict[str, dict[str, Any]] = {
    size: dict(
        zip(
            ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "learning_rate"),
            row,
            strict=True,
        )
    )
    for size, row in {
        "14m": (6, 128, 4, 50304, 1e-3),
        "31m": (6, 256, 8, 50304, 1e-3),
        "70m": (6, 512, 8, 50304, 1e-3),
        "160m": (12, 768, 12, 50304, 6e-4),
        "410m": (24, 1024, 16, 50304, 3e-4),
        "1b": (16, 2048, 8, 50304, 3e-4),
        "1.4b": (24, 2048, 16, 50304, 2e-4),
        "2.8b": (32, 2560, 32, 50304, 1.6e-4),
        "6.9b": (32, 4096, 32, 50432, 1.2e-4),
        "12b": (36, 5120, 40, 50688, 1.2e-4),
    }.items()
}


def pythia_size(size: str) -> str:
    """Normalise the name of a size: ``160m`` for ``160m``, ``160M`` or ``pythia-160m``.

    Raises:
        ConfigError: Pythia has no such size.
    """
    name = str(size).lower().removeprefix("pythia-")
    if name not in PYTHIA_SIZES:
        raise ConfigError(f"unknown Pythia size {size!r}; sizes: {', '.join(PYTHIA_SIZES)}")
    return name


def pythia_config(
    size: str, *, layout: str | None = None, recurrence: str = "base", **family_fields: Any
) -> PreTrainedConfig:
    """Return a recursive GPT-NeoX config of one of Pythia's sizes.

    Args:
        size: ``160m`` or ``pythia-160m``.
        layout: segments of layers; None means one segment of Pythia's depth, the vanilla model.
        recurrence: how the state passes between stages.
        family_fields: overrides of any field of the config: ``vocab_size``, ``num_slots``, …

    Raises:
        ConfigError: Pythia has no such size.
        LayoutError: the layout is invalid, or doesn't suit the recurrence.
        RecurrenceError: the recurrence is unknown, or its options are invalid.
        FamilyError: a field is unknown, or its value is invalid.
    """
    check_field_names(FAMILIES["gpt_neox"], family_fields)
    preset = {key: value for key, value in PYTHIA_SIZES[pythia_size(size)].items() if key != "learning_rate"}
    hidden_size = family_fields.get("hidden_size", preset["hidden_size"])
    fields = {
        **preset,
        "intermediate_size": 4 * hidden_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        **family_fields,
    }
    return build_config(FAMILIES["gpt_neox"], {**fields, "layout": layout, "recurrence": recurrence})
