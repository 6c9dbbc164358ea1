"""A run's ``TrainingArguments``: what Hugging Face's Trainer is given, for the workers that there are."""

from pathlib import Path
from typing import Any

import torch.distributed
from accelerate.utils import get_int_from_env
from transformers import Trainer, TrainerState, TrainingArguments, get_scheduler
from transformers.trainer_utils import IntervalStrategy
from transformers.utils.import_utils import is_torch_xla_available

from loopway.checks import one_line
from loopway.errors import ConfigError, LoopwayError
from loopway.training.config.engines import check_deepspeed, check_fsdp, check_precision
from loopway.training.config.training_section import TrainingConfig, steps_of_epochs
from loopway.training.extensions import OPTIMIZERS, SCHEDULES, own_optimizer, own_schedule
from loopway.training.plugins import plugin_errors_told
from loopway.training.trackers import tracker_names
from loopway.training.trainer import one_device_a_worker

#: What launchers tell every worker, as accelerate reads it.
_WORKERS = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def training_arguments(config: TrainingConfig, checkpoints: Path) -> TrainingArguments:
    """Make the arguments of a run; :func:`fit_to_data` completes them.

    Args:
        config: the ``training:`` section.
        checkpoints: folder that checkpoints are written to; nothing is written yet.

    Raises:
        ConfigError: a value that transformers or torch refuses, a missing engine or tracker, or a global batch that the
            workers can't share evenly.
        LoopwayError: a worker that died or didn't connect.
    """
    fields, workers = dict(config.hugging_face), get_int_from_env(_WORKERS, 1)
    if workers == 1:
        fields.pop("ddp_backend", None)  # which transformers accepts from several workers alone
    # Our own callbacks always write TensorBoard files into the run folder.
    fields["report_to"] = tracker_names(fields.get("report_to")) or "none"
    fields.setdefault("run_name", str(checkpoints.parent))
    if fields.get("deepspeed"):
        check_deepspeed(fields["deepspeed"])
    fields.setdefault("dataloader_pin_memory", torch.cuda.is_available())  # warns without a GPU
    # On a CPU, accelerate finds the other workers only with use_cpu.
    fields.setdefault("use_cpu", not (torch.accelerator.is_available() or is_torch_xla_available()))
    for key, own in (("optim", OPTIMIZERS), ("lr_scheduler_type", SCHEDULES)):
        if fields.get(key) in own:  # passed to the trainer itself
            del fields[key]
    fields |= {
        "output_dir": str(checkpoints),
        "gradient_accumulation_steps": _accumulation(config, workers),
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "label_names": ["shift_labels"],
        "use_cache": True,  # of the saved config; the trainer itself calls the model without a cache
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
    }
    try:
        arguments = one_device_a_worker(fields)
        check_fsdp(arguments)
        check_precision(arguments)
        _check_optimizer(arguments, config)
    except ConfigError:
        raise
    except torch.distributed.DistError as error:
        raise LoopwayError(
            f"the {workers} workers didn't find each other within training.ddp_timeout, {one_line(error)}; see the other "
            f"workers' logs, and rerun to resume"
        ) from error
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"training: {one_line(error)}") from None
    if arguments.world_size != workers:
        raise ConfigError(
            f"training: {arguments.world_size} workers are connected, but the environment names {workers}; start them with "
            f"torchrun or accelerate launch"
        )
    return arguments


def samples_per_step(arguments: TrainingArguments) -> int:
    """Samples of an optimizer step, of all workers."""
    return arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps


def fit_to_data(
    arguments: TrainingArguments, samples_per_epoch: int, *, validates: bool, steps_begun: int
) -> None:
    """Set the number of steps, and the steps at which the run logs, evaluates and saves.

    Args:
        arguments: changed.
        samples_per_epoch: of the training data.
        validates: whether there is a validation set; without one evaluation is off.
        steps_begun: number of steps that the run started with; 0: it starts now. An earlier release may have counted
            differently.
    """
    if not validates:
        arguments.eval_strategy, arguments.eval_steps = IntervalStrategy.NO, None
        arguments.do_eval = arguments.eval_on_start = False
    if arguments.max_steps <= 0:
        epochs = arguments.num_train_epochs
        arguments.max_steps = steps_begun or steps_of_epochs(
            epochs, samples_per_epoch, samples_per_step(arguments)
        )
    # Convert shares to steps as transformers does; on resume it would report shares as changed.
    counted = TrainerState()
    counted.compute_steps(arguments, arguments.max_steps)
    for key in ("logging_steps", "eval_steps", "save_steps"):
        if getattr(arguments, key) is not None:
            setattr(arguments, key, getattr(counted, key))


def _accumulation(config: TrainingConfig, workers: int) -> int:
    """Batches of each worker in an optimizer step."""
    batch = config.hugging_face["per_device_train_batch_size"]
    together = batch * workers
    if config.global_batch_size is None:
        return 1
    if config.global_batch_size % together:
        raise ConfigError(
            f"training.global_batch_size: {config.global_batch_size} sequences can't be shared evenly: "
            f"per_device_train_batch_size {batch} on {workers} device(s) makes {together}; choose a multiple of that, or "
            f"(also to resume) another batch per device or number of workers"
        )
    return config.global_batch_size // together


def _check_optimizer(arguments: TrainingArguments, config: TrainingConfig) -> None:
    """Build optimizer and schedule once, to validate their values before the Trainer does."""
    fields, warmup = config.hugging_face, arguments.get_warmup_steps(100)
    own, factor = own_optimizer(fields), own_schedule(fields)
    if factor is not None:
        with plugin_errors_told(f"training: schedule {fields['lr_scheduler_type']}"):
            for step in (0, 50, 100):
                float(factor(step, 100, warmup))
    if own is None and (arguments.optim_target_modules or "lomo" in str(arguments.optim)):
        return  # these are made from the model itself
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1, 1))], "weight_decay": decay}
        for decay in (arguments.weight_decay, 0.0)
    ]
    if own is not None:
        with plugin_errors_told(f"training: optimizer {fields['optim']}"):
            optimizer = own[0](groups, **own[1])
    else:
        make, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer = make(groups, **options)
    if factor is not None:
        return
    scheduler: Any = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=warmup,
        num_training_steps=100,
        scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),  # type: ignore[arg-type]
    )
    for of_step in getattr(scheduler, "lr_lambdas", ()):
        for step in (0, 50, 100):
            float(of_step(step))
