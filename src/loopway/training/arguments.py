"""The ``training:`` section: Hugging Face ``TrainingArguments`` fields under their own names, with the paper's recipe.

Four keys are ours: ``global_batch_size``, the sequences of an optimizer step, from which gradient accumulation follows
for any number of workers; ``recompute``, what of a stage is computed once more instead of kept; ``skip_spikes``, from how
many standard deviations above the last ones a step's loss or gradient counts as a spike and is left out; ``core_first``,
for how long, at first, looped layers and the recurrence are trained alone. Knows nothing of models and data.
"""

import dataclasses
import math
import typing
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DynamoBackend
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from transformers.utils.import_utils import is_torch_xla_available

from loopway.checks import check_value, not_among, one_line, unknown_key, wrong_value
from loopway.errors import ConfigError
from loopway.modeling.recompute import RECOMPUTE_LEVELS
from loopway.training.engines import check_deepspeed, check_fsdp, check_nested, check_precision
from loopway.training.trackers import tracker_names

# Section 4 of the paper; what it leaves open (logging, evaluation, checkpoints) is ten times a run.
DEFAULTS: dict[str, Any] = {
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "ddp_find_unused_parameters": False,  # every parameter takes part in every step
    "lr_scheduler_type": "cosine_with_min_lr",
    "warmup_steps": 0.01,
    "seed": 0,
    "logging_steps": 10,
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "save_total_limit": 2,
}
MIN_LR_RATE = {"min_lr_rate": 0.1}

_FOLDER = "everything of a run goes to its own folder, given as --out"
_DONE_HERE = "loopway does this itself"
_ORDER = "the order of samples follows from data.seed alone"
_OURS = ("global_batch_size", "recompute", "skip_spikes", "core_first")
# Fields that a run sets itself, or that would break what it promises.
REFUSED: dict[str, str] = {
    "output_dir": _FOLDER,
    "logging_dir": _FOLDER,
    "do_train": _DONE_HERE,
    "do_eval": "set eval_strategy",
    "do_predict": _DONE_HERE,
    "resume_from_checkpoint": "a run resumes from its newest checkpoint when it is started again",
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
    "local_rank": "set by torchrun or accelerate launch",
}
_STRATEGIES = ("logging_strategy", "eval_strategy", "save_strategy")
_FIELDS = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
_TYPES = {
    **{name: hint for name, hint in typing.get_type_hints(TrainingArguments).items() if name in _FIELDS},
    "global_batch_size": int,
    "recompute": str,
    "skip_spikes": float,
    "core_first": float,
    "fsdp": bool | str | None,  # the field's own type leaves out `true`, its usual value
}


def complete_training(given: dict[str, Any], learning_rate: float | None) -> dict[str, Any]:
    """The section with the recipe's defaults filled in; a null stands for the default.

    Args:
        given: the section as written.
        learning_rate: the peak that a preset was published with, None without a preset.

    Raises:
        ConfigError: an unknown or refused key, a wrong type, no length of training, no learning rate.
    """
    known = [*(_FIELDS - REFUSED.keys()), *_OURS]
    section: dict[str, Any] = {}
    for key, value in given.items():
        if key in _STRATEGIES and value is False:
            value = "no"  # which YAML reads as false
        if key in REFUSED:
            raise ConfigError(f"training.{key} can't be set: {REFUSED[key]}")
        if key not in known:
            raise unknown_key("training", key, known)
        if value is not None:
            section[key] = check_value(f"training.{key}", value, _TYPES[key])
        if isinstance(value, float) and not math.isfinite(value):
            raise wrong_value(f"training.{key}", value, "a finite number")
    check_nested(section)
    _check_length(section)
    for key in ("global_batch_size", "per_device_train_batch_size", "per_device_eval_batch_size"):
        if section.get(key, 1) < 1:
            raise wrong_value(f"training.{key}", section[key], "at least 1")
    if not 0 <= section.get("seed", 0) < 2**32:
        raise wrong_value("training.seed", section["seed"], "0 to 2**32 - 1")
    if section.get("recompute", "none") not in RECOMPUTE_LEVELS:
        raise not_among("training.recompute", section["recompute"], RECOMPUTE_LEVELS)
    if section.get("recompute", "none") != "none" and section.get("gradient_checkpointing"):
        raise ConfigError(
            f"training.recompute is {section['recompute']!r}, and training.gradient_checkpointing recomputes, too: "
            f"leave the latter out"
        )
    _check_positive(
        "skip_spikes", section, "more than 0 standard deviations; 6 is usual", ("fp16", "deepspeed")
    )
    _check_positive(
        "core_first", section, "more than 0: steps, or below 1 a share of the run", ("deepspeed",)
    )
    for key, choices in (("lr_scheduler_type", SchedulerType), ("optim", OptimizerNames)):
        if key in section and section[key] not in (names := [choice.value for choice in choices]):
            raise not_among(f"training.{key}", section[key], names)
    backend, backends = section.get("torch_compile_backend"), [name.lower() for name in DynamoBackend.list()]
    if backend is not None and backend.lower() not in backends:
        raise not_among("training.torch_compile_backend", backend, backends)
    if "learning_rate" not in section:
        if learning_rate is None:
            raise ConfigError("training.learning_rate is missing; only a model.preset brings its own")
        section["learning_rate"] = learning_rate
    for key in _STRATEGIES:
        if (strategy := section.get(key)) in ("epoch", "best"):
            raise wrong_value(f"training.{key}", strategy, "steps (0.1 steps is a tenth of the run) or no")
    if "per_device_train_batch_size" not in section:
        section["per_device_train_batch_size"] = math.gcd(8, section.get("global_batch_size", 8))
    section.setdefault("per_device_eval_batch_size", section["per_device_train_batch_size"])
    section = DEFAULTS | section
    if section["lr_scheduler_type"] == "cosine_with_min_lr":
        section.setdefault("lr_scheduler_kwargs", dict(MIN_LR_RATE))
    return section


