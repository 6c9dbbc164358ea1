"""Build all recursive classes of a family and register them with transformers. Knows no individual family."""

import sys
from collections.abc import Mapping
from types import ModuleType

import transformers
from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification

from loopway.modeling.causal_lm import causal_lm_class, family_class, model_class
from loopway.modeling.configuration import config_class
from loopway.modeling.families import Family
from loopway.modeling.name_lists import AUTO_CLASSES

# transformers' generic classes, which create their base model through AutoModel.
_CLASSIFIERS = {
    "ForSequenceClassification": GenericForSequenceClassification,
    "ForTokenClassification": GenericForTokenClassification,
}


def recursive_classes(family: Family) -> dict[str, type]:
    """Return a family's recursive classes by name suffix: ``Config``, ``Model``, ``ForCausalLM`` and classifiers."""
    base = family.model_class
    members = {"base_model_prefix": base.base_model_prefix, "_no_split_modules": ["RecursiveStack"]}
    classifiers = {
        suffix: family_class(family, suffix, head, base.__bases__[0], members)
        for suffix, head in _CLASSIFIERS.items()
    }
    models = {"Model": model_class(family), "ForCausalLM": causal_lm_class(family)}
    return {"Config": config_class(family), **models, **classifiers}


def announce(classes: Mapping[str, type]) -> None:
    """Register a family's classes with the Auto classes, and add its models to the module ``transformers``.

    ``transformers serve`` and TRL look up a model's class in that module by the name in its config.
    """
    for suffix, auto in AUTO_CLASSES.items():
        getattr(transformers, auto).register(classes["Config"], classes[suffix], exist_ok=True)
        for module in _modules_called_transformers():
            setattr(module, classes[suffix].__name__, classes[suffix])


def _modules_called_transformers() -> list[ModuleType]:
    """Return all module objects of transformers: it replaces itself on import, and early importers keep the first."""
    held = [getattr(module, "__dict__", {}).get("transformers") for module in list(sys.modules.values())]
    modules = [module for module in (sys.modules["transformers"], *held) if isinstance(module, ModuleType)]
    return [module for module in modules if module.__name__ == "transformers"]
