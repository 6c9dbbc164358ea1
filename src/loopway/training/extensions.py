"""Callbacks, trackers, optimizers and learning-rate schedules that plugins register by name.

Knows nothing of runs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from loopway.checks import not_among, wrong_value
from loopway.errors import ConfigError
from loopway.training.config.yaml_files import parse_yaml
from loopway.training.plugins import plugin_errors_told

CALLBACKS: dict[str, type[TrainerCallback]] = {}
TRACKERS: dict[str, type[TrainerCallback]] = {}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {}
SCHEDULES: dict[str, Callable[..., float]] = {}
_BUILT_IN_TRACKERS = (*INTEGRATION_TO_CALLBACK, "all", "none")


def register_callback(name: str, cls: type[TrainerCallback]) -> None:
    """Let ``training: {callbacks: [name]}`` add ``cls()``, a callback of Hugging Face's Trainer, to a run.

    Registering a name again replaces it; so do the functions below.

    Raises:
        ConfigError: the name is no text, or ``cls`` no subclass of ``transformers.TrainerCallback``.
    """
    _register(CALLBACKS, "callback", name, _callback_class("callback", cls), ())


def register_tracker(name: str, cls: type[TrainerCallback]) -> None:
    """Let ``training: {report_to: [name]}`` send a run's metrics to ``cls()``, whose ``on_log`` is called with them.

    Raises:
        ConfigError: as :func:`register_callback`; also for the name of a tracker of transformers.
    """
    _register(TRACKERS, "tracker", name, _callback_class("tracker", cls), _BUILT_IN_TRACKERS)
    INTEGRATION_TO_CALLBACK[name] = cls  # where the Trainer looks up the names of report_to


def register_optimizer(name: str, cls: type[torch.optim.Optimizer]) -> None:
    """Let ``training: {optim: name}`` train with ``cls(groups, lr=…, **optim_args)``.

    Args:
        cls: an optimizer class. ``groups`` are two dictionaries of
            ``params`` and their ``weight_decay``, which is 0 for biases and norms.

    Raises:
        ConfigError: the name is taken by transformers, or ``cls`` is no subclass of ``torch.optim.Optimizer``.
    """
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise wrong_value(f"optimizer {name}", cls, "a subclass of torch.optim.Optimizer")
    _register(OPTIMIZERS, "optimizer", name, cls, [each.value for each in OptimizerNames])


def register_schedule(name: str, factor: Callable[..., float]) -> None:
    """Let ``training: {lr_scheduler_type: name}`` multiply the peak learning rate by a function of the step.

    Args:
        factor: called as ``factor(step, steps, warmup_steps, **lr_scheduler_kwargs)``, where step is from 0 to steps.

    Raises:
        ConfigError: the name is taken by transformers, or ``factor`` can't be called.
    """
    _register(SCHEDULES, "schedule", name, factor, [each.value for each in SchedulerType])


def check_callbacks(names: list[str]) -> None:
    """Raise ConfigError for a name of ``training.callbacks`` that isn't registered."""
    for name in names:
        if name not in CALLBACKS:
            if not CALLBACKS:
                raise ConfigError(
                    f"training.callbacks: got {name!r}, and no plugin registers a callback; name its file in plugins"
                )
            raise not_among("training.callbacks", name, [*CALLBACKS])


def own_callbacks(names: list[str]) -> list[TrainerCallback]:
    """Make the callbacks of ``training.callbacks``; raise ConfigError if one fails."""
    made = []
    for name in names:
        with plugin_errors_told(f"training.callbacks: {name}"):
            made.append(CALLBACKS[name]())
    return made


def own_optimizer(
    fields: dict[str, Any],
) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]] | None:
    """Return a registered optimizer and its keyword arguments; None for one of transformers.

    Args:
        fields: of ``TrainingArguments``, as a config has them.
    """
    if (make := OPTIMIZERS.get(fields.get("optim", ""))) is None:
        return None
    options = {"lr": fields["learning_rate"]}
    for pair in filter(str.strip, (fields.get("optim_args") or "").split(",")):
        name, equals, value = pair.partition("=")
        if not (equals and name.strip()):
            raise wrong_value("training.optim_args", pair.strip(), "name=value, without lists")
        options[name.strip()] = parse_yaml(value.strip(), f"training.optim_args: {name.strip()}")
    return make, options


def own_schedule(fields: dict[str, Any]) -> Callable[[int, int, int], float] | None:
    """Return a registered schedule as a function of step, steps and warm-up steps; None for one of transformers."""
    factor = SCHEDULES.get(fields.get("lr_scheduler_type", ""))
    return factor and partial(factor, **(fields.get("lr_scheduler_kwargs") or {}))


def _callback_class(kind: str, cls: Any) -> type[TrainerCallback]:
    if not (isinstance(cls, type) and issubclass(cls, TrainerCallback)):
        raise ConfigError(
            f"{kind}: {cls!r} is no subclass of transformers.TrainerCallback; CONTRIBUTING.md has an example"
        )
    return cls


def _register(known: dict[str, Any], kind: str, name: str, value: Any, taken: Any) -> None:
    if not (isinstance(name, str) and name) or name in taken:
        raise wrong_value(f"the {kind}'s name", name, "a name that transformers doesn't use")
    if not callable(value):
        raise wrong_value(f"{kind} {name}", value, "a class or a function")
    known[name] = value
