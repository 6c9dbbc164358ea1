"""Register the recursive families with transformers' Auto classes, and look up their classes by name.

Config classes can't be made while transformers imports its own. Its config registry therefore gets only names, which
resolve in ``loopway`` on first use. Resolving a family's config class also registers its model classes. Other lists of
names are extended when the modules that hold them are imported.
"""

import sys
import warnings
from functools import cache

import transformers
from packaging.version import Version

from loopway.modeling.families import FAMILIES, Family
from loopway.modeling.name_lists import AUTO_CLASSES, complete_lists

#: Releases of transformers that the tests passed with: from the first (inclusive) to the second (exclusive).
TESTED_TRANSFORMERS = ("5.16", "5.24")

_HOME = sys.modules[__name__.partition(".")[0]]
"""The module in which a family's recursive classes are looked up."""


def register_configs() -> None:
    """Register every family's config; called after transformers' config registry is imported."""
    _warn_outside_tested_range()
    for family in FAMILIES.values():
        _register_config(family)


def register_names() -> None:
    """Add every family to the lists of names; called after a module with such lists is imported."""
    for family in FAMILIES.values():
        _register_names(family)


def register_names_of(family: Family) -> None:
    """Register one more family's config and names."""
    _register_config(family)
    _register_names(family)


def recursive_class(name: str) -> type | None:
    """Return the class named ``RecursiveLlamaConfig``, ``RecursiveLlamaForCausalLM``, …, or None if there is none."""
    for family in FAMILIES.values():
        if name in [f"Recursive{family.prefix}{suffix}" for suffix in ("Config", *AUTO_CLASSES)]:
            return register_models(family)[name]
    return None


@cache
def register_models(family: Family) -> dict[str, type]:
    """Register a family's model classes; return all of its recursive classes by name."""
    from loopway.modeling.classes import announce, recursive_classes

    classes = recursive_classes(family)
    announce(classes)
    return {cls.__name__: cls for cls in classes.values()}


def _register_config(family: Family) -> None:
    """Add the name of a family's recursive config to transformers' registry, without creating the class."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    CONFIG_MAPPING._mapping[family.recursive_model_type] = f"Recursive{family.prefix}Config"
    # The registry looks up names in one module per model type; by default transformers.models.recursive_llama.
    CONFIG_MAPPING._modules[family.recursive_model_type] = _HOME


def _register_names(family: Family) -> None:
    complete_lists(family.model_type, family.prefix, _HOME)


@cache
def _warn_outside_tested_range() -> None:
    first, after = TESTED_TRANSFORMERS
    if not Version(first) <= Version(transformers.__version__) < Version(after):
        warnings.warn(
            f"this version of loopway was tested with transformers {first} up to (not including) {after}, and "
            f"{transformers.__version__} is installed: if something breaks, try "
            f"pip install 'transformers>={first},<{after}'",
            stacklevel=2,
        )
