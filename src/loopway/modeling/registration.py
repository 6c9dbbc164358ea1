"""Makes the recursive families known to transformers' Auto classes, and names their classes.

Config classes can't be made while transformers is still importing its own, so its registry of configs is given
names only, to be looked up in ``loopway`` when first asked for; whoever asks for a family's config class has its
model classes registered too. Other lists of names get the families' when the modules that hold them are imported.
"""

import warnings
from functools import cache

import transformers
from packaging.version import Version

from loopway.errors import FamilyError
from loopway.modeling.families import FAMILIES, Family
from loopway.modeling.name_lists import AUTO_CLASSES, complete_lists

#: The releases of transformers that the tests have passed with: from the first to before the second.
TESTED_TRANSFORMERS = ("5.17", "5.24")


def register_configs() -> None:
    """Register every family's config; called when transformers' registry of configs has been imported."""
    _warn_outside_tested_range()
    for family in FAMILIES.values():
        _register_config(family)


def register_names() -> None:
    """Add every family to the lists of names; called when a module that holds some has been imported."""
    for family in FAMILIES.values():
        _register_names(family)


def register_family(family: Family) -> None:
    """Support another decoder family of transformers; its recursive classes are known to the Auto classes at once.

    Raises:
        FamilyError: if the name is taken by another row, transformers has no such classes, or a tiny model of it
            gives other logits or another loss than the family's own.
    """
    if FAMILIES.get(family.model_type) == family:
        return
    if family.model_type in FAMILIES:
        raise FamilyError(
            f"family {family.model_type!r} is registered already, as {FAMILIES[family.model_type]}"
        )
    causal_lm = family.causal_lm or f"{family.prefix}ForCausalLM"
    names = (f"{family.prefix}Config", f"{family.prefix}Model", causal_lm)
    missing = [name for name in names if not hasattr(transformers, name)]
    if missing:
        raise FamilyError(
            f"family {family.model_type!r} can't be registered: transformers {transformers.__version__} has no "
            f"{', '.join(missing)}; check the prefix {family.prefix!r}"
        )
    own_type = family.config_class.model_type  # type: ignore[attr-defined]
    if own_type != family.model_type:
        raise FamilyError(
            f"family {family.model_type!r}: {family.prefix}Config is of model type {own_type!r}; give that"
        )
    from loopway.modeling.family_check import check_family

    FAMILIES[family.model_type] = family
    try:
        check_family(family)
    except FamilyError:
        del FAMILIES[family.model_type]
        raise
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

    import loopway

    CONFIG_MAPPING._mapping[family.recursive_model_type] = f"Recursive{family.prefix}Config"
    # The registry looks names up in a module a model type; it would import transformers.models.recursive_llama.
    CONFIG_MAPPING._modules[family.recursive_model_type] = loopway


def _register_names(family: Family) -> None:
    import loopway

    complete_lists(family.model_type, family.prefix, loopway)


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
