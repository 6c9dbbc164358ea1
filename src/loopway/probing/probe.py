"""Probe models on held-out samples and report the results side by side.

    probes.json  probes.html  figures/*.png, *.svg

Knows which probes run and where results are written; nothing of how they are measured or drawn.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from transformers import PreTrainedModel

from loopway.console import say, screen
from loopway.data.tokens_note import NoTokensError
from loopway.errors import ConfigError
from loopway.files import write_json
from loopway.inference.held_out import held_out_samples
from loopway.inference.trained_model import TrainedModel, look_at_models, model_folder, open_trained
from loopway.layout import Layout
from loopway.modeling.accounting import parameter_report
from loopway.modeling.as_vanilla import as_vanilla
from loopway.modeling.pretrained_folder import PretrainedFolder
from loopway.modeling.stack import RecursiveStack, blocks_of, find_stack
from loopway.options import ProbeOptions
from loopway.probing.figures import draw_figures
from loopway.probing.loops import probe_loops
from loopway.probing.page import write_probe_page
from loopway.probing.page_tables import glance_table
from loopway.probing.token_texts import token_texts
from loopway.report.labels import model_labels
from loopway.report.pictures import save_picture
from loopway.traces.findings import ModelProbes
from loopway.traces.reading import batches_of, count_tokens, evenly_spread, traced
from loopway.traces.routers import RouterProbe, TokenGroups, has_routers
from loopway.traces.states import StateProbe
from loopway.training.summary import library_versions


def probe(
    models: Sequence[str],
    folder: Path | str,
    settings: ProbeOptions | None = None,
    *,
    command: str = "",
    console: Console | None = None,
) -> list[ModelProbes]:
    """Probe every model on held-out samples; write numbers, figures and a page of them.

    Args:
        models: run folders, checkpoints, model folders or names on the Hub; also plain models of supported families.
        folder: the output folder.
        command: the command, for the page.
        console: where the summary is printed; None means standard output.

    Raises:
        LoopwayError: a model can't be opened, has an unsupported family or can't be cut as requested; or there is no
            held-out text.
    """
    settings, folder, console = settings or ProbeOptions(), Path(folder), console or screen()
    log = screen(stderr=True)
    # Report visible mistakes now, rather than after the first model.
    look_at_models(models, settings.plugin)
    layouts = [layout for name in models if (layout := _layout_of(name)) is not None]
    if settings.cut is not None:
        Layout.parse(settings.cut)
        for vanilla in (layout for layout in layouts if len(layout.stages) == 1):
            blocks_of(vanilla, settings.cut)
    found = []
    for name in models:
        # Hold no reference to a model while the next one is opened.
        found.append(
            _probe_one(
                open_trained(name, settings.plugin, settings.dtype, settings.loops), layouts, settings, log
            )
        )
    _write(folder, found, settings, command)
    console.print(glance(found))
    say(console, f"Results are in {folder}: probes.html, probes.json, figures/")
    return found


def _probe_one(
    opened: TrainedModel, layouts: Sequence[Layout], settings: ProbeOptions, log: Console
) -> ModelProbes:
    model = _as_recursive(opened.model)
    cut = _cut_of(opened.name, find_stack(model), layouts, settings.cut, log)
    try:
        held_out = held_out_samples(opened, list(settings.data), settings.sequence_length)
    except NoTokensError as error:
        raise ConfigError(f"{opened.name}: {error}, or give held-out token files with --data") from error
    samples = evenly_spread(held_out, settings.samples)
    counts, text = count_tokens(samples, model.config.vocab_size)
    states = routers = None
    batches = batches_of(samples)
    shown = track(
        traced(model, batches, cut), opened.name, len(batches), console=log, disable=not log.is_terminal
    )
    if not log.is_terminal:
        say(log, f"{opened.name}: {len(samples)} samples")
    for batch, records in shown:
        if not all(record.output.isfinite().all() for record in records):
            raise ConfigError(
                f"{opened.name}: states in {str(model.dtype).removeprefix('torch.')} aren't finite and can't be "
                f"measured; give --dtype float32, unless the weights aren't finite either"
            )
        if states is None:
            stages = [record.stage for record in records]
            states = StateProbe(stages)
            if has_routers(records):
                routers = RouterProbe(stages, held_out.sequence_length, TokenGroups(counts))
        states.add(records)
        if routers is not None:
            routers.add(records, batch["input_ids"])
    assert states is not None, "there must be at least one sample"
    loops = []
    if settings.loop_samples and cut is None:
        few = evenly_spread(samples, settings.loop_samples)
        loops = probe_loops(model, list(batches_of(few)))
    report = parameter_report(model.config)
    found = routers.result() if routers is not None else None
    return ModelProbes(
        name=opened.name,
        family=model.config.family.model_type,
        layout=report.layout,
        recurrence=report.recurrence,
        cut=cut,
        parameters=report.total,
        key=opened.key,
        samples=len(samples),
        sequence_length=held_out.sequence_length,
        text=text,
        states=states.result(),
        routers=found,
        loops=loops,
        tokens=[] if found is None else token_texts(found.token_ids.tolist(), opened.tokenizer),
    )


def _as_recursive(model: PreTrainedModel) -> PreTrainedModel:
    if any(isinstance(module, RecursiveStack) for module in model.modules()):
        return model
    return as_vanilla(model)


def _layout_of(name: str) -> Layout | None:
    """Return the layout in a model's config; None for a plain model."""
    folder = model_folder(Path(name)) if Path(name).exists() else name
    return getattr(PretrainedFolder(folder).config(), "parsed_layout", None)


def _cut_of(
    name: str, stack: RecursiveStack, layouts: Sequence[Layout], wanted: str | None, log: Console
) -> str | None:
    if len(stack.layout.stages) > 1:
        return None
    depth = stack.layout.compute_depth
    cut = wanted or next(
        (str(layout) for layout in layouts if layout.is_looped and layout.compute_depth == depth), None
    )
    if cut is None:
        say(log, f"{name}: is probed as a single block; give --cut LAYOUT to probe it in blocks")
    return cut


def _write(folder: Path, found: list[ModelProbes], settings: ProbeOptions, command: str) -> None:
    versions = library_versions()
    content = {
        "command": command,
        "versions": versions,
        "settings": settings.model_dump(),
        "models": [asdict(probes) for probes in found],
    }
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_json(folder / "probes.json", content, indent=1)
    pictures = draw_figures(found)
    for picture in pictures.values():
        save_picture(picture, folder / "figures")
    write_probe_page(folder / "probes.html", found, pictures, command, versions)


def glance(found: Sequence[ModelProbes]) -> Table:
    """Return the page's first table for a terminal: one column per model, one row per number, with its blocks."""
    numbers = glance_table(found, model_labels([probes.name for probes in found]))
    (_, *labels), *rows = zip(numbers.heads, *numbers.rows, strict=True)
    table = Table("", *(Column(label, justify="right") for label in labels))
    table.add_row("blocks", *(probes.cut or probes.layout for probes in found))
    for row in rows:
        table.add_row(*row)
    return table
