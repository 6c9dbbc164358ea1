"""The ``training:`` section: Hugging Face ``TrainingArguments`` fields under their own names, with the paper's recipe as
defaults, and five keys of ours. Knows nothing of models and data.
"""

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import torch.distributed
from accelerate.utils import DynamoBackend
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from loopway.checks import not_among, wrong_value
from loopway.errors import ConfigError
from loopway.modeling.recompute import RECOMPUTE_LEVELS
from loopway.training.config.engines import check_nested
from loopway.training.config.keys import OWN_TYPES, OwnTrainingKeys, checked_training_keys
from loopway.training.extensions import OPTIMIZERS, SCHEDULES, check_callbacks

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
_OF_LOADING_PROCESSES = (
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_multiprocessing_context",
)


@dataclass(frozen=True)
class TrainingConfig(OwnTrainingKeys):
    """How a run trains. Which keys define its result: see :mod:`loopway.training.config.free_keys`.

    Attributes:
        hugging_face: fields of ``TrainingArguments``, the recipe's defaults filled in.
    """

    hugging_face: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, given: dict[str, Any], learning_rate: float | None) -> Self:
        """Check the section as written; a null stands for the default.

        Args:
            given: the section.
            learning_rate: the peak that a preset was published with, None without a preset.

        Raises:
            ConfigError: an unknown or refused key, a wrong type or value, no length of training, no learning rate.
        """
        section = checked_training_keys(given)
        ours = {name: section.pop(name) for name in OWN_TYPES if name in section}
        config = cls(hugging_face={"learning_rate": learning_rate} | section, **ours)
        config._check_ours()
        _check_hugging_face(config.hugging_face)
        return dataclasses.replace(config, hugging_face=config._with_defaults())

    def to_dict(self) -> dict[str, Any]:
        """Everything that is set, as plain values; :meth:`from_dict` of it gives an equal config."""
        ours = {name: getattr(self, name) for name in OWN_TYPES}
        return self.hugging_face | {
            name: value for name, value in ours.items() if value not in (None, "none", [])
        }

    def core_steps(self, max_steps: int) -> int:
        """Return in how many steps only looped layers and the recurrence are trained."""
        given = self.core_first or 0
        return math.ceil(_exact(given) * max_steps) if given < 1 else int(given)

    def _check_ours(self) -> None:
        if self.recompute not in RECOMPUTE_LEVELS:
            raise not_among("training.recompute", self.recompute, RECOMPUTE_LEVELS)
        if self.recompute != "none" and self.hugging_face.get("gradient_checkpointing"):
            raise ConfigError(
                f"training.recompute is {self.recompute!r}, and training.gradient_checkpointing recomputes, too: "
                f"leave the latter out"
            )
        check_callbacks(self.callbacks)
        # These act between gradients and optimizer.
        self._check_positive(
            "skip_spikes", "more than 0 standard deviations; 6 is usual", ("fp16", "deepspeed")
        )
        self._check_positive(
            "core_first", "more than 0: steps, or below 1 a share of the run", ("deepspeed",)
        )

    def _check_positive(self, key: str, expected: str, engines: tuple[str, ...]) -> None:
        value = getattr(self, key)
        if value is None:
            return
        if not 0 < value < math.inf:
            raise wrong_value(f"training.{key}", value, expected)
        for engine in engines:
            if self.hugging_face.get(engine):
                raise ConfigError(
                    f"training.{key} doesn't work with {engine}, which takes its own steps; leave one out"
                )

    def _with_defaults(self) -> dict[str, Any]:
        fields = DEFAULTS | self.hugging_face
        fields.setdefault("per_device_train_batch_size", math.gcd(8, self.global_batch_size or 8))
        fields.setdefault("per_device_eval_batch_size", fields["per_device_train_batch_size"])
        fields.setdefault("logging_first_step", fields.get("logging_strategy") != "no")
        if fields["lr_scheduler_type"] == "cosine_with_min_lr":
            fields.setdefault("lr_scheduler_kwargs", dict(MIN_LR_RATE))
        return fields


def _check_hugging_face(fields: dict[str, Any]) -> None:
    """Raise ConfigError for values that ``TrainingArguments`` or a run doesn't support."""
    check_nested(fields)
    lengths = [key for key in ("max_steps", "num_train_epochs") if key in fields]
    if len(lengths) != 1:
        found = "neither is" if not lengths else "both are"
        raise ConfigError(f"training: give one of max_steps and num_train_epochs; {found} given")
    for key in _OF_LOADING_PROCESSES:
        if fields.get(key) and not fields.get("dataloader_num_workers"):
            raise ConfigError(
                f"training.{key} needs loading processes: set training.dataloader_num_workers, too"
            )
    if not all("=" in setting for setting in (fields.get("optim_args") or "=").split(",")):
        raise wrong_value(
            "training.optim_args", fields["optim_args"], "name=value, with commas between several"
        )
    for key, choices, own in (
        ("lr_scheduler_type", SchedulerType, SCHEDULES),
        ("optim", OptimizerNames, OPTIMIZERS),
    ):
        if key in fields and fields[key] not in (names := [*(choice.value for choice in choices), *own]):
            raise not_among(f"training.{key}", fields[key], names)
    process_groups = [name for name in torch.distributed.Backend.backend_list if name != "undefined"]
    if fields.get("ddp_backend") not in (None, *process_groups):
        raise not_among("training.ddp_backend", fields["ddp_backend"], process_groups)
    backend, backends = fields.get("torch_compile_backend"), [name.lower() for name in DynamoBackend.list()]
    if backend is not None and backend.lower() not in backends:
        raise not_among("training.torch_compile_backend", backend, backends)
    if fields["learning_rate"] is None:
        raise ConfigError("training.learning_rate is missing; only a model.preset brings its own")
    for key in ("logging_strategy", "eval_strategy", "save_strategy"):
        if (strategy := fields.get(key, "no")) not in ("steps", "no"):
            raise wrong_value(f"training.{key}", strategy, "steps (0.1 steps is a tenth of the run) or no")
        steps = f"{key.partition('_')[0]}_steps"
        if fields.get(key) != "no" and fields.get(steps, 1) <= 0:
            raise wrong_value(f"training.{steps}", fields[steps], "more than 0")


def steps_of_epochs(epochs: float, samples: int, per_step: int) -> int:
    """Return how many whole steps there are in so many epochs; at least one.

    The last tokens of the last epoch may be omitted; none repeat.

    Args:
        epochs: may be a fraction.
        samples: of an epoch.
        per_step: samples of a step.
    """
    return max(1, math.floor(_exact(epochs) * samples / per_step))


def _exact(number: float) -> Fraction:
    """Return the decimal number as written: products of floats can just miss a whole number."""
    return Fraction(str(number))
