"""Checks of FSDP, DeepSpeed and accelerate's settings, from the ``training:`` section or ``accelerate launch``.

transformers and accelerate would report a problem only after data preparation, or train without the engine. Knows nothing of
the recipe.
"""

import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType, str_to_bool
from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available
from transformers.trainer_pt_utils import AcceleratorConfig

from loopway.checks import check_value, one_line, unknown_key
from loopway.errors import ConfigError

_BATCHES = "what a step sees follows from training.global_batch_size"
#: Settings of accelerate that would break what a run promises; `section.key` of all that are looked at.
_REFUSED = {
    "accelerator_config.split_batches": _BATCHES,
    "accelerator_config.even_batches": "workers with fewer batches would leave the others waiting",
    "accelerator_config.use_seedable_sampler": "the order of samples follows from data.seed alone",
    "accelerator_config.use_configured_state": "loopway makes the state itself",
    "accelerator_config.gradient_accumulation_kwargs.num_steps": _BATCHES,
    "accelerator_config.gradient_accumulation_kwargs.adjust_scheduler": "the schedule counts optimizer steps",
    "accelerator_config.gradient_accumulation_kwargs.sync_with_dataloader": _BATCHES,
}
_ACCUMULATION = {"sync_each_batch": bool}
#: What `torch.utils.checkpoint` takes, as far as YAML can say it.
_CHECKPOINTING = {
    "use_reentrant": bool,
    "preserve_rng_state": bool,
    "determinism_check": str,
    "debug": bool,
    "early_stop": bool,
}
#: What transformers reads of `fsdp_config`, where it passes over every other key; a prefix `fsdp_` is allowed.
_FSDP = [
    "version",
    "auto_wrap_policy",
    "transformer_layer_cls_to_wrap",
    "min_num_params",
    "reshard_after_forward",
    "cpu_offload",
    "cpu_ram_efficient_loading",
    "state_dict_type",
    "activation_checkpointing",
    "forward_prefetch",
    "backward_prefetch",
    "use_orig_params",
    "sync_module_states",
    "limit_all_gathers",
    "xla",
    "xla_fsdp_v2",
    "xla_fsdp_settings",
    "xla_fsdp_grad_ckpt",
]


def check_nested(section: Mapping[str, Any]) -> None:
    """Check the keys inside mappings such as ``accelerator_config``.

    Raises:
        ConfigError: a key that is unknown, of a wrong type or incompatible with a run; a file that can't be read.
    """
    settings = _mapping("accelerator_config", section.get("accelerator_config"))
    hints = typing.get_type_hints(AcceleratorConfig)
    _check_keys("accelerator_config", settings, hints)
    accumulation = settings.get("gradient_accumulation_kwargs")
    _check_keys("accelerator_config.gradient_accumulation_kwargs", accumulation or {}, _ACCUMULATION)
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        _check_keys(name, _mapping(name, section.get(name)), _CHECKPOINTING)
    for key in _mapping("fsdp_config", section.get("fsdp_config")):
        if str(key).removeprefix("fsdp_") not in _FSDP:
            raise unknown_key("training.fsdp_config", key, _FSDP)


def _check_keys(name: str, given: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    refused = {key.rpartition(".")[2]: why for key, why in _REFUSED.items() if key.rpartition(".")[0] == name}
    for key, value in given.items():
        if key in refused:
            raise ConfigError(f"training.{name}.{key} can't be set: {refused[key]}")
        if key not in types:
            raise unknown_key(f"training.{name}", key, [*types.keys() - refused.keys()])
        check_value(f"training.{name}.{key}", value, types[key])


def _mapping(key: str, given: Mapping[str, Any] | str | None) -> Mapping[str, Any]:
    """A nested section, or what the JSON file holds whose path stands for it."""
    if given is None:
        return {}
    if not isinstance(given, str):
        return given
    try:
        content = json.loads(Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"training.{key}: {given} can't be read: {error.strerror}; give a JSON file, or the mapping itself"
        ) from None
    except ValueError as error:
        raise ConfigError(f"training.{key}: {given} is not JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"training.{key}: {given} must hold a mapping of settings")
    return content


def check_deepspeed(given: dict[str, Any] | str) -> None:
    """Check ``training.deepspeed`` before DeepSpeed starts.

    Args:
        given: DeepSpeed's config, or the path of a JSON file with it.

    Raises:
        ConfigError: the file isn't there or holds something else, or the package isn't installed.
    """
    _mapping("deepspeed", given)
    if not is_deepspeed_available():
        raise ConfigError(
            "training.deepspeed: DeepSpeed is not installed: pip install deepspeed, or omit it (the run then uses DDP)"
        )


def check_fsdp(arguments: TrainingArguments) -> None:
    """Check that accelerate will use FSDP if it is asked to.

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
            f"{asked} asks for FSDP, and this run is on a CPU, where accelerate trains without it: omit it "
            f"(then it is DDP), or run on GPUs"
        )
    if arguments.distributed_state.distributed_type == DistributedType.NO:  # type: ignore[union-attr]
        raise ConfigError(
            f"{asked} asks for FSDP, which spreads a model over several workers, and this is one process: start it "
            f"with torchrun or accelerate launch, or omit it"
        )


def check_precision(arguments: TrainingArguments) -> None:
    """Raise ConfigError for fp16 on a CPU, where accelerate would silently train in float32."""
    if arguments.fp16 and arguments.device.type == "cpu":
        raise ConfigError(
            "training.fp16: a CPU can't train in it, and would in float32: set bf16, omit it, or run on a GPU"
        )


def check_hub(arguments: TrainingArguments) -> None:
    """Raise ConfigError unless the Hub, to which the run is to be pushed, can be reached with a login."""
    if not arguments.push_to_hub:
        return
    try:
        HfApi(token=arguments.hub_token).whoami()
    except Exception as error:
        raise ConfigError(
            f"training.push_to_hub: the Hub can't be used: {one_line(error)}; log in with `hf auth login`, or omit it"
        ) from error
