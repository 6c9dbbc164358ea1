"""FSDP and DeepSpeed, asked for in the ``training:`` section or by ``accelerate launch``: can this run have them?

transformers and accelerate would say so when the data is prepared, or train without them. Knows nothing of the recipe.
"""

import json
import os
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType, str_to_bool
from transformers import TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available

from loopway.checks import one_line
from loopway.errors import ConfigError


def check_deepspeed(given: dict[str, Any] | str) -> None:
    """Look at ``training.deepspeed`` before DeepSpeed is started.

    Args:
        given: DeepSpeed's config, or the path of a JSON file with it.

    Raises:
        ConfigError: the file isn't there or holds something else, or the package isn't installed.
    """
    if isinstance(given, str):
        try:
            content = json.loads(Path(given).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"training.deepspeed: {given} can't be read: {error.strerror}; give a JSON file with DeepSpeed's config"
            ) from None
        except ValueError as error:
            raise ConfigError(f"training.deepspeed: {given} is not JSON: {one_line(error)}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"training.deepspeed: {given} holds no mapping, which DeepSpeed's config is")
    if not is_deepspeed_available():
        raise ConfigError(
            "training.deepspeed: DeepSpeed is not installed: pip install deepspeed, or leave it out (then it is DDP)"
        )


def check_fsdp(arguments: TrainingArguments) -> None:
    """See that FSDP, where it is asked for, is what accelerate will do.

    Raises:
        ConfigError: on a CPU, where accelerate would silently take DDP, or in a single process.
    """
    if arguments.fsdp:
        asked = "training.fsdp"
    elif str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")):
        asked = "accelerate's configuration"
    else:
        return
    if arguments.device.type == "cpu":
        raise ConfigError(
            f"{asked} asks for FSDP, and this run is on a CPU, where accelerate trains without it: leave it out "
            f"(then it is DDP), or run on GPUs"
        )
    if arguments.distributed_state.distributed_type == DistributedType.NO:  # type: ignore[union-attr]
        raise ConfigError(
            f"{asked} asks for FSDP, which spreads a model over several workers, and this is one process: start it "
            f"with torchrun or accelerate launch, or leave it out"
        )
