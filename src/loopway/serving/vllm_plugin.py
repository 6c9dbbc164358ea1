"""Plugin through which vLLM serves recursive models; vLLM calls it in each of its processes (``vllm.general_plugins``).

Registers the recursive families under vLLM's architecture names. Imports the model's class only when vLLM asks for it.
"""

import contextlib
import os
from typing import Any

from loopway.errors import ConfigError
from loopway.modeling.families import FAMILIES
from loopway.training.plugins import load_plugins

#: Environment variable that names plugin files (joined by the system's path separator), whose recurrences and families
#: the engine's processes register.
PLUGINS_VARIABLE = "LOOPWAY_PLUGINS"

_MODULE = "loopway.serving.vllm_model"


class ConfigCheck:
    """Checks that vLLM makes of an architecture before it starts processes, and the model when it is built."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        # It finds a layer's experts by counting calls, and a shared layer is called once per loop.
        vllm_config.compilation_config.fast_moe_cold_start = False
        if (size := vllm_config.parallel_config.pipeline_parallel_size) > 1:
            raise ConfigError(
                f"pipeline_parallel_size is {size}, and stages of a recursive model share layers: "
                "use tensor_parallel_size"
            )

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Accept every model config."""


def register() -> None:
    """Register every family's recursive causal LM with vLLM, after the files in ``LOOPWAY_PLUGINS``.

    Raises:
        ConfigError: a plugin file is missing or fails.
    """
    from vllm import ModelRegistry  # pyright: ignore[reportMissingImports]

    checks: dict[str, Any] = {}
    with contextlib.suppress(
        ImportError
    ):  # another release of vLLM must serve other models, whatever it lacks
        from vllm.model_executor.models.config import (  # pyright: ignore[reportMissingImports]
            MODELS_CONFIG_MAP as checks,
        )
    try:
        load_plugins(filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep)))
    except ConfigError as error:
        raise ConfigError(f"{PLUGINS_VARIABLE}: {error}") from error
    for family in FAMILIES.values():
        served = "RecursiveMoEForServing" if family.has_experts else "RecursiveForServing"
        architecture = f"Recursive{family.prefix}ForCausalLM"
        ModelRegistry.register_model(architecture, f"{_MODULE}:{served}")
        checks[architecture] = ConfigCheck
