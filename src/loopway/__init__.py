"""Loopway: recursive (looped) language models with MeSH state highways, as native Hugging Face models.

Importing this module imports neither torch nor transformers; each name loads what it needs on first use.
transformers' Auto classes know the recursive families, whichever of the two libraries is imported first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

from loopway._version import __version__
from loopway.modeling.name_lists import MODULES_WITH_LISTS

if TYPE_CHECKING:
    from loopway.errors import LoopwayError
    from loopway.layout import Layout, Segment, Stage
    from loopway.modeling.accounting import ParameterReport, parameter_report
    from loopway.modeling.building import recursive_config
    from loopway.modeling.compiled_decoding import compiled_decoding
    from loopway.modeling.families import Family
    from loopway.modeling.family_check import register_family
    from loopway.modeling.presets import pythia_config
    from loopway.modeling.sharding import shard_model
    from loopway.modeling.stack import StageRecord, set_recompute, trace_stages
    from loopway.recurrence import Recurrence, RecurrenceOptions, mix_states, register_recurrence
    from loopway.retrofit.conversion import retrofit_model
    from loopway.retrofit.export import export_model
    from loopway.training.extensions import (
        register_callback,
        register_optimizer,
        register_schedule,
        register_tracker,
    )

_HOMES = {
    "Family": "loopway.modeling.families",
    "Layout": "loopway.layout",
    "LoopwayError": "loopway.errors",
    "ParameterReport": "loopway.modeling.accounting",
    "Recurrence": "loopway.recurrence",
    "RecurrenceOptions": "loopway.recurrence",
    "Segment": "loopway.layout",
    "Stage": "loopway.layout",
    "StageRecord": "loopway.modeling.stack",
    "compiled_decoding": "loopway.modeling.compiled_decoding",
    "export_model": "loopway.retrofit.export",
    "mix_states": "loopway.recurrence",
    "parameter_report": "loopway.modeling.accounting",
    "pythia_config": "loopway.modeling.presets",
    "recursive_config": "loopway.modeling.building",
    "register_callback": "loopway.training.extensions",
    "register_family": "loopway.modeling.family_check",
    "register_optimizer": "loopway.training.extensions",
    "register_recurrence": "loopway.recurrence",
    "register_schedule": "loopway.training.extensions",
    "register_tracker": "loopway.training.extensions",
    "retrofit_model": "loopway.retrofit.conversion",
    "set_recompute": "loopway.modeling.stack",
    "shard_model": "loopway.modeling.sharding",
    "trace_stages": "loopway.modeling.stack",
}

__all__ = [  # noqa: RUF022
    "__version__",
    "Family",
    "Layout",
    "LoopwayError",
    "ParameterReport",
    "Recurrence",
    "RecurrenceOptions",
    "Segment",
    "Stage",
    "StageRecord",
    "compiled_decoding",
    "export_model",
    "mix_states",
    "parameter_report",
    "pythia_config",
    "recursive_config",
    "register_callback",
    "register_family",
    "register_optimizer",
    "register_recurrence",
    "register_schedule",
    "register_tracker",
    "retrofit_model",
    "set_recompute",
    "shard_model",
    "trace_stages",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name.startswith("Recursive"):  # RecursiveLlamaForCausalLM and similar, one set per family
        value = import_module("loopway.modeling.registration").recursive_class(name)
    else:
        value = None
    if value is None:
        raise AttributeError(f"module 'loopway' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _register_families(module: object) -> None:
    import_module("loopway.modeling.registration").register_configs()


def _register_names(module: object) -> None:
    import_module("loopway.modeling.registration").register_names()


for _module in MODULES_WITH_LISTS:
    wrapt.when_imported(_module)(_register_names)
