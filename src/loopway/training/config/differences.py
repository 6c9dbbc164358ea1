"""How configs differ, key by key. Knows plain values; nothing of what they mean."""

from collections.abc import Mapping, Sequence
from typing import Any


def config_differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the dotted keys whose values differ, each with the value of every config; None where one has none."""
    flat = [_flat(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    values = {key: [config.get(key) for config in flat] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """A nested config as ``{"model.layout": "2+4R2+2"}``; a list is one value."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {
        name: found
        for part, inner in value.items()
        for name, found in _flat(inner, f"{key}.{part}".strip(".")).items()
    }
