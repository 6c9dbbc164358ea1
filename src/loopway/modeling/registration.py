"""Makes the recursive families known to transformers' Auto classes, and names their classes.

Config classes can't be made while transformers is still importing its own, so its registry of configs is given
names only, to be looked up in ``loopway`` when first asked for; whoever asks for a family's config class has its
model classes registered too. Other lists of names get the families' when the modules that hold them are imported.
"""

import sys
import warnings
from functools import cache

import transformers
from packaging.version import Version

from loopway.modeling.families import FAMILIES, Family
from loopway.modeling.name_lists import AUTO_CLASSES, complete_lists

#: The releases of transformers that the tests have passed with: from the first to before the second.
TESTED_TRANSFORMERS = ("5.17", "5.24")

_HOME = sys.modules[__name__.partition(".")[0]]
"""Where a family's recursive classes are looked up."""


def register_configs() -> None:
    """Register every family's config; called when transformers' registry of configs has been imported."""
    _warn_outside_tested_range()
    for family in FAMILIES.values():
        _register_config(family)


def register_names() -> None:
    """Add every family to the lists of names; called when a module that holds some has been imported."""
    for family in FAMILIES.values():
        _register_names(family)


def register_names_of(family: Family) -> None:
    """Make one more family's classes known, in all places at once."""
    _register_config(family)
    _register_names(family)


def recursive_class(name: str) -> type | None:
    """The class called ``RecursiveLlamaConfig``, ``RecursiveLlamaModel``, ``RecursiveLlamaForCausalLM`` …, or None."""
    for family in FAMILIES.values():
        if name in [f"Recursive{family.prefix}{suffix}" for suffix in ("Config", *AUTO_CLASSES)]:
            return register_models(family)[name]
    return None


@cache
def register_models(family: Family) -> dict[str, type]:
    """Register a family's model classes; all of its recursive classes by name."""
    from loopway.modeling.classes import announce, recursive_classes

    classes = recursive_classes(family)
    announce(classes)
    return {cls.__name__: cls for cls in classes.values()}


def _register_config(family: Family) -> None:
    """Name a family's recursive config in transformers' registry, without making the class."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    CONFIG_MAPPING._mapping[family.recursive_model_type] = f"Recursive{family.prefix}Config"
    # The registry looks names up in a module a model type; it would import transformers.models.recursive_llama.
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
