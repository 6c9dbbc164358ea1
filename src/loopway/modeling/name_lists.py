"""Extend other libraries' lists of model types and class names that registration with Auto classes doesn't reach.

For example, Hugging Face's Trainer shifts labels for label smoothing only if a model's class name is in such a list.
Knows names; imports none of the libraries.
"""

import sys
from types import ModuleType
from typing import Any

#: The Auto class of each of a family's recursive classes, by the suffix of the class's name.
AUTO_CLASSES = {
    "Model": "AutoModel",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}
_AUTO_MODULE = "transformers.models.auto.modeling_auto"
#: The modules that hold the lists. All but the first have dictionaries keyed by model type or tuples of model types.
MODULES_WITH_LISTS = (
    _AUTO_MODULE,
    "transformers.cli.serving.utils",  # parsers of tool calls and reasoning
    "peft.utils.constants",  # default target modules of each kind of adapter
    "peft.tuners.adaption_prompt.config",
)


def complete_lists(model_type: str, prefix: str, home: ModuleType) -> None:
    """Add a family's recursive model type to all lists of imported modules that contain the family's own.

    Args:
        model_type: the family's own model type, ``llama``.
        prefix: prefix of its class names, ``Llama``.
        home: the module that holds its recursive classes.
    """
    recursive = f"recursive_{model_type}"
    for name in MODULES_WITH_LISTS:
        module = sys.modules.get(name)
        if module is None:
            continue
        if name == _AUTO_MODULE:
            for suffix, auto in AUTO_CLASSES.items():
                mapping = getattr(module, auto)._model_mapping
                mapping._model_mapping[recursive] = f"Recursive{prefix}{suffix}"
                mapping._modules[recursive] = home  # else it looks in transformers.models.recursive_llama
        else:
            _copy_entries(module, model_type, recursive)


def _copy_entries(module: ModuleType, model_type: str, recursive: str) -> None:
    """Copy the family's entries in the module's dictionaries to the recursive model type."""
    for entries in list(vars(module).values()):
        if isinstance(entries, dict):
            for key, value in list(entries.items()):
                if key == model_type or (isinstance(key, tuple) and model_type in key):
                    entries.setdefault(_like(key, recursive), value)


def _like(key: Any, recursive: str) -> Any:
    return (recursive,) if isinstance(key, tuple) else recursive
