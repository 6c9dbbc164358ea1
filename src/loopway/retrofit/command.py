"""The commands `loopway retrofit` and `loopway export`.

Knows how options become calls; nothing of how layers are made.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loopway.inference.identity import versions
from loopway.inference.trained_model import check_dtype, open_trained
from loopway.layout import Layout
from loopway.modeling.accounting import parameter_report
from loopway.modeling.pretrained_folder import PretrainedFolder, no_file_bars
from loopway.modeling.stack import find_stack
from loopway.options import RetrofitOptions
from loopway.recurrence.mesh import MeSH
from loopway.retrofit.conversion import Retrofit, convert
from loopway.retrofit.export import export_model
from loopway.retrofit.filling import check_way
from loopway.retrofit.highways import StartReport, check_start, leak_bound, measure_start
from loopway.retrofit.saving import check_free, save_model
from loopway.retrofit.suitability import check_fits
from loopway.retrofit.text import read_calibration
from loopway.training.model_card import CARD, model_card
from loopway.training.retrofit_record import RECORD, origin_header, origin_section, record_text

_SAMPLE_TOKENS = 512
_MEASURED_TOKENS = 128


def retrofit_command(name: str, out: Path, settings: RetrofitOptions) -> str:
    """Retrofit a model and save it with its tokenizer; return a description.

    Raises:
        LoopwayError: a mistake in the options, or a model that can't be retrofitted with them.
    """
    layout = Layout.parse(settings.layout)
    check_way(settings.fill, layout, bool(settings.calibration))
    check_dtype(settings.dtype)
    if settings.recurrence == "mesh":
        check_start(layout.num_boundaries, settings.num_slots, settings.router_gap)
    out = out.expanduser()
    check_free(out)
    folder = PretrainedFolder(name)
    check_fits(folder.config(), layout)  # before any weight is read
    model, tokenizer = folder.model(every_weight=True, dtype=settings.dtype or "auto"), folder.tokenizer()
    calibration = None
    if settings.calibration:
        length = min(_SAMPLE_TOKENS, model.config.max_position_embeddings)
        tokens = settings.calibration_tokens
        calibration = read_calibration(settings.calibration, tokenizer, tokens=tokens, length=length)
    with no_file_bars():
        made = convert(
            model,
            layout=settings.layout,
            recurrence=settings.recurrence,
            fill=settings.fill,
            calibration=calibration,
            router_gap=settings.router_gap,
            num_slots=settings.num_slots,
        )
    start = _measured(made.model, calibration) if settings.recurrence == "mesh" else None
    record = {
        "source": name,
        "on_hub": not folder.is_local,
        **settings.model_dump(),
        "calibration": [str(path) for path in settings.calibration],
        "calibration_tokens": calibration.numel() if calibration is not None else 0,
        "layers": made.sources,
        "start": asdict(start) if start else None,
        "versions": versions(),
    }
    card = model_card(made.model.config, out.name, [origin_section(record)], **origin_header(record))
    texts = {RECORD: record_text(record), CARD: card}
    save_model(made.model, tokenizer, out, texts)
    lines = [_sizes(name, model, made.model), *_cores(made, layout, settings.fill)]
    if start is not None:
        lines.append(_described(start, made.model, calibration is not None))
    return "\n".join([*lines, f"in {out}"])


def export_command(
    name: str, out: Path, plugins: Sequence[Path] = (), *, drop_recurrence: bool = False
) -> str:
    """Save a recursive model as a plain one of its family, with its tokenizer; return a description.

    Raises:
        LoopwayError: a model that can't be opened or exported.
    """
    out = out.expanduser()
    check_free(out)
    trained = open_trained(name, plugins)
    with no_file_bars():
        plain = export_model(trained.model, drop_recurrence=drop_recurrence)
    save_model(plain, trained.tokenizer, out, {})
    config, depth = trained.model.config, plain.config.num_hidden_layers
    dropped = (
        f"\nwithout its recurrence {config.recurrence}: it computes other logits than {name}; evaluate it before use"
        if config.recurrence != "base"
        else ""
    )
    return (
        f"{name}: layout {config.layout} as {type(plain).__name__} of {depth} layers, "
        f"{plain.num_parameters():,} parameters{dropped}\nin {out}"
    )


def _measured(model: PreTrainedModel, calibration: Tensor | None) -> StartReport:
    if calibration is not None:
        return measure_start(model, calibration[:1, :_MEASURED_TOKENS])
    seeded = torch.Generator().manual_seed(0)
    length = min(_MEASURED_TOKENS, model.config.max_position_embeddings)
    return measure_start(model, torch.randint(model.config.vocab_size, (1, length), generator=seeded))


def _sizes(name: str, model: PreTrainedModel, recursive: PreTrainedModel) -> str:
    report, before = parameter_report(recursive.config), model.num_parameters()
    return (
        f"{name}: {report.compute_depth} layers as {report.layout}, {report.parameter_depth} of them with parameters; "
        f"{before:,} parameters became {report.total:,} ({report.total / before:.1%})"
    )


def _cores(made: Retrofit, layout: Layout, fill: str) -> list[str]:
    """Describe the sources of each shared layer."""
    shared = [layer for layer in range(layout.parameter_depth) if layout.uses_of_layer(layer) > 1]
    lines = []
    for layer in shared:
        sources = " and ".join(map(str, made.sources[layer]))
        lines.append(f"  shared layer {layer}: {fill}, from {sources}")
    return lines


def _described(start: StartReport, model: PreTrainedModel, on_text: bool) -> str:
    recurrence = find_stack(model).recurrence
    assert isinstance(recurrence, MeSH)
    gap = recurrence.write_routers[0].get_parameter("bias")[1].item()
    bound = leak_bound(recurrence.num_slots, recurrence.layout.num_boundaries - 1, gap)
    text = "tokens of the calibration text" if on_text else "random tokens"
    return (
        f"routers start {gap:g} apart: {start.leak:.1e} of a state goes astray at the worst boundary (at most {bound:.1e}), "
        f"logits are {start.logits:.1e} from those without MeSH, the routers' gradient norm is {start.gradient_norm:.1e} "
        f"({start.tokens} {text})"
    )
