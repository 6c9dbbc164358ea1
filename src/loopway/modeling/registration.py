"""Makes the recursive families known to transformers' Auto classes.

Config classes can't be made while transformers is still importing its own, so its registry of configs is given
names only, to be looked up in ``loopway`` when first asked for; the model classes follow when the first config of
their family is made.
"""

import warnings
from functools import cache

from packaging.version import Version

from loopway.modeling.families import FAMILIES, Family

#: The releases of transformers that the tests have passed with: from the first to before the second.
TESTED_TRANSFORMERS = ("5.20", "5.24")


def register_configs() -> None:
    """Register every family's config; called when transformers' registry of configs has been imported."""
    _warn_outside_tested_range()
    for family in FAMILIES.values():
        register_config(family)


def register_config(family: Family) -> None:
    """Name a family's recursive config in transformers' registry, without making the class."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    import loopway

    CONFIG_MAPPING._mapping[family.recursive_model_type] = f"Recursive{family.prefix}Config"
    # The registry looks names up in a module a model type; it would import transformers.models.recursive_llama.
    CONFIG_MAPPING._modules[family.recursive_model_type] = loopway


@cache
def register_models(family: Family) -> None:
    """Register a family's model classes; called when a config of the family is made."""
    from transformers import AutoModel, AutoModelForCausalLM

    from loopway.modeling.causal_lm import causal_lm_class, model_class
    from loopway.modeling.configuration import config_class

    AutoModel.register(config_class(family), model_class(family), exist_ok=True)
    AutoModelForCausalLM.register(config_class(family), causal_lm_class(family), exist_ok=True)


@cache
def _warn_outside_tested_range() -> None:
    import transformers

    first, after = TESTED_TRANSFORMERS
    if not Version(first) <= Version(transformers.__version__) < Version(after):
        warnings.warn(
            f"this version of loopway was tested with transformers {first} up to (not including) {after}, and "
            f"{transformers.__version__} is installed: if something breaks, try "
            f"pip install 'transformers>={first},<{after}'",
            stacklevel=2,
        )
