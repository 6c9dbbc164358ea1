"""The table of ``loopway params``: a model beside the vanilla model of the same compute depth.

Counts nothing itself. Knows configs and reports, not modules.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from transformers import PreTrainedConfig

from loopway.console import screen
from loopway.data.run_data import expected_vocab_size
from loopway.layout import parse_loops
from loopway.modeling.accounting import ParameterReport, parameter_report
from loopway.modeling.building import recursive_config
from loopway.modeling.presets import pythia_config
from loopway.options import ParameterOptions
from loopway.training.config.run_config import RunConfig

_ROWS: tuple[tuple[str, str], ...] = (
    ("parameters", "total"),
    ("  non-embedding", "non_embedding"),
    ("  embedding", "embedding"),
    ("  recurrence", "router"),
    ("layers with parameters", "parameter_depth"),
    ("layers of compute", "compute_depth"),
    ("FLOPs per token, forward", "forward_flops"),
    ("FLOPs per token, training", "training_flops"),
    ("KV cache bytes per token (16 bit)", "kv_cache_bytes"),
    ("AdamW state bytes (32 bit)", "optimizer_bytes"),
)


def print_parameters(model: str, options: ParameterOptions, *, as_json: bool = False) -> None:
    """Print the table for a Pythia size or a run's YAML file, or a JSON list of reports, the vanilla model's first.

    Args:
        model: ``160m``, ``pythia-160m``, or a path to a run's config.
        options: overrides of the model's fields.
        as_json: print JSON.

    Raises:
        LoopwayError: there is no such size or file, or the layout, the recurrence or a field is invalid.
    """
    config = _config(model, options.model_dump(exclude_none=True, exclude={"context_length", "loops"}))
    if options.loops is not None:
        config = config.with_loops(parse_loops(options.loops))  # type: ignore[attr-defined]
    vanilla = _vanilla(config)
    context_length = options.context_length
    reports = [parameter_report(config, context_length=context_length)]
    if (vanilla.layout, vanilla.recurrence) != (config.layout, config.recurrence):
        reports.insert(0, parameter_report(vanilla, context_length=context_length))
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=2))
    else:
        screen().print(parameter_table(reports))


def parameter_table(reports: list[ParameterReport]) -> Table:
    """Return a table with one column per model; all but the first also show their share of the first's numbers."""
    first = reports[0]
    table = Table(caption=f"FLOPs at a context of {first.context_length:,} tokens")
    table.add_column("")
    for report in reports:
        scheme = "vanilla" if report.layout.isdecimal() else report.recurrence
        loops = "" if report.loops is None else f", loops {report.loops}"
        table.add_column(f"{report.layout} {scheme}{loops}", justify="right")
    for name, field in _ROWS:
        of_first = getattr(first, field)
        cells = [f"{of_first:,}"]
        for report in reports[1:]:
            value = getattr(report, field)
            cells.append(f"{value:,} ({value / of_first:.1%})" if of_first else f"{value:,}")
        table.add_row(name, *cells)
    return table


def _config(model: str, options: dict[str, Any]) -> PreTrainedConfig:
    if Path(model).suffix not in (".yaml", ".yml"):
        return pythia_config(model, **options)
    run = RunConfig.load(model, [f"model.{key}={value}" for key, value in options.items()])
    if "vocab_size" in run.model.family_fields:
        return run.model.build(vocab_size=1)
    return run.model.build(vocab_size=expected_vocab_size(run.data))


def _vanilla(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the same model's config with separate layers for the whole compute depth."""
    return recursive_config(
        config, layout=str(config.num_hidden_layers), num_slots=None, shared_routers=False
    )
