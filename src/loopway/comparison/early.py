"""Check a config file without importing torch or transformers, in a third of a second.

Knows keys, types, sections and layouts. Building the model checks the rest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loopway.checks import check_value, config_error, unknown_key, wrong_value
from loopway.data.config import DataConfig
from loopway.errors import ConfigError, LoopwayError
from loopway.layout import Layout
from loopway.training.config.keys import RUN_KEYS, check_model_keys, checked_training_keys
from loopway.training.config.yaml_files import apply_overrides, read_yaml

DEMO_CONFIG = Path(__file__).with_name("demo.yaml")
COMPARISON_KEYS = (*RUN_KEYS, "variants", "seeds", "prompt", "probe_samples")


def check_file(
    path: Path | str | None, overrides: Sequence[str], *, of_comparison: bool | None
) -> dict[str, Any]:
    """Read a run's or a comparison's file and check its keys, types and layouts; return its content.

    Args:
        path: the file; None is the demo.
        overrides: laid on top of it.
        of_comparison: whether the file must be a comparison; None: either.

    Raises:
        ConfigError: a file that isn't there, YAML that isn't valid, a key that is unknown or of a wrong type, a comparison
            where a run is wanted.
        LayoutError: a layout that can't be read.
    """
    content = apply_overrides(read_yaml(path or DEMO_CONFIG), overrides)
    of_comparison = "variants" in content if of_comparison is None else of_comparison
    if not of_comparison and "variants" in content:
        raise ConfigError(
            f"{path} is a comparison, since it has variants: loopway compare {path} trains them all, and loopway train "
            f"{path} --variant NAME one of them"
        )
    known = COMPARISON_KEYS if of_comparison else RUN_KEYS
    for key in content:
        if key not in known:
            raise unknown_key("", key, known)
    variants = check_value("variants", content.get("variants") or {}, dict)
    for name, changes in variants.items():
        if not isinstance(name, str) or not isinstance(changes, dict):
            raise wrong_value(
                f"variants.{name}", changes, "a name in text, and a mapping of what the model changes"
            )
    sections = {
        name: content[name] for name in ("model", "data", "training") if content.get(name) is not None
    }
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise wrong_value(name, section, "a mapping")
    model = sections.get("model", {})
    if not variants:
        _check_model(model)
    for variant, changes in variants.items():
        try:
            _check_model(model | changes)
        except LoopwayError as error:
            raise type(error)(f"variant {variant}: {error}") from None
    checked_training_keys(sections.get("training", {}))
    if data := sections.get("data"):
        try:
            DataConfig.model_validate(data)
        except ValidationError as error:
            raise config_error(error, "data", DataConfig) from None
    return content


def _check_model(section: Mapping[str, Any]) -> None:
    check_model_keys(section)
    if isinstance(layout := section.get("layout"), int | str) and not isinstance(layout, bool):
        Layout.parse(str(layout))
