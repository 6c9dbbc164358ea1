"""`retrofit.json` beside a retrofitted model's weights: its original and how it was made.

Knows what the file holds; nothing of how a model came about.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from loopway.errors import ConfigError, LoopwayError
from loopway.layout import Layout

RECORD = "retrofit.json"


def read_record(folder: Path | str) -> dict[str, Any] | None:
    """Return the record in a model folder, or None if the model isn't a retrofit.

    Raises:
        ConfigError: the file is there and isn't what `loopway retrofit` writes.
    """
    path = Path(folder).expanduser() / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        origin_section(record)
    except (ValueError, KeyError, TypeError, AttributeError, LoopwayError):
        raise ConfigError(f"{path}: isn't what loopway retrofit wrote; put it back, or remove it") from None
    return record


def record_text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2) + "\n"


def origin_section(record: Mapping[str, Any]) -> str:
    """Describe in Markdown which model it was made from, and how."""
    layout, start = Layout.parse(record["layout"]), record["start"]
    shared = [
        f"{layer} from {' and '.join(map(str, sources))}"
        for layer, sources in enumerate(record["layers"])
        if layout.uses_of_layer(layer) > 1
    ]
    lines = [f"`loopway retrofit` made it from `{_name(record)}` of {layout.compute_depth} layers."]
    if shared:
        text = f" by {record['calibration_tokens']} tokens of text" if record["calibration_tokens"] else ""
        lines.append(f"Its shared layers are filled `{record['fill']}`{text}: {', '.join(shared)}.")
    lines.append(
        "All other layers, embeddings, final norm and head are the original's own; whatever training came after "
        "has changed them."
    )
    if start is not None:
        lines.append(
            f"MeSH started where the same layers without it stand: logits were {start['logits']:.1e} from theirs, "
            f"relative to their norm, at the worst of {start['tokens']} tokens."
        )
    return "## Where it comes from\n\n" + "\n".join(lines)


def origin_header(record: Mapping[str, Any]) -> dict[str, str]:
    """Fields of the card's YAML header: `base_model`, if the original is on the Hub."""
    return {"base_model": record["source"]} if record.get("on_hub") else {}


def _name(record: Mapping[str, Any]) -> str:
    """Return the source's name; for a folder, only the last part."""
    return record["source"] if record.get("on_hub") else PurePath(record["source"]).name
