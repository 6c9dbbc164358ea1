"""Names of all keys of a run's config and types of `training:`, without importing torch or transformers.

Reads the fields of transformers' classes from the annotations in its source.
"""

import ast
import dataclasses
import math
import re
import typing
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from loopway.checks import check_value, unknown_key, wrong_value
from loopway.errors import ConfigError

#: The sections and the other keys of a run's file.
RUN_KEYS = ("model", "data", "training", "original", "plugins", "probe_every")
_BEGINNINGS = ("preset", "family", "pretrained")
MODEL_KEYS = (*_BEGINNINGS, "layout")
_SIZES = ("_size", "_heads", "_dim", "_embeddings", "_experts", "num_slots")
_FOLDER = "everything of a run goes to its own folder, given as --out"
_DONE_HERE = "loopway does this itself"
_ORDER = "the order of samples follows from data.seed alone"
# Fields of a family's config that a run sets itself, or that would break what it promises.
REFUSED_OF_MODEL = {
    "num_hidden_layers": "the layout says how many layers there are",
    "num_unique_layers": "the layout says how many layers there are",
    "model_type": "give family",
    "architectures": "give family",
    "dtype": "weights are trained in float32; set training.bf16 or training.fp16 to compute in less",
    "return_dict": _DONE_HERE,
    "torch_dtype": "weights are trained in float32; set training.bf16 or training.fp16 to compute in less",
    "rope_theta": "set model.rope_parameters, as in {rope_type: default, rope_theta: 500000}",
    "rope_scaling": "set model.rope_parameters, as in {rope_type: linear, rope_theta: 10000, factor: 2}",
}
# Fields that a run sets itself, or that would break what it promises.
REFUSED_OF_TRAINING: dict[str, str] = {
    "output_dir": _FOLDER,
    "logging_dir": _FOLDER,
    "do_train": _DONE_HERE,
    "do_eval": "set eval_strategy",
    "do_predict": _DONE_HERE,
    "resume_from_checkpoint": "rerun the command to resume from the newest checkpoint",
    "restore_callback_states_from_checkpoint": _DONE_HERE,
    "ignore_data_skip": "a resumed run never repeats data",
    "gradient_accumulation_steps": "set global_batch_size (sequences), from which it follows",
    "auto_find_batch_size": "set per_device_train_batch_size",
    "data_seed": "set data.seed",
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "dataloader_drop_last": _ORDER,
    "remove_unused_columns": _DONE_HERE,
    "label_names": _DONE_HERE,
    "label_smoothing_factor": "the loss is the model's own",
    "use_cache": _DONE_HERE,
    "disable_tqdm": "progress is loopway's own",
    "logging_nan_inf_filter": "a loss that isn't finite stops the run",
    "prediction_loss_only": _DONE_HERE,
    "include_for_metrics": _DONE_HERE,
    "batch_eval_metrics": _DONE_HERE,
    "eval_do_concat_batches": _DONE_HERE,
    "include_num_input_tokens_seen": "tokens are in every line of metrics.jsonl",
    "save_only_model": "a run could not be resumed",
    "load_best_model_at_end": "the final model is the one after the last step",
    "use_liger_kernel": "its kernels know no recursive models, and the loss never holds all logits anyway",
    "liger_kernel_config": "its kernels know no recursive models",
    "parallelism_config": "give accelerate's own configuration file to accelerate launch",
    "hub_token": "a file would hold the secret; log in with `hf auth login`, or set HF_TOKEN in the environment",
    "local_rank": "set by torchrun or accelerate launch",
}
_AT_LEAST_0, _AT_LEAST_1 = Field(ge=0), Field(ge=1)
_MOMENT = Field(ge=0, lt=1)
_LOG_LEVEL = Literal["debug", "info", "warning", "error", "critical", "detail", "passive"]
#: Limits of numbers that transformers checks late or not at all. `le` of the learning rate: float32 would overflow.
_LIMITS: dict[str, Any] = {
    "learning_rate": Field(ge=0, le=1000),
    "weight_decay": Field(ge=0, le=1000),
    "adam_beta1": _MOMENT,
    "adam_beta2": _MOMENT,
    "adam_epsilon": Field(gt=0),
    "max_grad_norm": _AT_LEAST_0,
    "warmup_steps": _AT_LEAST_0,
    "neftune_noise_alpha": Field(ge=0, le=1e6),
    "max_steps": Field(gt=0, lt=2**31),
    "num_train_epochs": Field(gt=0, lt=2**31),
    "per_device_train_batch_size": _AT_LEAST_1,
    "per_device_eval_batch_size": _AT_LEAST_1,
    "eval_accumulation_steps": _AT_LEAST_1,
    "torch_empty_cache_steps": _AT_LEAST_1,
    "eval_delay": _AT_LEAST_0,
    "save_total_limit": _AT_LEAST_1,
    "seed": Field(ge=0, lt=2**32),
    "dataloader_num_workers": Field(ge=0, le=1024),
    "dataloader_prefetch_factor": _AT_LEAST_1,
    "ddp_timeout": Field(ge=1, le=10_000_000),
    "ddp_bucket_cap_mb": _AT_LEAST_1,
    "global_batch_size": Field(ge=1, lt=2**31),
}
_CHOICES: dict[str, Any] = {
    "log_level": _LOG_LEVEL,
    "log_level_replica": _LOG_LEVEL,
    "hub_strategy": Literal["end", "every_save", "checkpoint", "all_checkpoints"],
    "dataloader_multiprocessing_context": Literal["fork", "forkserver", "spawn"],
    "torch_compile_mode": Literal[
        "default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    ],
}


@dataclass(frozen=True)
class OwnTrainingKeys:
    """Keys of `training:` that Hugging Face's ``TrainingArguments`` don't have.

    Attributes:
        global_batch_size: sequences of an optimizer step, from which gradient accumulation follows for any number of
            workers; None: one batch a worker.
        recompute: parts of a stage that the backward pass recomputes instead of storing.
        skip_spikes: skip a step whose loss or gradient norm lies so many standard deviations above the recent mean; None: skip
            none.
        core_first: steps (below 1: share of the run) in which only looped layers and the recurrence are trained; None: none.
        callbacks: names of callbacks that plugins registered.
    """

    global_batch_size: int | None = None
    recompute: str = "none"
    skip_spikes: float | None = None
    core_first: float | None = None
    callbacks: list[str] = dataclasses.field(default_factory=list)


OWN_TYPES: dict[str, Any] = typing.get_type_hints(OwnTrainingKeys)


def checked_training_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `training:` section without nulls. Raise ConfigError for a key that is unknown, refused or of a wrong type."""
    types = training_types()
    section = {}
    for key, value in given.items():
        if key in REFUSED_OF_TRAINING:
            raise ConfigError(f"training.{key} can't be set: {REFUSED_OF_TRAINING[key]}")
        if key not in types:
            raise unknown_key("training", key, [*(types.keys() - REFUSED_OF_TRAINING.keys())])
        if isinstance(value, float) and not math.isfinite(value):
            raise wrong_value(f"training.{key}", value, "a finite number")
        if value is not None:
            section[key] = check_value(f"training.{key}", value, types[key])
        if key.startswith("adam_beta") and value is not None:
            section[key] = float(value)  # torch wants both betas of one type
    return section


def check_model_keys(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of `model:` that no config of its family has, and for a size below 1.

    Keys of families of plugins pass.
    """
    if all(given.get(key) is None for key in _BEGINNINGS):
        raise ConfigError(
            "model: give one of preset (pythia-160m, ...), family (llama, ...) and pretrained (a recursive model)"
        )
    family = "gpt_neox" if given.get("family") is None else str(given["family"])
    known = family_fields(family) if family in supported_families() else frozenset()
    for key in given:
        if known and key not in (*MODEL_KEYS, *known, *REFUSED_OF_MODEL):
            raise unknown_key("model", key, [*MODEL_KEYS, *(known - REFUSED_OF_MODEL.keys())])
        if not _is_finite(given[key]):
            raise wrong_value(f"model.{key}", given[key], "finite numbers")
        least = 1 if key.endswith(_SIZES) else 0 if key.endswith("_token_id") else None
        if least is not None and type(given[key]) is int and given[key] < least:
            raise wrong_value(f"model.{key}", given[key], f"at least {least}")


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value are finite, inner ones too."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@cache
def training_types() -> dict[str, Any]:
    """Return all keys of `training:` with their types and limits."""
    types = hugging_face_types() | OWN_TYPES
    limited = {key: Annotated[types[key], limit] for key, limit in _LIMITS.items() if key in types}
    return types | limited | {key: choice for key, choice in _CHOICES.items() if key in types}


def hugging_face_types() -> dict[str, Any]:
    """Return the fields of ``TrainingArguments`` and their types; text stands for an enumeration."""
    names = defaultdict(
        lambda: str, vars(typing) | {each.__name__: each for each in (bool, float, int, str, dict, list)}
    )
    code = _annotations(_transformers() / "training_args.py", "TrainingArguments")
    types = {name: eval(ast.unparse(annotation), {}, names) for name, annotation in code.items()}
    # The first field's own type omits `true`, its usual value; the second's list is one of enumerations.
    return types | {"fsdp": bool | str | None, "debug": str}


@cache
def supported_families() -> list[str]:
    """Return the model types of the families that Loopway has a row for."""
    rows = (Path(__file__).parents[2] / "modeling" / "families.py").read_text(encoding="utf-8")
    return re.findall(r'^\s+Family\(\s*"(\w+)"', rows, re.MULTILINE)


@cache
def family_fields(model_type: str) -> frozenset[str]:
    """Return the fields of the recursive config of one of transformers' families; none for an unknown one."""
    folder = model_type.removesuffix("_text")
    path = _transformers() / "models" / folder / f"configuration_{folder}.py"
    if not model_type.isidentifier() or not path.is_file():
        return frozenset()
    own = Path(__file__).parents[2] / "modeling" / "configuration.py"
    return frozenset(
        {
            *_annotations(path, None),
            *_annotations(_transformers() / "configuration_utils.py", "PreTrainedConfig"),
            *_annotations(own, "RecursiveConfigMixin"),
        }
    )


def _annotations(path: Path, of: str | None) -> dict[str, ast.expr]:
    """The annotated names of a class in a Python file, or of all classes in it."""
    classes = [
        node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    ]
    return {
        field.target.id: field.annotation
        for node in classes
        for field in node.body
        if of in (None, node.name) and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def _transformers() -> Path:
    spec = find_spec("transformers")  # of a top-level name: finds without importing
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("transformers is not installed: pip install transformers")
    return Path(next(iter(spec.submodule_search_locations)))
