"""`loopway export --self-contained`: a recursive model with its card and its code, in a folder that opens elsewhere.

    README.md  config.json  generation_config.json  model.safetensors  modeling_loopway.py  retrofit.json  tokenizer…

With Loopway it opens like any model. Without, transformers runs the code beside the weights if the user allows it.
Knows where the parts come from; nothing of how they are written.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from loopway.errors import ConfigError, FamilyError
from loopway.inference.trained_model import open_trained
from loopway.modeling.configuration import RecursiveConfigMixin
from loopway.modeling.stack import find_stack
from loopway.publishing.card_results import Findings, find_results, results_header, results_section
from loopway.publishing.code import MODULE, auto_map, check_included, modeling_code
from loopway.retrofit.saving import check_free, save_model
from loopway.training.model_card import CARD, model_card, run_sections
from loopway.training.retrofit_record import RECORD, origin_header, origin_section, read_record, record_text
from loopway.training.summary import RunSummary


def publish_command(
    name: str, out: Path, plugins: Sequence[Path] = (), *, drop_recurrence: bool = False
) -> str:
    """Save a recursive model unchanged, with its tokenizer, card and code; return a description.

    Raises:
        LoopwayError: a model that can't be opened or isn't recursive, or a recurrence that isn't Loopway's own.
    """
    if drop_recurrence:
        raise ConfigError(
            "--drop-recurrence is for a plain model, and --self-contained keeps it recursive: give one"
        )
    out = out.expanduser()
    check_free(out)
    trained = open_trained(name, plugins)
    config = trained.model.config
    if not isinstance(config, RecursiveConfigMixin):
        raise FamilyError(f"{name} is not a recursive model; transformers opens it without Loopway")
    check_included(config.recurrence, find_stack(trained.model).recurrence)
    place = Path(str(config.name_or_path))  # the folder that it was opened from
    run = trained.final_of
    found = find_results(run.path, trained.key) if run else Findings()
    sections, header, texts = [], {}, {f"{MODULE}.py": modeling_code(config.family)}
    if record := read_record(place):
        texts[RECORD] = record_text(record)
        sections.append(origin_section(record))
        header |= origin_header(record)
    if run:
        recipe = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        sections += run_sections(recipe, RunSummary.read(run.summary))
    if found.results:
        sections.append(results_section(out.name, found))
        header |= results_header(out.name, found)
    texts[CARD] = model_card(config, out.name, sections, code=f"{MODULE}.py", **header)
    config.auto_map = auto_map(config.family)  # type: ignore[attr-defined]
    save_model(trained.model, trained.tokenizer, out, texts)
    lines = [f"{name}: layout {config.layout}, recurrence {config.recurrence}, with {CARD} and {MODULE}.py"]
    lines += [
        f"  {file} holds results of other models or versions, which {CARD} leaves out"
        for file in found.of_others
    ]
    return "\n".join([*lines, f"in {out}"])
