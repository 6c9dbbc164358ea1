"""Lists of model types and class names that other libraries keep, and that registering with the Auto classes doesn't reach.

Hugging Face's Trainer, for example, shifts labels for label smoothing only where a class name is in one of them. Knows
names; imports none of the libraries.
"""

import sys
from types import ModuleType
from typing import Any

#: The Auto class that finds a family's recursive class, by how the name of that class ends.
AUTO_CLASSES = {
    "Model": "AutoModel",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}
_AUTO_MODULE = "transformers.models.auto.modeling_auto"
#: The modules that hold the lists. All but the first have dictionaries whose keys are model types, or tuples of them.
MODULES_WITH_LISTS = (
    _AUTO_MODULE,
    "transformers.cli.serving.utils",  # how tool calls and reasoning are read
    "peft.utils.constants",  # the layers that an adapter adapts by default, for each kind of adapter
    "peft.tuners.adaption_prompt.config",
)


def complete_lists(model_type: str, prefix: str, home: ModuleType) -> None:
    """Add a family's recursive model type wherever a list of an imported module has the family's own.

    Args:
        model_type: the family's own, ``llama``.
        prefix: how the names of its classes begin, ``Llama``.
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
                mapping._modules[recursive] = home  # it would look in transformers.models.recursive_llama
        else:
            _copy_entries(module, model_type, recursive)


def _copy_entries(module: ModuleType, model_type: str, recursive: str) -> None:
    """Copy the family's entries in the module's dictionaries to its recursive model type."""
    for entries in list(vars(module).values()):
        if isinstance(entries, dict):
            for key, value in list(entries.items()):
                if key == model_type or (isinstance(key, tuple) and model_type in key):
                    entries.setdefault(_like(key, recursive), value)


def _like(key: Any, recursive: str) -> Any:
    return (recursive,) if isinstance(key, tuple) else recursive
