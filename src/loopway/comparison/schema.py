"""The JSON schema of run and comparison files, from the declarations that validate them; editors use it.

It covers names, types and limits. `loopway check` also checks that values fit each other.
"""

from typing import Any

from pydantic import BaseModel, TypeAdapter

from loopway.comparison.early import COMPARISON_KEYS
from loopway.data.config import DataConfig
from loopway.modeling.families import FAMILIES
from loopway.training.config.keys import (
    MODEL_KEYS,
    REFUSED_OF_MODEL,
    REFUSED_OF_TRAINING,
    family_fields,
    training_types,
)
from loopway.training.original import OriginalConfig

_OTHERS: dict[str, Any] = {
    "extends": str,
    "plugins": list[str],
    "probe_every": int | None,
    "seeds": list[int],
    "prompt": str,
    "probe_samples": int,
}


def config_schema() -> dict[str, Any]:
    """Return a JSON schema (draft 2020-12) of a run's file or a comparison's.

    No section is required, since a file may extend another.
    """
    definitions: dict[str, Any] = {}
    training = {
        key: TypeAdapter(kind).json_schema()
        for key, kind in training_types().items()
        if key not in REFUSED_OF_TRAINING
    }
    fields = frozenset[str]().union(*map(family_fields, FAMILIES))
    model = _mapping({key: {} for key in sorted({*MODEL_KEYS, *fields} - REFUSED_OF_MODEL.keys())})
    known = {
        "model": model,
        "data": _without_required(DataConfig, definitions),
        "training": _mapping({key: _or_null(schema) for key, schema in sorted(training.items())}),
        "original": _without_required(OriginalConfig, definitions),
        "variants": {"type": "object", "additionalProperties": model},
        **{key: TypeAdapter(kind).json_schema() for key, kind in _OTHERS.items()},
    }
    assert known.keys() == {*COMPARISON_KEYS, "extends"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Loopway: a run, or a comparison of runs",
        **_mapping(known),
        "$defs": definitions,
    }


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _without_required(section: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section, which an extended file may complete; its references go to ``definitions``."""
    schema = section.model_json_schema()
    definitions |= schema.pop("$defs", {})
    schema.pop("required", None)
    for name in {"train", "validation"} & section.model_fields.keys():
        schema["properties"][name] = _or_list(schema["properties"][name])
    return schema


def _or_list(schema: dict[str, Any]) -> dict[str, Any]:
    """One entry stands for a list of it."""
    lists = [each for each in schema.get("anyOf", [schema]) if each.get("type") == "array"]
    return {"anyOf": [schema, *(each["items"] for each in lists)]} if lists else schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A null stands for the default."""
    return {"anyOf": [schema, {"type": "null"}]}