def _check_positive(key: str, section: dict[str, Any], expected: str, engines: tuple[str, ...]) -> None:
    """Check a key of ours that acts between gradients and optimizer: its value, and engines that exclude it."""
    if key not in section:
        return
    if not 0 < section[key] < math.inf:
        raise wrong_value(f"training.{key}", section[key], expected)
    for engine in engines:
        if section.get(engine):
            raise ConfigError(
                f"training.{key} doesn't work with {engine}, which takes its own steps; leave one out"
            )


def core_steps(section: dict[str, Any], max_steps: int) -> int:
    """Return for how many steps looped layers and the recurrence are trained alone."""
    given = section.get("core_first", 0)
    return math.ceil(_exact(given) * max_steps) if given < 1 else int(given)


def steps_of_epochs(epochs: float, samples: int, per_step: int) -> int:
    """Return how many whole steps there are in so many epochs; at least one.

    The last tokens of the last epoch may be left out, none are seen once more.

    Args:
        epochs: may be a fraction.
        samples: of an epoch.
        per_step: samples of a step.
    """
    return max(1, math.floor(_exact(epochs) * samples / per_step))


def _exact(number: float) -> Fraction:
    """Return the number as written: 0.1 is a tenth. A product of floats can just miss a whole number."""
    return Fraction(str(number))


def _check_length(section: dict[str, Any]) -> None:
    lengths = [key for key in ("max_steps", "num_train_epochs") if key in section]
    if len(lengths) != 1:
        found = "neither is" if not lengths else "both are"
        raise ConfigError(f"training: give one of max_steps and num_train_epochs; {found} given")
    if section[lengths[0]] <= 0:
        raise wrong_value(f"training.{lengths[0]}", section[lengths[0]], "more than 0")


def training_arguments(section: dict[str, Any], checkpoints: Path, *, validate: bool) -> TrainingArguments:
    """``TrainingArguments`` of a completed section, for the workers that there are.

    Args:
        section: what :func:`complete_training` gave.
        checkpoints: folder that checkpoints are written to; nothing is written yet.
        validate: whether there is a validation set.

    Raises:
        ConfigError: values that transformers or torch refuses, an engine or tracker that isn't there, or a global batch
            that the workers can't share.
    """
    fields = {key: value for key, value in section.items() if key not in _OURS}
    if not validate:
        fields |= {"eval_strategy": "no", "eval_steps": None, "eval_on_start": False}
    # TensorBoard is always written, into the run folder, by a callback of ours.
    fields["report_to"] = tracker_names(fields.get("report_to")) or "none"
    fields.setdefault("run_name", str(checkpoints.parent))
    if fields.get("deepspeed"):
        check_deepspeed(fields["deepspeed"])
    fields.setdefault("dataloader_pin_memory", torch.cuda.is_available())  # it warns where there is no GPU
    # On a CPU accelerate finds the other workers only if it is told that there is nothing else.
    fields.setdefault("use_cpu", not (torch.accelerator.is_available() or is_torch_xla_available()))
    fields |= {
        "output_dir": str(checkpoints),
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "label_names": ["shift_labels"],
        "use_cache": True,  # of the saved config; the trainer itself calls the model without a cache
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
    }
    try:
        arguments = _one_device_a_worker(fields)
        check_fsdp(arguments)
        check_precision(arguments)
        _check_optimizer(arguments)
        micro_batch = arguments.train_batch_size * arguments.world_size
        global_batch = section.get("global_batch_size", micro_batch)
        if global_batch % micro_batch:
            raise ConfigError(
                f"training.global_batch_size: {global_batch} sequences can't be shared evenly: "
                f"per_device_train_batch_size {arguments.per_device_train_batch_size} on "
                f"{micro_batch // arguments.per_device_train_batch_size} device(s) makes {micro_batch}; "
                f"choose a multiple of that, or (also to resume) another batch per device or number of workers"
            )
        if global_batch == micro_batch:
            return arguments
        # A second time, since what else depends on it (a DeepSpeed config) is fixed while it is built.
        return _one_device_a_worker(fields | {"gradient_accumulation_steps": global_batch // micro_batch})
    except ConfigError:
        raise
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"training: {one_line(error)}") from None


def _one_device_a_worker(fields: dict[str, Any]) -> TrainingArguments:
    """Without a launcher the Trainer would take all GPUs at once (DataParallel), and a batch for each."""
    if fields.get("use_cpu"):
        # transformers would make the process group without its timeout, unless it is there.
        timeout = timedelta(seconds=fields.get("ddp_timeout", TrainingArguments.ddp_timeout))
        PartialState(cpu=True, backend=fields.get("ddp_backend"), timeout=timeout)
    arguments = TrainingArguments(**fields)
    arguments._n_gpu = min(arguments.n_gpu, 1)
    unset_hf_deepspeed_config()  # or with ZeRO-3 models would be built in pieces, without their own initial values
    return arguments


def _check_optimizer(arguments: TrainingArguments) -> None:
    """Let torch and transformers see the values of optimizer and schedule, which the Trainer shows them late."""
    if arguments.optim_target_modules or "lomo" in str(arguments.optim):
        return  # these are made from the model itself
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer_class([torch.nn.Parameter(torch.zeros(1))], **options),
        num_warmup_steps=arguments.get_warmup_steps(100),
        num_training_steps=100,
        scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),  # type: ignore[arg-type]
    )
