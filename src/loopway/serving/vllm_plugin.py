"""Plugin through which vLLM serves recursive models; vLLM calls it in each of its processes (``vllm.general_plugins``).

Registers the recursive families under vLLM's architecture names. Imports the model's class only when vLLM asks for it.
"""

import os

from loopway.modeling.families import FAMILIES
from loopway.training.plugins import load_plugins

#: Environment variable that names plugin files (joined by the system's path separator), whose recurrences and families
#: the engine's processes register.
PLUGINS_VARIABLE = "LOOPWAY_PLUGINS"

_MODULE = "loopway.serving.vllm_model"


def register() -> None:
    """Register every family's recursive causal LM with vLLM, after the files in ``LOOPWAY_PLUGINS``.

    Raises:
        ConfigError: a plugin file is missing or fails.
    """
    from vllm import ModelRegistry  # pyright: ignore[reportMissingImports]

    load_plugins(filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep)))
    for family in FAMILIES.values():
        served = "RecursiveMoEForServing" if family.has_experts else "RecursiveForServing"
        ModelRegistry.register_model(f"Recursive{family.prefix}ForCausalLM", f"{_MODULE}:{served}")
